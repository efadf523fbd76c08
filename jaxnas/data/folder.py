"""Reader of class folders of image files: `folder:PATH`."""

import os
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxnas.data.facts import short_digest
from jaxnas.data.lazy import LazyImages
from jaxnas.data.records import Records, Split
from jaxnas.errors import UserError

SUFFIXES = frozenset(
  (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
  + (".pgm",)
)
_VALIDATION = ("val", "validation", "valid")
_GREY_MODES = ("1", "L", "LA", "La")


def read_folder(path: str, image_size: int) -> Records:
  """Reads `PATH/CLASS/*.png`, or `PATH/{train,val,test}/CLASS/*.png`.

  Arguments and errors as of `open_folder`; all images are decoded.
  """
  return open_folder(path, image_size).loaded()


def open_folder(path: str, image_size: int) -> Records:
  """Opens `PATH/CLASS/*.png`, or `PATH/{train,val,test}/CLASS/*.png`.

  Class names are the folder names in sorted order. Files are found at any
  depth under a class; hidden ones and those without an image suffix are
  skipped. Images are turned as their EXIF tag says, the shorter side is resized
  (bilinear, antialiased) to `image_size`, and the centre is cropped. The result
  is grey if every image is grey, otherwise RGB; transparency is dropped.

  Only the headers of the files are read. The digests are of names and sizes.

  Args:
    path: the folder.
    image_size: side of the resulting images, in pixels.

  Raises:
    UserError: for a missing folder, fewer than two classes, a class without
      images, or an image that cannot be decoded; it names the place. What is
      behind a header is found out when the image is decoded.
  """
  if not path:
    raise UserError("data source 'folder' needs a folder; write folder:PATH.")
  root = Path(path).expanduser()
  if not root.is_dir():
    raise UserError(f"data source 'folder': no folder {path!r}.")
  splits = _split_folders(root)
  names = tuple(p.name for p in _subfolders(splits["train"]))
  if len(names) < 2:
    raise UserError(
      f"data source 'folder': {str(splits['train'])!r} has {len(names)} class"
      f" folders{f' ({names[0]})' if names else ''}; legal: at least 2."
    )
  files, labels = {}, {}
  for split, folder in splits.items():
    files[split], labels[split] = _list_files(folder, names)
  every = [f for fs in files.values() for f in fs]
  channels = 1 if all(_in_threads(_is_grey, every)) else 3
  shape = (image_size, image_size, channels)
  found = {
    split: Split(_images(files[split], root, shape), labels[split])
    for split in splits
  }
  return Records(class_names=names, **found)


def _images(
  files: list[Path], root: Path, shape: tuple[int, int, int]
) -> LazyImages:
  def decode(row: int) -> np.ndarray:
    image = _decode(files[row], shape[0])
    wide = image if image.ndim == 3 else image[..., None]
    return np.broadcast_to(wide, shape)

  def digest(file: Path) -> int:
    name = file.relative_to(root).as_posix()
    return short_digest(f"{name} {file.stat().st_size}".encode())

  digests = np.array(_in_threads(digest, files), np.uint64)
  return LazyImages(decode, shape, np.arange(len(files)), digests)


def _in_threads(function: Callable, files: list[Path]) -> list:
  with futures.ThreadPoolExecutor() as pool:
    return list(pool.map(function, files))


def fit_image(image: Image.Image, size: int) -> np.ndarray:
  """Resizes the shorter side to `size` and crops the centre.

  Args:
    image: an image in mode `L` or `RGB`.
    size: side of the result, in pixels.

  Returns:
    `uint8[size, size]` or `uint8[size, size, 3]`; an image that already has
    this size is returned unchanged.
  """
  if image.size != (size, size):
    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
  return np.asarray(image)


def _subfolders(folder: Path) -> list[Path]:
  return sorted(
    p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")
  )


def _split_folders(root: Path) -> dict[str, Path]:
  """Finds which folder holds which split; just `train` without such folders."""
  folders = {p.name: p for p in _subfolders(root)}
  # A class may be called "train"; then it holds images, not folders.
  if "train" not in folders or not _subfolders(folders["train"]):
    return {"train": root}
  splits = {"train": folders.pop("train")}
  if "test" in folders:
    splits["test"] = folders.pop("test")
  for name in [n for n in _VALIDATION if n in folders]:
    if "validation" in splits:
      raise UserError(
        f"data source 'folder': {str(root)!r} has two validation folders,"
        f" {splits['validation'].name!r} and {name!r}; legal: one."
      )
    splits["validation"] = folders.pop(name)
  if folders:
    raise UserError(
      f"data source 'folder': {str(root)!r} has {sorted(folders)[0]!r} beside"
      f" 'train'; legal: {', '.join(_VALIDATION)} and test."
    )
  return splits


def _list_files(
  folder: Path, names: tuple[str, ...]
) -> tuple[list[Path], np.ndarray]:
  """Lists the image files of one split with their labels, `int32[n]`."""
  found = [p.name for p in _subfolders(folder)]
  strange = sorted(set(found) - set(names))
  if strange or not found:
    what = f"class {strange[0]!r}" if strange else "no class folder"
    raise UserError(
      f"data source 'folder': {str(folder)!r} has {what}; the classes of the"
      f" training images are {', '.join(names)}."
    )
  files, labels = [], []
  for name in found:
    inside = _image_files(folder / name)
    if not inside:
      raise UserError(
        f"data source 'folder': class {name!r} in {str(folder)!r} has no"
        f" image; legal suffixes: {', '.join(sorted(SUFFIXES))}."
      )
    files += inside
    labels += [names.index(name)] * len(inside)
  return files, np.array(labels, np.int32)


def _image_files(folder: Path) -> list[Path]:
  files = []
  for place, inner, names in os.walk(folder):
    inner[:] = [d for d in inner if not d.startswith(".")]
    files += [Path(place, n) for n in names if not n.startswith(".")]
  return sorted(f for f in files if f.suffix.lower() in SUFFIXES)


def _is_grey(file: Path) -> bool:
  """Whether the image will be decoded as grey, from the file's header."""
  try:
    with Image.open(file) as image:
      return image.mode in _GREY_MODES or image.mode.startswith("I")
  except Exception as error:
    raise _unreadable(file, error) from error


def _decode(file: Path, size: int) -> np.ndarray:
  try:
    with Image.open(file) as opened:
      image = ImageOps.exif_transpose(opened)
      if image.mode.startswith("I"):
        # Sixteen bits of grey; Pillow's own conversion would clip them.
        deep = np.clip(np.asarray(image, np.int64), 0, 65535)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
      grey = image.mode in _GREY_MODES
      return fit_image(image.convert("L" if grey else "RGB"), size)
  except Exception as error:
    raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> UserError:
  # Decoders raise nearly anything on damaged bytes (OSError, SyntaxError,
  # struct.error, ...); the user needs the file's name in every case.
  reason = str(error).rstrip(".") or type(error).__name__
  return UserError(
    f"data source 'folder': {str(file)!r} is not a readable image ({reason})."
  )
