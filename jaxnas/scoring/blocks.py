"""Scores blocks: any number of any wiring, by one compiled program."""

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnas.config import ScoreConfig
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.nets import BlockSupernet
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Variables
from jaxnas.scoring.calibration import merge_stats
from jaxnas.scoring.images import Images, calibration_split, each_batch
from jaxnas.scoring.scorer import METRICS, check_score
from jaxnas.sharding import RULES, Placement

# Blocks of a call, on each device: enough to hide what a call costs.
LOOPED = 16
# Activations of a layer that should fit a CPU's caches.
CACHE_BYTES = 2**20


class BlockScorer:
  """Supernet metrics of blocks on the validation split.

  Blocks are data: one program serves every block. They are computed one after
  the other, for a switch whose index is vectorised would run all operations.
  Scores do not depend on the order or on who else is scored.

  Attributes:
    bn_mode: where batch-norm statistics come from; part of every score.
    space: of the blocks.
    tile: images at once.

  Args:
    supernet: the interpreter.
    data: validation images are scored, training images calibrate.
    config: mode, sizes and `max_live_bytes`. `auto` and `serial` are the
      engine's legal values.
    placement: the blocks of a call are spread over all devices of its mesh.
    tile: images at once; default what the device and the memory ask for.

  Raises:
    UserError: for values that `check_score` refuses, another engine, or memory
      that a single block exceeds.
  """

  def __init__(
    self,
    supernet: BlockSupernet,
    data: Dataset,
    config: ScoreConfig,
    placement: Placement,
    tile: int | None = None,
  ) -> None:
    check_score(config, supernet.net)
    if config.engine not in ("auto", "serial"):
      raise UserError(
        f"score.engine is {config.engine!r}; blocks are scored one after the"
        " other in one program: auto or serial."
      )
    self.bn_mode, self.space = config.bn_mode, supernet.space
    self._supernet, self._placement = supernet, placement
    size = min(config.batch_size, len(data.validation))
    self.tile = size if config.bn_mode == "batch" else min(
      size, tile or self._fitting_tile(size)
    )  # fmt: skip
    self._images = Images.of(data.validation, data, self.tile, placement)
    self._calibration = Images.of(
      calibration_split(data, config), data, config.batch_size, placement
    )
    self._check_memory(config.max_live_bytes)
    self._program = self._compile()

  @property
  def n_images(self) -> int:
    """Validation images."""
    return self._images.n

  @property
  def programs(self) -> int:
    """How many programs were compiled to score blocks."""
    return self._program._cache_size()

  def _image_bytes(self) -> int:
    """One map of the widest stage, for one image."""
    space = self.space
    size, largest = space.image_size, 0
    for stride in space.macro.stem_strides:
      size = -(-size // stride)
    for features, _ in space.macro.stages:
      largest = max(largest, size**2 * features)
      size //= 2
    return largest * dtype_of(self._supernet.net).itemsize

  def _fitting_tile(self, size: int) -> int:
    if jax.default_backend() != "cpu":
      return size
    most = max(2, CACHE_BYTES // self._image_bytes())
    n_tiles = -(-size // most)
    return -(-size // n_tiles)  # equal tiles: the last one is filled up

  def _check_memory(self, limit: int) -> None:
    scored = self._images.batch_size
    if self.bn_mode == "recalibrate":
      scored = max(scored, self._calibration.batch_size)
    # The buffer of all layers, its update, and the taps of a convolution.
    need = scored * self._image_bytes() * (2 * (self.space.max_layers + 1) + 25)
    if need > limit:
      raise UserError(
        f"score.max_live_bytes is {limit:,}; one block on {scored:,} images"
        f" needs about {need:,}. Raise it, or lower score.batch_size."
      )

  def _compile(self):
    supernet, bn_mode = self._supernet, self.bn_mode

    def score(variables, calibration, images, arch):
      if bn_mode == "recalibrate":
        variables = _calibrated(supernet, variables, arch, calibration)

      def batch(x, y):
        stored = bn_mode != "batch"
        logits, _ = supernet.apply(variables, arch, x, stored)
        return {name: f(logits, y) for name, f in METRICS.items()}

      return images.map(batch)

    def chunk(variables, archs, n, calibration, images):
      def one(arch, _):
        return score(variables, calibration, images, arch)

      # What fills up the last chunk is not computed.
      return each_batch(one, archs, archs[:, 0], n[0])

    whole, spread = P(), RULES["candidates"]
    return jax.jit(
      jax.shard_map(
        chunk, mesh=self._placement.mesh,
        in_specs=(whole, spread, spread, whole, whole),
        out_specs=spread, check_vma=False,
      ),
      out_shardings=self._placement.sharding("replicated"),
    )  # fmt: skip

  def __call__(
    self, variables: Variables, archs: np.ndarray, per_example: bool = False
  ) -> dict[str, np.ndarray]:
    """Scores blocks.

    Args:
      variables: of the supernet.
      archs: `int32[m, L]`; any m above 0.
      per_example: also return which images each block classified correctly.

    Returns:
      `accuracy` (share) and `loss` (nats, mean), `float64[m]`; with
      `per_example` also `correct`, `bool[m, n_images]`.

    Raises:
      UserError: for an illegal block.
    """
    archs = self.space.validate(archs)
    devices = self._placement.n_devices
    waiting = []
    for start in range(0, len(archs), LOOPED * devices):
      part = archs[start : start + LOOPED * devices]
      # Every device takes an equal share of a last chunk that is not full.
      shares = np.array_split(np.arange(len(part)), devices)
      places = np.concatenate(
        [d * LOOPED + np.arange(len(s)) for d, s in enumerate(shares)]
      )
      rows = np.zeros((LOOPED * devices, archs.shape[1]), np.int32)
      rows[places] = part
      counts = np.array([len(s) for s in shares], np.int32)
      rows, counts = self._placement.put((rows, counts), "candidates")
      waiting.append(
        (
          places,
          self._program(
            variables, rows, counts, self._calibration, self._images
          ),
        )
      )  # fmt: skip
    values = {
      name: self._images.real(
        np.concatenate(
          [np.asarray(found[name])[places] for places, found in waiting]
        )
      )
      for name in METRICS
    }
    out = {name: a.mean(1, dtype=np.float64) for name, a in values.items()}
    if per_example:
      out["correct"] = values["accuracy"].astype(bool)
    return out


def _calibrated(supernet, variables, arch, calibration) -> Variables:
  stats = calibration.map(
    lambda x, _: supernet.apply(variables, arch, x, False)[1]
  )
  return {**variables, "batch_stats": merge_stats(stats)}


def calibrated_block(
  supernet: BlockSupernet,
  variables: Variables,
  arch: np.ndarray,
  data: Dataset,
  config: ScoreConfig,
  placement: Placement,
) -> Variables:
  """Variables whose BN statistics are a block's own on the calibration images.

  Args:
    supernet: the interpreter.
    variables: of it; left alone.
    arch: `int32[L]`.
    data: gives the images.
    config: says how many of them.
    placement: where they live.
  """
  images = Images.of(
    calibration_split(data, config), data, config.batch_size, placement
  )
  run = jax.jit(
    lambda v, a, x: _calibrated(supernet, v, a, x),
    out_shardings=placement.sharding("replicated"),
  )
  return run(variables, arch, images)
