import gzip
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from jaxnas.config import DataConfig
from jaxnas.data.facts import STD_FLOOR, fingerprint, moments
from jaxnas.data.sources import Dataset, load
from jaxnas.data.split import held_out_count, stratified
from jaxnas.errors import UserError


def numbered(n, size=4, channels=1, start=0):
  """Images that carry their own number, so that they can be followed."""
  images = np.zeros((n, size, size, channels), np.uint8)
  numbers = np.arange(start, start + n)
  images[:, 0, 0, 0], images[:, 0, 1, 0] = numbers // 256, numbers % 256
  return images


def numbers(split):
  images = split.images.astype(int)
  return images[:, 0, 0, 0] * 256 + images[:, 0, 1, 0]


def save(path, **arrays):
  np.savez(path, **arrays)
  return f"npz:{path}"


# Splits.


@given(
  st.lists(st.integers(0, 4), min_size=1, max_size=80),
  st.integers(0, 2**30),
  st.data(),
)
def test_stratified_draws_are_distinct_and_proportional(labels, seed, data):
  labels = np.array(labels, np.int32)
  count = data.draw(st.integers(0, len(labels)))
  drawn = stratified(labels, count, np.random.default_rng(seed))
  assert len(drawn) == len(set(drawn)) == count
  for c in np.unique(labels):
    share = count * (labels == c).sum() / len(labels)
    assert abs((labels[drawn] == c).sum() - share) < 1


def test_stratified_order_is_no_order_by_class():
  labels = np.repeat(np.arange(4, dtype=np.int32), 50)
  drawn = stratified(labels, 100, np.random.default_rng(0))
  assert set(labels[drawn][:12]) == {0, 1, 2, 3}


@settings(max_examples=40, deadline=None)
@given(
  n=st.integers(4, 90),
  n_classes=st.integers(2, 4),
  validation=st.one_of(st.floats(0.05, 0.95), st.integers(1, 60)),
  test=st.one_of(st.floats(0.05, 0.95), st.integers(1, 60)),
  limit=st.integers(0, 40),
  seed=st.integers(0, 1000),
)
def test_splits_are_disjoint_and_cover(
  tmp_path_factory, n, n_classes, validation, test, limit, seed
):
  path = tmp_path_factory.getbasetemp() / "property.npz"
  labels = np.arange(n) % n_classes
  source = save(path, images=numbered(n), labels=labels)
  config = DataConfig(source, validation, test, seed, limit)
  expected = [a * n if a < 1 else a for a in (validation, test)]
  expected = [round(e) for e in expected]
  if min(expected) < 1 or sum(expected) >= n:
    with pytest.raises(UserError, match="legal"):
      load(config, 4)
    return
  data = load(config, 4)
  n_validation, n_test, n_train = map(
    len, (data.validation, data.test, data.train)
  )
  rest = n - sum(expected)
  assert [n_validation, n_test] == expected
  assert n_train == (min(limit, rest) if limit else rest)
  parts = (data.train, data.validation, data.test)
  seen = np.concatenate([numbers(p) for p in parts])
  assert len(set(seen)) == len(seen)
  if not limit:
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))
  for part in parts:
    np.testing.assert_array_equal(part.labels, numbers(part) % n_classes)
    assert part.images.dtype == np.uint8 and part.labels.dtype == np.int32
  assert data.n_classes == n_classes


def test_seeds_decide_the_split_and_nothing_else_does(tmp_path):
  source = save(
    tmp_path / "a.npz", images=numbered(60), labels=np.arange(60) % 3
  )
  config = DataConfig(source, split_seed=1)
  first, again = load(config, 4), load(config, 4)
  assert first.fingerprint == again.fingerprint
  assert load(DataConfig(source, split_seed=2), 4).fingerprint != (
    first.fingerprint
  )
  # The test split stays put when validation or limit change.
  for other in (
    DataConfig(source, 0.4, split_seed=1),
    DataConfig(source, split_seed=1, limit=9),
  ):
    np.testing.assert_array_equal(
      numbers(load(other, 4).test), numbers(first.test)
    )


def test_limit_keeps_a_stratified_part_of_train(tmp_path):
  labels = np.repeat([0, 1, 2], [60, 30, 10])
  source = save(tmp_path / "a.npz", images=numbered(100), labels=labels)
  whole = load(DataConfig(source), 4).train
  part = load(DataConfig(source, limit=20), 4).train
  assert set(numbers(part)) <= set(numbers(whole))
  np.testing.assert_array_equal(np.bincount(part.labels), [12, 6, 2])


def test_fingerprint_sees_every_byte(tmp_path):
  images, labels = numbered(40), np.arange(40) % 2
  source = save(tmp_path / "a.npz", images=images, labels=labels)
  data = load(DataConfig(source), 4)
  parts = (data.train, data.validation, data.test)
  assert fingerprint(parts) == data.fingerprint
  assert len(data.fingerprint) == 16
  for i in range(3):
    for name in ("images", "labels"):
      array = getattr(parts[i], name)
      array.flat[-1] += 1
      assert fingerprint(parts) != data.fingerprint
      array.flat[-1] -= 1
  assert fingerprint(parts) == data.fingerprint


def test_moments_equal_numpy_and_are_floored():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1500, 6, 6, 3), np.uint8)
  images[..., 2] = 7
  mean, std = moments(images)
  assert mean.dtype == std.dtype == np.float32
  scaled = images / 255
  np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(std[:2], scaled.std((0, 1, 2))[:2], rtol=1e-6)
  assert std[2] == np.float32(STD_FLOOR)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"validation": 0.0}, "data.validation is 0, which holds out 0 of 30"),
    ({"test": 0.001}, "data.test is 0.001, which holds out 0 of 30"),
    ({"test": -1}, "data.test is -1"),
    ({"test": float("nan")}, "data.test is nan"),
    ({"test": float("inf")}, "data.test is inf"),
    ({"test": 2.5}, "data.test is 2.5; legal: .* whole number"),
    ({"validation": 30}, "holds out 30 of 30"),
    ({"validation": 0.5, "test": 0.5}, "hold out all 30 training images"),
    ({"split_seed": -1}, "data.split_seed is -1"),
    ({"limit": -3}, "data.limit is -3"),
    ({"source": "npx:a"}, "unknown data source 'npx'. Did you mean 'npz'"),
    ({"source": ""}, "unknown data source ''.* digits, folder, idx, npz, tfds"),
  ],
)
def test_impossible_configs_are_refused_with_the_values(
  tmp_path, fields, match
):
  source = save(
    tmp_path / "a.npz", images=numbered(30), labels=np.arange(30) % 2
  )
  with pytest.raises(UserError, match=match):
    load(DataConfig(**{"source": source, **fields}), 4)


def test_a_share_and_a_count_meet_at_one():
  assert held_out_count(1, 10, "f") == 1
  assert held_out_count(0.999, 10_000, "f") == 9990


# Digits.


def test_digits_are_exact():
  data = load(DataConfig("digits"), 8)
  assert isinstance(data, Dataset)
  assert (data.image_size, data.image_channels, data.n_classes) == (8, 1, 10)
  assert data.class_names == tuple("0123456789")
  parts = (data.train, data.validation, data.test)
  assert [len(p) for p in parts] == [1079, 359, 359]
  images = np.concatenate([p.images for p in parts])
  # The grey levels 0..16 can be read back, and every image is there once.
  levels = np.rint(images[..., 0] / 255 * 16)
  want = load_digits().images
  assert sorted(map(tuple, levels.reshape(-1, 64))) == sorted(
    map(tuple, want.reshape(-1, 64))
  )
  assert len(np.unique(images)) == 17
  assert images.min() == 0 and images.max() == 255


def test_digits_are_enlarged_to_16_in_the_same_split():
  small, large = (load(DataConfig("digits"), size) for size in (8, 16))
  assert large.image_size == 16
  np.testing.assert_array_equal(small.test.labels, large.test.labels)
  want = jax.image.resize(
    small.test.images.astype(np.float32), large.test.images.shape, "linear"
  )
  np.testing.assert_allclose(large.test.images, want, atol=1)


@pytest.mark.parametrize(
  ("source", "size", "match"),
  [
    ("digits", 32, "size 32; legal: 8, 16"),
    ("digits:x", 8, "takes no argument, got 'x'"),
  ],
)
def test_digits_refuse_what_they_cannot_do(source, size, match):
  with pytest.raises(UserError, match=match):
    load(DataConfig(source), size)


# npz.


def test_npz_with_its_own_splits_keeps_them(tmp_path):
  source = save(
    tmp_path / "a.npz",
    x_train=numbered(20),
    y_train=np.arange(20) % 2,
    x_val=numbered(8, start=100),
    y_val=np.arange(8) % 2,
    x_test=numbered(6, start=200),
    y_test=np.arange(6)[:, None] % 2,
  )
  data = load(DataConfig(source, validation=0.0, test=0.0), 4)
  assert sorted(numbers(data.train)) == list(range(20))
  assert sorted(numbers(data.validation)) == list(range(100, 108))
  assert sorted(numbers(data.test)) == list(range(200, 206))
  for part in (data.train, data.validation, data.test):
    np.testing.assert_array_equal(part.labels, numbers(part) % 2)
  # Sorted sources are stirred, so that a prefix is a fair sample.
  assert list(numbers(data.train)) != list(range(20))


def test_npz_with_its_own_test_draws_validation_from_train(tmp_path):
  source = save(
    tmp_path / "a.npz",
    x_train=numbered(20),
    y_train=np.arange(20) % 2,
    x_test=numbered(6, start=200),
    y_test=np.arange(6) % 2,
  )
  data = load(DataConfig(source, validation=5), 4)
  assert sorted(numbers(data.test)) == list(range(200, 206))
  both = np.concatenate([numbers(data.train), numbers(data.validation)])
  assert len(data.validation) == 5 and sorted(both) == list(range(20))


def test_npz_takes_floats_and_grey_without_channel_axis(tmp_path):
  images = numbered(30)[..., 0]
  labels = np.arange(30) % 3
  whole = load(
    DataConfig(save(tmp_path / "a.npz", images=images, labels=labels)), 4
  )
  scaled = load(
    DataConfig(
      save(tmp_path / "b.npz", images=images / np.float32(255), labels=labels)
    ),
    4,
  )
  assert whole.fingerprint == scaled.fingerprint
  assert whole.train.images.shape == (18, 4, 4, 1)


OK = {"images": numbered(30), "labels": np.arange(30) % 2}


@pytest.mark.parametrize(
  ("arrays", "match"),
  [
    ({"images": OK["images"]}, "'images' without its partner"),
    ({"x_train": OK["images"]}, "'x_train' without its partner"),
    ({"a": OK["images"]}, r"has the keys \['a'\]; legal keys: images and"),
    ({**OK, "x_val": OK["images"]}, None),
    (
      {**OK, "x_train": OK["images"], "y_train": OK["labels"]},
      "has the keys",
    ),
    ({**OK, "labels": np.zeros(29, int)}, r"shape \[29\] for 30 images"),
    ({**OK, "labels": np.zeros(30)}, "labels have type float64"),
    ({**OK, "labels": np.zeros(30, int)}, "has 1 class; legal: at least 2"),
    (
      {**OK, "labels": np.arange(30) % 2 * 2},
      r"range over 0..2; legal: 0..1 for 2 distinct labels, without gaps",
    ),
    ({**OK, "labels": np.arange(30) % 2 - 1}, "range over -1..0"),
    ({**OK, "images": OK["images"].astype(int)}, "images have type int64"),
    ({**OK, "images": OK["images"] * 2.0}, r"range over 0..58; legal: 0..1"),
    ({**OK, "images": np.full((30, 4, 4), np.nan)}, r"nan..nan; legal"),
    ({**OK, "images": OK["images"][:, 0, 0]}, r"images have shape \[30, 1\]"),
    ({**OK, "images": OK["images"][:0]}, r"shape \[0, 4, 4, 1\].*n > 0"),
    (
      {**OK, "images": np.zeros((30, 3, 4, 4), np.uint8)},
      "height 3, width 4, 4 channels .* square",
    ),
    (
      {**OK, "images": numbered(30, size=7)},
      "has 7 x 7 images but the space expects 4 x 4; use"
      " --set space.image_size=7",
    ),
    (
      {
        "x_train": OK["images"],
        "y_train": OK["labels"],
        "x_test": numbered(30, channels=3),
        "y_test": OK["labels"],
      },
      r"test images have shape \[4, 4, 3\] but training images \[4, 4, 1\]",
    ),
    ({**OK, "labels": np.array([None] * 30)}, "cannot be read .* pickle"),
  ],
)
def test_wrong_arrays_are_described(tmp_path, arrays, match):
  source = save(tmp_path / "a.npz", **arrays)
  if match is None:
    # Arrays beside the legal naming are none of our business.
    load(DataConfig(source), 4)
    return
  with pytest.raises(UserError, match=match):
    load(DataConfig(source), 4)


def test_broken_and_missing_npz_files_are_named(tmp_path):
  with pytest.raises(UserError, match="write npz:PATH"):
    load(DataConfig("npz"), 4)
  with pytest.raises(UserError, match=r"no file '.*none.npz'"):
    load(DataConfig(f"npz:{tmp_path / 'none.npz'}"), 4)
  np.save(tmp_path / "plain.npy", np.zeros(3))
  path = tmp_path / "whole.npz"
  np.savez_compressed(path, **OK)
  (tmp_path / "half.npz").write_bytes(path.read_bytes()[:300])
  (tmp_path / "text.npz").write_text("not an archive")
  (tmp_path / "empty.npz").write_bytes(b"")
  damaged = bytearray(path.read_bytes())
  damaged[60:90] = bytes(30)
  (tmp_path / "damaged.npz").write_bytes(damaged)
  for name in ("plain.npy", "half.npz", "text.npz", "empty.npz", "damaged.npz"):
    with pytest.raises(UserError, match=f"{name}' cannot be read"):
      load(DataConfig(f"npz:{tmp_path / name}"), 4)


# idx.


def idx(array):
  head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
  return head + array.astype(np.uint8).tobytes()


def write_idx(folder, prefix, n, start=0, compress=False):
  images = numbered(n, start=start)[..., 0]
  for name, array in (
    ("images-idx3", images),
    ("labels-idx1", np.arange(n) % 3),
  ):
    data = idx(array)
    file = folder / f"{prefix}-{name}-ubyte{'.gz' if compress else ''}"
    file.write_bytes(gzip.compress(data) if compress else data)


@pytest.mark.parametrize("compress", [False, True])
def test_idx_reads_the_four_files(tmp_path, compress):
  write_idx(tmp_path, "train", 30, compress=compress)
  write_idx(tmp_path, "t10k", 9, start=300, compress=compress)
  data = load(DataConfig(f"idx:{tmp_path}", validation=6), 4)
  assert sorted(numbers(data.test)) == list(range(300, 309))
  both = np.concatenate([numbers(data.train), numbers(data.validation)])
  assert sorted(both) == list(range(30))
  np.testing.assert_array_equal(data.train.labels, numbers(data.train) % 3)
  assert data.class_names == ("0", "1", "2")


def test_idx_without_test_files_draws_a_test_split(tmp_path):
  write_idx(tmp_path, "train", 30)
  data = load(DataConfig(f"idx:{tmp_path}"), 4)
  assert [len(data.train), len(data.test)] == [18, 6]


def test_idx_faults_are_named(tmp_path, monkeypatch):
  source = DataConfig(f"idx:{tmp_path}")
  with pytest.raises(UserError, match="no file train-images-idx3-ubyte or"):
    load(source, 4)
  write_idx(tmp_path, "train", 30)
  labels = tmp_path / "train-labels-idx1-ubyte"
  whole = labels.read_bytes()
  for data, match in (
    (whole[:-1], r"announces shape \[30\] but holds 29 bytes"),
    (whole + b"x", r"announces shape \[30\] but holds 31 bytes"),
    (b"", "not an idx1 file of unsigned bytes .*nothing"),
    (whole[:6], "not an idx1 file"),
    ((tmp_path / "train-images-idx3-ubyte").read_bytes(), "00 00 08 03"),
  ):
    labels.write_bytes(data)
    with pytest.raises(UserError, match=match):
      load(source, 4)
  labels.unlink()
  zipped = gzip.compress(whole)
  for data in (zipped[:-9], b"not gzip", zipped[:20] + b"xxxx" + zipped[24:]):
    labels.with_name(labels.name + ".gz").write_bytes(data)
    with pytest.raises(UserError, match="train-labels.*gz' cannot be read"):
      load(source, 4)
  labels.write_bytes(whole)
  (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(whole)
  with pytest.raises(UserError, match="no file t10k-images-idx3-ubyte"):
    load(source, 4)
  with pytest.raises(UserError, match="no folder '.*gone'"):
    load(DataConfig(f"idx:{tmp_path / 'gone'}"), 4)
  monkeypatch.setattr("jaxnas.data.arrays.FASHION_MNIST", str(tmp_path / "no"))
  with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
    load(DataConfig("idx"), 4)


# Imports.


def test_importing_the_package_imports_neither_tfds_nor_tensorflow():
  code = (
    "import sys, jaxnas.data, jaxnas.data.augment, jaxnas.data.tfds_source;"
    "heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn'};"
    "print(sorted(heavy & set(sys.modules)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"
