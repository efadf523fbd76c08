"""Scores archs with inherited weights, by one of three engines."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np

from jaxnas.config import BnMode, NetConfig, ScoreConfig
from jaxnas.data import Dataset, Split
from jaxnas.errors import UserError
from jaxnas.nets import Fleet, PathSupernet
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.nets.paths import Variables
from jaxnas.scoring.engine import Engine, Metric
from jaxnas.scoring.images import Images, calibration_split
from jaxnas.scoring.routed import Routed
from jaxnas.scoring.serial import Serial
from jaxnas.scoring.trie import Trie, sort_archs
from jaxnas.scoring.wavefront import Wavefront
from jaxnas.sharding import Placement

METRICS: dict[str, Metric] = {"accuracy": correct, "loss": cross_entropy}
ENGINES: dict[str, type[Engine]] = {
  "wavefront": Wavefront, "routed": Routed, "serial": Serial,
}  # fmt: skip


def choose_engine(name: str) -> str:
  """The engine that a config means.

  On CPU a node takes far longer than a call, and depth-first order keeps few
  activations. Elsewhere calls dominate.
  """
  if name != "auto":
    return name
  return "wavefront" if jax.default_backend() == "cpu" else "routed"


def check_score(config: ScoreConfig, net: NetConfig) -> None:
  """Checks the values that scoring depends on.

  Raises:
    UserError: for a size below 1, for `running` when the supernet keeps no
      running statistics, or for a race that cannot be held.
  """
  for name in ("calibration_images", "batch_size"):
    if getattr(config, name) < 1:
      raise UserError(
        f"score.{name} is {getattr(config, name)}; it must be at least 1."
      )
  if config.bn_mode == "running" and not net.bn_track:
    raise UserError(
      "score.bn_mode=running needs net.bn_track=true: the supernet kept no"
      " running statistics."
    )
  if not 0 <= config.race < 1:  # NaN fails too
    raise UserError(
      f"score.race is {config.race}; it must be at least 0 (no race) and below"
      " 1."
    )
  if config.race:
    _refuse_batch_mode(config.bn_mode)


def _refuse_batch_mode(bn_mode: BnMode) -> None:
  if bn_mode == "batch":
    raise UserError(
      "a race is not possible with score.bn_mode=batch: there the result on an"
      " image depends on the images beside it, which a race changes; use"
      " recalibrate or running."
    )


class Scorer:
  """Supernet metrics of archs on the validation split.

  With `recalibrate`, batch-norm statistics are recomputed for each arch from a
  fixed calibration set, from scratch, so no arch leaves a trace in the next.
  With one engine, scores do not depend on who else is scored, nor on the order.
  Engines, and for some of them memory and the number of devices, change no more
  than the rounding.

  Attributes:
    bn_mode: where batch-norm statistics come from; part of every score.
    engine: `wavefront`, `routed` or `serial`.
    space: of the archs.

  Args:
    supernet: the network.
    data: validation images are scored, training images calibrate.
    config: mode, sizes and engine.
    placement: candidates are spread over all devices of its mesh.
    metrics: further metrics by name: traceable functions of logits
      `float32[..., B, n_classes]` and labels `int32[B]` that give one value
      for each image, `[..., B]`; a score is their mean.

  Raises:
    UserError: for values that `check_score` refuses, a metric's name that is
      taken, or memory that a single path exceeds.
  """

  def __init__(
    self,
    supernet: PathSupernet,
    data: Dataset,
    config: ScoreConfig,
    placement: Placement,
    metrics: Mapping[str, Metric] | None = None,
  ) -> None:
    check_score(config, supernet.net)
    metrics = metrics or {}
    taken = {*METRICS, "correct"} & set(metrics)
    if taken:
      raise UserError(f"the metric name {min(taken)!r} is taken.")
    self.bn_mode = config.bn_mode
    self.engine = choose_engine(config.engine)
    self.space = supernet.space
    self._images = Images.of(
      data.validation, data, config.batch_size, placement
    )
    calibration = Images.of(
      calibration_split(data, config), data, config.batch_size, placement
    )
    self._score = ENGINES[self.engine](
      supernet, self.bn_mode, calibration, self.batch_size, METRICS | metrics,
      placement, config.max_live_bytes,
    )  # fmt: skip

  @property
  def n_images(self) -> int:
    """Validation images."""
    return self._images.n

  @property
  def batch_size(self) -> int:
    """Images scored at once."""
    return self._images.batch_size

  def __call__(
    self, variables: Variables, archs: np.ndarray, per_example: bool = False
  ) -> dict[str, np.ndarray]:
    """Scores archs.

    Args:
      variables: of the supernet.
      archs: `int32[n, L]`; any n above 0, any order, repeats allowed.
      per_example: also return which images each arch classified correctly.

    Returns:
      `accuracy` (share), `loss` (nats, mean) and further metrics,
      `float64[n]`; with `per_example` also `correct`, `bool[n, n_images]`.
    """
    distinct, rows = sort_archs(self.space.validate(archs))
    images = self._images
    found = self._score(variables, distinct, images, images.n_batches)
    values = {name: images.real(a) for name, a in found.items()}
    out = {n: a.mean(1, dtype=np.float64)[rows] for n, a in values.items()}
    if per_example:
      out["correct"] = values["accuracy"][rows]
    return out

  def score_images(
    self, variables: Variables, archs: np.ndarray, images: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Scores archs on chosen images, by the programs that score them all.

    The images are gathered into batches of the usual size, so neither their
    choice nor their number compiles anything after the first call.

    Args:
      variables: of the supernet.
      archs: `int32[n, L]`; any n above 0, any order, repeats allowed.
      images: `int[k]`, distinct indices of validation images, k above 0.

    Returns:
      Of each metric its values on each image, `[n, k]`; of `accuracy`
      whether it was classified correctly, bool.

    Raises:
      UserError: in the mode `batch`.
    """
    _refuse_batch_mode(self.bn_mode)
    distinct, rows = sort_archs(self.space.validate(archs))
    n = -(-len(images) // self.batch_size)
    found = self._score(variables, distinct, self._images.take(images), n)
    return {
      name: a.reshape(len(distinct), -1)[rows, : len(images)]
      for name, a in found.items()
    }

  def count_nodes(self, archs: np.ndarray) -> tuple[int, int]:
    """Blocks of searched layers that prefix sharing computes, and n * L.

    Args:
      archs: `int32[n, L]`.
    """
    archs = self.space.validate(archs)
    return sum(Trie(sort_archs(archs)[0]).sizes), archs.size


class FleetEvaluator:
  """Accuracy of plain networks on a split, several at once.

  Args:
    fleet: the networks.
    data: gives the normalisation.
    split: images to classify.
    batch_size: images at once.
    placement: each device takes a part of every batch.
  """

  def __init__(
    self,
    fleet: Fleet,
    data: Dataset,
    split: Split,
    batch_size: int,
    placement: Placement,
  ) -> None:
    self._images = Images.of(split, data, batch_size, placement, "batches")

    def run(variables, images):
      def batch(x, y):
        logits, _ = fleet.apply(variables, x, stored=True)
        return {name: f(logits, y) for name, f in METRICS.items()}

      return images.map(batch)

    self._program = jax.jit(run, out_shardings=placement.sharding("replicated"))

  def __call__(self, variables: Variables) -> dict[str, np.ndarray]:
    """Returns `accuracy` and `loss`, `float64[n]` for n networks."""
    found = jax.device_get(self._program(variables, self._images))
    return {
      name: self._images.real(np.moveaxis(a, 1, 0)).mean(1, dtype=np.float64)
      for name, a in found.items()
    }


class NetworkEvaluator:
  """Accuracy of one plain network, any Linen module, on a split.

  Args:
    network: applied as `(variables, images)`, with stored statistics.
    data: gives the normalisation.
    split: images to classify.
    batch_size: images at once.
    placement: each device takes a part of every batch.
  """

  def __init__(
    self,
    network: nn.Module,
    data: Dataset,
    split: Split,
    batch_size: int,
    placement: Placement,
  ) -> None:
    self._images = Images.of(split, data, batch_size, placement, "batches")

    def run(variables, images):
      def batch(x, y):
        logits = network.apply(variables, x)
        return {name: f(logits, y) for name, f in METRICS.items()}

      return images.map(batch)

    self._program = jax.jit(run, out_shardings=placement.sharding("replicated"))

  def __call__(self, variables: Variables) -> dict[str, float]:
    """Returns `accuracy` and `loss`."""
    found = jax.device_get(self._program(variables, self._images))
    return {
      name: float(self._images.real(a).mean(dtype=np.float64))
      for name, a in found.items()
    }
