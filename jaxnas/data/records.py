"""What a reader hands over, and the checks every reader shares."""

import dataclasses

import numpy as np

from jaxnas.data.lazy import LazyImages
from jaxnas.errors import UserError


@dataclasses.dataclass(frozen=True)
class Split:
  """Images with their labels.

  Attributes:
    images: `uint8[n, H, W, C]`; lazy ones are decoded when they are indexed.
    labels: `int32[n]`.
  """

  images: np.ndarray | LazyImages
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, indices: np.ndarray) -> "Split":
    """Returns the images and labels at `indices`, in their order."""
    lazy = isinstance(self.images, LazyImages)
    images = self.images.select(indices) if lazy else self.images[indices]
    return Split(images, self.labels[indices])

  def read(self, indices: np.ndarray) -> np.ndarray:
    """Decodes the images at `indices`, in the calling thread.

    Returns:
      `uint8[..., H, W, C]`, with the leading axes of `indices`.
    """
    lazy = isinstance(self.images, LazyImages)
    return self.images.read(indices) if lazy else self.images[indices]

  def loaded(self) -> "Split":
    """The same with all images decoded and held in memory."""
    if isinstance(self.images, LazyImages):
      return Split(self.images[:], self.labels)
    return self


@dataclasses.dataclass(frozen=True)
class Records:
  """A source as read, before any split is drawn from it.

  Attributes:
    train: training images, in the order of the source.
    validation: the source's own validation split, if it has one.
    test: the source's own test split, if it has one.
    class_names: names of the classes if the source knows them; otherwise the
      labels themselves define the classes.
  """

  train: Split
  validation: Split | None = None
  test: Split | None = None
  class_names: tuple[str, ...] | None = None

  @property
  def parts(self) -> dict[str, Split]:
    """The splits that the source has."""
    every = ("train", "validation", "test")
    found = {name: getattr(self, name) for name in every}
    return {name: part for name, part in found.items() if part is not None}

  def loaded(self) -> "Records":
    """The same with all images decoded and held in memory."""
    parts = {name: part.loaded() for name, part in self.parts.items()}
    return Records(class_names=self.class_names, **parts)


def as_split(images: np.ndarray, labels: np.ndarray, where: str) -> Split:
  """Checks a pair of arrays and brings them to the types of `Split`.

  Args:
    images: `[n, H, W]` (grey) or `[n, H, W, C]`, uint8, or float in 0..1,
      which becomes `rint(255 x)`.
    labels: integers, `[n]` or `[n, 1]`.
    where: names the arrays in error messages.

  Raises:
    UserError: for a wrong shape, type or range.
  """
  images, labels = np.asarray(images), np.asarray(labels)
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or 0 in images.shape:
    raise UserError(
      f"{where}: images have shape {list(images.shape)};"
      " legal: [n, H, W] or [n, H, W, C], n > 0."
    )
  if labels.shape == (len(labels), 1):
    labels = labels[:, 0]
  if labels.shape != images.shape[:1]:
    raise UserError(
      f"{where}: labels have shape {list(labels.shape)} for {len(images)}"
      f" images; legal: [{len(images)}]."
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise UserError(
      f"{where}: labels have type {labels.dtype}; legal: integers."
    )
  return Split(as_uint8(images, where), labels.astype(np.int32))


def as_uint8(images: np.ndarray, where: str) -> np.ndarray:
  """Brings uint8, or float in 0..1, to uint8; errors as of `as_split`."""
  if images.dtype == np.uint8:
    return images
  if not np.issubdtype(images.dtype, np.floating):
    raise UserError(
      f"{where}: images have type {images.dtype};"
      " legal: uint8, or float in 0..1."
    )
  low, high = float(images.min()), float(images.max())
  # Written so that NaN, which compares false, is refused too.
  if not (low >= 0 and high <= 1):
    raise UserError(
      f"{where}: float images range over {low:g}..{high:g}; legal: 0..1."
    )
  return np.rint(images * 255).astype(np.uint8)
