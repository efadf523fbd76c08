"""What steps are fed with, and how they are compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnas.config import AugmentConfig
from jaxnas.data.augment import augment, normalize
from jaxnas.sharding import Placement


@dataclasses.dataclass(frozen=True)
class Feed:
  """Training images on the device, and how a batch is made from them.

  Attributes:
    images: `uint8[n, H, W, C]`.
    labels: `int32[n]`.
    mean: per channel, of images scaled to 0..1.
    std: the same.
    augment: random transforms.
    placement: where batches live.
  """

  images: jax.Array
  labels: jax.Array
  mean: np.ndarray
  std: np.ndarray
  augment: AugmentConfig
  placement: Placement

  def batch(
    self,
    arrays: tuple[jax.Array, jax.Array],
    indices: jax.Array,
    key: jax.Array,
  ) -> tuple[jax.Array, jax.Array]:
    """Gathers, normalises and augments one batch, inside a jitted step.

    Args:
      arrays: `(images, labels)`, passed in so that they are no constants.
      indices: `int32[B]`, or `int32[K, B]` for a batch per path.
      key: PRNG key of the augmentation.

    Returns:
      Images `float32[..., B, H, W, C]` and labels `int32[..., B]`.
    """  # fmt: skip
    images, labels = arrays
    rule = "batch" if indices.ndim == 1 else "path_batch"
    x = normalize(images[indices.reshape(-1)], self.mean, self.std)
    x = augment(key, x, self.augment).reshape(indices.shape + images.shape[1:])
    x = self.placement.constrain(x, rule)
    return x, self.placement.constrain(labels[indices], rule)

  @property
  def arrays(self) -> tuple[jax.Array, jax.Array]:
    """What compiled steps take beside the indices."""
    return self.images, self.labels


class Step:
  """A compiled training step: the state is donated, the images are arguments.

  Args:
    step: `(state, key, indices, arrays) -> (state, metrics)`.
    feed: training images.
  """

  def __init__(self, step: Callable, feed: Feed) -> None:
    everywhere = feed.placement.sharding("replicated")
    self._compiled = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
    self._arrays = feed.arrays

  def __call__(
    self, state: Any, key: jax.Array, indices: np.ndarray
  ) -> tuple[Any, dict]:
    """Takes one step on the images at `indices`."""
    return self._compiled(state, key, indices, self._arrays)

  def lower(
    self, state: Any, key: jax.Array, indices: np.ndarray
  ) -> jax.stages.Lowered:
    """The program of a step, not run; all arguments may be abstract."""
    return self._compiled.lower(state, key, indices, self._arrays)
