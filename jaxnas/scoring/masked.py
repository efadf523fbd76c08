"""Scores masks: many in one call of one compiled program."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnas.config import ScoreConfig
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.nets import MaskedSupernet
from jaxnas.nets.masks import folded
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Variables
from jaxnas.scoring.calibration import merge_stats
from jaxnas.scoring.engine import on_device
from jaxnas.scoring.images import Images, calibration_split, each_batch
from jaxnas.scoring.mask_sharing import MaskTrie, saving
from jaxnas.scoring.scorer import METRICS, check_score
from jaxnas.sharding import RULES, Placement


@dataclasses.dataclass(frozen=True)
class MaskForm:
  """How masks and images share a call. Changes no score but its rounding.

  Attributes:
    vectorised: masks whose activations are computed at once on each device;
      bounded by the memory.
    looped: how many times so many, one after the other, in one call.
    tile: images at once, where they do not depend on each other; 0 for whole
      batches.
  """

  vectorised: int
  looped: int
  tile: int


# A CPU is fastest while the gathered taps of a convolution stay in its caches,
# so it takes few images of one mask; the loop is inside the program because a
# call fetches and clears its memory again. An accelerator needs large products
# (not measured). `python -m jaxnas bench masks` compares.
CACHE_BYTES = 8 * 2**20
LOOPED_ON_CPU = 16
VECTORISED_ELSEWHERE = 64
# Multiply-adds that shared beginnings must save, as a ratio, to pay for calls.
WORTH_SHARING = 1.2


def default_form(image_bytes: int) -> MaskForm:
  """The form for the present device.

  Args:
    image_bytes: activations of one image under one mask.
  """
  if jax.default_backend() == "cpu":
    return MaskForm(1, LOOPED_ON_CPU, max(2, CACHE_BYTES // image_bytes))
  return MaskForm(VECTORISED_ELSEWHERE, 1, 0)


class MaskScorer:
  """Supernet metrics of masks on the validation split.

  Masks are data: one compiled program serves every mask of every set. A call
  takes a chunk of them: in a loop (then they multiply kernels), vectorised
  (then activations, and the kernels are read once for all), or both. Where many
  masks begin alike their beginning is computed once instead (`MaskTrie`).
  Scores do not depend on the chunk, on the order, or on who else is scored, up
  to rounding.

  Attributes:
    bn_mode: where batch-norm statistics come from; part of every score.
    space: of the masks.
    form: how masks and images share a call.

  Args:
    supernet: the masked network.
    data: validation images are scored, training images calibrate.
    config: mode, sizes, `max_live_bytes`, which bounds the activations of the
      masks that are vectorised and of shared beginnings, and the engine:
      `wavefront` shares beginnings, `serial` does not, `auto` does on one CPU
      device where that saves enough.
    placement: the masks of a call are spread over all devices of its mesh.
    form: default the fastest one for the device.

  Raises:
    UserError: for values that `check_score` refuses, a race, or memory that a
      single mask exceeds.
  """

  def __init__(
    self,
    supernet: MaskedSupernet,
    data: Dataset,
    config: ScoreConfig,
    placement: Placement,
    form: MaskForm | None = None,
  ) -> None:
    check_score(config, supernet.net)
    self.bn_mode, self.space = config.bn_mode, supernet.space
    self._supernet, self._placement = supernet, placement
    given = form is not None
    form = form or default_form(self._image_bytes())
    self._batch_size = min(config.batch_size, len(data.validation))
    at_once = self._batch_size
    if form.tile and config.bn_mode != "batch":
      # Equal tiles: the last one is filled up.
      n_tiles = -(-len(data.validation) // min(form.tile, at_once))
      at_once = -(-len(data.validation) // n_tiles)
    self._images = Images.of(data.validation, data, at_once, placement)
    self._calibration = Images.of(
      calibration_split(data, config), data, config.batch_size, placement
    )
    fitting = self._fitting(config.max_live_bytes)
    self.form = MaskForm(
      min(form.vectorised, fitting), form.looped, self._images.batch_size
    )
    self._program = self._compile()
    # Who names a form wants to see that form.
    self._engine = "serial" if given else config.engine
    fixed = on_device(self._calibration, jax.local_devices()[0])
    self._trie = MaskTrie(
      supernet, self.bn_mode, fixed, METRICS, config.max_live_bytes
    )

  def shares(self, archs: np.ndarray) -> bool:
    """Whether these masks would be sorted into a trie of prefixes."""
    if self._engine != "auto":
      return self._engine == "wavefront"
    alone = jax.default_backend() == "cpu" and self._placement.n_devices == 1
    return alone and self.saving(archs) > WORTH_SHARING

  def saving(self, archs: np.ndarray) -> float:
    """Multiply-adds of separate masks over those with shared beginnings."""
    return saving(self._trie.segments, archs)

  @property
  def n_images(self) -> int:
    """Validation images."""
    return self._images.n

  @property
  def batch_size(self) -> int:
    """Images of a batch, as configured."""
    return self._batch_size

  def mask_bytes(self) -> int:
    """Activations that one mask needs at once, an upper estimate."""
    return self._image_bytes() * self._images_at_once()

  def _image_bytes(self) -> int:
    g = self._supernet.space.graph
    last = {i: n for n, node in enumerate(g.nodes) for i in node.inputs}
    live: dict[str, int] = {}
    most = 0
    for n, node in enumerate(g.nodes):
      shape = g.shapes[node.name]
      live[node.name] = shape.size**2 * shape.channels
      # The masked copy of the input, and the gathered taps of a convolution.
      taps = getattr(node.op, "kernel", 1) ** 2
      inputs = [g.shapes[i] for i in node.inputs]
      read = sum(s.size**2 * s.channels for s in inputs)
      most = max(most, sum(live.values()) + taps * read)
      live = {k: v for k, v in live.items() if last.get(k, n) > n}
    return most * dtype_of(self._supernet.net).itemsize

  def _images_at_once(self) -> int:
    scored = self._images.batch_size
    if self.bn_mode != "recalibrate":
      return scored
    return max(scored, self._calibration.batch_size)

  def _fitting(self, max_live_bytes: int) -> int:
    """How many masks fit into memory together."""
    need = self.mask_bytes()
    if need > max_live_bytes:
      raise UserError(
        f"score.max_live_bytes is {max_live_bytes:,}; one mask on"
        f" {self._images_at_once():,} images needs about {need:,}. Raise it, or"
        " lower score.batch_size."
      )
    return max_live_bytes // need

  def _compile(self) -> Callable:
    supernet, bn_mode = self._supernet, self.bn_mode
    vectorised, looped = self.form.vectorised, self.form.looped

    def score(variables, calibration, images, n, keep):
      if vectorised == 1:
        gates = supernet.space.graph.gates
        variables, keep = folded(variables, keep, gates), None
      if bn_mode == "recalibrate":
        variables = calibrated(supernet, variables, keep, calibration)

      def batch(x, y):
        stored = bn_mode != "batch"
        logits, _ = supernet.apply(variables, x, keep, stored)
        return {name: f(logits, y) for name, f in METRICS.items()}

      return images.map_first(batch, n)

    def chunk(variables, keeps, real, calibration, images, n):
      one = functools.partial(score, variables, calibration, images, n)

      def some(keeps, _):
        if vectorised == 1:
          return jax.tree.map(lambda a: a[None], one(keeps[0]))
        return jax.vmap(one)(keeps)

      # What fills up the last chunk is not computed where it is looped.
      groups = keeps.reshape(looped, vectorised, -1)
      real = real.reshape(looped, vectorised)
      filled = real.any(1).sum()
      found = each_batch(some, groups, real, filled)
      return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)

    whole, spread = P(), RULES["candidates"]
    return jax.jit(
      jax.shard_map(
        chunk, mesh=self._placement.mesh,
        in_specs=(whole, spread, spread, whole, whole, whole),
        out_specs=spread, check_vma=False,
      ),
      out_shardings=self._placement.sharding("replicated"),
    )  # fmt: skip

  def _run(self, variables, archs, images, n) -> dict[str, np.ndarray]:
    """Values `[m, n, B]` of masks `[m, L]` on the first n batches."""
    if self.shares(archs):
      # On one device; every host does the same on its own.
      device = jax.local_devices()[0]
      variables, images = on_device((variables, images), device)
      return self._trie(variables, archs, images, n)
    devices = self._placement.n_devices
    per_device = self.form.vectorised * self.form.looped
    size = per_device * devices
    waiting = []
    for start in range(0, len(archs), size):
      part = archs[start : start + size]
      # Every device takes an equal share of a last chunk that is not full.
      shares = np.array_split(np.arange(len(part)), devices)
      places = np.concatenate(
        [d * per_device + np.arange(len(s)) for d, s in enumerate(shares)]
      )
      keeps = np.resize(part, (size, part.shape[1])).astype(np.float32)
      keeps[places], real = part, np.zeros(size, bool)
      real[places] = True
      keeps, real = self._placement.put((keeps, real), "candidates")
      found = self._program(
        variables, keeps, real, self._calibration, images, np.int32(n)
      )
      waiting.append((places, found))
    return {
      name: np.concatenate(
        [np.asarray(found[name])[places, :n] for places, found in waiting]
      )
      for name in METRICS
    }

  def __call__(
    self, variables: Variables, archs: np.ndarray, per_example: bool = False
  ) -> dict[str, np.ndarray]:
    """Scores masks.

    Args:
      variables: of the supernet.
      archs: `int32[m, L]`; any m above 0.
      per_example: also return which images each mask classified correctly.

    Returns:
      `accuracy` (share) and `loss` (nats, mean), `float64[m]`; with
      `per_example` also `correct`, `bool[m, n_images]`.
    """
    archs = self.space.validate(archs)
    images = self._images
    found = self._run(variables, archs, images, images.n_batches)
    values = {name: images.real(a) for name, a in found.items()}
    out = {name: a.mean(1, dtype=np.float64) for name, a in values.items()}
    if per_example:
      out["correct"] = values["accuracy"].astype(bool)
    return out

  def score_images(
    self, variables: Variables, archs: np.ndarray, images: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Scores masks on chosen images, by the program that scores them all.

    Args:
      variables: of the supernet.
      archs: `int32[m, L]`.
      images: `int[k]`, distinct indices of validation images.

    Returns:
      Of each metric its values on each image, `[m, k]`.

    Raises:
      UserError: in the mode `batch`, where images depend on each other.
    """
    if self.bn_mode == "batch":
      raise UserError(
        "masks.halving needs scores of single images; with score.bn_mode=batch"
        " they depend on the images beside them. Use recalibrate or running."
      )
    archs = self.space.validate(archs)
    n = -(-len(images) // self._images.batch_size)
    found = self._run(variables, archs, self._images.take(images), n)
    return {
      name: a.reshape(len(archs), -1)[:, : len(images)]
      for name, a in found.items()
    }


def calibrated(
  supernet: MaskedSupernet,
  variables: Variables,
  keep: jax.Array | None,
  calibration: Images,
) -> Variables:
  """Variables whose BN statistics under one mask are those of fixed images.

  Args:
    supernet: the masked network.
    variables: of it; left alone.
    keep: `float32[L]`; None for a mask that the kernels have in them.
    calibration: statistics are merged over its batches.
  """
  stats = calibration.map(
    lambda x, _: supernet.apply(variables, x, keep, False)[1]
  )
  old = variables["batch_stats"]
  return {**variables, "batch_stats": {**old, **merge_stats(stats)}}
