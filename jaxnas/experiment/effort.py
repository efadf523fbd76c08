"""What a run costs in image evaluations, whatever the machine.

One image evaluation is the forward pass of one image through one network (of a
supernet: through one path, mask or block). A training image counts 3: forward,
and backward as two (ours; the usual rule). Shared work, as of equal beginnings
of paths, is not subtracted, for the unit tells methods apart and not engines.

Counted from the config and the files of a finished run. Left out is what every
run does alike and no method asks for: the probes that warn of a supernet at
chance, the check of the winner on its own, and measured latencies. A relaxed
interpreter, which mixes all operations, counts as one network.
"""

from jaxnas.config import RetrainConfig
from jaxnas.data import Batches
from jaxnas.experiment.base import Experiment
from jaxnas.methods import (
  BlockMethod,
  ChildMethod,
  DivideMethod,
  MaskMethod,
  algorithm_of,
  block_batches,
  guidances,
  masked_batches,
  shares_weights,
  supernet_batches,
  training_images,
  uses_interpreter,
)
from jaxnas.methods.masked import PROBES
from jaxnas.scoring import calibration_split
from jaxnas.training import validations
from jaxnas.writer import read_csv, read_json

TRAINED = 3  # evaluations that a training image counts


def effort(experiment: Experiment) -> dict[str, int]:
  """Image evaluations of each stage of a finished run.

  Args:
    experiment: with the files of `train`, `search` and `retrain`.

  Returns:
    `train`, `search` and `retrain`.
  """
  return {
    "train": _train(experiment),
    "search": _search(experiment),
    "retrain": _retrain(experiment),
  }


def _train(e: Experiment) -> int:
  """Training of a supernet and its validations, or of all archs briefly."""
  config, method, probes = (
    e.config.train,
    e.method,
    e.config.train.evaluate_archs,
  )
  if isinstance(method, BlockMethod):
    if not uses_interpreter(e.config.blocks):
      return 0
    batches, paths = block_batches(e.setup), 1
  elif isinstance(method, MaskMethod):
    # The threshold mask is validated as well.
    batches, paths, probes = masked_batches(e.setup), 1, PROBES + 1
  elif isinstance(method, DivideMethod) and not shares_weights(e.config):
    return sum(row["images"] for row in _costs(e)[:1])
  elif isinstance(method, ChildMethod):
    return 0
  else:
    batches, paths = supernet_batches(e.setup, e.sampler), e.sampler.n_paths
  steps = config.epochs * batches.steps_per_epoch
  every = config.evaluate_every * batches.steps_per_epoch
  judged = validations(steps, every) * probes * _judged(e)
  return TRAINED * steps * config.batch_size * paths + judged


def _search(e: Experiment) -> int:
  """Scores, or short and longer trainings."""
  if isinstance(e.method, BlockMethod):
    return _search_blocks(e)
  if isinstance(e.method, MaskMethod):
    return _search_masks(e)
  if isinstance(e.method, DivideMethod):
    # The short trainings of all come first, and are the stage train.
    rows = _costs(e)[not shares_weights(e.config) :]
    return sum(row["images"] for row in rows)
  evaluated = read_json(e.workdir / "search.json")["evaluated"]
  if isinstance(e.method, ChildMethod):
    return evaluated * training_images(e.setup, e.config.divide.epochs)
  return evaluated * _judged(e)


def _search_masks(e: Experiment) -> int:
  """All candidates on all images, or rungs of successive halving."""
  evaluated = read_json(e.workdir / "search.json")["evaluated"]
  if not e.config.masks.halving:
    return evaluated * _judged(e)
  seen = [int(float(row["images"])) for row in _archs(e)]
  # Every rung calibrates anew. It drops some, so its size is someone's last.
  rungs = sorted({*seen})
  calibrated = sum(rungs.index(n) + 1 for n in seen) * _calibration(e)
  return sum(seen) + calibrated


def _search_blocks(e: Experiment) -> int:
  """Every distinct block of all searches, and the relaxed training."""
  blocks = e.config.blocks
  if blocks.block or blocks.evaluation == "table":
    return 0
  distinct = len({row["arch"] for row in _archs(e)})
  if blocks.evaluation == "children":
    trained = _recipe(e, blocks.child)[1]
    return distinct * (trained + len(e.setup.data.validation))
  relaxed = 0
  if algorithm_of(e.setup) == "differentiable":
    # Each step learns weights from one batch and probabilities from another.
    steps = blocks.rounds * blocks.per_round * len(guidances(e.setup))
    relaxed = TRAINED * 2 * steps * e.config.train.batch_size
  return distinct * _judged(e) + relaxed


def _retrain(e: Experiment) -> int:
  """Training of the winner, its validations, and the final judgement."""
  config, data = e.config.retrain, e.setup.data
  steps, trained = _recipe(e, config)
  per_epoch = steps // max(config.epochs, 1)
  looks = validations(steps, config.checkpoint_every * per_epoch)
  return trained + (looks + 1) * len(data.validation) + len(data.test)


def _recipe(e: Experiment, recipe: RetrainConfig) -> tuple[int, int]:
  """Steps of a network's training, and its image evaluations."""
  batches = Batches(len(e.setup.data.train), recipe.batch_size, 0)
  steps = recipe.epochs * batches.steps_per_epoch
  return steps, TRAINED * steps * recipe.batch_size


def _judged(e: Experiment) -> int:
  """Images that score one arch with shared weights."""
  return len(e.setup.data.validation) + _calibration(e)


def _calibration(e: Experiment) -> int:
  config = e.config.score
  if config.bn_mode != "recalibrate":
    return 0
  return len(calibration_split(e.setup.data, config))


def _costs(e: Experiment) -> list[dict]:
  return read_json(e.workdir / "clusters.json")["cost"]


def _archs(e: Experiment) -> list[dict[str, str]]:
  return read_csv(e.workdir / "archs.csv")
