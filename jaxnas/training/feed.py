"""What steps are fed with, and how they are compiled."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxnas.config import AugmentConfig
from jaxnas.data import Batches, Split
from jaxnas.data.augment import augment, normalize
from jaxnas.data.stream import local_block, shifted, stream
from jaxnas.nets.layers import measuring
from jaxnas.sharding import Placement

# Indices of the images that a step takes; or, streamed, these and their labels.
Inputs = Any


@dataclasses.dataclass(frozen=True)
class Feed:
  """Training images, and how a batch is made from them.

  Attributes:
    images: `uint8[n, H, W, C]` on the device; None if they are streamed, and
      steps take the images themselves.
    labels: `int32[n]`, likewise.
    mean: per channel, of images scaled to 0..1.
    std: the same.
    augment: random transforms.
    placement: where batches live.
    split: where images are streamed from.
    bn_parts: parts of a batch that batch norm measures apart.
  """

  images: jax.Array | None
  labels: jax.Array | None
  mean: np.ndarray
  std: np.ndarray
  augment: AugmentConfig
  placement: Placement
  split: Split | None = None
  bn_parts: int = 1

  @property
  def n(self) -> int:
    """Number of training images."""
    return len(self.labels if self.split is None else self.split)

  @jax.named_scope("augment")
  def batch(
    self, arrays: tuple[jax.Array, ...], inputs: Inputs, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Gathers, normalises and augments one batch, inside a jitted step.

    Args:
      arrays: those of this feed, passed in so that they are no constants.
      inputs: indices `int32[B]`, or `int32[K, B]` for a batch per path; of
        streamed images, these `uint8[..., B, H, W, C]` and their labels.
      key: PRNG key of the augmentation.

    Returns:
      Images `float32[..., B, H, W, C]` and labels `int32[..., B]`.
    """  # fmt: skip
    if self.split is None:
      images, labels = arrays
      pixels, y = images[inputs.reshape(-1)], labels[inputs]
    else:
      images, y = inputs
      pixels = images.reshape(-1, *images.shape[-3:])
    rule = _rule(y.shape)
    x = augment(key, normalize(pixels, self.mean, self.std), self.augment)
    x = self.placement.constrain(x.reshape(y.shape + x.shape[1:]), rule)
    return x, self.placement.constrain(y, rule)

  @property
  def arrays(self) -> tuple[jax.Array, ...]:
    """What compiled steps take beside their inputs."""
    return (self.images, self.labels) if self.split is None else ()

  def abstract(self, shape: tuple[int, ...]) -> Inputs:
    """What a step takes, without values, to lower it with.

    Args:
      shape: of the indices, `(B,)` or `(K, B)`.
    """
    if self.split is None:
      return jax.ShapeDtypeStruct(shape, np.int32)
    pixels = shape + self.split.images.shape[1:]
    where = [self.placement.fit(s, _rule(shape)) for s in (pixels, shape)]
    return (
      jax.ShapeDtypeStruct(pixels, np.uint8, sharding=where[0]),
      jax.ShapeDtypeStruct(shape, np.int32, sharding=where[1]),
    )


@dataclasses.dataclass(frozen=True)
class StreamedBatches:
  """What steps take where images are streamed: the images of `batches`.

  Each host decodes only what its devices take of a batch.

  Attributes:
    batches: which images.
    split: where they are.
    placement: where they go.
  """

  batches: Batches
  split: Split
  placement: Placement

  @property
  def steps_per_epoch(self) -> int:
    """Whole steps of an epoch."""
    return self.batches.steps_per_epoch

  def inputs(
    self, first: int, last: int
  ) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Images and labels of the steps from `first` up to but not `last`."""
    if first >= last:
      return
    taken = self.batches.indices(first).shape
    shape = taken + self.split.images.shape[1:]
    sharding = self.placement.fit(shape, _rule(taken))
    held = sharding.addressable_devices_indices_map(shape).values()
    block = local_block(held, shape)[: len(taken)]

    def place(local: np.ndarray) -> jax.Array:
      def of(index: tuple[slice, ...]) -> np.ndarray:
        return local[shifted(index, block, shape)]

      return jax.make_array_from_callback(shape, sharding, of)

    local = stream(
      self.split, lambda step: self.batches.indices(step)[block], first, last
    )
    for step, (images, _) in zip(range(first, last), local, strict=True):
      labels = self.split.labels[self.batches.indices(step)]
      yield place(images), self.placement.put(labels, _rule(taken))


def _rule(shape: tuple[int, ...]) -> str:
  """Rule of a batch, or of one for each path, by the shape of its labels."""
  return "batch" if len(shape) == 1 else "path_batch"


def compile_step(step: Callable, feed: Feed) -> Callable:
  """Compiles a step; the state is donated, and lies as the mesh says.

  Args:
    step: `(state, *rest) -> (state, metrics)`; a state has `params`.
    feed: training images.
  """
  placement = feed.placement

  def placed(state, *rest):
    whole = placement.gather(state.params)
    with measuring(parts=feed.bn_parts):
      state, metrics = step(state.replace(params=whole), *rest)
    return placement.scatter(state), placement.gather(metrics)

  everywhere = placement.sharding("replicated")
  return jax.jit(
    placed, donate_argnums=0,
    out_shardings=None if placement.shard_weights else everywhere,
  )  # fmt: skip


class Step:
  """A compiled training step: the state is donated, the images are arguments.

  Args:
    step: `(state, key, inputs, arrays) -> (state, metrics)`.
    feed: training images.
  """

  def __init__(self, step: Callable, feed: Feed) -> None:
    self._compiled = compile_step(step, feed)
    self._arrays = feed.arrays

  def __call__(
    self, state: Any, key: jax.Array, inputs: Inputs
  ) -> tuple[Any, dict]:
    """Takes one step, on the images at given indices or on given images."""
    return self._compiled(state, key, inputs, self._arrays)

  def trace(
    self, state: Any, key: jax.Array, inputs: Inputs
  ) -> jax.stages.Traced:
    """The program of a step, not compiled; all arguments may be abstract."""
    return self._compiled.trace(state, key, inputs, self._arrays)

  def lower(
    self, state: Any, key: jax.Array, inputs: Inputs
  ) -> jax.stages.Lowered:
    """The program of a step, not run; all arguments may be abstract."""
    return self.trace(state, key, inputs).lower()
