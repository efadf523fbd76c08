"""Images of one step after the other, decoded ahead of it by grain's threads.

The images of a step are those that its indices name, so a stream begins at any
step and equals the same images held in memory.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from jaxnas.config import DataConfig
from jaxnas.data.records import Split
from jaxnas.errors import UserError

# Images that one thread decodes at a time.
PIECE = 32
# More threads than this only wait for the interpreter's lock.
MOST_THREADS = 32


def check_streaming(size: float, config: DataConfig) -> None:
  """Refuses to stream without grain, before anything is trained.

  Args:
    size: of the decoded training images, in GiB.
    config: says why they are streamed.

  Raises:
    UserError: if the extra `stream` is missing.
  """
  try:
    import grain  # noqa: F401
  except ImportError as error:
    reason = f"data.stream is {config.stream}"
    if config.stream == "auto":
      reason = f"{size:.3g} GiB of images are more than data.memory_gib"
    raise UserError(
      f"{reason}, and streaming needs the extra 'stream' (pip install grain);"
      " legal: data.stream=never, or a larger data.memory_gib, if they fit in"
      " memory."
    ) from error


def n_threads() -> int:
  """Threads that decode by default: one for each core."""
  affinity = getattr(os, "sched_getaffinity", None)
  cores = len(affinity(0)) if affinity else os.cpu_count() or 1
  return min(cores, MOST_THREADS)


def stream(
  split: Split,
  indices: Callable[[int], np.ndarray],
  first: int,
  last: int,
  threads: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields images and labels of the steps from `first` up to but not `last`.

  Two steps at least are decoded ahead.

  Args:
    split: images and labels.
    indices: of a step, an array of any shape, the same for all steps.
    first: step to begin with.
    last: step to end before.
    threads: that decode; 0 takes one for each core.

  Yields:
    `uint8[..., H, W, C]` and `int32[...]`, the leading axes of the indices.

  Raises:
    UserError: for an image that cannot be decoded.
  """
  if first >= last:
    return
  import grain

  threads = threads or n_threads()
  sample = indices(first)
  pieces = max(1, math.ceil(sample.size / PIECE))

  def decode(number: int) -> np.ndarray | UserError:
    step, piece = divmod(number, pieces)
    taken = np.array_split(indices(step).ravel(), pieces)[piece]
    try:
      return split.read(taken)
    except UserError as error:  # raised here, grain would add to its sentence
      return error

  ahead = max(2 * pieces, 2 * threads)
  decoded = iter(
    grain.MapDataset.range(first * pieces, last * pieces)
    .map(decode)
    .to_iter_dataset(
      grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    )
  )
  try:
    for step in range(first, last):
      parts = [next(decoded) for _ in range(pieces)]
      for part in parts:
        if isinstance(part, UserError):
          raise part
      images = np.concatenate(parts)
      taken = indices(step)
      yield images.reshape(taken.shape + images.shape[1:]), split.labels[taken]
  finally:
    decoded.close()  # its threads would read on


def local_block(
  held: Iterable[tuple[slice, ...]], shape: tuple[int, ...]
) -> tuple[slice, ...]:
  """The part of an array that the devices of one process need.

  Args:
    held: for each device, its slice of every axis.
    shape: of the whole array.

  Returns:
    Of every axis, the smallest slice with all of theirs.
  """
  bounds = [
    [s.indices(n)[:2] for s, n in zip(slices, shape, strict=True)]
    for slices in held
  ]
  return tuple(
    slice(min(low for low, _ in axis), max(high for _, high in axis))
    for axis in zip(*bounds, strict=True)
  )


def shifted(
  index: tuple[slice, ...], block: tuple[slice, ...], shape: tuple[int, ...]
) -> tuple[slice, ...]:
  """Where a part of an array is found in a block of it.

  Args:
    index: the part, a slice of every axis.
    block: slices of the leading axes; the others are whole.
    shape: of the whole array.
  """
  bounds = [s.indices(n)[:2] for s, n in zip(index, shape, strict=True)]
  starts = [s.start for s in block] + [0] * (len(shape) - len(block))
  return tuple(
    slice(low - start, high - start)
    for (low, high), start in zip(bounds, starts, strict=True)
  )
