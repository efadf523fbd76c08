"""The set-up of a run: config to checked objects, nothing written."""

import dataclasses
import zlib
from pathlib import Path

import jax
import numpy as np

from jaxnas.checkpoint import Checkpoints
from jaxnas.config import ExperimentConfig
from jaxnas.costs import Budget, CostTable, cost_tables
from jaxnas.costs.block_budget import BlockBudget
from jaxnas.costs.latency import read_latency
from jaxnas.costs.mask_budget import MaskBudget
from jaxnas.data import Batches, Dataset, Split, Steps, load
from jaxnas.errors import UserError
from jaxnas.methods.checks import (
  check_block_config,
  check_mask_config,
  check_path_config,
  check_values,
  uses_interpreter,
)
from jaxnas.nets import BlockSupernet, MaskedSupernet, PathSupernet
from jaxnas.scoring import BlockScorer, MaskScorer, Scorer, check_score
from jaxnas.sharding import Placement, make_placement
from jaxnas.spaces import AnySpace, BlockSpace, MaskSpace, Space, get_space
from jaxnas.training import Feed, StreamedBatches
from jaxnas.writer import Journal


@dataclasses.dataclass(frozen=True)
class Setup:
  """Everything a stage needs, built once from the config.

  Attributes:
    config: the experiment.
    workdir: where its files go.
    space: with the data's classes, channels and image size.
    data: the three splits.
    placement: devices.
    journal: log rows.
    budget: bounds on costs.
    supernet: the network, without weights.
  """

  config: ExperimentConfig
  workdir: Path
  space: AnySpace
  data: Dataset
  placement: Placement
  journal: Journal
  budget: Budget | MaskBudget | BlockBudget
  supernet: PathSupernet | MaskedSupernet | BlockSupernet | None

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
    """Training images, on the device unless they are streamed."""
    arrays, source = (None, None), split
    if not self.data.streamed:
      arrays, source = self.placement.put((split.images, split.labels)), None
    return Feed(
      *arrays, self.data.mean, self.data.std, self.config.data.augment,
      self.placement, source, self.config.net.bn_parts,
    )  # fmt: skip

  def inputs(self, batches: Batches | Steps) -> Batches | StreamedBatches:
    """What the steps of a training take: indices, or streamed images.

    Args:
      batches: which of the training images.
    """
    if self.data.streamed:
      return StreamedBatches(batches, self.data.train, self.placement)
    return batches


@dataclasses.dataclass(frozen=True)
class PathSetup(Setup):
  """The set-up of a supernet of single paths.

  Attributes:
    costs: additive cost tables by name.
  """

  costs: dict[str, CostTable]

  def parse_budget(self, text: str) -> Budget:
    """Reads a budget on this run's costs."""
    return Budget.parse(text, self.costs, self.space)

  def scorer(self) -> Scorer:
    """Scores archs as the config says."""
    return Scorer(self.supernet, self.data, self.config.score, self.placement)


@dataclasses.dataclass(frozen=True)
class MaskSetup(Setup):
  """The set-up of a masked network."""

  def scorer(self) -> MaskScorer:
    """Scores masks as the config says."""
    return MaskScorer(
      self.supernet, self.data, self.config.score, self.placement
    )


@dataclasses.dataclass(frozen=True)
class BlockSetup(Setup):
  """The set-up of a search for a block; `supernet` is None without one."""

  def scorer(self) -> BlockScorer:
    """Scores blocks with shared weights, as the config says."""
    return BlockScorer(
      self.supernet, self.data, self.config.score, self.placement
    )


def make_space(config: ExperimentConfig) -> AnySpace:
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


def make_setup(
  config: ExperimentConfig, workdir: Path, data: Dataset | None = None
) -> PathSetup:
  """Builds and checks everything that a config names; writes nothing.

  Args:
    config: the resolved config.
    workdir: where the run's files will go.
    data: the images, if they are not to be read.

  Raises:
    UserError: for any value that cannot be used, or unreadable data.
  """
  check_values(config)
  check_path_config(config)
  check_score(config.score, config.net)
  common = _common(config, workdir, Space, data)
  space = common["space"]
  costs = {**cost_tables(space), **latency_tables(config.latency, space)}
  return PathSetup(
    **common,
    costs=costs,
    budget=Budget.parse(config.budget, costs, space),
    supernet=PathSupernet(space, config.net),
  )


def make_mask_setup(
  config: ExperimentConfig, workdir: Path, data: Dataset | None = None
) -> MaskSetup:
  """As `make_setup`, for a masked network."""
  check_values(config)
  check_mask_config(config)
  check_score(config.score, config.net)
  common = _common(config, workdir, MaskSpace, data)
  space = common["space"]
  return MaskSetup(
    **common,
    budget=MaskBudget.parse(config.budget, space),
    supernet=MaskedSupernet(space, config.net),
  )


def make_block_setup(
  config: ExperimentConfig, workdir: Path, data: Dataset | None = None
) -> BlockSetup:
  """As `make_setup`, for a search for a block."""
  check_values(config)
  check_block_config(config)
  common = _common(config, workdir, BlockSpace, data)
  space, supernet = common["space"], None
  if uses_interpreter(config.blocks):
    check_score(config.score, config.net)
    supernet = BlockSupernet(space, config.net)
  return BlockSetup(
    **common,
    budget=BlockBudget.parse(config.budget, space),
    supernet=supernet,
  )


def _common(
  config: ExperimentConfig, workdir: Path, kind: type, data: Dataset | None
) -> dict:
  space = make_space(config)
  if not isinstance(space, kind):
    names = {
      Space: "a chain of layers", MaskSpace: "a masked network",
      BlockSpace: "a block",
    }  # fmt: skip
    raise UserError(
      f"method {config.method} searches {names[kind]}, and space"
      f" {space.name!r} is {names[type(space)]}; see `python -m jaxnas list"
      " spaces`."
    )
  data = data or load(config.data, space.image_size)
  return {
    "config": config,
    "workdir": workdir,
    "space": space.replace(
      n_classes=data.n_classes, image_channels=data.image_channels
    ),
    "data": data,
    "placement": make_placement(config.mesh),
    "journal": Journal(workdir / "metrics.jsonl"),
  }
