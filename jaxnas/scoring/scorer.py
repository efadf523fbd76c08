"""Scores archs with inherited weights: one compiled program for all of them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.data import Dataset, Split, eval_batches
from jaxnas.data.augment import normalize
from jaxnas.errors import UserError
from jaxnas.nets import Fleet, PathSupernet
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.sharding import RULES, Placement

Tree = Any
Variables = dict[str, Tree]


@dataclasses.dataclass(frozen=True)
class Images:
  """Images on the device in equal batches, every one counted exactly once.

  Attributes:
    x: `float32[b, B, H, W, C]`, normalised.
    y: `int32[b, B]`.
    mask: `bool[b, B]`, false for padding.
    n: number of real images.
  """

  x: jax.Array
  y: jax.Array
  mask: jax.Array
  n: int

  @classmethod
  def of(
    cls, split: Split, data: Dataset, batch_size: int, placement: Placement
  ) -> "Images":
    """Cuts a split into batches of `batch_size` or the whole, if smaller."""
    size = min(batch_size, len(split))
    batches = list(eval_batches(len(split), size))
    index = np.stack([i for i, _ in batches])
    x = normalize(split.images[index], data.mean, data.std)
    mask = np.stack([m for _, m in batches])
    arrays = placement.put((np.asarray(x), split.labels[index], mask))
    return cls(*arrays, len(split))

  @property
  def arrays(self) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What compiled programs take."""
    return self.x, self.y, self.mask


def calibration_split(data: Dataset, config: ScoreConfig) -> Split:
  """The fixed training images, unaugmented, that give BN statistics.

  Above one batch, what does not fill a whole batch is left out, so that every
  batch weighs the same in the merged statistics.
  """
  n = min(config.calibration_images, len(data.train))
  if n > config.batch_size:
    n -= n % config.batch_size
  return data.train.take(np.arange(n))


def check_score(config: ScoreConfig, net: NetConfig) -> None:
  """Checks the values that scoring depends on.

  Raises:
    UserError: for a size below 1, or for `running` when the supernet keeps no
      running statistics.
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


def measure(logits: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Correctness `bool[..., B]` and loss in nats `float32[..., B]`."""
  return correct(logits, y), cross_entropy(logits, y)


def merge_stats(batches: Tree) -> Tree:
  """Joins statistics of several batches, leaves `[b, ...]`, into the whole's.

  The variance of the whole is the mean of the variances plus the variance of
  the means (law of total variance); leaving the second out, as is often done,
  makes it too small.
  """

  def norm(node):
    mean = node["mean"].mean(0)
    spread = jnp.square(node["mean"] - mean).mean(0)
    return {"mean": mean, "var": node["var"].mean(0) + spread}

  def walk(node):
    if set(node) == {"mean", "var"}:
      return norm(node)
    return {k: walk(v) for k, v in node.items()}

  return walk(batches)


class Scorer:
  """Supernet metrics of archs on the validation split.

  With `recalibrate`, batch-norm statistics are recomputed for each arch from a
  fixed calibration set, from scratch, so no arch leaves a trace in the next.

  Attributes:
    bn_mode: where batch-norm statistics come from; part of every score.

  Args:
    supernet: the network.
    data: validation images are scored, training images calibrate.
    config: mode and sizes.
    placement: candidates are spread over all devices of its mesh.

  Raises:
    UserError: for values that `check_score` refuses.
  """

  def __init__(
    self,
    supernet: PathSupernet,
    data: Dataset,
    config: ScoreConfig,
    placement: Placement,
  ) -> None:
    check_score(config, supernet.net)
    self.bn_mode = config.bn_mode
    self._supernet, self._placement = supernet, placement
    self._images = Images.of(
      data.validation, data, config.batch_size, placement
    )
    calibration = calibration_split(data, config)
    self._calibration = Images.of(
      calibration, data, config.batch_size, placement
    )
    self._program = self._compile()

  def __call__(
    self, variables: Variables, archs: np.ndarray, per_example: bool = False
  ) -> dict[str, np.ndarray]:
    """Scores archs.

    Args:
      variables: of the supernet.
      archs: `int32[n, L]`; any n above 0, any order, repeats allowed.
      per_example: also return which images each arch classified correctly.

    Returns:
      `accuracy` (share) and `loss` (nats, mean), `float64[n]`; with
      `per_example` also `correct`, `bool[n, n_images]`.
    """
    archs = self._supernet.space.validate(archs)
    width = self._placement.n_devices
    padded = -(-len(archs) // width) * width
    rows = np.concatenate([archs, np.repeat(archs[:1], padded - len(archs), 0)])
    pending = [
      self._program(
        variables,
        rows[i : i + width],
        self._calibration.x,
        *self._images.arrays,
      )
      for i in range(0, padded, width)
    ]
    parts = jax.device_get(pending)
    hit, loss = (np.concatenate([p[j] for p in parts]) for j in (0, 1))
    hit, loss = (a[: len(archs)] for a in (hit, loss))
    real = np.asarray(self._images.mask).reshape(-1)
    hit = hit.reshape(len(archs), -1)[:, real]
    loss = loss.reshape(len(archs), -1)[:, real]
    out = {
      "accuracy": hit.mean(1, dtype=np.float64),
      "loss": loss.mean(1, dtype=np.float64),
    }
    return out | ({"correct": hit} if per_example else {})

  def _compile(self):
    one = functools.partial(_score_one, self._supernet, self.bn_mode)

    def candidates(variables, archs, calibration, x, y, mask):
      if archs.shape[0] == 1:  # a loop of one would only cost parallelism
        outs = one(variables, archs[0], calibration, x, y)
        return jax.tree.map(lambda a: a[None], outs)
      return jax.lax.map(lambda a: one(variables, a, calibration, x, y), archs)

    if self._placement.n_devices == 1:
      return jax.jit(candidates)
    spread = RULES["candidates"]
    return jax.jit(
      jax.shard_map(
        candidates,
        mesh=self._placement.mesh,
        in_specs=(P(), spread, P(), P(), P(), P()),
        out_specs=spread,
        check_vma=False,
      )
    )


def recalibrated(
  supernet: PathSupernet,
  variables: Variables,
  arch: jax.Array,
  calibration: jax.Array,
) -> Variables:
  """Variables whose BN statistics on one path are those of fixed images.

  Args:
    supernet: the network.
    variables: of the supernet; left alone.
    arch: `int32[L]`, may be traced.
    calibration: `float32[b, B, H, W, C]`; each batch is normalised by its own
      statistics on the way, and statistics are merged over batches.

  Returns:
    Variables with new statistics for the choices of `arch`; those of other
    choices are meaningless.
  """

  def batch(x):
    return supernet.apply_path(variables, arch, x, stored=False)[1]

  if calibration.shape[0] == 1:
    stats = batch(calibration[0])
  else:
    stats = merge_stats(jax.lax.map(batch, calibration))
  return {**variables, "batch_stats": {**variables["batch_stats"], **stats}}


def _score_one(supernet, bn_mode, variables, arch, calibration, x, y):
  if bn_mode == "recalibrate":
    variables = recalibrated(supernet, variables, arch, calibration)

  def batch(xy):
    logits, _ = supernet.apply_path(
      variables, arch, xy[0], stored=bn_mode != "batch"
    )
    return measure(logits, xy[1])

  if x.shape[0] == 1:
    return jax.tree.map(lambda a: a[None], batch((x[0], y[0])))
  return jax.lax.map(batch, (x, y))


class FleetEvaluator:
  """Accuracy of plain networks on a split, several at once.

  Args:
    fleet: the networks.
    data: gives the normalisation.
    split: images to classify.
    batch_size: images at once.
    placement: where they live.
  """

  def __init__(
    self,
    fleet: Fleet,
    data: Dataset,
    split: Split,
    batch_size: int,
    placement: Placement,
  ) -> None:
    self._images = Images.of(split, data, batch_size, placement)

    def run(variables, x, y):
      def batch(xy):
        return measure(fleet.apply(variables, xy[0], stored=True)[0], xy[1])

      return jax.lax.map(batch, (x, y))

    self._program = jax.jit(run)

  def __call__(self, variables: Variables) -> dict[str, np.ndarray]:
    """Returns `accuracy` and `loss`, `float64[n]` for n networks."""
    x, y, mask = self._images.arrays
    hit, loss = jax.device_get(self._program(variables, x, y))
    real = np.asarray(mask)
    return {
      name: np.stack([a[:, i][real].mean(dtype=np.float64)
                      for i in range(a.shape[1])])
      for name, a in (("accuracy", hit), ("loss", loss))
    }  # fmt: skip
