"""From `DataConfig` to three checked, disjoint splits."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from jaxnas.config import DataConfig
from jaxnas.data.arrays import read_idx, read_npz
from jaxnas.data.facts import fingerprint, moments
from jaxnas.data.folder import open_folder, read_folder
from jaxnas.data.records import Records, Split, as_split
from jaxnas.data.split import held_out_count, stratified
from jaxnas.data.stream import check_streaming
from jaxnas.data.tfds_source import open_tfds, read_tfds
from jaxnas.errors import UserError, unknown

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Three disjoint splits and what is known about them.

  Every split is in a seeded random order, so any prefix is a fair sample.

  Attributes:
    train: images to fit weights on.
    validation: images that select between archs.
    test: images read once, at the end.
    class_names: one name for each label, in the order of the labels.
    mean: `float32[C]`, of the training images scaled to 0..1.
    std: `float32[C]`, likewise, at least `facts.STD_FLOOR`.
    fingerprint: 16 hexadecimal digits of a SHA-256 over the three splits.
    source: `DataConfig.source`.
    streamed: whether training images are read while training goes on, instead
      of being held on the device.
  """

  train: Split
  validation: Split
  test: Split
  class_names: tuple[str, ...]
  mean: np.ndarray
  std: np.ndarray
  fingerprint: str
  source: str
  streamed: bool = False

  @property
  def n_classes(self) -> int:
    """Number of classes."""
    return len(self.class_names)

  @property
  def image_size(self) -> int:
    """Height and width of the images, in pixels."""
    return self.train.images.shape[1]

  @property
  def image_channels(self) -> int:
    """Channels of the images."""
    return self.train.images.shape[3]


def read_digits(argument: str, image_size: int) -> Records:
  """Reads scikit-learn's digits: 1,797 grey images of 8 x 8, 10 classes.

  Values v in 0..16 become `(255 v + 8) // 16`, which is 255 v / 16 rounded to
  the nearest integer: 0 stays 0, 16 becomes 255, all 17 stay distinct.

  Args:
    argument: must be empty.
    image_size: 8, or 16 for bilinear enlargement.

  Raises:
    UserError: for an argument or another size.
  """
  if argument:
    raise UserError(
      f"data source 'digits' takes no argument, got {argument!r}."
    )
  if image_size not in (8, 16):
    raise UserError(
      f"data source 'digits' has no images of size {image_size}; legal: 8, 16"
      " (--set space.image_size=8)."
    )
  # Imported here because it takes a second that other sources need not pay.
  from sklearn.datasets import load_digits

  digits = load_digits()
  images = ((255 * digits.images.astype(np.int64) + 8) // 16).astype(np.uint8)
  if image_size != 8:
    size = (image_size, image_size)
    images = np.stack(
      [
        np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR))
        for i in images
      ]
    )
  names = tuple(str(d) for d in range(10))
  split = as_split(images, digits.target, "data source 'digits'")
  return Records(split, class_names=names)


# Readers `(argument, image_size) -> Records` by the text before the colon.
SOURCES: dict[str, Callable[[str, int], Records]] = {
  "digits": read_digits,
  "npz": read_npz,
  "folder": read_folder,
  "idx": read_idx,
  "tfds": read_tfds,
}

# Those that can leave the images where they are, until they are needed.
OPENERS: dict[str, Callable[[str, int], Records]] = {
  "folder": open_folder,
  "tfds": open_tfds,
}


def load(config: DataConfig, image_size: int) -> Dataset:
  """Reads a source, checks it and draws the splits it does not have.

  `validation` and `test` count in images of the source's training part, and
  are drawn from it, stratified by class; what is left is `train`.

  Args:
    config: source, sizes and seed of the splits.
    image_size: side of the images that the space expects, in pixels. Folders
      and photographs are resized to it; arrays must have it already.

  Raises:
    UserError: for an unknown source, unreadable data, a split that cannot be
      drawn, or images to stream without the extra that does it.
  """
  scheme, _, argument = config.source.partition(":")
  if scheme not in SOURCES:
    raise unknown("data source", scheme, SOURCES)
  if config.split_seed < 0 or config.limit < 0:
    name = "split_seed" if config.split_seed < 0 else "limit"
    raise UserError(
      f"data.{name} is {getattr(config, name)}; legal: 0 or more."
    )
  if not config.memory_gib > 0:
    raise UserError(f"data.memory_gib is {config.memory_gib}; legal: above 0.")
  records = _read(config, scheme, argument, image_size)
  _check_images(records, config.source, image_size)
  names = _class_names(records, config.source)
  train, validation, test = _three_way(records, config)

  def fits(split: Split) -> bool:
    return split.images.nbytes <= config.memory_gib * GIB

  streamed = config.stream == "always" or (
    config.stream == "auto" and not fits(train)
  )
  if streamed:
    check_streaming(train.images.nbytes / GIB, config)
  else:
    train = train.loaded()
  if fits(validation):  # read again and again, unlike the test images
    validation = validation.loaded()
  mean, std = moments(train.images)
  return Dataset(
    train=train,
    validation=validation,
    test=test,
    class_names=names,
    mean=mean,
    std=std,
    fingerprint=fingerprint((train, validation, test)),
    source=config.source,
    streamed=streamed,
  )


def _read(
  config: DataConfig, scheme: str, argument: str, image_size: int
) -> Records:
  """Reads a source, or only opens it if its images may not fit in memory."""
  if config.stream == "never" or scheme not in OPENERS:
    return SOURCES[scheme](argument, image_size)
  records = OPENERS[scheme](argument, image_size)
  size = records.train.images.nbytes
  if config.stream == "auto" and size <= config.memory_gib * GIB:
    return records.loaded()
  return records


def _check_images(records: Records, source: str, image_size: int) -> None:
  first = records.train.images.shape[1:]
  for name, part in records.parts.items():
    shape = part.images.shape[1:]
    if shape[0] != shape[1]:
      raise UserError(
        f"data source {source!r}: {name} images have height {shape[0]}, width"
        f" {shape[1]}, {shape[2]} channels (last axis); legal: square images."
      )
    if shape != first:
      raise UserError(
        f"data source {source!r}: {name} images have shape {list(shape)} but"
        f" training images {list(first)}; legal: the same shape."
      )
  if first[0] != image_size:
    raise UserError(
      f"data source {source!r} has {first[0]} x {first[0]} images but the space"
      f" expects {image_size} x {image_size}; use"
      f" --set space.image_size={first[0]}."
    )


def _class_names(records: Records, source: str) -> tuple[str, ...]:
  labels = np.concatenate([p.labels for p in records.parts.values()])
  present = np.unique(labels)
  names = records.class_names
  n = len(names) if names else len(present)
  if n < 2:
    raise UserError(f"data source {source!r} has {n} class; legal: at least 2.")
  if present[0] < 0 or present[-1] >= n:
    gap = "" if names else f" for {n} distinct labels, without gaps"
    raise UserError(
      f"data source {source!r}: labels range over {present[0]}..{present[-1]};"
      f" legal: 0..{n - 1}{gap}."
    )
  return names or tuple(str(i) for i in range(n))


def _three_way(
  records: Records, config: DataConfig
) -> tuple[Split, Split, Split]:
  """Draws the missing splits; each draw has a stream of its own."""

  def rng(stream: int) -> np.random.Generator:
    return np.random.default_rng([config.split_seed, stream])

  pool = records.train
  left = np.arange(len(pool))
  drawn = {}
  # Test first, so that it does not move when another validation is chosen.
  for stream, name in enumerate(("test", "validation")):
    own = getattr(records, name)
    if own is not None:
      drawn[name] = own.take(rng(stream).permutation(len(own)))
      continue
    amount = getattr(config, name)
    count = held_out_count(amount, len(pool), f"data.{name}")
    if count >= len(left):
      raise UserError(
        f"data.validation and data.test hold out all {len(pool)} training"
        f" images of {config.source!r}; legal: at least one is left."
      )
    picked = stratified(pool.labels[left], count, rng(stream))
    drawn[name] = pool.take(left[picked])
    left = np.delete(left, picked)
  count = min(config.limit or len(left), len(left))
  kept = left[stratified(pool.labels[left], count, rng(2))]
  return pool.take(kept), drawn["validation"], drawn["test"]
