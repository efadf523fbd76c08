import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.config import AugmentConfig
from jaxnas.data import augment as augment_lib
from jaxnas.data.augment import augment, normalize
from jaxnas.errors import UserError

ALL = AugmentConfig(flip=True, shift=2, crop_scale=0.3, cutout=3)


def images(n=6, size=9, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, size, size, channels)).astype(np.float32)


def test_the_default_changes_nothing_and_costs_nothing():
  x = jnp.asarray(images())
  assert augment(jax.random.key(0), x, AugmentConfig()) is x
  jaxpr = jax.make_jaxpr(lambda k, x: augment(k, x, AugmentConfig()))(
    jax.random.key(0), x
  )
  assert not jaxpr.eqns


def test_normalize_equals_numpy():
  x = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 2), np.uint8)
  mean, std = np.float32([0.2, 0.5]), np.float32([0.1, 0.3])
  got = normalize(x, mean, std)
  assert got.dtype == jnp.float32
  want = (x.astype(np.float64) / 255 - mean) / std
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_flip_leaves_or_mirrors_and_twice_is_identity():
  x = images(n=200, size=4)
  key = jax.random.key(1)
  once = np.asarray(augment(key, x, AugmentConfig(flip=True)))
  kept = np.array([np.array_equal(a, b) for a, b in zip(once, x, strict=True)])
  np.testing.assert_array_equal(once[~kept], x[~kept][:, :, ::-1])
  # 200 fair coins: outside 70..130 has a chance below 1 in 40,000.
  assert 70 < kept.sum() < 130
  twice = augment(key, once, AugmentConfig(flip=True))
  np.testing.assert_array_equal(twice, x)


@pytest.mark.parametrize("offset", [(0, 0), (2, -1), (-3, 3), (1, 0), (0, -3)])
def test_translate_moves_whole_pixels_and_fills_with_zeros(offset):
  x = images(n=1, size=5)[0]
  want = np.zeros_like(x)
  for y in range(5):
    for z in range(5):
      a, b = y - offset[0], z - offset[1]
      if 0 <= a < 5 and 0 <= b < 5:
        want[y, z] = x[a, b]
  got = augment_lib.translate(jnp.asarray(x), jnp.array(offset), 3)
  np.testing.assert_array_equal(got, want)


def test_shift_draws_every_offset_up_to_the_limit_and_no_other():
  x = images(n=300, size=5)
  got = np.asarray(augment(jax.random.key(2), x, AugmentConfig(shift=1)))
  offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
  move = jax.vmap(functools.partial(augment_lib.translate, limit=1), (0, None))
  options = np.stack([move(x, jnp.array(o)) for o in offsets])
  hits = (options == got).all(axis=(2, 3, 4))
  np.testing.assert_array_equal(hits.sum(0), 1)
  assert hits.any(axis=1).all()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("centre", [(0, 0), (2, 3), (5, 5), (0, 4)])
def test_cutout_zeroes_the_clipped_square(side, centre):
  x = images(n=1, size=6)[0] + 10
  want = x.copy()
  top, left = (max(0, c - side // 2) for c in centre)
  bottom, right = (c - side // 2 + side for c in centre)
  want[top:bottom, left:right] = 0
  got = augment_lib.cut_square(jnp.asarray(x), jnp.array(centre), side)
  np.testing.assert_array_equal(got, want)


def test_cutout_hits_every_pixel_in_the_long_run_and_keeps_the_rest():
  x = images(n=400, size=4) + 10
  got = np.asarray(augment(jax.random.key(3), x, AugmentConfig(cutout=1)))
  cut = got == 0
  np.testing.assert_array_equal(cut.all(-1).sum((1, 2)), 1)
  np.testing.assert_array_equal(got[~cut], x[~cut])
  assert cut.any(0).all()


def test_crop_of_the_whole_image_is_the_image():
  x = images(n=1)[0]
  got = augment_lib.crop_resize(jnp.asarray(x), jnp.array([0.0, 0, 9, 9]))
  np.testing.assert_allclose(got, x, atol=1e-6)


def test_crop_interpolates_like_numpy():
  x = images(n=1, size=8, channels=1)[0]
  top, left, height, width = 1.3, 0.6, 5.1, 6.7
  # Output pixel i is centred on box position (i + 1/2) * side / n.
  rows = top + (np.arange(8) + 0.5) * height / 8 - 0.5
  columns = left + (np.arange(8) + 0.5) * width / 8 - 0.5
  middle = np.stack([np.interp(rows, range(8), c) for c in x[..., 0].T], 1)
  want = np.stack([np.interp(columns, range(8), r) for r in middle])
  box = jnp.array([top, left, height, width])
  got = augment_lib.crop_resize(jnp.asarray(x), box)
  np.testing.assert_allclose(got[..., 0], want, atol=1e-5)


def test_random_boxes_stay_inside_and_keep_area_and_aspect():
  keys = jax.random.split(jax.random.key(4), 2000)
  draw = jax.vmap(lambda k: augment_lib.random_box(k, 32, 32, 0.25))
  top, left, height, width = np.asarray(draw(keys)).T
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + height <= 32 + 1e-4).all()
  assert (left + width <= 32 + 1e-4).all()
  area, aspect = height * width / 32**2, width / height
  # Clipping to the image can only shrink a box, at most by 4/3 in one side.
  assert area.min() >= 0.25 * 0.99 and area.max() <= 1
  assert aspect.min() >= 0.749 and aspect.max() <= 1.334
  assert area.min() < 0.28 and area.max() > 0.95
  inner = (height < 32) & (width < 32) & (area < 0.7)
  assert abs(np.log(aspect[inner]).mean()) < 0.03
  assert abs(area[inner].mean() - (0.25 + 0.7) / 2) < 0.02


def test_crop_mixes_pixels_of_the_same_image_only():
  x = images(n=20)
  got = np.asarray(augment(jax.random.key(5), x, AugmentConfig(crop_scale=0.2)))
  low, high = x.min((1, 2)), x.max((1, 2))
  assert (got >= low[:, None, None] - 1e-5).all()
  assert (got <= high[:, None, None] + 1e-5).all()
  assert not np.allclose(got, x)


def test_jit_key_and_position_decide_the_result():
  x = images()
  key = jax.random.key(6)
  got = augment(key, x, ALL)
  assert got.shape == x.shape and got.dtype == jnp.float32
  jitted = jax.jit(augment, static_argnums=2)
  # Compiled as a whole, the sampling positions of the crop round differently.
  np.testing.assert_allclose(jitted(key, x, ALL), got, atol=1e-5)
  moves = AugmentConfig(flip=True, shift=2, cutout=3)
  np.testing.assert_array_equal(jitted(key, x, moves), augment(key, x, moves))
  np.testing.assert_array_equal(augment(key, x, ALL), got)
  assert not np.array_equal(augment(jax.random.key(7), x, ALL), got)
  # Another image in one place changes the result in that place alone.
  other = x.copy()
  other[2] += 1
  changed = np.asarray(augment(key, other, ALL))
  same = [i for i in range(len(x)) if i != 2]
  np.testing.assert_array_equal(changed[same], np.asarray(got)[same])
  # The same image in two places goes through two different draws.
  pair = np.asarray(augment(key, np.stack([x[0], x[0]]), ALL))
  assert not np.array_equal(pair[0], pair[1])


def test_switching_one_transform_on_leaves_the_draws_of_the_others():
  x = images(n=40, size=6)
  key = jax.random.key(8)
  flipped = augment(key, x, AugmentConfig(flip=True))
  both = np.asarray(augment(key, x, AugmentConfig(flip=True, cutout=1)))
  kept = both != 0
  np.testing.assert_array_equal(both[kept], np.asarray(flipped)[kept])


@pytest.mark.parametrize(
  ("config", "name"),
  [
    (AugmentConfig(shift=-1), "shift"),
    (AugmentConfig(cutout=-2), "cutout"),
    (AugmentConfig(crop_scale=0.0), "crop_scale"),
    (AugmentConfig(crop_scale=1.5), "crop_scale"),
    (AugmentConfig(crop_scale=float("nan")), "crop_scale"),
  ],
)
def test_values_out_of_range_are_named(config, name):
  with pytest.raises(UserError, match=f"data.augment.{name} is"):
    augment(jax.random.key(0), images(), config)
