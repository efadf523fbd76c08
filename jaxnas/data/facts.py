"""What a run notes of its images: channel moments and a fingerprint."""

import hashlib
import logging
from collections.abc import Iterable

import numpy as np

from jaxnas.data.lazy import LazyImages
from jaxnas.data.records import Split

log = logging.getLogger("jaxnas")

# Channels that hardly vary would blow up when divided by their deviation; one
# grey level is the least that uint8 images resolve.
STD_FLOOR = 1 / 255
# Images that moments are taken from where decoding all of them is too slow.
SAMPLE = 4096


def moments(images: np.ndarray | LazyImages) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of each channel, of images scaled to 0..1.

  Exact up to the last rounding, from integer sums of the values and of their
  squares. Lazy images without stored sums give those of the first `SAMPLE`
  only, which is said in the log; a split is in random order.

  Args:
    images: `uint8[n, H, W, C]`.

  Returns:
    `mean` and `std` (at least `STD_FLOOR`), `float32[C]` each.
  """
  if isinstance(images, LazyImages):
    if images.sums is None:
      if len(images) > SAMPLE:
        log.info(
          "mean and deviation of the channels come from %d of %d training"
          " images; `python -m jaxnas prepare` stores those of all.", SAMPLE,
          len(images),
        )  # fmt: skip
      images = images[:SAMPLE]
    else:
      pixels = len(images) * int(np.prod(images.image_shape[:2]))
      sums = images.sums[images.rows].sum(0)
      return _moments(sums, images.squares[images.rows].sum(0), pixels)
  sums, squares = image_sums(images)
  return _moments(sums, squares, int(np.prod(images.shape[:3])))


def image_sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Sums of the values of each channel, and of their squares.

  Args:
    images: `uint8[..., C]`.

  Returns:
    `uint64[C]` each.
  """
  values = np.arange(256, dtype=np.uint64)
  sums, squares = [], []
  flat = images.reshape(-1, images.shape[-1])
  for c in range(flat.shape[1]):
    # In blocks, because bincount widens its input to eight bytes.
    counts = sum(
      np.bincount(flat[i : i + (1 << 20), c], minlength=256)
      for i in range(0, len(flat), 1 << 20)
    ).astype(np.uint64)
    sums.append((counts * values).sum())
    squares.append((counts * values**2).sum())
  return np.array(sums, np.uint64), np.array(squares, np.uint64)


def _moments(
  sums: np.ndarray, squares: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
  """From sums over `n` pixels; Python's integers have no largest value."""
  mean, std = [], []
  for s, q in zip(sums.tolist(), squares.tolist(), strict=True):
    mean.append(s / (255 * n))
    std.append(np.sqrt((n * q - s * s) / (255 * n) ** 2))
  floored = np.maximum(std, STD_FLOOR)
  return np.array(mean, np.float32), floored.astype(np.float32)


def fingerprint(splits: Iterable[Split]) -> str:
  """Sixteen hexadecimal digits of a SHA-256 over the splits.

  It covers shapes, labels, and all bytes of the images; of lazy images, the
  digests of their rows instead.
  """
  digest = hashlib.sha256()
  for split in splits:
    images = split.images
    digest.update(repr(images.shape).encode())
    lazy = isinstance(images, LazyImages)
    content = images.digests[images.rows] if lazy else images
    digest.update(np.ascontiguousarray(content))
    digest.update(np.ascontiguousarray(split.labels, "<i4"))
  return digest.hexdigest()[:16]


def short_digest(data: bytes) -> int:
  """The first eight bytes of a SHA-256 as a number."""
  return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
