"""Which images a step sees, as a pure function of seed and step.

Nothing here keeps a position: a run resumes with the step number alone. All
indices are global; on several hosts each takes its slice of the last axis.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from jaxnas.errors import UserError


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
  """Returns the permutation of 0..n-1 of one epoch, `int32[n]`.

  Args:
    seed: 0 or more.
    epoch: 0 or more; each has an independent permutation.
    n: number of images.
  """
  order = np.random.default_rng([seed, epoch]).permutation(n)
  return order.astype(np.int32)


@functools.lru_cache(maxsize=4)
def _cached_order(seed: int, epoch: int, n: int) -> np.ndarray:
  order = epoch_order(seed, epoch, n)
  order.flags.writeable = False
  return order


@dataclasses.dataclass(frozen=True)
class Batches:
  """An endless stream of training batches.

  Within an epoch no image comes twice; the images that do not fill a step are
  dropped, other ones in each epoch.

  Attributes:
    n: number of images.
    batch_size: images of a batch.
    seed: of the order, 0 or more.
    copies: successive batches of the stream that one step takes, for paths
      that do not share a batch; None takes one, without a leading axis.
  """

  n: int
  batch_size: int
  seed: int
  copies: int | None = None

  def __post_init__(self) -> None:
    if self.seed < 0:
      raise UserError(f"seed is {self.seed}; legal: 0 or more.")
    if self.batch_size < 1 or (self.copies is not None and self.copies < 1):
      raise UserError(
        f"batch_size is {self.batch_size} and paths {self.copies}; legal: 1 or"
        " more."
      )
    if self._per_step > self.n:
      product = f" x {self.copies} paths" if self.copies else ""
      raise UserError(
        f"batch_size {self.batch_size}{product} needs {self._per_step} images"
        f" a step but there are {self.n}; take a smaller batch_size."
      )

  @property
  def _per_step(self) -> int:
    return self.batch_size * (self.copies or 1)

  @property
  def steps_per_epoch(self) -> int:
    """Whole steps of an epoch."""
    return self.n // self._per_step

  def indices(self, step: int) -> np.ndarray:
    """Returns the images of a step.

    Args:
      step: 0 or more, counted over all epochs.

    Returns:
      `int32[batch_size]`, or `int32[copies, batch_size]` with `copies`.
    """
    epoch, place = divmod(step, self.steps_per_epoch)
    order = _cached_order(self.seed, epoch, self.n)
    taken = order[place * self._per_step : (place + 1) * self._per_step]
    if self.copies is None:
      return taken.copy()
    return taken.reshape(self.copies, self.batch_size).copy()

  def inputs(self, first: int, last: int) -> Iterator[np.ndarray]:
    """What the steps from `first` up to but not `last` take: their indices."""
    return map(self.indices, range(first, last))


@dataclasses.dataclass(frozen=True)
class Steps:
  """A stream given by a function of the step.

  Attributes:
    indices: as of `Batches`.
  """

  indices: Callable[[int], np.ndarray]

  def inputs(self, first: int, last: int) -> Iterator[np.ndarray]:
    """As of `Batches`."""
    return map(self.indices, range(first, last))


def eval_batches(
  n: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields every image once, in order, in batches of one shape.

  Args:
    n: number of images.
    batch_size: images of a batch.

  Yields:
    `indices` int32[batch_size] and `mask` bool[batch_size]; the last batch is
    filled up with images from the start where the mask is false.
  """
  if batch_size < 1:
    raise UserError(f"batch_size is {batch_size}; legal: 1 or more.")
  for start in range(0, n, batch_size):
    indices = np.arange(start, start + batch_size, dtype=np.int32)
    mask = indices < n
    yield indices % np.int32(n), mask
