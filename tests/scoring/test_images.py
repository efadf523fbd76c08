"""Images in batches against the split they come from."""

import jax
import numpy as np
import pytest

from jaxnas.data import Split
from jaxnas.scoring import Images
from jaxnas.sharding import make_placement

N = 11
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N, 3, 3, 2), dtype=np.uint8)
LABELS = np.arange(N, dtype=np.int32)


class Data:
  mean = np.array([0.3, 0.6], np.float32)
  std = np.array([0.2, 0.5], np.float32)


NORMAL = (PIXELS / np.float32(255) - Data.mean) / Data.std


def made(batch_size):
  return Images.of(Split(PIXELS, LABELS), Data, batch_size, make_placement())


@jax.jit
def mapped(images):
  return images.map(lambda x, y: (x, y))


@jax.jit
def first(images, n):
  return images.map_first(lambda x, y: (x, y), n)


@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_every_image_is_seen_once_and_normalised(size):
  images = made(size)
  assert images.pixels.dtype == np.uint8
  assert images.batch_size == min(size, N)
  assert images.n_batches == -(-N // images.batch_size)
  x, y = jax.device_get(mapped(images))
  np.testing.assert_array_equal(images.real(y), LABELS)
  x = x.reshape(-1, *x.shape[2:])[:N]
  np.testing.assert_allclose(x, NORMAL, rtol=1e-6, atol=1e-6)


def test_the_first_batches_and_zeros_behind_them():
  images = made(4)
  whole, part = mapped(images), first(images, np.int32(2))
  for a, b in zip(whole, part, strict=True):
    np.testing.assert_array_equal(b[:2], a[:2])
    assert not np.asarray(b[2:]).any()


@pytest.mark.parametrize("index", [[7], [10, 0, 3, 4, 9], [*range(N)]])
def test_chosen_images_in_their_order(index):
  images = made(4)
  mapped(images)
  programs = mapped._cache_size()
  x, y = jax.device_get(mapped(images.take(np.array(index))))
  assert mapped._cache_size() == programs
  np.testing.assert_array_equal(y.reshape(-1)[: len(index)], index)
  np.testing.assert_allclose(
    x.reshape(-1, 3, 3, 2)[: len(index)], NORMAL[index], rtol=1e-6, atol=1e-6
  )


def test_the_padding_is_dropped_behind_any_axes():
  images = made(4)
  values = np.broadcast_to(np.asarray(images.y), (2, 5, *images.y.shape))
  found = images.real(values)
  assert found.shape == (2, 5, N)
  np.testing.assert_array_equal(found[1, 3], LABELS)
