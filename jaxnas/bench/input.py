"""`bench input`: images per second of the stream beside those of a step."""

import dataclasses
import logging
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from jaxnas.bench.options import InputOptions
from jaxnas.bench.timing import (
  check_counts,
  first_call,
  header,
  interleave,
  ratio,
  spread,
)
from jaxnas.bench.train import make_arm
from jaxnas.bench.workload import Workload, chain_space
from jaxnas.config import DataConfig, NetConfig
from jaxnas.data import Batches, Dataset, Split, load
from jaxnas.data.prepared import Layout, write_records
from jaxnas.data.records import Records
from jaxnas.data.stream import n_threads, stream
from jaxnas.nets import PathSupernet
from jaxnas.spaces import Space

log = logging.getLogger("jaxnas")

COARSE = 8  # pixels of noise that an image of it is enlarged from


def bench_input(options: InputOptions) -> dict:
  """Times the stream for several numbers of threads, and a training step.

  Every arm takes the same batch size, turn about. A round of the stream starts
  its threads and takes `batches` batches; the files are in the page cache. On
  CPU a training shares its cores with the stream, which is not seen here.

  Returns:
    JSON object: the options, `machine`, `source`, `images` (how many there
    are), `step` and `streams` (one row each number of threads).
    `images_per_second` of a step are those that all its paths share, so a
    `ratio` above 1 keeps up.

  Raises:
    UserError: for an unknown name, a number out of range, or too few images.
  """
  o = options
  check_counts(
    batch_size=o.batch_size, batches=o.batches, repeats=o.repeats
  )  # fmt: skip
  for threads in o.threads:
    check_counts(threads=threads)
  space = chain_space(o.space)
  with tempfile.TemporaryDirectory() as folder:
    source = o.data or _noise(space, o, Path(folder))
    data = load(DataConfig(source, stream="always"), space.image_size)
    return {
      **header("input", space, o),
      "source": o.data or "smooth noise, as JPEG",
      "images": len(data.train),
      **_compare(space, data, o),
    }


def _compare(space: Space, data: Dataset, o: InputOptions) -> dict:
  batches = Batches(len(data.train), o.batch_size, o.seed)
  arm = make_arm(_workload(space, data, o), o.batch_size, 0)
  log.info("bench input: compiling the step")
  first_call(lambda: arm.take(1))

  def take(threads: int) -> None:
    for _ in stream(data.train, batches.indices, 0, o.batches, threads):
      pass

  counts = o.threads or _powers(n_threads())
  take(counts[-1])  # into the page cache
  seconds = interleave(
    {
      "step": lambda: arm.take(1),
      **{n: lambda n=n: take(n) for n in counts},
    },
    o.repeats,
  )
  step = seconds["step"]
  ones = [1.0] * o.repeats
  return {
    "step": {
      "seconds": spread(step),
      "images_per_second": ratio(ones, step, o.batch_size),
    },
    "streams": [
      {
        "threads": n,
        "seconds": spread(seconds[n]),
        "images_per_second": ratio(ones, seconds[n], o.batches * o.batch_size),
        "ratio": ratio(step, seconds[n], o.batches),
      }
      for n in counts
    ],
  }


def _powers(most: int) -> tuple[int, ...]:
  """1, 2, 4, ... and `most`."""
  below = [2**i for i in range(most.bit_length()) if 2**i < most]
  return (*below, most)


def _workload(space: Space, data: Dataset, o: InputOptions) -> Workload:
  """The step's, on as many images as a batch has."""
  import jax

  space = space.replace(
    n_classes=data.n_classes, image_channels=data.image_channels
  )
  supernet = PathSupernet(space, NetConfig(precision=o.precision))
  few = data.train.take(np.arange(o.batch_size)).loaded()
  return Workload(
    space, supernet, supernet.init(jax.random.key(o.seed)),
    dataclasses.replace(data, train=few), o.seed,
  )  # fmt: skip


def _noise(space: Space, o: InputOptions, folder: Path) -> str:
  """Prepares images of the space's size that are as smooth as photographs."""
  rng, n = np.random.default_rng(o.seed), 4 * o.batch_size
  side, channels = space.image_size, space.image_channels

  def enlarged(coarse: np.ndarray) -> np.ndarray:
    image = Image.fromarray(coarse)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))

  images = np.empty((n, side, side, channels), np.uint8)
  for image in images:
    for c in range(channels):
      image[..., c] = enlarged(rng.integers(0, 256, (COARSE,) * 2, np.uint8))
  labels = rng.integers(0, space.n_classes, n).astype(np.int32)
  names = tuple(str(c) for c in range(space.n_classes))
  records = Records(Split(images, labels), class_names=names)
  layout = Layout("noise", "jpeg", 95)
  write_records(records, folder, layout, {"source": "noise"})
  return f"tfds:noise@{folder}"
