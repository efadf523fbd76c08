import importlib.util
import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxnas.config import DataConfig
from jaxnas.data import Split
from jaxnas.data.prepared import Layout, write_records
from jaxnas.data.records import Records
from jaxnas.data.side import SIDE
from jaxnas.data.sources import load
from jaxnas.errors import UserError


def tile(i, size=6, width=None):
  return np.full((size, width or size, 3), i, np.uint8)


def png(array):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG")
  return buffer.getvalue()


class JaxnasTile(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")
  # Each variant is one way in which a data set may store its images.
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=name)
    for name in ("tensor", "png", "photo", "nolabel", "notrain", "own")
  ]

  def _info(self):
    kind = self.builder_config.name
    image = tfds.features.Image(shape=(6, 6, 3))
    if kind == "tensor":
      image = tfds.features.Tensor(shape=(6, 6, 3), dtype=np.uint8)
    if kind == "photo":
      image = tfds.features.Image(shape=(None, None, 3))
    features = {"image": image}
    if kind != "nolabel":
      features["label"] = tfds.features.ClassLabel(names=["ant", "bee", "cow"])
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    kind = self.builder_config.name
    splits = {"train": self._generate_examples(0, 30)}
    if kind == "notrain":
      return {"test": splits["train"]}
    if kind == "own":
      splits["validation"] = self._generate_examples(100, 6)
    if kind in ("own", "tensor"):
      splits["test"] = self._generate_examples(200, 9)
    return splits

  def _generate_examples(self, start, n):
    kind = self.builder_config.name
    for i in range(start, start + n):
      wide = 6 + i % 5 if kind == "photo" else None
      image = tile(i, width=wide)
      example = {"image": image if kind == "tensor" else png(image)}
      if kind != "nolabel":
        example["label"] = i % 3
      yield i, example


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  for config in JaxnasTile.BUILDER_CONFIGS:
    builder = JaxnasTile(
      config=config.name, data_dir=folder, file_format="array_record"
    )
    builder.download_and_prepare()
  return folder


def values(split):
  return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", ["tensor", "png", "photo", "own"])
def test_prepared_records_are_read(data_dir, kind):
  source = f"tfds:jaxnas_tile/{kind}@{data_dir}"
  data = load(DataConfig(source, validation=6, test=9), 6)
  assert data.class_names == ("ant", "bee", "cow")
  assert (data.image_size, data.image_channels) == (6, 3)
  parts = (data.train, data.validation, data.test)
  for part in parts:
    np.testing.assert_array_equal(part.labels, np.array(values(part)) % 3)
    assert (part.images == part.images[:, :1, :1, :1]).all()
  assert sum(len(p) for p in parts) == {"tensor": 39, "own": 45}.get(kind, 30)
  if kind in ("tensor", "own"):
    assert sorted(values(data.test)) == list(range(200, 209))
  if kind == "own":
    assert sorted(values(data.validation)) == list(range(100, 106))


def test_photographs_are_resized_and_fixed_sizes_are_not(data_dir):
  photo = load(DataConfig(f"tfds:jaxnas_tile/photo@{data_dir}"), 4)
  assert photo.image_size == 4
  with pytest.raises(UserError, match="has 6 x 6 images but .* expects 4 x 4"):
    load(DataConfig(f"tfds:jaxnas_tile/png@{data_dir}"), 4)


def test_a_stock_data_set_is_read_by_its_own_name(tmp_path):
  # Its features are those of the installed code; TensorFlow encodes, so the
  # records are written by hand.
  images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
  builder = tfds.builder("cifar10", data_dir=tmp_path)
  folder = tmp_path / "cifar10" / str(builder.version)
  records = Records(
    Split(images, (np.arange(20) % 10).astype(np.int32)),
    class_names=("airplane", *(f"other{i}" for i in range(9))),
  )
  layout = Layout("cifar10", "png", 95)
  written = write_records(records, tmp_path / "own", layout, {"source": ""})
  folder.parent.mkdir()
  written.rename(folder)
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace('"1.0.0"', f'"{builder.version}"'))
  (folder / SIDE).unlink()
  data = load(DataConfig(f"tfds:cifar10@{tmp_path}"), 32)
  assert data.n_classes == 10 and data.class_names[0] == "airplane"
  seen = np.concatenate([data.train.images, data.validation.images])
  rows = {image.tobytes() for image in images}
  assert {image.tobytes() for image in seen} < rows


@pytest.mark.parametrize(
  ("kind", "match"),
  [
    ("nolabel", "has no feature 'label'; its features are image"),
    ("notrain", "has no split 'train'; its splits are test"),
    ("gone", "no 'jaxnas_tile/gone' in"),
  ],
)
def test_unsuitable_data_sets_are_described(data_dir, kind, match):
  with pytest.raises(UserError, match=match):
    load(DataConfig(f"tfds:jaxnas_tile/{kind}@{data_dir}"), 6)


def test_unprepared_data_says_how_to_prepare_it(tmp_path):
  with pytest.raises(UserError, match="is not prepared at .*mnist") as caught:
    load(DataConfig(f"tfds:mnist@{tmp_path}"), 28)
  assert "file_format='array_record'" in str(caught.value)
  assert "give tfds:mnist@DIR" in str(caught.value)
  assert "\n" not in str(caught.value)


def test_data_prepared_for_tensorflow_says_so(data_dir, tmp_path):
  # What TensorFlow would have left: the same records under another format.
  config = "jaxnas_tile/tensor"
  source = data_dir / config / "1.0.0"
  target = tmp_path / config / "1.0.0"
  target.mkdir(parents=True)
  for file in source.iterdir():
    name = file.name.replace("array_record", "tfrecord")
    text = file.read_bytes()
    if file.suffix == ".json":
      text = text.replace(b"array_record", b"tfrecord")
    (target / name).write_bytes(text)
  with pytest.raises(
    UserError, match="is prepared at .* as tfrecord"
  ) as caught:
    load(DataConfig(f"tfds:{config}@{tmp_path}"), 6)
  assert "only TensorFlow reads" in str(caught.value)
  assert "file_format='array_record'" in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("name", "match"),
  [
    ("", "write tfds:NAME"),
    ("cifer10", "no data set 'cifer10'.*Did you mean 'cifar10'"),
    ("mnist:9.9.9", "no 'mnist:9.9.9' .*only: 3.0.1"),
    ("not a name", "no data set 'not a name'"),
  ],
)
def test_unknown_names_are_refused(name, match):
  with pytest.raises(UserError, match=match) as caught:
    load(DataConfig(f"tfds:{name}"), 28)
  assert "\n" not in str(caught.value)


def test_cloud_storage_without_its_package_names_the_extra():
  if importlib.util.find_spec("gcsfs"):
    pytest.skip("gcsfs is installed")
  with pytest.raises(UserError, match="gs:// needs the extra 'gcs'"):
    load(DataConfig("tfds:mnist@gs://nowhere/none"), 28)


def test_prepared_data_needs_neither_its_code_nor_tensorflow(data_dir):
  code = f"""
    import sys
    from jaxnas.config import DataConfig
    from jaxnas.data.sources import load
    data = load(DataConfig("tfds:jaxnas_tile/png@{data_dir}"), 6)
    print(len(data.train), "tensorflow" in sys.modules)
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert done.stdout.split() == ["18", "False"]
