"""Reader of prepared TensorFlow Datasets: `tfds:NAME[@DATA_DIR]`.

TensorFlow itself is neither needed nor imported: records come through
`as_data_source`, which reads the array_record format.
"""

import difflib
from typing import Any

import numpy as np
from PIL import Image

from jaxnas.data.folder import fit_image
from jaxnas.data.records import Records, Split, as_split
from jaxnas.errors import UserError

_VALIDATION = ("validation", "val", "valid")


def read_tfds(argument: str, image_size: int) -> Records:
  """Reads the features `image` and `label` of a prepared data set.

  Images whose declared height and width are fixed are taken as they are;
  others are photographs, resized and cropped as by `folder:`.

  Args:
    argument: `NAME`, `NAME/CONFIG` or `NAME:VERSION`, with an optional
      `@DATA_DIR` (default: that of tensorflow_datasets).
    image_size: side of the resulting photographs, in pixels.

  Raises:
    UserError: if the name is unknown, the data set is not prepared as
      array_record, or it lacks the two features.
  """
  # Imported here because it takes a second that other sources need not pay.
  import tensorflow_datasets as tfds

  name, _, data_dir = argument.partition("@")
  if not name:
    raise UserError("data source 'tfds' needs a name; write tfds:NAME.")
  try:
    builder = tfds.builder(name, data_dir=data_dir or None)
  except ImportError as error:
    raise UserError(
      f"data source 'tfds': {name!r} in {data_dir!r} needs a package that is"
      f" missing ({_reason(error)}); gs:// needs the extra 'gcs'."
    ) from error
  except (ValueError, AssertionError) as error:
    # Community data sets would be looked up on the network.
    known = tfds.list_builders(with_community_datasets=False)
    raise _not_found(name, data_dir, error, known) from error
  try:
    source = builder.as_data_source("train")
  except (NotImplementedError, KeyError, ValueError) as error:
    raise _unreadable(name, builder) from error
  features = builder.info.features
  missing = {"image", "label"} - set(features)
  if missing:
    raise UserError(
      f"data source 'tfds': {name!r} has no feature {min(missing)!r}; its"
      f" features are {', '.join(sorted(features))}."
    )
  splits = {"train": source}
  own = builder.info.splits
  if "test" in own:
    splits["test"] = builder.as_data_source("test")
  validation = [n for n in _VALIDATION if n in own]
  if validation:
    splits["validation"] = builder.as_data_source(validation[0])
  photographs = None in features["image"].shape[:2]
  read = {
    split: _read(records, image_size if photographs else 0, f"{name}, {split}")
    for split, records in splits.items()
  }
  names = getattr(features["label"], "names", None)
  return Records(class_names=tuple(names) if names else None, **read)


def _read(records: Any, resize: int, where: str) -> Split:
  """Reads all records of one split, resizing them if `resize` is not 0."""
  where = f"data source 'tfds', {where}"
  images, labels = [], []
  for i in range(len(records)):
    record = records[i]
    image = np.asarray(record["image"])
    if resize:
      image = _fit(image, resize, where)
    images.append(image)
    labels.append(record["label"])
  if not images:
    raise UserError(f"{where}: the split has no image.")
  return as_split(np.stack(images), np.array(labels), where)


def _fit(image: np.ndarray, size: int, where: str) -> np.ndarray:
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
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
