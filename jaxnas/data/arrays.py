"""Readers of array files: `npz:PATH` and `idx:PATH`."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from jaxnas.data.records import Records, as_split
from jaxnas.errors import UserError

# Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = "/usr/share/datasets/fashion-mnist"

_NPZ_KEYS = (
  "legal keys: images and labels; or x_train and y_train, with optional x_val"
  " and y_val, x_test and y_test"
)


def read_npz(path: str, image_size: int) -> Records:
  """Reads `images` and `labels`, or `x_train`, `y_train` and so on.

  With the second naming `x_val`, `y_val` and `x_test`, `y_test` are optional.
  Images are `[n, H, W]` or `[n, H, W, C]`, uint8 or float in 0..1; labels are
  integers `[n]`. Pickled objects are refused.

  Args:
    path: the file.
    image_size: unused; arrays are taken as they are.

  Raises:
    UserError: for a missing or damaged file, or wrong keys, shapes or types.
  """
  del image_size
  if not path:
    raise UserError("data source 'npz' needs a file; write npz:PATH.")
  file = Path(path).expanduser()
  if not file.is_file():
    raise UserError(f"data source 'npz': no file {path!r}.")
  try:
    # Opened here because np.load leaves a damaged file open.
    with (
      file.open("rb") as handle,
      np.load(handle, allow_pickle=False) as archive,
    ):
      arrays = {key: archive[key] for key in archive.files}
  # numpy lets the errors of zipfile, zlib and its own parser through, and a
  # plain .npy array has no `files`; to the user they mean the same.
  except Exception as error:
    raise UserError(
      f"data source 'npz': {path!r} cannot be read as a .npz file without"
      f" pickled objects ({_first_line(error)})."
    ) from error

  def pair(images: str, labels: str):
    if (images in arrays) != (labels in arrays):
      lone = images if images in arrays else labels
      raise UserError(
        f"data source 'npz': {path!r} has {lone!r} without its partner;"
        f" {_NPZ_KEYS}."
      )
    if images not in arrays:
      return None
    where = f"data source 'npz', {path!r}, {images!r} and {labels!r}"
    return as_split(arrays[images], arrays[labels], where)

  whole, train = pair("images", "labels"), pair("x_train", "y_train")
  if (whole is None) == (train is None):
    raise UserError(
      f"data source 'npz': {path!r} has the keys {sorted(arrays)}; {_NPZ_KEYS}."
    )
  if whole is not None:
    return Records(whole)
  return Records(train, pair("x_val", "y_val"), pair("x_test", "y_test"))


def read_idx(path: str, image_size: int) -> Records:
  """Reads the four files of MNIST, plain or gzipped, from a folder.

  Names are `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`, the format is
  that of http://yann.lecun.com/exdb/mnist. The `t10k` pair is the test split
  and may be absent.

  Args:
    path: the folder; empty takes the one of Debian's `dataset-fashion-mnist`.
    image_size: unused; arrays are taken as they are.

  Raises:
    UserError: for a missing folder or file, or a damaged one.
  """
  del image_size
  folder = Path(path or FASHION_MNIST).expanduser()
  if not folder.is_dir():
    fix = (
      "" if path else " (apt-get install dataset-fashion-mnist, or idx:PATH)"
    )
    raise UserError(f"data source 'idx': no folder {str(folder)!r}{fix}.")

  def pair(prefix: str):
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    files = [_plain_or_gzip(folder / name) for name in names]
    if prefix != "train" and files == [None, None]:
      return None
    for name, file in zip(names, files, strict=True):
      if file is None:
        raise UserError(
          f"data source 'idx': no file {name} or {name}.gz in {str(folder)!r}."
        )
    images, labels = _read_idx_file(files[0], 3), _read_idx_file(files[1], 1)
    return as_split(images, labels, f"data source 'idx', {str(files[0])!r}")

  return Records(pair("train"), test=pair("t10k"))


def _plain_or_gzip(file: Path) -> Path | None:
  for candidate in (file, file.with_name(file.name + ".gz")):
    if candidate.is_file():
      return candidate
  return None


def _read_idx_file(file: Path, rank: int) -> np.ndarray:
  """Reads one idx file of unsigned bytes: `uint8[d_1, ..., d_rank]`."""
  try:
    data = file.read_bytes()
    if file.suffix == ".gz":
      data = gzip.decompress(data)
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(
      f"data source 'idx': {str(file)!r} cannot be read ({_first_line(error)})."
    ) from error
  # Two zero bytes, 8 for unsigned byte, the rank, then big-endian lengths.
  header = 4 + 4 * rank
  if len(data) < header or data[:4] != bytes((0, 0, 8, rank)):
    raise UserError(
      f"data source 'idx': {str(file)!r} is not an idx{rank} file of unsigned"
      f" bytes (it starts with {data[:4].hex(' ') or 'nothing'})."
    )
  shape = np.frombuffer(data, ">u4", rank, offset=4).tolist()
  if len(data) - header != math.prod(shape):
    raise UserError(
      f"data source 'idx': {str(file)!r} announces shape {shape} but holds"
      f" {len(data) - header} bytes instead of {math.prod(shape)}."
    )
  return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _first_line(error: Exception) -> str:
  text = str(error).strip().splitlines()
  return text[0].rstrip(".") if text else type(error).__name__
