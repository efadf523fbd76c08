"""Racing: the promise about the true best, and what a race evaluates."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnas.errors import UserError
from jaxnas.scoring.racing import (
  most_discordant,
  paired_p_value,
  race,
  rung_sizes,
  worst_tail,
)


class Table:
  """A fixed `bool[n, N]` that counts what is asked of it."""

  def __init__(self, table):
    self.table = table
    self.asked = np.zeros(table.shape, int)

  def __call__(self, ids, images):
    assert (np.diff(ids) > 0).all()
    assert (np.diff(images) > 0).all()
    self.asked[np.ix_(ids, images)] += 1
    return self.table[np.ix_(ids, images)]

  def race(self, **options):
    return race(self, *self.table.shape, **options)


def noisy_table(seed, n, n_images, spread):
  """Candidates of logistic skill, images of logistic difficulty."""
  rng = np.random.default_rng(seed)
  skill = rng.normal(0, spread, (n, 1))
  return skill + rng.normal(0.5, 2, n_images) > rng.logistic(
    scale=0.6, size=(n, n_images)
  )


def with_hits(rng, hits, n_images):
  """A row per number of hits, each placed independently."""
  rows = np.arange(n_images) < np.array(hits)[:, None]
  return rng.permuted(rows, axis=1)


def hypergeometric_tail(wins, total, good, drawn):
  ways = sum(
    comb(good, x) * comb(total - good, drawn - x)
    for x in range(wins, min(good, drawn) + 1)
  )
  return ways / comb(total, drawn)


def test_the_worst_tail_is_the_supremum_over_all_urns():
  most = 17
  for cap in range(most + 1):
    for m in range(cap + 1):
      wins = np.arange(m + 1)
      got = worst_tail(wins, m - wins, np.full(m + 1, cap))
      for w in wins[wins > m - wins]:
        brute = max(
          hypergeometric_tail(w, total, good, m)
          for total in range(m, cap + 1)
          for good in range(total // 2 + 1)
        )
        assert got[w] == pytest.approx(brute, rel=1e-12, abs=0)
      assert (got[wins <= m - wins] == 1).all()


@pytest.mark.parametrize("slack", [1e-9, 1e-3, 0.1])
def test_the_limit_of_discordant_images_is_the_brute_force_one(slack):
  n_images, n_seen = 30, 12
  found = np.arange(n_seen + 1)
  got = most_discordant(found[::-1], n_seen, n_images, slack)[::-1]
  for m in found:
    brute = max(
      total
      for total in range(m, m + n_images - n_seen + 1)
      # At most m of the seen means at least total - m of the unseen.
      if hypergeometric_tail(total - m, n_images, total, n_images - n_seen)
      > slack
    )
    assert got[m] == brute


@pytest.mark.parametrize("n_images", [7, 16, 25])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.3])
def test_a_single_test_keeps_its_level_for_every_pair(n_images, alpha):
  for n_seen in range(1, n_images):
    grid = np.arange(n_seen + 1)
    wins, losses = (a.ravel() for a in np.meshgrid(grid, grid))
    possible = wins + losses <= n_seen
    wins, losses = wins[possible], losses[possible]
    p = paired_p_value(wins, losses, n_seen, n_images, 0.1 * alpha)
    hit = p <= alpha
    for bad in range(n_images + 1):  # images that the best loses
      for good in range(bad, n_images + 1 - bad):
        level = sum(
          comb(bad, w)
          * comb(good, l)
          * comb(n_images - bad - good, n_seen - w - l)
          for w, l in zip(wins[hit].tolist(), losses[hit].tolist(), strict=True)
        )
        assert level / comb(n_images, n_seen) <= alpha + 1e-12


def test_the_p_value_uses_what_is_left():
  wins, losses = np.array([30]), np.array([10])
  p = [paired_p_value(wins, losses, 100, n, 1e-6)[0] for n in (119, 121, 10**6)]
  binomial = stats.binom.sf(29, 40, 0.5)
  assert p[0] == 0  # a lead of 20 with 19 images left
  assert 0 < p[1] < p[2]
  assert p[2] == pytest.approx(binomial, rel=1e-2)


def test_the_slack_is_paid_unless_the_result_is_certain():
  wins, losses = np.array([60, 60, 5]), np.array([0, 20, 5])
  p = paired_p_value(wins, losses, 100, 1000, 0.01)
  assert p[0] == pytest.approx(0.01, rel=1e-12)
  assert 0.01 < p[1] < 0.011
  assert p[2] == 1


def adversarial(kind):
  """Tables on which dropping the best wrongly is as easy as can be."""
  rng = np.random.default_rng(1)
  if kind == "two":  # they disagree on every image
    row = np.arange(121) < 61
    return np.stack([row, ~row])
  if kind == "crowd":  # one image worse, disagreeing on half of the images
    return with_hits(rng, [61] + [60] * 19, 120)
  if kind == "tied":
    return with_hits(rng, [60] * 20, 120)
  assert kind == "good"  # few disagreements, and as close
  return with_hits(rng, [111] + [110] * 19, 120)


@pytest.mark.parametrize("kind", ["two", "crowd", "tied", "good"])
@pytest.mark.parametrize("error", [0.05, 0.3])
def test_the_best_is_dropped_no_more_often_than_promised(kind, error):
  table = adversarial(kind)
  assert table.sum(1).argmax() == 0
  orders = 2000
  dropped = sum(
    not race(
      lambda ids, images: table[np.ix_(ids, images)],
      *table.shape,
      error=error,
      first=16,
      growth=1.7,
      order_seed=seed,
    ).alive[0]
    for seed in range(orders)
  )
  # Under the promise a larger count has a probability below 1e-4.
  assert dropped <= stats.binom.ppf(1 - 1e-4, orders, error)
  if kind == "two" and error == 0.3:
    assert dropped > 0  # or the test could not fail


@given(
  seed=st.integers(0, 2**32 - 1),
  n=st.integers(1, 12),
  n_images=st.integers(1, 90),
  first=st.integers(1, 100),
  growth=st.floats(1.01, 8),
  error=st.floats(0.01, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_survivors_have_full_scores_and_nothing_is_asked_twice(
  seed, n, n_images, first, growth, error
):
  table = Table(noisy_table(seed, n, n_images, spread=2.0))
  got = table.race(error=error, first=first, growth=growth, order_seed=seed)
  assert got.alive.any()
  assert table.asked.max() == 1
  full = table.table.mean(1, dtype=np.float64)
  assert (got.accuracy[got.alive] == full[got.alive]).all()
  assert (got.images[got.alive] == n_images).all()
  assert (table.asked.sum(1) == got.images).all()
  seen = (table.table & (table.asked == 1)).sum(1) / table.asked.sum(1)
  assert (got.accuracy == seen).all()
  assert got.evaluations == table.asked.sum()
  assert got.plain_evaluations == table.table.size
  assert got.rungs[-1] == n_images
  assert set(got.images) <= set(got.rungs)
  left = [(got.images > k).sum() for k in got.rungs[:-1]]
  assert got.remaining == (*left, got.alive.sum())


def test_an_easy_table_costs_a_fraction():
  table = Table(noisy_table(0, 100, 4000, spread=1.0))
  got = table.race()
  assert got.alive[table.table.sum(1).argmax()]
  assert got.evaluations < 0.15 * got.plain_evaluations
  assert got.alpha == pytest.approx(0.05 / (99 * 6))
  assert got.rungs[:6] == (64, 128, 256, 512, 1024, 2048)


def test_the_last_one_takes_the_rest_at_once():
  table = Table(np.arange(2)[:, None].repeat(500, 1).astype(bool))
  got = table.race()
  assert got.alive.tolist() == [False, True]
  assert got.rungs == (64, 500)
  assert got.images.tolist() == [64, 500]


def test_equal_candidates_never_drop_one_another():
  row = noisy_table(3, 1, 300, spread=1.0)
  got = Table(np.concatenate([row] * 4 + [~row & False])).race(error=0.9)
  assert got.alive.tolist() == [True] * 4 + [False]
  assert len(set(got.accuracy[:4])) == 1


def test_one_candidate_is_scored_at_once():
  table = Table(noisy_table(0, 1, 300, spread=1.0))
  got = table.race()
  assert got.rungs == (300,)
  assert got.remaining == (1,)
  assert got.accuracy[0] == table.table.mean()


def test_a_first_rung_of_all_images_is_plain_scoring():
  table = Table(noisy_table(0, 5, 50, spread=1.0))
  got = table.race(first=50)
  assert got.alive.all()
  assert got.evaluations == got.plain_evaluations
  assert (got.accuracy == table.table.mean(1)).all()


def test_the_seed_gives_the_order():
  table = noisy_table(0, 20, 300, spread=1.0)
  images = []
  for seed in (1, 1, 2):
    asked = Table(table)
    asked.race(order_seed=seed)
    images.append(asked.asked.sum(0))
  assert (images[0] == images[1]).all()
  assert (images[0] != images[2]).any()


def test_rungs_always_grow_and_end_with_all_images():
  assert rung_sizes(10, 3, 1.01) == [3, 4, 5, 6, 7, 8, 9, 10]
  assert rung_sizes(1000, 64, 2.0) == [64, 128, 256, 512, 1000]
  assert rung_sizes(64, 64, 2.0) == [64]
  assert rung_sizes(1000, 64, 1e308) == [64, 1000]


@pytest.mark.parametrize(
  ("bad", "says"),
  [
    ({"n_archs": 0}, "n_archs is 0; it must be at least 1"),
    ({"n_images": 0}, "n_images is 0"),
    ({"first": 0}, "first is 0"),
    ({"order_seed": -1}, "order_seed is -1; it must be at least 0"),
    ({"error": 0.0}, "error is 0.0; it must lie between 0 and 1"),
    ({"error": 1.0}, "error is 1.0"),
    ({"error": float("nan")}, "error is nan"),
    ({"growth": 1.0}, "growth is 1.0; it must be a finite number above 1"),
    ({"growth": float("inf")}, "growth is inf"),
    ({"growth": float("nan")}, "growth is nan"),
  ],
)
def test_illegal_values_are_named(bad, says):
  with pytest.raises(UserError, match=says):
    race(
      lambda ids, images: np.ones((len(ids), len(images)), bool),
      **{"n_archs": 2, "n_images": 10} | bad,
    )


def test_what_correct_returns_is_checked():
  for wrong in (np.ones((2, 9), bool), np.ones((2, 10))):
    with pytest.raises(ValueError, match=r"a race needs bool\[2, 10\]"):
      race(lambda ids, images, wrong=wrong: wrong, 2, 10)
