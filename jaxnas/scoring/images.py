"""Images on the device, in equal batches."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import ScoreConfig
from jaxnas.data import Dataset, Split, eval_batches
from jaxnas.data.augment import normalize
from jaxnas.nets.paths import Tree
from jaxnas.sharding import Placement

# For who normalises outside of a program.
normalized = jax.jit(normalize)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
  """Images on the device in equal batches, every one counted exactly once.

  Programs take it as a whole and normalise one batch after the other, so that
  an image takes a byte for each value and not four.

  Attributes:
    pixels: `uint8[b, B, H, W, C]`; the last batch is filled up.
    y: labels, `int32[b, B]`.
    mean: of each channel, `float32[C]`.
    std: likewise.
    n: number of real images.
  """

  pixels: jax.Array
  y: jax.Array
  mean: jax.Array
  std: jax.Array
  n: int = dataclasses.field(metadata={"static": True})

  @classmethod
  def of(
    cls, split: Split, data: Dataset, batch_size: int, placement: Placement,
    rule: str = "replicated",
  ) -> "Images":  # fmt: skip
    """Cuts a split into batches of `batch_size` or the whole, if smaller.

    Args:
      split: the images.
      data: gives the normalisation.
      batch_size: images at once.
      placement: where they live.
      rule: whole on every device, or `batches`: a part of each batch.
    """
    size = min(batch_size, len(split))
    index = np.stack([i for i, _ in eval_batches(len(split), size)])
    images = split.images  # looked at once; lazy ones are decoded by the batch
    pixels = np.empty(index.shape + images.shape[1:], np.uint8)
    for batch, rows in zip(pixels, index, strict=True):
      batch[...] = images[rows]
    batches = placement.put((pixels, split.labels[index]), rule)
    return cls(*batches, *placement.put((data.mean, data.std)), len(split))

  @property
  def batch_size(self) -> int:
    """Images of a batch."""
    return self.y.shape[1]

  @property
  def n_batches(self) -> int:
    """Number of batches."""
    return len(self.y)

  def map(self, f: Callable[[jax.Array, jax.Array], Tree]) -> Tree:
    """Maps a function over all batches, inside a program.

    Args:
      f: of images `float32[B, H, W, C]`, normalised, and labels `int32[B]`.

    Returns:
      Arrays `[b, ...]`.
    """
    run = lambda batch: f(self._normal(batch[0]), batch[1])
    if self.n_batches == 1:
      return jax.tree.map(lambda a: a[None], run((self.pixels[0], self.y[0])))
    return jax.lax.map(run, (self.pixels, self.y))

  def map_first(
    self, f: Callable[[jax.Array, jax.Array], Tree], n: jax.Array
  ) -> Tree:
    """The same over the first n batches; zeros behind them."""
    return each_batch(
      lambda pixels, y: f(self._normal(pixels), y), self.pixels, self.y, n
    )

  def real(self, values: np.ndarray) -> np.ndarray:
    """Values `[..., b, B]` without what fills up the last batch, `[..., n]`."""
    return values.reshape(*values.shape[:-2], -1)[..., : self.n]

  def take(self, index: np.ndarray) -> "Images":
    """Chosen images in as many batches; any choice runs the same program.

    Args:
      index: `int[k]`, k above 0 and at most n; repeats fill up the rest.
    """
    index = np.resize(index, self.y.shape)
    pixels, y = _gather(self.y.sharding)((self.pixels, self.y), index)
    return dataclasses.replace(self, pixels=pixels, y=y)

  def _normal(self, pixels: jax.Array) -> jax.Array:
    return normalize(pixels, self.mean, self.std)


@functools.lru_cache(maxsize=8)
def _gather(sharding: jax.sharding.Sharding) -> Callable:
  def rows(arrays, index):
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[index], arrays)

  return jax.jit(rows, out_shardings=sharding)


def each_batch(
  score: Callable[[Tree, jax.Array], Tree], x: Tree, y: jax.Array, n: jax.Array
) -> Tree:
  """Maps a function over the first batches, in a program for any number.

  Args:
    score: of one batch, to arrays.
    x: `[b, B, ...]`, or a tree of such arrays.
    y: `[b, B]`.
    n: `int32[]`, at most b.

  Returns:
    Arrays `[b, ...]`, zeros behind the first n.
  """

  def batch(i):
    return score(jax.tree.map(lambda a: a[i], x), y[i])

  if len(y) == 1:
    return jax.tree.map(lambda a: a[None], batch(0))
  shapes = jax.eval_shape(batch, 0)
  out = jax.tree.map(lambda s: jnp.zeros((len(y), *s.shape), s.dtype), shapes)

  def one(i, out):
    return jax.tree.map(lambda a, v: a.at[i].set(v), out, batch(i))

  return jax.lax.fori_loop(0, n, one, out)


def calibration_split(data: Dataset, config: ScoreConfig) -> Split:
  """The fixed training images, unaugmented, that give BN statistics.

  Above one batch, what does not fill a whole batch is left out, so that every
  batch weighs the same in the merged statistics.
  """
  n = min(config.calibration_images, len(data.train))
  if n > config.batch_size:
    n -= n % config.batch_size
  return data.train.take(np.arange(n))
