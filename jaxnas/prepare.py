"""The command `prepare`: from image folders or TFDS sets to array_record."""

import dataclasses
import re
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxnas.errors import UserError, unknown

PHOTOGRAPH = 224  # side of the images of sets whose sizes vary


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
  """Images once resized and packed, so that reading them keeps up.

  Writes array_record in the layout of TensorFlow Datasets, which `--data
  tfds:NAME@OUT` reads, and other tools as well. Folders need no TensorFlow;
  most data sets of TFDS that are not prepared yet do (extra `prepare`). When
  killed, the same command goes on where it was.
  """

  source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
  """`folder:PATH` or `tfds:NAME[@DATA_DIR]`."""
  out: Path
  """Folder of data sets; this one becomes NAME_SIZE in it."""
  image_size: int = 0
  """Side of the images, in pixels: the shorter side is resized, the centre
  cropped. Default 224; images of a fixed size are taken as they are."""
  format: Literal["jpeg", "png", "raw"] = "jpeg"
  """How images are stored: `png` and `raw` (fast to read, large) are exact."""
  quality: int = 95
  """Of `jpeg`, 1 to 100."""
  json: bool = False
  """Print one JSON object on stdout, all else on stderr."""


def prepare(options: PrepareOptions) -> dict:
  """Prepares a source.

  Returns:
    JSON object: `data` (what `--data` takes), `folder`, `images` by split,
    `image_size`, `channels`, `format`, `bytes`, `seconds`.

  Raises:
    UserError: for a source that cannot be read or options that do not suit it.
  """
  from jaxnas.data.facts import fingerprint
  from jaxnas.data.folder import open_folder
  from jaxnas.data.prepared import Layout, write_records
  from jaxnas.data.tfds_source import open_tfds

  o, start = options, time.monotonic()
  if o.image_size < 0 or not 1 <= o.quality <= 100:
    raise UserError(
      f"--image-size is {o.image_size} and --quality {o.quality}; legal: 0 or"
      " more, and 1 to 100."
    )
  if "://" in str(o.out):
    raise UserError(
      f"--out is {str(o.out)!r}; legal: a folder on disk, to be copied into a"
      " bucket afterwards."
    )
  scheme, _, argument = o.source.partition(":")
  size = o.image_size or PHOTOGRAPH
  if scheme == "folder":
    records = open_folder(argument, size)
  elif scheme == "tfds":
    _make_readable(argument)
    records = open_tfds(argument, size)
  else:
    raise unknown("source to prepare", scheme, ("folder", "tfds"))
  height, width, channels = records.train.images.shape[1:]
  if height != width or (o.image_size and height != o.image_size):
    raise UserError(
      f"{o.source} has images of the fixed size {height} x {width}; legal:"
      " square ones, without --image-size."
    )
  layout = Layout(_name(scheme, argument, height), o.format, o.quality)
  made_from = {
    "source": o.source,
    "image_size": height,
    "fingerprint": fingerprint(records.parts.values()),
  }
  out = o.out.expanduser()
  folder = write_records(records, out, layout, made_from)
  open_tfds(f"{layout.name}@{out}", height)  # what cannot be read is no success
  return {
    "data": f"tfds:{layout.name}@{out}",
    "folder": str(folder),
    "images": {name: len(part) for name, part in records.parts.items()},
    "image_size": height,
    "channels": channels,
    "format": o.format,
    "bytes": sum(f.stat().st_size for f in folder.iterdir()),
    "seconds": time.monotonic() - start,
  }


def _make_readable(argument: str) -> None:
  """Downloads and prepares a data set of TFDS that is not there yet."""
  from jaxnas.data.tfds_source import find_builder

  _, builder = find_builder(argument)
  if builder.info.splits:
    return
  name, builder = find_builder(argument, file_format="array_record")
  try:
    builder.download_and_prepare()
  except ImportError as error:
    raise UserError(
      f"preparing {name!r} from its origin needs TensorFlow, the extra"
      " 'prepare' (pip install tensorflow-cpu); folder:PATH and data sets that"
      f" are prepared as array_record do not ({_first_line(error)})."
    ) from error
  # Downloads, manual steps and archives fail in ways of their own.
  except Exception as error:
    raise UserError(
      f"{name!r} cannot be prepared from its origin ({_first_line(error)})."
    ) from error


def _first_line(error: Exception) -> str:
  text = str(error).strip().partition("\n")[0].rstrip(".:")
  return text or type(error).__name__


def _name(scheme: str, argument: str, size: int) -> str:
  """Name of the data set: letters, digits and `_`, as TFDS wants it."""
  given = argument.partition("@")[0]
  if scheme == "folder":
    given = Path(argument).expanduser().resolve().name
  slug = re.sub(r"[^a-z0-9]+", "_", given.lower()).strip("_")
  if not re.match("[a-z]", slug):
    slug = f"images_{slug}".rstrip("_")
  return f"{slug}_{size}"
