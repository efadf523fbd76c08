"""Writes images as array_record, in the layout of TensorFlow Datasets.

Nothing half-written is ever taken for whole: shards get their names when they
are complete, and the folder gets its when all of them are. What is there
already is not written again.
"""

import dataclasses
import io
import os
import shutil
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from jaxnas.data.facts import image_sums, short_digest
from jaxnas.data.records import Records, Split
from jaxnas.data.side import FACTS, SIDE
from jaxnas.data.stream import n_threads
from jaxnas.errors import UserError
from jaxnas.writer import (
  Progress,
  read_arrays,
  read_json,
  write_arrays,
  write_json,
)

Format = Literal["jpeg", "png", "raw"]

VERSION = "1.0.0"
NOTE = "prepare.json"  # what the folder was made from
SHARD_BYTES = 1 << 28  # of decoded images in a shard


@dataclasses.dataclass(frozen=True)
class Layout:
  """How images are stored.

  Attributes:
    name: of the data set.
    format: of the images.
    quality: of `jpeg`.
  """

  name: str
  format: Format
  quality: int

  def features(self, records: Records) -> Any:
    """The `tfds` features of records."""
    from tensorflow_datasets import features

    shape = records.train.images.shape[1:]
    if self.format == "raw":
      image = features.Tensor(shape=shape, dtype=np.uint8)
    else:
      image = features.Image(shape=shape, encoding_format=self.format)
    names = records.class_names
    if names is None:
      last = max(int(part.labels.max()) for part in records.parts.values())
      label = features.ClassLabel(num_classes=last + 1)
    else:
      label = features.ClassLabel(names=names)
    return features.FeaturesDict({"image": image, "label": label})

  def encode(self, image: np.ndarray) -> tuple[np.ndarray | bytes, np.ndarray]:
    """What is stored of an image, and what will be decoded from it."""
    if self.format == "raw":
      return image, image
    data = io.BytesIO()
    options = {"quality": self.quality} if self.format == "jpeg" else {}
    pixels = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(data, self.format, **options)
    if self.format == "png":
      return data.getvalue(), image
    with Image.open(data) as stored:
      return data.getvalue(), np.asarray(stored).reshape(image.shape)


def write_records(
  records: Records, out: Path, layout: Layout, made_from: dict
) -> Path:
  """Writes a data set, or the rest of it, that `tfds:NAME@OUT` reads.

  Args:
    records: images of one shape.
    out: folder of data sets.
    layout: how images are stored.
    made_from: what else decides the bytes, as JSON; a folder that was made
      from something else is refused.

  Returns:
    The folder of the data set.

  Raises:
    UserError: for such a folder, images that the format cannot store, or an
      image that cannot be decoded.
  """
  channels = records.train.images.shape[3]
  if layout.format != "raw" and channels not in (1, 3):
    raise UserError(
      f"images have {channels} channels, and {layout.format} stores 1 or 3;"
      " legal: --format raw."
    )
  whole = out / layout.name / VERSION
  note = dataclasses.asdict(layout) | made_from | {"shard_bytes": SHARD_BYTES}
  if _is_there(whole, note):
    return whole
  partial = whole.with_name(f".{VERSION}.incomplete")
  if not _is_there(partial, note):
    partial.mkdir(parents=True)
    write_json(partial / NOTE, note)
  features = layout.features(records)
  n = sum(len(part) for part in records.parts.values())
  side, splits, done = {}, [], 0
  with Progress(f"prepare {layout.name}", n) as progress:
    for name, part in records.parts.items():
      shards = _shards(part)
      template = _template(layout.name, name, partial)
      facts, sizes = [], []
      for i, rows in enumerate(shards):
        file = Path(
          template.sharded_filepath(shard_index=i, num_shards=len(shards))
        )
        found = _written(file) or _write(
          file, part, rows, layout, features,
          lambda k, before=done: progress.update(before + k),
        )  # fmt: skip
        sizes.append(int(found.pop("bytes")))
        facts.append(found)
        done += len(rows)
        progress.update(done)
      for key in FACTS:
        side[f"{name}_{key}"] = np.concatenate([f[key] for f in facts])
      lengths = [len(rows) for rows in shards]
      splits.append((name, lengths, sum(sizes), template))
  write_arrays(partial / SIDE, side)
  _write_info(partial, layout.name, features, splits, made_from)
  for file in partial.glob("*.facts.npz"):
    file.unlink()
  os.replace(partial, whole)
  return whole


def _is_there(folder: Path, note: dict) -> bool:
  """Whether the folder was made from the same; refuses another one."""
  if not folder.exists():
    return False
  path = folder / NOTE
  if not path.is_file() and not any(folder.glob("*array_record*")):
    shutil.rmtree(folder)  # killed before its first file
    return False
  there = read_json(path) if path.is_file() else {}
  changed = sorted(k for k in {*there, *note} if there.get(k) != note.get(k))
  if changed:
    raise UserError(
      f"{folder} was made from other images or options (it differs in"
      f" {', '.join(changed)}); give another --out, or remove it."
    )
  return True


def _shards(part: Split) -> list[np.ndarray]:
  """Rows of each shard, in order."""
  each = max(1, SHARD_BYTES // int(np.prod(part.images.shape[1:])))
  return np.array_split(np.arange(len(part)), -(-len(part) // each))


def _template(name: str, split: str, folder: Path) -> Any:
  from tensorflow_datasets.core import naming

  return naming.ShardedFileTemplate(
    dataset_name=name, data_dir=folder, split=split,
    filetype_suffix="array_record",
  )  # fmt: skip


def _facts_file(shard: Path) -> Path:
  return shard.with_name(f"{shard.name}.facts.npz")


def _written(shard: Path) -> dict[str, np.ndarray] | None:
  """Facts of a shard that an earlier call completed."""
  facts = _facts_file(shard)
  return read_arrays(facts) if shard.is_file() and facts.is_file() else None


def _write(
  shard: Path,
  part: Split,
  rows: np.ndarray,
  layout: Layout,
  features: Any,
  progress: Callable[[int], None],
) -> dict[str, np.ndarray]:
  """Writes one shard; returns `FACTS` of its rows, and its `bytes`."""
  from array_record.python.array_record_module import ArrayRecordWriter

  def example(row: int) -> tuple:
    stored, seen = layout.encode(part.read(rows[row : row + 1])[0])
    label = part.labels[rows[row]]
    encoded = features.encode_example({"image": stored, "label": int(label)})
    facts = label, short_digest(bytes(stored)), *image_sums(seen)
    return features.serialize_example(encoded), facts

  temporary = shard.with_name(f".{shard.name}.tmp")
  # One record a group, or a random read would decompress its neighbours too.
  writer = ArrayRecordWriter(str(temporary), "group_size:1")
  facts = []
  try:
    with futures.ThreadPoolExecutor(n_threads()) as pool:
      for data, fact in pool.map(example, range(len(rows))):
        writer.write(data)
        facts.append(fact)
        progress(len(facts))
  finally:
    writer.close()
  columns = zip(*facts, strict=True)
  found = {
    name: np.array(column, kind)
    for (name, kind), column in zip(FACTS.items(), columns, strict=True)
  }
  found["bytes"] = np.array(temporary.stat().st_size)
  # The facts first: a shard with its name is one whose facts are there.
  write_arrays(_facts_file(shard), found)
  _flushed(temporary)
  os.replace(temporary, shard)
  return found


def _flushed(file: Path) -> None:
  with open(file, "rb") as handle:
    os.fsync(handle.fileno())


def _write_info(
  folder: Path, name: str, features: Any, splits: list, made_from: dict
) -> None:
  """Writes the files by which `tfds` knows the data set."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import dataset_info
  from tensorflow_datasets.core.splits import SplitDict, SplitInfo

  identity = dataset_info.DatasetIdentity(
    name=name, version=tfds.core.Version(VERSION), data_dir=str(folder),
    module_name="jaxnas",
  )  # fmt: skip
  info = tfds.core.DatasetInfo(
    builder=identity, features=features, disable_shuffling=True,
    description=f"{made_from['source']}, prepared by jaxnas",
  )  # fmt: skip
  info.set_file_format("array_record")
  info.set_splits(
    SplitDict([
      SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size,
        filename_template=template,
      )
      for split, lengths, size, template in splits
    ])
  )  # fmt: skip
  info.write_to_directory(folder)
