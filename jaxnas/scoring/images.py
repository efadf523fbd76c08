"""Images on the device, in equal batches."""

import dataclasses

import jax
import numpy as np

from jaxnas.config import ScoreConfig
from jaxnas.data import Dataset, Split, eval_batches
from jaxnas.data.augment import normalize
from jaxnas.sharding import Placement


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
    images = split.images  # looked at once; lazy ones are decoded by the batch
    x = np.empty(index.shape + images.shape[1:], np.float32)
    for batch, rows in zip(x, index, strict=True):
      batch[...] = normalize(images[rows], data.mean, data.std)
    mask = np.stack([m for _, m in batches])
    arrays = placement.put((x, split.labels[index], mask))
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
