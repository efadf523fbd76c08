"""The set-up of a run: config to checked objects, nothing written."""

import dataclasses
import functools
import math
import zlib
from pathlib import Path

import jax
import numpy as np

from jaxnas.checkpoint import Checkpoints
from jaxnas.config import ExperimentConfig
from jaxnas.costs import Budget, CostTable, cost_tables
from jaxnas.costs.latency import read_latency
from jaxnas.data import Dataset, Split, load
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.scoring import Scorer, check_score
from jaxnas.sharding import Placement, make_placement
from jaxnas.spaces import Space, get_space
from jaxnas.training import Feed
from jaxnas.writer import Journal


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything a stage needs, built once from the config.

  Attributes:
    config: the experiment.
    workdir: where its files go.
    space: with the data's classes, channels and image size.
    data: the three splits.
    costs: additive cost tables by name.
    budget: bounds on them.
    placement: devices.
    supernet: the network, without weights.
    journal: log rows.
  """

  config: ExperimentConfig
  workdir: Path
  space: Space
  data: Dataset
  costs: dict[str, CostTable]
  budget: Budget
  placement: Placement
  supernet: PathSupernet
  journal: Journal

  def seed(self, stage: str) -> int:
    """An integer seed of a stage, independent between stages."""
    entropy = [self.config.seed, zlib.crc32(stage.encode())]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])

  def key(self, stage: str) -> jax.Array:
    """PRNG key of a stage."""
    return jax.random.key(self.seed(stage))

  def checkpoints(self, stage: str) -> Checkpoints:
    """Checkpoints of a stage."""
    return Checkpoints(self.workdir / "checkpoints" / stage)

  def feed(self, split: Split) -> Feed:
    """Training images on the device."""
    images, labels = self.placement.put((split.images, split.labels))
    return Feed(
      images, labels, self.data.mean, self.data.std,
      self.config.data.augment, self.placement,
    )  # fmt: skip

  def parse_budget(self, text: str) -> Budget:
    """Reads a budget on this run's costs."""
    return Budget.parse(text, self.costs, self.space)

  def scorer(self) -> Scorer:
    """Scores archs as the config says."""
    return Scorer(self.supernet, self.data, self.config.score, self.placement)


def make_space(config: ExperimentConfig) -> Space:
  """The space of a config, with its own classes and channels."""
  space = get_space(config.space.name, **config.space.options)
  if config.space.image_size:
    space = space.replace(image_size=config.space.image_size)
  return space


def latency_tables(
  given: tuple[str, ...], space: Space
) -> dict[str, CostTable]:
  """Reads the latency tables of a config.

  Args:
    given: `NAME=PATH` each.
    space: what they must cover.

  Returns:
    By `latency.NAME`, in lower case as in budgets.

  Raises:
    UserError: for a text without a name, a name given twice, or a table that
      does not cover the space.
  """
  tables = {}
  for text in given:
    name, _, path = text.partition("=")
    key = f"latency.{name.strip().lower()}"
    if not name.strip() or not path or key in tables:
      raise UserError(
        f"latency table {text!r}; write NAME=PATH, every name once."
      )
    tables[key] = read_latency(Path(path), space, key)
  return tables


def make_setup(config: ExperimentConfig, workdir: Path) -> Setup:
  """Builds and checks everything that a config names; writes nothing.

  Args:
    config: the resolved config.
    workdir: where the run's files will go.

  Raises:
    UserError: for any value that cannot be used, or unreadable data.
  """
  _check_values(config)
  check_score(config.score, config.net)
  space = make_space(config)
  data = load(config.data, space.image_size)
  space = space.replace(
    n_classes=data.n_classes, image_channels=data.image_channels
  )
  costs = {**cost_tables(space), **latency_tables(config.latency, space)}
  return Setup(
    config=config,
    workdir=workdir,
    space=space,
    data=data,
    costs=costs,
    budget=Budget.parse(config.budget, costs, space),
    placement=make_placement(config.mesh),
    supernet=PathSupernet(space, config.net),
    journal=Journal(workdir / "metrics.jsonl"),
  )


_AT_LEAST = {
  "seed": 0,
  "train.epochs": 1,
  "train.log_every": 1,
  "train.checkpoint_every": 1,
  "train.evaluate_every": 0,
  "train.evaluate_archs": 0,
  "search.generations": 0,
  "search.front": 1,
  "retrain.epochs": 1,
  "retrain.log_every": 1,
  "retrain.checkpoint_every": 1,
  "ranking.n_archs": 0,
  "ranking.pool": 0,
  "ranking.epochs": 0,
  "ranking.together": 1,
  "ranking.top_k": 1,
  "ranking.bootstrap": 1,
}


# Legal from the first to below the second value.
_WITHIN = {
  "train.label_smoothing": (0, 1),
  "retrain.label_smoothing": (0, 1),
  "net.bn_momentum": (0, 1),
  "search.controller_learning_rate": (0, math.inf),
  **{
    f"{stage}.optimizer.{name}": (0, math.inf)
    for stage in ("train", "retrain")
    for name in (
      "learning_rate", "final_learning_rate", "warmup_epochs", "weight_decay",
      "clip_norm",
    )
  },
  **{f"{stage}.optimizer.momentum": (0, 1) for stage in ("train", "retrain")},
}  # fmt: skip


def _check_values(config: ExperimentConfig) -> None:
  """Refuses, before anything is written, numbers that no stage can use."""
  for path, least in _AT_LEAST.items():
    value = functools.reduce(getattr, path.split("."), config)
    if value < least:
      raise UserError(f"{path} is {value}; it must be at least {least}.")
  for path, (low, high) in _WITHIN.items():
    value = functools.reduce(getattr, path.split("."), config)
    if not low <= value < high:  # NaN fails too
      raise UserError(
        f"{path} is {value}; it must be at least {low} and below {high}."
      )
  if config.retrain.dropout != -1 and not 0 <= config.retrain.dropout < 1:
    raise UserError(
      f"retrain.dropout is {config.retrain.dropout}; legal: 0 to below 1, or -1"
      " for the space's."
    )
  for stage in (config.train, config.retrain):
    name = "train" if stage is config.train else "retrain"
    if stage.optimizer.warmup_epochs >= stage.epochs:
      raise UserError(
        f"{name}.optimizer.warmup_epochs is {stage.optimizer.warmup_epochs:g}"
        f" of {stage.epochs} epochs; it must be less, or the learning rate"
        " never reaches its value."
      )
    if stage.optimizer.nesterov and stage.optimizer.name != "sgd":
      raise UserError(
        f"{name}.optimizer.nesterov=true is for sgd, not"
        f" {stage.optimizer.name}."
      )
  epochs = config.ranking.epochs
  if 0 < epochs <= config.retrain.optimizer.warmup_epochs:
    raise UserError(
      f"ranking.epochs is {epochs}; it must exceed"
      " retrain.optimizer.warmup_epochs,"
      f" {config.retrain.optimizer.warmup_epochs:g}."
    )
  if config.ranking.n_archs in (1, 2):
    raise UserError(
      f"ranking.n_archs is {config.ranking.n_archs}; a rank correlation needs"
      " at least 3 networks (0 leaves the ranking out of `run`)."
    )
  if not 0 < config.ranking.confidence < 1:
    raise UserError(
      f"ranking.confidence is {config.ranking.confidence}; it must lie between"
      " 0 and 1."
    )
