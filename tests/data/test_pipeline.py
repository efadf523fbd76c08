import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.data.pipeline import Batches, epoch_order, eval_batches
from jaxnas.errors import UserError

sizes = st.integers(1, 60)


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 80))
def test_each_epoch_is_a_permutation(seed, epoch, n):
  order = epoch_order(seed, epoch, n)
  assert order.dtype == np.int32
  np.testing.assert_array_equal(np.sort(order), np.arange(n))
  np.testing.assert_array_equal(order, epoch_order(seed, epoch, n))


def test_epochs_and_seeds_give_different_orders():
  orders = [epoch_order(s, e, 50) for s in range(6) for e in range(6)]
  assert len({tuple(o) for o in orders}) == 36


@settings(deadline=None)
@given(sizes, sizes, st.sampled_from([None, 1, 2, 3]), st.integers(0, 5))
def test_steps_walk_through_each_epoch(n, batch_size, copies, seed):
  per_step = batch_size * (copies or 1)
  if per_step > n:
    with pytest.raises(UserError, match=f"{per_step} images.* {n};"):
      Batches(n, batch_size, seed, copies)
    return
  batches = Batches(n, batch_size, seed, copies)
  steps = batches.steps_per_epoch
  assert steps == n // per_step
  shape = (batch_size,) if copies is None else (copies, batch_size)
  for epoch in range(3):
    taken = [batches.indices(epoch * steps + s) for s in range(steps)]
    assert {t.shape for t in taken} == {shape}
    assert {t.dtype for t in taken} == {np.dtype(np.int32)}
    flat = np.concatenate([t.ravel() for t in taken])
    np.testing.assert_array_equal(
      flat, epoch_order(seed, epoch, n)[: steps * per_step]
    )


def test_resuming_in_any_order_equals_the_continuous_stream():
  continuous = [Batches(23, 4, 7).indices(s) for s in range(40)]
  for step in np.random.default_rng(0).permutation(40):
    resumed = Batches(23, 4, 7).indices(int(step))
    np.testing.assert_array_equal(resumed, continuous[step])


def test_copies_are_successive_batches_of_the_stream():
  single, triple = Batches(60, 5, 1), Batches(60, 5, 1, copies=3)
  for step in range(4):
    want = [single.indices(3 * step + j) for j in range(3)]
    np.testing.assert_array_equal(triple.indices(step), want)


def test_writing_to_a_batch_does_not_change_the_stream():
  batches = Batches(10, 5, 0)
  before = batches.indices(0)
  batches.indices(0)[:] = -1
  np.testing.assert_array_equal(batches.indices(0), before)


@given(st.integers(0, 70), sizes)
def test_evaluation_counts_every_image_once_in_one_shape(n, batch_size):
  values = np.random.default_rng(0).normal(size=n)
  seen, total = [], 0.0
  for indices, mask in eval_batches(n, batch_size):
    assert indices.shape == mask.shape == (batch_size,)
    assert indices.dtype == np.int32 and mask.dtype == bool
    assert mask.any()
    # Copies of one image would spoil statistics taken over the batch.
    assert len(np.unique(indices)) == min(batch_size, n)
    seen.append(indices[mask])
    total += (values[indices] * mask).sum()
  if n:
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(n))
  assert total == pytest.approx(values.sum())


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ((10, 0, 0), "batch_size is 0"),
    ((10, 4, -1), "seed is -1"),
    ((10, 4, 0, 0), "paths 0"),
    ((10, 4, 0, 3), "4 x 3 paths needs 12 images a step but there are 10"),
  ],
)
def test_impossible_batches_are_refused_with_the_numbers(fields, match):
  with pytest.raises(UserError, match=match):
    Batches(*fields)


def test_evaluation_refuses_an_empty_batch():
  with pytest.raises(UserError, match="batch_size is 0"):
    list(eval_batches(3, 0))
