"""Refuses, before anything is written, numbers that no stage can use."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

from jaxnas.config import BlocksConfig, ExperimentConfig, OptimizerConfig
from jaxnas.errors import UserError, unknown
from jaxnas.search.partition import check_divide
from jaxnas.training import check_masks

_AT_LEAST = {
  "seed": 0,
  "train.epochs": 1,
  "train.log_every": 1,
  "train.checkpoint_every": 1,
  "train.evaluate_every": 0,
  "train.evaluate_archs": 0,
  "search.generations": 0,
  "search.front": 1,
  "blocks.latency_blocks": 0,
  "blocks.child.epochs": 1,
  "retrain.epochs": 0,
  "retrain.log_every": 1,
  **{
    f"{stage}.accumulate": 1 for stage in ("train", "retrain", "blocks.child")
  },
  "net.bn_parts": 1,
  "retrain.checkpoint_every": 1,
  "ranking.n_archs": 0,
  "ranking.pool": 0,
  "ranking.epochs": 0,
  "ranking.together": 1,
  "ranking.top_k": 1,
  "ranking.bootstrap": 1,
}


# Methods that train candidates briefly, by the recipe of `retrain`.
BRIEF = ("dcnas", "evolution")

# Legal from the first to below the second value.
_WITHIN = {
  "train.label_smoothing": (0, 1),
  "retrain.label_smoothing": (0, 1),
  "net.bn_momentum": (0, 1),
  "search.controller_learning_rate": (0, math.inf),
  **{
    f"{stage}.optimizer.{name}": (0, math.inf)
    for stage in ("train", "retrain", "blocks.child")
    for name in (
      "learning_rate", "final_learning_rate", "warmup_epochs", "weight_decay",
      "clip_norm",
    )
  },
  **{
    f"{stage}.optimizer.momentum": (0, 1)
    for stage in ("train", "retrain", "blocks.child")
  },
  "blocks.child.label_smoothing": (0, 1),
}  # fmt: skip


def check_values(config: ExperimentConfig) -> None:
  """Checks the numbers that all methods share.

  Raises:
    UserError: naming the field, its value and the legal ones.
  """
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
  for name, stage in (
    ("train", config.train), ("retrain", config.retrain),
    ("blocks.child", config.blocks.child),
  ):  # fmt: skip
    if stage.epochs and stage.optimizer.warmup_epochs >= stage.epochs:
      raise UserError(
        f"{name}.optimizer.warmup_epochs is {stage.optimizer.warmup_epochs:g}"
        f" of {stage.epochs} epochs; it must be less, or the learning rate"
        " never reaches its value."
      )
    if stage.batch_size % (parts := stage.accumulate * config.net.bn_parts):
      raise UserError(
        f"{name}.batch_size is {stage.batch_size}; it must be divisible by"
        f" {name}.accumulate x net.bn_parts, {parts}."
      )
    _check_schedule(name, stage.optimizer)
    if stage.optimizer.nesterov and stage.optimizer.name != "sgd":
      raise UserError(
        f"{name}.optimizer.nesterov=true is for sgd, not"
        f" {stage.optimizer.name}."
      )
  epochs = config.ranking.epochs
  shortened = config.method in BRIEF  # with their warm-up
  if not shortened and 0 < epochs <= config.retrain.optimizer.warmup_epochs:
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


def _check_schedule(stage: str, optimizer: OptimizerConfig) -> None:
  """Checks the constants of the schedule that is used, and that no other is."""
  used = {
    "cosine": ("final_learning_rate",),
    "restarts": ("final_learning_rate", "restart_epochs", "restart_growth"),
    "drops": ("drop_epochs", "drop_factor"),
  }  # fmt: skip
  # The stage's own default is not what the user chose either.
  own = functools.reduce(getattr, stage.split("."), ExperimentConfig())
  defaults = OptimizerConfig(), own.optimizer
  for names in used.values():
    for name in names:
      value = getattr(optimizer, name)
      unset = value in [getattr(default, name) for default in defaults]
      if name in used[optimizer.schedule] or unset:
        continue
      raise UserError(
        f"{stage}.optimizer.{name} is {value}, but schedule"
        f" {optimizer.schedule!r} does not use it."
      )
  least = {"restart_epochs": 0, "restart_growth": 1, "drop_factor": 1}
  for name, low in least.items():
    value = getattr(optimizer, name)
    above = name == "restart_epochs"
    if not (low < value if above else low <= value) or value == math.inf:
      raise UserError(
        f"{stage}.optimizer.{name} is {value}; it must be"
        f" {'above' if above else 'at least'} {low} and finite."
      )
  epochs = optimizer.drop_epochs
  if not all(a < b for a, b in itertools.pairwise((0.0, *epochs, math.inf))):
    raise UserError(
      f"{stage}.optimizer.drop_epochs {epochs} must be above 0 and ascend."
    )


def refuse_foreign(
  config: ExperimentConfig, section: str, names: Sequence[str] = ()
) -> None:
  """Refuses fields that the config's method would not read.

  Args:
    config: the config.
    section: dotted name of a section, empty for the config itself.
    names: its fields; default all.

  Raises:
    UserError: if one of them differs from its default.
  """
  given, default = config, ExperimentConfig()
  for part in filter(None, section.split(".")):
    given, default = getattr(given, part), getattr(default, part)
  for name in names or [f.name for f in dataclasses.fields(given)]:
    value = getattr(given, name)
    if value != getattr(default, name):
      path = f"{section}.{name}".lstrip(".")
      raise UserError(
        f"{path} is {value!r}, but method {config.method} does not use it;"
        " leave it at its default."
      )


def check_mask_config(config: ExperimentConfig) -> None:
  """Checks what only a method with masks reads, and that nothing else is set.

  Raises:
    UserError: naming the field.
  """
  check_masks(config.masks)
  for section in ("expert", "blocks"):
    refuse_foreign(config, section)
  refuse_foreign(config, "", ("latency",))
  refuse_foreign(
    config, "train",
    ("sampler", "paths", "pad_unequal", "share_batch", "loss_reduce",
     "paths_in_flight", "evaluate_archs"),
  )  # fmt: skip
  refuse_foreign(config, "net", ("bn_affine", "bn_track", "remat"))
  refuse_foreign(config, "score", ("race",))
  if config.score.engine == "routed":
    raise UserError(
      "score.engine is 'routed', which routes paths; for masks: auto, wavefront"
      " or serial."
    )
  refuse_foreign(config, "retrain", ("dropout",))
  refuse_foreign(config, "search")
  refuse_foreign(config, "ranking")
  if decay := config.train.optimizer.weight_decay:
    raise UserError(
      f"train.optimizer.weight_decay is {decay}; with method {config.method} it"
      " must be 0, for masks.length_scale takes its place."
    )
  if not config.retrain.epochs and not config.retrain.inherit:
    raise UserError(
      "retrain.epochs is 0, which keeps inherited weights as they are, but"
      " retrain.inherit is false."
    )


def uses_interpreter(blocks: BlocksConfig) -> bool:
  """Whether a search for blocks has a supernet."""
  return not blocks.block and blocks.evaluation == "interpreter"


_SEARCH_OF_BLOCKS = {
  "evolution": ("population", "tournament"),
  "qlearning": (), "reinforce": (), "differentiable": (), "random": (),
}  # fmt: skip


def check_block_config(config: ExperimentConfig) -> None:
  """Checks what only a search for blocks reads, and that nothing else is set.

  Raises:
    UserError: naming the field.
  """
  blocks, algorithm = config.blocks, config.search.algorithm
  refuse_foreign(config, "", ("latency",))
  refuse_foreign(config, "masks")
  refuse_foreign(config, "net", ("bn_track", "remat"))
  refuse_foreign(config, "retrain", ("dropout",))
  refuse_foreign(config, "score", ("race",))
  refuse_foreign(
    config, "blocks.child",
    ("inherit", "dropout", "log_every", "checkpoint_every"),
  )  # fmt: skip
  refuse_foreign(
    config, "train",
    ("sampler", "paths", "pad_unequal", "share_batch", "loss_reduce",
     "paths_in_flight"),
  )  # fmt: skip
  if algorithm == "differentiable":
    refuse_foreign(config, "train", ("accumulate",))
    refuse_foreign(config, "mesh", ("shard_weights",))
  alone = config.retrain.epochs and not config.retrain.inherit
  if not uses_interpreter(blocks) and not alone:
    raise UserError(
      "retrain.inherit and retrain.epochs=0 need a supernet's weights; without"
      " blocks.evaluation=interpreter, or with blocks.block, there is no"
      " supernet."
    )
  if blocks.block:
    return
  if not config.retrain.epochs and not config.retrain.inherit:
    raise UserError(
      "retrain.epochs is 0, which keeps inherited weights as they are, but"
      " retrain.inherit is false."
    )
  if algorithm not in ("auto", *_SEARCH_OF_BLOCKS):
    raise unknown(
      f"search.algorithm of method {config.method}", algorithm,
      ("auto", *_SEARCH_OF_BLOCKS),
    )  # fmt: skip
  reads = {"algorithm", *_SEARCH_OF_BLOCKS.get(algorithm, ())}
  names = [f.name for f in dataclasses.fields(config.search)]
  refuse_foreign(config, "search", [n for n in names if n not in reads])
  if (blocks.evaluation == "table") != bool(blocks.table):
    raise UserError(
      f"blocks.evaluation is {blocks.evaluation!r} and blocks.table is"
      f" {blocks.table!r}; a file is given exactly with evaluation 'table'."
    )
  for name in ("guidance", "compare", "flops_penalty", "density_penalty"):
    value = getattr(blocks, name)
    for v in value if isinstance(value, tuple) else (value,):
      if not 0 <= v < math.inf:
        raise UserError(f"blocks.{name} is {value}; it must be 0 or more.")
  # As they name checkpoints, six digits.
  names = [f"{v:g}" for v in (*blocks.compare, blocks.guidance)]
  if len({*names}) < len(names):
    raise UserError(
      f"blocks.compare {blocks.compare} must hold values that differ from each"
      f" other and from blocks.guidance, {blocks.guidance}."
    )


def check_path_config(config: ExperimentConfig) -> None:
  """Refuses, for a chain of layers, what only others can have.

  Raises:
    UserError: naming the field.
  """
  for section in ("masks", "expert", "blocks"):
    refuse_foreign(config, section)
  if not config.retrain.epochs:
    raise UserError(
      f"retrain.epochs is 0; with method {config.method} it must be at least 1."
    )
  divide = config.divide
  if config.method in BRIEF:  # divide.together counts; what is ranked is fixed
    refuse_foreign(config, "ranking", ("together", "selection", "pool"))
  if config.method == "dcnas":
    check_divide(divide)
    refuse_foreign(config, "divide", ("early", "early_cost"))
    refuse_foreign(config, "search")
    if config.ranking.n_archs and divide.samples < 3:
      raise UserError(
        f"divide.samples is {divide.samples}; at least 3 of them are ranked, or"
        " ranking.n_archs is 0."
      )
  elif config.method == "evolution":
    shared = ("epochs", "together")
    names = [f.name for f in dataclasses.fields(divide) if f.name not in shared]
    refuse_foreign(config, "divide", names)
    check_divide(dataclasses.replace(divide, conquer_epochs=divide.epochs))
    legal = ("auto", "evolution", "nsga2", "random")
    if config.search.algorithm not in legal:
      raise unknown(
        "search.algorithm of method evolution", config.search.algorithm, legal
      )
  else:
    refuse_foreign(config, "divide")
  if shares_weights(config):
    return
  refuse_foreign(config, "train")
  refuse_foreign(
    config, "score", ("bn_mode", "calibration_images", "engine", "race")
  )
  if config.retrain.inherit:
    raise UserError(
      "retrain.inherit needs a supernet's weights; method"
      f" {config.method} trains none (divide.source='shared-weights' does, with"
      " method dcnas)."
    )


def shares_weights(config: ExperimentConfig) -> bool:
  """Whether a run on a chain of layers trains a supernet."""
  if config.method == "dcnas":
    return config.divide.source == "shared-weights"
  return config.method != "evolution"
