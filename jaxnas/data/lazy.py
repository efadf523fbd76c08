"""Images that are decoded when asked for, behind the face of an array."""

import dataclasses
from collections.abc import Callable
from concurrent import futures

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
  """Stands for `uint8[n, H, W, C]` without holding it.

  Attributes:
    decode: gives the image of a row of the source, `uint8[H, W, C]`; called
      from several threads.
    image_shape: `(H, W, C)`.
    rows: of the source, in the order of these images, `int64[n]`.
    digests: one number for the bytes of each row, `uint64[m]`.
    sums: of the values of each channel of each row, `uint64[m, C]`, if known.
    squares: of the squares, likewise.
  """

  decode: Callable[[int], np.ndarray]
  image_shape: tuple[int, int, int]
  rows: np.ndarray
  digests: np.ndarray
  sums: np.ndarray | None = None
  squares: np.ndarray | None = None

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """As of the array."""
    return (len(self.rows), *self.image_shape)

  @property
  def nbytes(self) -> int:
    """Bytes that the array would take."""
    return int(np.prod(self.shape, dtype=np.int64))

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
    """Decodes what an index of the first axis picks, in several threads."""
    with futures.ThreadPoolExecutor() as pool:
      return self._read(index, pool.map)

  def read(self, index: np.ndarray) -> np.ndarray:
    """The same in the calling thread."""
    return self._read(index, map)

  def select(self, index: np.ndarray) -> "LazyImages":
    """Picks images without decoding them."""
    return dataclasses.replace(self, rows=self.rows[index])

  def _read(self, index: slice | np.ndarray, over: Callable) -> np.ndarray:
    rows = self.rows[index]
    images = np.empty((rows.size, *self.image_shape), np.uint8)

    def fill(place: int, row: int) -> None:
      images[place] = self.decode(row)

    # Consumed, so that what a thread raises is raised here.
    for _ in over(fill, range(rows.size), rows.ravel().tolist()):
      pass
    return images.reshape(rows.shape + self.image_shape)
