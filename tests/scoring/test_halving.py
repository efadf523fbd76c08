"""Successive halving against a plain loop, and what it must never do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.scoring import halve


class Table:
  """Scores from fixed tables; remembers what was asked."""

  def __init__(self, n, n_images, seed=0, spread=0.5):
    rng = np.random.default_rng(seed)
    skill = rng.uniform(0.5 - spread / 2, 0.5 + spread / 2, (n, 1))
    self.accuracy = rng.random((n, n_images)) < skill
    self.loss = rng.random((n, n_images)).astype(np.float32)
    self.asked = np.zeros((n, n_images), int)
    self.images = []

  def __call__(self, candidates, images):
    at = np.ix_(candidates, images)
    self.asked[at] += 1
    self.images.append(images)
    return {
      "accuracy": self.accuracy[at].astype(np.float32), "loss": self.loss[at]
    }  # fmt: skip


def by_hand(table, n, n_images, first, eta, seed):
  """Who sees how much, in plain Python."""
  order = np.random.default_rng(seed).permutation(n_images)
  alive, rungs, remaining = list(range(n)), [], []
  images = np.zeros(n, int)
  seen = min(first, n_images)
  while True:
    images[alive] = seen
    rungs.append(seen)
    if seen == n_images:
      return images, rungs, [*remaining, len(alive)]
    part = order[:seen]
    key = lambda c, part=part: (
      not np.isfinite(table.loss[c, part]).all(),
      -int(table.accuracy[c, part].sum()),
      float(table.loss[c, part].sum(dtype=np.float64)), c,
    )  # fmt: skip
    alive = sorted(sorted(alive, key=key)[: -(-len(alive) // eta)])
    remaining.append(len(alive))
    seen = n_images if len(alive) == 1 else min(n_images, seen * eta)


@settings(max_examples=80, deadline=None)
@given(
  st.integers(1, 40), st.integers(1, 120), st.integers(1, 30),
  st.integers(2, 6), st.integers(0, 99),
)  # fmt: skip
def test_by_hand(n, n_images, first, eta, seed):
  table = Table(n, n_images, seed)
  found = halve(table, n, n_images, first, eta, seed)
  images, rungs, remaining = by_hand(table, n, n_images, first, eta, seed)
  np.testing.assert_array_equal(found.images, images)
  assert (list(found.rungs), list(found.remaining)) == (rungs, remaining)
  # No image twice, and all candidates see the same ones in the same order.
  assert table.asked.max() == 1
  np.testing.assert_array_equal(table.asked.sum(1), images)
  order = np.concatenate(table.images)
  assert sorted(order.tolist()) == list(range(n_images))
  for c in range(n):
    part = order[: images[c]]
    assert found.hits[c] == table.accuracy[c, part].sum()
    assert found.loss[c] == pytest.approx(
      table.loss[c, part].sum(dtype=np.float64)
    )
  assert found.rungs[-1] == n_images
  assert (found.images == n_images).sum() == found.remaining[-1] >= 1


def test_evaluations_are_counted():
  table = Table(81, 400)
  found = halve(table, 81, 400, 10, 3, 0)
  assert found.rungs == (10, 30, 90, 270, 400)
  assert found.remaining == (27, 9, 3, 1, 1)
  # 81 x 10, then 27 x 20, 9 x 60, 3 x 180 and 1 x 130 more.
  assert table.asked.sum() == found.images.sum() == 810 + 540 * 3 + 130
  assert found.images.sum() < 0.1 * 81 * 400
  assert found.hits.dtype == found.images.dtype == np.int64


def test_a_single_survivor_sees_the_rest_at_once():
  found = halve(Table(3, 1000), 3, 1000, 10, 4, 0)
  assert found.rungs == (10, 1000)
  assert found.remaining == (1, 1)


@pytest.mark.parametrize(("n", "first"), [(1, 5), (9, 50), (9, 1000)])
def test_where_nothing_can_be_halved_it_is_plain(n, first):
  table = Table(n, 50)
  found = halve(table, n, 50, first, 2, 0)
  np.testing.assert_array_equal(found.images, 50)
  np.testing.assert_array_equal(found.hits, table.accuracy.sum(1))
  np.testing.assert_allclose(found.loss, table.loss.sum(1), rtol=1e-5)


def test_a_clear_best_is_found_and_scores_as_in_full():
  table = Table(50, 500, spread=0.2)
  table.accuracy[17] = np.random.default_rng(5).random(500) < 0.95
  found = halve(table, 50, 500, 25, 2, 3)
  whole = found.images == 500
  winner = np.flatnonzero(whole)[found.hits[whole].argmax()]
  assert winner == 17
  assert found.hits[17] == table.accuracy[17].sum()


def test_losses_decide_between_equal_hits_and_then_the_number():
  table = Table(6, 40)
  table.accuracy[:] = True
  table.loss[:] = 0.5
  table.loss[4] = 0.25
  found = halve(table, 6, 40, 10, 3, 0)
  np.testing.assert_array_equal(np.flatnonzero(found.images > 10), [0, 4])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_without_a_finite_loss_nobody_survives(bad):
  table = Table(8, 64)
  table.accuracy[2] = table.accuracy[5] = True  # most hits of all
  table.loss[2, :] = bad
  table.loss[5, np.random.default_rng(1).permutation(64)[:5]] = bad
  found = halve(table, 8, 64, 16, 4, 1)
  assert found.images[2] == found.images[5] == 16
  assert np.isfinite(found.loss[found.images == 64]).all()
  # Only where there are too few others do they go on.
  table = Table(4, 64)
  table.loss[:3] = bad
  found = halve(table, 4, 64, 16, 2, 0)
  assert found.images[3] == 64
  assert (found.images == 64).sum() == 1


def test_the_order_of_images_is_the_seeds():
  orders = []
  for seed in (0, 0, 1):
    table = Table(3, 30)
    halve(table, 3, 30, 10, 2, seed)
    orders.append(np.concatenate(table.images).tolist())
  assert orders[0] == orders[1] != orders[2]
  assert orders[0] != sorted(orders[0])
