"""`prepare`: what it writes is what the source holds, whole or not at all."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnas.config import DataConfig
from jaxnas.data import Split, load
from jaxnas.data import prepared as prepared_lib
from jaxnas.data.lazy import LazyImages
from jaxnas.data.prepared import Layout, write_records
from jaxnas.data.records import Records
from jaxnas.data.side import SIDE
from jaxnas.errors import UserError
from jaxnas.prepare import PrepareOptions, prepare

PARTS = ("train", "validation", "test")
SHARD = 10 * 12 * 12 * 3  # bytes of ten images


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Two classes, with validation images of their own, all of one size."""
  root = tmp_path_factory.mktemp("pictures") / "Our Pictures"
  rng = np.random.default_rng(0)
  for split, n in (("train", 18), ("val", 5)):
    for name in ("ant", "bee"):
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(n):
        pixels = rng.integers(0, 256, (13 + i % 3, 14, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
  return root


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory):
  """The same in all formats, by format: result of `prepare`."""
  found = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(prepared_lib, "SHARD_BYTES", SHARD)
    for kind in ("raw", "png", "jpeg"):
      out = tmp_path_factory.mktemp(kind)
      found[kind] = prepare(PrepareOptions(f"folder:{pictures}", out, 12, kind))
  return found


def equal(a, b):
  assert a.class_names == b.class_names
  np.testing.assert_array_equal([a.mean, a.std], [b.mean, b.std])
  for name in PARTS:
    x, y = getattr(a, name), getattr(b, name)
    np.testing.assert_array_equal(x.images[:], y.images[:])
    np.testing.assert_array_equal(x.labels, y.labels)


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize("kind", ["raw", "png"])
def test_exact_formats_are_the_folder_to_the_last_bit(
  made, pictures, kind, stream
):
  result = made[kind]
  assert result["images"] == {"train": 36, "validation": 10}
  assert result["data"].startswith("tfds:our_pictures_12@")
  data = load(DataConfig(result["data"], stream=stream), 12)
  equal(data, load(DataConfig(f"folder:{pictures}", stream="never"), 12))
  assert isinstance(data.train.images, LazyImages) == (stream == "always")


def test_moments_and_digests_come_without_decoding(made, monkeypatch):
  held = load(DataConfig(made["jpeg"]["data"], stream="never"), 12)
  seen = []
  real = LazyImages._read
  monkeypatch.setattr(
    LazyImages, "_read", lambda *a: (seen.append(a[1]), real(*a))[1]
  )
  # Validation images that fit are decoded, training images are not.
  data = load(DataConfig(made["jpeg"]["data"], stream="always"), 12)
  assert len(seen) == 1 and len(data.validation) == 10
  np.testing.assert_array_equal(data.mean, held.mean)
  np.testing.assert_array_equal(data.std, held.std)
  again = load(DataConfig(made["jpeg"]["data"], stream="always"), 12)
  other = load(DataConfig(made["png"]["data"], stream="always"), 12)
  assert data.fingerprint == again.fingerprint != other.fingerprint


def test_jpeg_is_near_and_what_others_read(made, pictures):
  data = made["jpeg"]["data"]
  held = load(DataConfig(data, stream="never"), 12)
  exact = load(DataConfig(f"folder:{pictures}", stream="never"), 12)
  for image, source in zip(held.train.images, exact.train.images, strict=True):
    stored = io.BytesIO()
    Image.fromarray(source).save(stored, "JPEG", quality=95)
    np.testing.assert_array_equal(image, np.asarray(Image.open(stored)))
  name, _, out = data.removeprefix("tfds:").partition("@")
  source = tfds.builder(name, data_dir=out).as_data_source("train")
  records = {r["image"].tobytes(): r["label"] for r in source}
  for image, label in zip(held.train.images, held.train.labels, strict=True):
    assert records[image.tobytes()] == label
  shards = list((pictures.parent / made["jpeg"]["folder"]).glob("*train*-of-*"))
  assert len(shards) == 4  # 36 images, at most ten in each


def test_a_killed_preparation_goes_on_and_ends_the_same(
  pictures, tmp_path, monkeypatch, made
):
  monkeypatch.setattr(prepared_lib, "SHARD_BYTES", SHARD)
  options = PrepareOptions(f"folder:{pictures}", tmp_path, 12, "png")
  real, calls = prepared_lib._write, []

  def dying(*arguments):
    calls.append(arguments[0].name)
    if len(calls) == 3:
      # As a kill leaves it: a shard without its name, of half a record.
      arguments[0].with_name(f".{calls[-1]}.tmp").write_bytes(b"half")
      raise KeyboardInterrupt
    return real(*arguments)

  monkeypatch.setattr(prepared_lib, "_write", dying)
  with pytest.raises(KeyboardInterrupt):
    prepare(options)
  with pytest.raises(UserError, match="no data set 'our_pictures_12'"):
    load(DataConfig(f"tfds:our_pictures_12@{tmp_path}"), 12)
  result = prepare(options)
  assert len(calls) == len({*calls}) + 1 == 6  # the third twice, others once
  whole = load(DataConfig(made["png"]["data"], stream="always"), 12)
  resumed = load(DataConfig(result["data"], stream="always"), 12)
  equal(resumed, whole)
  assert resumed.fingerprint == whole.fingerprint
  folder = tmp_path / "our_pictures_12"
  assert [p.name for p in folder.iterdir()] == ["1.0.0"]
  assert not [p.name for p in (folder / "1.0.0").iterdir() if ".tmp" in p.name]
  assert prepare(options)["images"] == result["images"] and len(calls) == 6
  with pytest.raises(UserError, match=r"\(it differs in format, quality\)"):
    prepare(PrepareOptions(f"folder:{pictures}", tmp_path, 12, "jpeg", 90))


def test_a_damaged_record_is_named_in_one_sentence(made, tmp_path):
  folder = shutil.copytree(made["png"]["folder"], tmp_path / "a_12" / "1.0.0")
  for file in folder.iterdir():
    file.rename(folder / file.name.replace("our_pictures_12", "a_12"))
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("our_pictures_12", "a_12"))
  source = f"tfds:a_12@{tmp_path}"
  load(DataConfig(source, stream="always"), 12)
  (shard,) = folder.glob("a_12-train*-00001-of-*")
  data = bytearray(shard.read_bytes())
  middle = data.index(b"IDAT") + 100
  data[middle : middle + 300] = bytes(300)
  shard.write_bytes(data)
  with pytest.raises(UserError, match="a_12, train: record 9 cannot be r") as e:
    load(DataConfig(source, stream="never"), 12)
  assert "\n" not in str(e.value)
  (folder / SIDE).write_bytes(b"PK")
  with pytest.raises(UserError, match="jaxnas.npz' is damaged"):
    load(DataConfig(source), 12)


def test_a_side_file_of_other_records_is_refused(tmp_path):
  images = np.arange(20, dtype=np.uint8)[:, None, None, None]
  images = np.broadcast_to(images, (20, 4, 4, 1))
  labels = (np.arange(20) % 2).astype(np.int32)

  def write(name, labels):
    records = Records(Split(images[: len(labels)], labels))
    layout = Layout(name, "raw", 95)
    return write_records(records, tmp_path, layout, {"source": name})

  folder = write("one", labels)
  other = write("two", labels[::-1])
  fewer = write("three", labels[:12])
  shutil.copy(other / SIDE, folder / SIDE)
  with pytest.raises(UserError, match="record 0 has label 0 but 1 in jaxnas"):
    load(DataConfig(f"tfds:one@{tmp_path}"), 4)
  shutil.copy(fewer / SIDE, folder / SIDE)
  with pytest.raises(UserError, match="of 12 images and there are 20 records"):
    load(DataConfig(f"tfds:one@{tmp_path}"), 4)
  # Without it every record is read, with the same result.
  (folder / SIDE).unlink()
  data = load(DataConfig(f"tfds:one@{tmp_path}", stream="always"), 4)
  for part in (data.train, data.validation, data.test):
    np.testing.assert_array_equal(part.images[:][:, 0, 0, 0] % 2, part.labels)


class JaxnasPlain(tfds.core.GeneratorBasedBuilder):
  """Whatever is registered; this one encodes without TensorFlow."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.ClassLabel(names=["ant", "bee"]),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {
      "train": self._generate_examples(20),
      "test": self._generate_examples(4, -1),
    }

  def _generate_examples(self, n, label=None):
    for i in range(n):
      data = io.BytesIO()
      pixels = np.full((9, 7 + i % 3, 3), 10 * i, np.uint8)
      Image.fromarray(pixels).save(data, "PNG")
      yield (
        i,
        {
          "image": data.getvalue(),
          "label": i % 2 if label is None else label,
        },
      )


def test_a_data_set_of_tfds_is_prepared_and_resized(tmp_path):
  source = f"tfds:jaxnas_plain@{tmp_path / 'own'}"
  result = prepare(PrepareOptions(source, tmp_path / "out", 6, "png"))
  # The test images have no labels.
  assert result["images"] == {"train": 20}
  data = load(DataConfig(result["data"], stream="always"), 6)
  equal(data, load(DataConfig(source, stream="never"), 6))
  assert data.train.images.shape == (12, 6, 6, 3)


def test_a_stock_data_set_needs_tensorflow_and_says_so(tmp_path):
  if "tensorflow" in sys.modules:
    pytest.skip("TensorFlow is installed")
  with pytest.raises(UserError, match="the extra 'prepare'") as caught:
    prepare(PrepareOptions(f"tfds:cifar10@{tmp_path}", tmp_path / "out"))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("source", "options", "match"),
  [
    ("npz:x", {}, "unknown source to prepare 'npz'.*folder, tfds"),
    ("folder:nowhere", {}, "no folder 'nowhere'"),
    ("folder:x", {"quality": 0}, "--quality 0; legal: .* 1 to 100"),
    ("folder:x", {"image_size": -1}, "--image-size is -1"),
    ("folder:x", {"out": "gs://bucket/x"}, "legal: a folder on disk"),
  ],
)
def test_wrong_inputs_are_refused(tmp_path, source, options, match):
  with pytest.raises(UserError, match=match):
    prepare(PrepareOptions(source, **{"out": tmp_path, **options}))


def test_a_prepared_set_is_taken_at_its_size_only(made, tmp_path):
  source = made["raw"]["data"]
  with pytest.raises(UserError, match="the fixed size 12 x 12; legal"):
    prepare(PrepareOptions(source, tmp_path, 8))
  images = np.zeros((4, 3, 3, 4), np.uint8)
  records = Records(Split(images, np.arange(4, dtype=np.int32)))
  with pytest.raises(UserError, match="4 channels, and png stores 1 or 3"):
    write_records(records, tmp_path, Layout("x", "png", 95), {"source": ""})


def test_the_command_prints_one_object(pictures, tmp_path):
  done = subprocess.run(
    [
      sys.executable, "-m", "jaxnas", "prepare", f"folder:{pictures}", "--out",
      str(tmp_path), "--image-size", "8", "--json",
    ],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  result = json.loads(done.stdout)
  assert result["data"] == f"tfds:our_pictures_8@{tmp_path}"
  assert len(load(DataConfig(result["data"]), 8).train) == 29
