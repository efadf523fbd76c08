"""The images of a data source as numbers: no image is read for an estimate."""

import dataclasses

import numpy as np

from jaxnas.config import DataConfig
from jaxnas.data import Dataset, Split, load
from jaxnas.data.split import held_out_count
from jaxnas.errors import UserError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known of a stock data set without having it.

  Attributes:
    train: training images, before any are held out.
    validation: images of a validation split of its own; 0 for none.
    test: the same for the test split.
    classes: number of classes.
    channels: of an image.
  """

  train: int
  validation: int
  test: int
  classes: int
  channels: int = 3


# A folder of ImageNet is assumed to have the official validation images under
# test/, as the configs advise.
KNOWN: dict[str, Facts] = {
  "tfds:imagenet2012": Facts(1_281_167, 50_000, 0, 1000),
  "folder:imagenet": Facts(1_281_167, 0, 50_000, 1000),
  "tfds:cifar10": Facts(50_000, 0, 10_000, 10),
  "tfds:cifar100": Facts(50_000, 0, 10_000, 100),
  "tfds:mnist": Facts(60_000, 0, 10_000, 10, 1),
  "tfds:fashion_mnist": Facts(60_000, 0, 10_000, 10, 1),
  "idx:": Facts(60_000, 0, 10_000, 10, 1),
}


def data_sizes(
  config: DataConfig, image_size: int, images: int = 0, classes: int = 0
) -> tuple[Dataset, str]:
  """Three splits of the right sizes whose pixels take no memory.

  Args:
    config: source and sizes of the splits.
    image_size: side of the images, in pixels.
    images: training images of a source that is not known; 0 for none given.
    classes: its classes.

  Returns:
    The data set, and where its sizes come from, in a few words.

  Raises:
    UserError: if the sizes are neither known nor given, or a split cannot be
      held out.
  """
  if images or classes:
    if images < 1 or classes < 2:
      raise UserError(
        f"--images is {images} and --classes {classes}; legal: both, at least 1"
        " image and 2 classes."
      )
    facts, where = Facts(images, 0, 0, classes), "given"
  elif config.source in KNOWN:
    facts, where = KNOWN[config.source], "known sizes; the data were not read"
    if config.source == "folder:imagenet":
      where = "sizes of imagenet2012; the folder was not read"
  else:
    return _read(config, image_size)
  left, held = facts.train, {}
  for name in ("test", "validation"):
    own = getattr(facts, name)
    if not own:
      amount = getattr(config, name)
      own = held_out_count(amount, facts.train, f"data.{name}")
      left -= own
    held[name] = own
  if left < 1:
    raise UserError(
      "data.validation and data.test hold out all training images; legal: at"
      " least one is left."
    )
  left = min(config.limit or left, left)
  shape = (image_size, image_size, facts.channels)
  return _dataset(config, shape, facts.classes, left, **held), where


def _read(config: DataConfig, image_size: int) -> tuple[Dataset, str]:
  try:
    found = load(config, image_size)
  except UserError as error:
    reason = str(error).rstrip(".")
    raise UserError(
      f"the sizes of {config.source!r} are not known ({reason}); give"
      f" --images N --classes C, or one of {', '.join(KNOWN)}."
    ) from error
  shape, classes = found.train.images.shape[1:], found.n_classes
  sizes = (len(s) for s in (found.train, found.test, found.validation))
  return _dataset(config, shape, classes, *sizes), "read"


def _dataset(config, shape, classes, train, test, validation) -> Dataset:
  def split(n: int) -> Split:
    # Zero strides: one byte stands for all of them.
    pixels = np.broadcast_to(np.zeros((), np.uint8), (n, *shape))
    return Split(pixels, np.broadcast_to(np.zeros((), np.int32), (n,)))

  size = train * int(np.prod(shape))
  return Dataset(
    train=split(train),
    validation=split(validation),
    test=split(test),
    class_names=tuple(str(c) for c in range(classes)),
    mean=np.zeros(shape[-1], np.float32),
    std=np.ones(shape[-1], np.float32),
    fingerprint="",
    source=config.source,
    streamed=config.stream == "always"
    or (config.stream == "auto" and size > config.memory_gib * GIB),
  )
