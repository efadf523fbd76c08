"""Streamed images: the very images of the in-memory path, read ahead."""

import builtins
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import same

from jaxnas.checkpoint import Checkpoints
from jaxnas.config import AugmentConfig, DataConfig
from jaxnas.data import Batches, Split, Steps, load
from jaxnas.data.lazy import LazyImages
from jaxnas.data.stream import PIECE, local_block, shifted, stream
from jaxnas.errors import UserError
from jaxnas.scoring import Images
from jaxnas.sharding import make_placement
from jaxnas.training import Feed, Schedule, StreamedBatches, fit, init_state
from jaxnas.training.feed import Step
from jaxnas.writer import Journal

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 6, 6, 3), np.uint8)
LABELS = (np.arange(90) % 4).astype(np.int32)
WHOLE = Split(PIXELS, LABELS)


def lazy(decode=PIXELS.__getitem__, rows=90):
  digests = np.arange(90, dtype=np.uint64)
  return Split(
    LazyImages(decode, (6, 6, 3), np.arange(rows), digests), LABELS[:rows]
  )


def test_lazy_images_answer_as_the_array_does():
  order = np.random.default_rng(1).permutation(90)
  split, images = lazy().take(order), PIXELS[order]
  assert split.images.shape == images.shape and len(split.images) == 90
  assert split.images.nbytes == images.nbytes
  for index in (slice(3), slice(None), np.array([[4, 0], [7, 4]]), order[:5]):
    np.testing.assert_array_equal(split.images[index], images[index])
    np.testing.assert_array_equal(split.images.read(index), images[index])
  again = split.take(np.array([8, 2])).loaded()
  np.testing.assert_array_equal(again.images, images[[8, 2]])
  np.testing.assert_array_equal(again.labels, LABELS[order][[8, 2]])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("size", "copies"), [(5, None), (PIECE + 8, 2)])
def test_a_stream_is_what_the_indices_name(size, copies, threads):
  batches = Batches(90, size, 3, copies)
  for first, last in ((0, 4), (2, 7)):
    found = list(stream(lazy(), batches.indices, first, last, threads))
    assert len(found) == last - first
    for step, (images, labels) in enumerate(found, first):
      taken = batches.indices(step)
      np.testing.assert_array_equal(images, PIXELS[taken])
      np.testing.assert_array_equal(labels, LABELS[taken])


def test_a_stream_reads_ahead_and_stops_when_it_is_left():
  seen, before = [], threading.active_count()

  def decode(row):
    seen.append(row)
    return PIXELS[row]

  steps = stream(lazy(decode), Batches(90, 2, 0).indices, 0, 10**6, 2)
  next(steps)
  end = time.monotonic() + 10
  while len(seen) < 6 and time.monotonic() < end:
    time.sleep(0.01)
  # Of a million steps a few, before anyone asked for them.
  assert 6 <= len(seen) <= 2 * 12
  steps.close()
  end = time.monotonic() + 10
  while threading.active_count() > before and time.monotonic() < end:
    time.sleep(0.01)
  assert threading.active_count() <= before


def test_an_image_that_cannot_be_decoded_ends_the_stream():
  def decode(row):
    if row == 41:
      raise UserError("record 41 cannot be read.")
    return PIXELS[row]

  with pytest.raises(UserError, match="^record 41 cannot be read.$"):
    list(stream(lazy(decode), Batches(90, 9, 0).indices, 0, 10))


def sharding(n, axes, shape):
  """Slices that `n` processes of two devices hold, by process."""
  grid = np.arange(2 * n).reshape(axes)
  held = [[] for _ in range(n)]
  for place, device in np.ndenumerate(grid):
    cuts = [
      slice(i * size // ways, (i + 1) * size // ways)
      for i, ways, size in zip(place, axes, shape, strict=False)
    ]
    held[device // 2].append((*cuts, *[slice(None)] * (len(shape) - len(cuts))))
  return held


@pytest.mark.parametrize("n", [1, 2, 4])
def test_hosts_read_disjoint_parts_that_make_up_the_batch(n):
  shape = (16, 6, 6, 3)
  whole = np.arange(np.prod(shape)).reshape(shape)
  parts = []
  for held in sharding(n, (2 * n,), shape):
    block = local_block(held, shape)[:1]
    local = whole[block]
    assert len(local) == 16 // n
    for index in held:
      np.testing.assert_array_equal(
        local[shifted(index, block, shape)], whole[index]
      )
    parts.append(local)
  np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_host_reads_the_paths_and_images_of_its_devices():
  shape = (4, 8, 6, 6, 3)  # paths over one axis, images over the other
  whole = np.arange(np.prod(shape)).reshape(shape)
  held = sharding(4, (4, 2), shape)
  for process, slices in enumerate(held):
    block = local_block(slices, shape)[:2]
    np.testing.assert_array_equal(whole[block], whole[process : process + 1])
    for index in slices:
      np.testing.assert_array_equal(
        whole[block][shifted(index, block, shape)], whole[index]
      )


STATS = (np.full(3, 0.4, np.float32), np.full(3, 0.3, np.float32))
KEY = jax.random.key(5)


def feeds(flip=False):
  placement = make_placement()
  rest = (*STATS, AugmentConfig(flip=flip), placement)
  held = Feed(*placement.put((PIXELS, LABELS)), *rest)
  return held, Feed(None, None, *rest, lazy())


def linear_step(feed):
  """Regression on the augmented pixels: enough to see every one of them."""

  def step(state, key, inputs, arrays):
    key = jax.random.fold_in(key, state.step)
    x, y = feed.batch(arrays, inputs, key)
    x = x.reshape(-1, 108)

    def loss_of(w):
      return jnp.square(jnp.tanh(x @ w) - jax.nn.one_hot(y.ravel(), 4)).mean()

    loss, slope = jax.value_and_grad(loss_of)(state.params["w"])
    moved = {"w": state.params["w"] - 0.5 * slope}
    new = state.replace(step=state.step + 1, params=moved)
    metrics = {"loss": loss, "accuracy": loss, "finite": jnp.ones(1, bool)}
    return new, metrics

  return Step(step, feed)


class Killed(Exception):
  pass


def run(folder, step, batches, die_at=None):
  import optax

  params = {"w": jnp.full((108, 4), 0.01)}
  state = init_state({"params": params, "batch_stats": {}}, optax.sgd(0.1))

  def mortal(state, key, inputs):
    if die_at is not None and int(state.step) == die_at:
      raise Killed
    return step(state, key, inputs)

  folder.mkdir(exist_ok=True)
  checkpoints = Checkpoints(folder / "checkpoints")
  try:
    state, _ = fit(
      "train", mortal, state, KEY, batches, Schedule(13, 1, 4), checkpoints,
      Journal(folder / "metrics.jsonl"), make_placement(), ["w"],
      lambda i: 0.1,
    )  # fmt: skip
  finally:
    checkpoints.close()
  return jax.device_get(state), (folder / "metrics.jsonl").read_text()


def test_a_streamed_training_equals_one_in_memory_also_when_resumed(tmp_path):
  held, streamed = feeds(flip=True)
  assert held.n == streamed.n == 90 and streamed.arrays == ()
  batches = Batches(90, 8, 3)
  images = StreamedBatches(batches, streamed.split, streamed.placement)
  assert images.steps_per_epoch == batches.steps_per_epoch
  state, rows = run(tmp_path / "held", linear_step(held), batches)
  step = linear_step(streamed)
  again, same_rows = run(tmp_path / "streamed", step, images)
  assert same(state, again) and rows == same_rows
  with pytest.raises(Killed):
    run(tmp_path / "killed", step, images, die_at=6)
  resumed, resumed_rows = run(tmp_path / "killed", step, images)
  assert same(state, resumed) and rows == resumed_rows


def test_a_batch_for_each_path_is_the_same_in_both_feeds():
  held, streamed = feeds()
  indices = Steps(lambda step: Batches(90, 6, 1, 3).indices(step))
  images = StreamedBatches(indices, streamed.split, streamed.placement)
  for step, inputs in enumerate(images.inputs(1, 3), 1):
    both = [
      jax.jit(feed.batch)(feed.arrays, taken, KEY)
      for feed, taken in ((held, indices.indices(step)), (streamed, inputs))
    ]
    assert both[0][0].shape == (3, 6, 6, 6, 3) and same(*both)


def test_a_step_on_streamed_images_lowers_without_values():
  _, streamed = feeds()
  images, labels = streamed.abstract((2, 4))
  assert (images.shape, images.dtype) == ((2, 4, 6, 6, 3), np.uint8)
  import optax

  params = {"w": jnp.zeros((108, 4))}
  state = init_state({"params": params, "batch_stats": {}}, optax.sgd(0.1))
  text = linear_step(streamed).lower(state, KEY, (images, labels)).as_text()
  assert "2x4x6x6x3xui8" in text and "90x6x6x3" not in text
  held, _ = feeds()
  assert held.abstract((2, 4)).dtype == np.int32


def test_lazy_images_are_scored_as_those_in_memory():
  order = np.random.default_rng(2).permutation(90)[:31]
  data = SimpleNamespace(mean=STATS[0], std=STATS[1])
  found = [
    Images.of(split.take(order), data, 8, make_placement())
    for split in (WHOLE, lazy())
  ]
  assert same(*found)
  want = (PIXELS[order[8:16]] / np.float32(255) - STATS[0]) / STATS[1]
  seen = found[1].map(lambda x, y: x)
  np.testing.assert_allclose(seen[1], want, rtol=1e-6, atol=1e-6)


@pytest.fixture
def arrays(tmp_path):
  path = tmp_path / "images.npz"
  np.savez(path, images=PIXELS, labels=LABELS)
  return f"npz:{path}"


def test_what_exceeds_the_memory_is_streamed(arrays):
  def streamed(**options):
    return load(DataConfig(arrays, **options), 6).streamed

  gib = 54 * 108 / 2**30  # of the 54 images that are left for training
  assert not streamed() and streamed(stream="always")
  assert streamed(memory_gib=0.99 * gib) and not streamed(memory_gib=gib)
  assert not streamed(memory_gib=0.5 * gib, stream="never")
  with pytest.raises(UserError, match="memory_gib is 0.0; legal: above 0"):
    streamed(memory_gib=0.0)


def test_streaming_without_grain_names_the_extra(arrays, monkeypatch):
  real = builtins.__import__

  def without(name, *rest, **options):
    if name == "grain":
      raise ImportError(name)
    return real(name, *rest, **options)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(
    UserError, match="data.stream is always, .* extra 'stream' .* data.stream=n"
  ):
    load(DataConfig(arrays, stream="always"), 6)
  with pytest.raises(UserError, match="are more than data.memory_gib"):
    load(DataConfig(arrays, memory_gib=1e-6), 6)
  assert not load(DataConfig(arrays), 6).streamed


def test_a_folder_streams_what_it_would_hold(tmp_path):
  from PIL import Image

  for i in range(24):
    folder = tmp_path / ("ant" if i % 2 else "bee")
    folder.mkdir(exist_ok=True)
    image = PIXELS[i] if i else PIXELS[i, ..., 0]  # one of them is grey
    Image.fromarray(image).resize((9, 8)).save(folder / f"{i}.png")
  source = f"folder:{tmp_path}"
  held = load(DataConfig(source, stream="never"), 6)
  open_ = load(DataConfig(source, stream="always"), 6)
  assert isinstance(open_.train.images, LazyImages)
  for name in ("train", "validation", "test"):
    a, b = getattr(held, name), getattr(open_, name)
    np.testing.assert_array_equal(a.images, b.images[:])
    np.testing.assert_array_equal(a.labels, b.labels)
  # So few images that the sample has all of them.
  np.testing.assert_array_equal([held.mean, held.std], [open_.mean, open_.std])
  # Images that are found to fit after all are not decoded twice.
  small = DataConfig(source, limit=2, memory_gib=3 * 108 / 2**30)
  assert isinstance(load(small, 6).train.images, np.ndarray)
  Image.fromarray(PIXELS[0]).save(tmp_path / "ant" / "more.png")
  assert load(DataConfig(source, stream="always"), 6).fingerprint != (
    open_.fingerprint
  )
