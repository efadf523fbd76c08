"""Reader of prepared TensorFlow Datasets: `tfds:NAME[@DATA_DIR]`.

TensorFlow itself is neither needed nor imported: records come through
`as_data_source`, which reads the array_record format.
"""

import difflib
import io
import logging
from typing import Any

import numpy as np
from PIL import Image

from jaxnas.data.facts import short_digest
from jaxnas.data.folder import fit_image
from jaxnas.data.lazy import LazyImages
from jaxnas.data.records import Records, Split, as_uint8
from jaxnas.data.side import SIDE, read_side
from jaxnas.errors import UserError
from jaxnas.writer import Progress

log = logging.getLogger("jaxnas")

_VALIDATION = ("validation", "val", "valid")


def read_tfds(argument: str, image_size: int) -> Records:
  """Reads the features `image` and `label` of a prepared data set.

  Arguments and errors as of `open_tfds`; all images are decoded.
  """
  return open_tfds(argument, image_size).loaded()


def open_tfds(argument: str, image_size: int) -> Records:
  """Opens the features `image` and `label` of a prepared data set.

  Images whose declared height and width are fixed are taken as they are;
  others are photographs, resized and cropped as by `folder:`. A test split
  without labels, all of them -1, is left out. What `jaxnas prepare` wrote knows
  its labels; of other data sets every record is read for them, once.

  Args:
    argument: `NAME`, `NAME/CONFIG` or `NAME:VERSION`, with an optional
      `@DATA_DIR` (default: that of tensorflow_datasets).
    image_size: side of the resulting photographs, in pixels.

  Raises:
    UserError: if the name is unknown, the data set is not prepared as
      array_record, lacks the two features, or a record cannot be read.
  """
  name, builder = find_builder(argument)
  try:
    _source(builder, "train")
  except (NotImplementedError, KeyError, ValueError) as error:
    raise _unreadable(name, builder) from error
  features = builder.info.features
  missing = {"image", "label"} - set(features)
  if missing:
    raise UserError(
      f"data source 'tfds': {name!r} has no feature {min(missing)!r}; its"
      f" features are {', '.join(sorted(features))}."
    )
  own = builder.info.splits
  splits = {"train": "train", "test": "test" if "test" in own else None}
  splits["validation"] = next((n for n in _VALIDATION if n in own), None)
  side = read_side(builder.data_path)
  found = {}
  for split, own_name in splits.items():
    if own_name:
      reader = _Reader(name, builder, own_name, image_size)
      if split == "test" and reader.label(0) == -1:
        log.info("the test images of %s have no labels and are left out.", name)
      else:
        found[split] = reader.split(side)
  names = getattr(features["label"], "names", None)
  return Records(class_names=tuple(names) if names else None, **found)


def find_builder(argument: str, **options: Any) -> tuple[str, Any]:
  """Finds a data set; errors as of `open_tfds`.

  Args:
    argument: as there.
    **options: further ones of `tfds.builder`.

  Returns:
    Its name and its `tfds` builder, prepared or not.
  """
  # Imported here because it takes a second that other sources need not pay.
  import tensorflow_datasets as tfds

  name, _, data_dir = argument.partition("@")
  if not name:
    raise UserError("data source 'tfds' needs a name; write tfds:NAME.")
  try:
    return name, tfds.builder(name, data_dir=data_dir or None, **options)
  except ImportError as error:
    raise UserError(
      f"data source 'tfds': {name!r} in {data_dir!r} needs a package that is"
      f" missing ({_reason(error)}); gs:// needs the extra 'gcs'."
    ) from error
  except (ValueError, AssertionError) as error:
    # Community data sets would be looked up on the network.
    known = tfds.list_builders(with_community_datasets=False)
    raise _not_found(name, data_dir, error, known) from error


def _source(builder: Any, split: str) -> Any:
  """Records of a split by number, their images still encoded."""
  import tensorflow_datasets as tfds

  decoders, features = {}, builder.info.features or {}
  if "image" in features and isinstance(features["image"], tfds.features.Image):
    decoders["image"] = tfds.decode.SkipDecoding()
  return builder.as_data_source(split, decoders=decoders)


class _Reader:
  """Reads the records of one split, in any order and from any thread."""

  def __init__(
    self, name: str, builder: Any, split: str, image_size: int
  ) -> None:
    self._name, self._split = name, split
    self._where = f"data source 'tfds', {name}, {split}"
    self._source = _source(builder, split)
    self._builder = builder
    if not len(self._source):
      raise UserError(f"{self._where}: the split has no image.")
    declared = builder.info.features["image"].shape
    # A declared number of channels of None or 4 is judged image by image.
    self._channels = declared[2] if len(declared) == 3 else 1
    self._resize = image_size if None in declared[:2] else 0

  def record(self, row: int) -> dict:
    """One record, its image as stored."""
    try:
      return self._source[row]
    # Damaged bytes raise nearly anything on their way through the readers.
    except Exception as error:
      raise self._damaged(row, error) from error

  def label(self, row: int) -> int:
    """Label of a record."""
    return int(self.record(row)["label"])

  def decode(self, row: int) -> np.ndarray:
    """Image of a record, `uint8[H, W, C]`."""
    record = self.record(row)
    if int(record["label"]) != self._labels[row]:
      raise UserError(
        f"{self._where}: record {row} has label {record['label']} but"
        f" {self._labels[row]} in {SIDE}; run `python -m jaxnas prepare` again."
      )
    image = record["image"]
    if isinstance(image, bytes):
      try:
        image = self._decoded(image)
      except Exception as error:
        raise self._damaged(row, error) from error
    image = as_uint8(np.asarray(image), self._where)
    if image.ndim == 2:
      image = image[..., None]
    return _fit(image, self._resize, self._where) if self._resize else image

  def split(self, side: dict[str, np.ndarray]) -> Split:
    """All of it, without decoding any but one image.

    Args:
      side: arrays of the side file, `{}` without one.
    """
    n, key = len(self._source), f"{self._split}_"
    facts = {
      k.removeprefix(key): v for k, v in side.items() if k.startswith(key)
    }
    if facts:
      if any(len(v) != n for v in facts.values()):
        raise UserError(
          f"{self._where}: {SIDE} tells of {len(facts['labels'])} images and"
          f" there are {n} records; run `python -m jaxnas prepare` again."
        )
      self._labels = facts.pop("labels")
    else:
      self._labels, facts = self._scan()
    shape = self.decode(0).shape
    if len(shape) != 3:
      raise UserError(
        f"{self._where}: images have shape {list(shape)}; legal: [H, W] or"
        " [H, W, C]."
      )

    def decode(row: int) -> np.ndarray:
      image = self.decode(row)
      if image.shape != shape:
        raise UserError(
          f"{self._where}: record {row} has shape {list(image.shape)} but"
          f" record 0 {list(shape)}; legal: the same shape."
        )
      return image

    return Split(LazyImages(decode, shape, np.arange(n), **facts), self._labels)

  def _scan(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads every record for its label and a digest of its image."""
    n = len(self._source)
    labels, digests = np.empty(n, np.int32), np.empty(n, np.uint64)
    with Progress(f"labels of {self._name}, {self._split}", n) as progress:
      for row in range(n):
        record = self.record(row)
        labels[row] = record["label"]
        digests[row] = short_digest(bytes(record["image"]))
        progress.update(row + 1)
    return labels, {"digests": digests}

  def _decoded(self, data: bytes) -> np.ndarray:
    if self._channels not in (1, 3):
      return self._builder.info.features["image"].decode_example_np(data)
    with Image.open(io.BytesIO(data)) as image:
      if image.mode.startswith("I"):
        return np.asarray(image)
      return np.asarray(image.convert("L" if self._channels == 1 else "RGB"))

  def _damaged(self, row: int, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return UserError(
      f"{self._where}: record {row} cannot be read"
      f" ({reason or type(error).__name__})."
    )


def _fit(image: np.ndarray, size: int, where: str) -> np.ndarray:
  if image.shape[2] not in (1, 3):
    raise UserError(
      f"{where}: images of varying size are {image.dtype}{list(image.shape)};"
      " legal: uint8[H, W, 1] or uint8[H, W, 3]."
    )
  grey = image.shape[2] == 1
  fitted = fit_image(Image.fromarray(image[..., 0] if grey else image), size)
  return fitted[..., None] if grey else fitted


def _not_found(
  name: str, data_dir: str, error: Exception, known: list[str]
) -> UserError:
  bare = name.partition("/")[0].partition(":")[0]
  place = f" in {data_dir!r}" if data_dir else ""
  if bare in known:
    # The name is right, so its config or version is not.
    return UserError(
      f"data source 'tfds': no {name!r}{place} ({_reason(error)})."
    )
  near = difflib.get_close_matches(bare, known, n=1)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return UserError(
    f"data source 'tfds': no data set {name!r}{place}; legal: a prepared data"
    f" set or a name listed at tensorflow.org/datasets.{hint}"
  )


def _reason(error: Exception) -> str:
  # tensorflow_datasets puts the arguments of its own call before the reason.
  first = str(error).strip().partition("\n")[0]
  return first.rpartition('}": ')[2].rstrip(".:") or type(error).__name__


def _unreadable(name: str, builder: Any) -> UserError:
  """Says how to prepare a data set, which tensorflow_datasets does not."""
  fix = (
    f"tfds.builder({name!r}, data_dir=DIR, file_format='array_record')"
    f".download_and_prepare() (most data sets need the extra 'prepare' for"
    f" that) and give tfds:{name}@DIR."
  )
  place = str(builder.data_path)
  if not builder.info.splits:
    return UserError(
      f"data source 'tfds': {name!r} is not prepared at {place!r}; run {fix}"
    )
  if "train" not in builder.info.splits:
    return UserError(
      f"data source 'tfds': {name!r} has no split 'train'; its splits are"
      f" {', '.join(sorted(builder.info.splits))}."
    )
  return UserError(
    f"data source 'tfds': {name!r} is prepared at {place!r} as"
    f" {builder.info.file_format.value}, which only TensorFlow reads; with"
    f" another folder DIR run {fix}"
  )
