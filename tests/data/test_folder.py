import numpy as np
import pytest
from PIL import Image

from jaxnas.config import DataConfig
from jaxnas.data.folder import fit_image, read_folder
from jaxnas.data.sources import load
from jaxnas.errors import UserError


def write(file, array):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(array, np.uint8)).save(file)


def flat(value, size=6, colour=False):
  return np.full((size, size, 3) if colour else (size, size), value, np.uint8)


@pytest.fixture
def grey(tmp_path):
  for c, name in enumerate(("bird", "cat")):
    for i in range(5):
      write(tmp_path / name / f"{i}.png", flat(100 * c + i))
  return tmp_path


def values(split):
  return sorted(split.images[:, 0, 0, 0].tolist())


def test_class_folders_become_sorted_labels(grey):
  records = read_folder(str(grey), 6)
  assert records.class_names == ("bird", "cat")
  assert records.validation is None and records.test is None
  assert records.train.images.shape == (10, 6, 6, 1)
  np.testing.assert_array_equal(records.train.labels, [0] * 5 + [1] * 5)
  assert values(records.train) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]
  data = load(DataConfig(f"folder:{grey}"), 6)
  assert [len(data.train), len(data.validation), len(data.test)] == [6, 2, 2]
  assert data.class_names == ("bird", "cat")


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_split_folders_are_kept(tmp_path, validation):
  for s, split in enumerate(("train", validation, "test")):
    for c, name in enumerate(("a", "b")):
      for i in range(3):
        write(tmp_path / split / name / f"{i}.png", flat(80 * s + 10 * c + i))
  data = load(DataConfig(f"folder:{tmp_path}"), 6)
  base = [0, 1, 2, 10, 11, 12]
  assert values(data.train) == base
  assert values(data.validation) == [80 + v for v in base]
  assert values(data.test) == [160 + v for v in base]
  for part in (data.train, data.validation, data.test):
    np.testing.assert_array_equal(
      part.labels, part.images[:, 0, 0, 0] % 80 // 10
    )


def test_a_class_may_be_called_train(tmp_path):
  for name in ("bus", "train"):
    write(tmp_path / name / "0.png", flat(1))
  assert read_folder(str(tmp_path), 6).class_names == ("bus", "train")


def test_formats_depths_and_hidden_files(grey):
  exact = np.arange(36).reshape(6, 6)
  for suffix in (".bmp", ".PGM", ".tif"):
    write(grey / "cat" / "deep" / f"x{suffix}", exact)
  (grey / ".git").mkdir()
  (grey / "cat" / ".DS_Store").write_text("x")
  (grey / "cat" / "._0.png").write_text("x")
  (grey / "cat" / ".cache").mkdir()
  (grey / "cat" / ".cache" / "0.png").write_text("x")
  (grey / "cat" / "notes.txt").write_text("x")
  (grey / "README.md").write_text("x")
  images = read_folder(str(grey), 6).train.images
  assert len(images) == 13
  np.testing.assert_array_equal(images[-3:, ..., 0], [exact] * 3)


def test_one_colour_image_makes_all_rgb(grey):
  write(grey / "cat" / "9.png", np.full((6, 6, 3), [9, 8, 7]))
  images = read_folder(str(grey), 6).train.images
  assert images.shape == (11, 6, 6, 3)
  np.testing.assert_array_equal(images[-1, 2, 2], [9, 8, 7])
  np.testing.assert_array_equal(images[6, 3, 3], [101, 101, 101])


def test_modes_keep_their_values(tmp_path):
  deep = np.arange(36).reshape(6, 6) * 257
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
  Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "a" / "deep.png")
  Image.fromarray(flat(255)).convert("1").save(tmp_path / "a" / "mono.png")
  Image.fromarray(flat(7)).convert("LA").save(tmp_path / "b" / "alpha.png")
  images = read_folder(str(tmp_path), 6).train.images
  assert images.shape == (3, 6, 6, 1)
  np.testing.assert_array_equal(images[0, ..., 0], deep // 257)
  assert (images[1] == 255).all() and (images[2] == 7).all()
  colour = Image.fromarray(np.full((6, 6, 3), [200, 100, 0], np.uint8))
  colour.convert("RGBA").save(tmp_path / "b" / "rgba.png")
  colour.convert("P").save(tmp_path / "b" / "palette.png")
  images = read_folder(str(tmp_path), 6).train.images
  np.testing.assert_array_equal(images[-1, 0, 0], [200, 100, 0])


def test_exif_orientation_is_applied(tmp_path):
  array = np.zeros((6, 6, 3), np.uint8)
  array[:3] = 255
  exif = Image.Exif()
  exif[0x0112] = 3
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    Image.fromarray(array).save(tmp_path / name / "0.png", exif=exif)
  images = read_folder(str(tmp_path), 6).train.images
  np.testing.assert_array_equal(images[0], array[::-1])


def test_resize_takes_the_shorter_side_and_the_centre():
  # Columns 0..15 of a wide image; the middle square is columns 4..11.
  wide = np.tile(np.arange(16, dtype=np.uint8) * 10, (8, 1))
  np.testing.assert_array_equal(
    fit_image(Image.fromarray(wide), 8), wide[:, 4:12]
  )
  tall = fit_image(Image.fromarray(np.ascontiguousarray(wide.T)), 4)
  # Antialiased halving of a linear ramp: the mean of each pair, inside.
  np.testing.assert_allclose(tall[1:3, 0], [65, 85], atol=1)
  assert (tall == tall[:, :1]).all()
  assert fit_image(Image.fromarray(wide), 20).shape == (20, 20)
  same = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
  np.testing.assert_array_equal(fit_image(Image.fromarray(same), 5), same)


@pytest.mark.parametrize("damage", ["cut", "noise", "text", "empty", "header"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_a_broken_image_is_named(grey, damage, suffix):
  file = grey / "cat" / f"broken{suffix}"
  noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
  write(file, noise)
  whole = file.read_bytes()
  file.write_bytes(
    {
      "cut": whole[: len(whole) // 2],
      "noise": noise.tobytes(),
      "text": b"this is no image",
      "empty": b"",
      "header": whole[:20],
    }[damage]
  )
  with pytest.raises(UserError, match=f"cat/broken{suffix}' is not a readable"):
    read_folder(str(grey), 6)


def test_wrong_layouts_are_named(tmp_path, grey):
  with pytest.raises(UserError, match="write folder:PATH"):
    read_folder("", 6)
  with pytest.raises(UserError, match="no folder '.*gone'"):
    read_folder(str(tmp_path / "gone"), 6)
  with pytest.raises(UserError, match="has 0 class folders; legal: at least 2"):
    read_folder(str(grey / "cat"), 6)
  (grey / "dog").mkdir()
  with pytest.raises(UserError, match="class 'dog' in .* has no image"):
    read_folder(str(grey), 6)


def test_one_class_is_an_error(tmp_path):
  write(tmp_path / "only" / "0.png", flat(1))
  with pytest.raises(UserError, match=r"1 class folders \(only\)"):
    load(DataConfig(f"folder:{tmp_path}"), 6)


@pytest.mark.parametrize(
  ("extra", "match"),
  [
    ("test/zebra/0.png", "has class 'zebra'; .* are a, b"),
    ("vaild/a/0.png", "has 'vaild' beside 'train'; legal: val, validation"),
    ("test/0.png", "test' has no class folder"),
  ],
)
def test_wrong_split_folders_are_named(tmp_path, extra, match):
  for name in ("a", "b"):
    write(tmp_path / "train" / name / "0.png", flat(1))
  write(tmp_path / extra, flat(1))
  with pytest.raises(UserError, match=match):
    read_folder(str(tmp_path), 6)


def test_two_validation_folders_are_an_error(tmp_path):
  for split in ("train", "val", "valid"):
    for name in ("a", "b"):
      write(tmp_path / split / name / "0.png", flat(1))
  with pytest.raises(UserError, match="two validation folders, 'val' and"):
    read_folder(str(tmp_path), 6)
