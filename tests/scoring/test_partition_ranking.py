"""Rankings inside clusters against loops over pairs and planted worlds."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.scoring.partition_ranking import compare_partitions, within_tau
from jaxnas.scoring.ranking import kendall_tau_b

ROWS = st.lists(
  st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
  min_size=1,
  max_size=14,
)


def loop_tau(labels, x, y, rows=None):
  """By its definition, over the pairs of a sample of rows."""
  rows = range(len(labels)) if rows is None else rows
  agree = pairs = tied_x = tied_y = 0
  for i, j in itertools.combinations(rows, 2):
    if i == j or labels[i] != labels[j]:
      continue
    pairs += 1
    agree += np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
    tied_x += x[i] == x[j]
    tied_y += y[i] == y[j]
  product = (pairs - tied_x) * (pairs - tied_y)
  return agree / math.sqrt(product) if product else math.nan


def compare(labels, early, final, costs=None, seed=0, resamples=300, **kwargs):
  return compare_partitions(
    labels, early, final, early if costs is None else costs,
    np.random.default_rng(seed), resamples, 0.95, **kwargs,
  )  # fmt: skip


def paradox(n=8):
  """Three clusters, each in the right order, the means in the wrong one."""
  labels = np.repeat(np.arange(3), n)
  rank = np.tile(np.arange(n), 3)
  return labels, rank + 100.0 * labels, rank - 100.0 * labels


@given(ROWS)
def test_within_tau_equals_its_definition(rows):
  labels, x, y = np.array(rows).T
  found = within_tau(labels, x * 1.0, y * 1.0)
  np.testing.assert_allclose(found, loop_tau(labels, x, y), atol=1e-12)


@given(ROWS.filter(lambda rows: len(rows) > 1))
def test_one_cluster_is_kendalls_tau(rows):
  _, x, y = np.array(rows, float).T
  found = within_tau(np.zeros(len(x), int), x, y)
  np.testing.assert_allclose(found, kendall_tau_b(x, y), atol=1e-12)


@given(ROWS)
def test_names_of_clusters_and_order_do_not_matter(rows):
  labels, x, y = np.array(rows).T
  found = within_tau(labels, x, y)
  np.testing.assert_equal(within_tau(7 - labels, x, y), found)
  np.testing.assert_equal(within_tau(labels[::-1], x[::-1], y[::-1]), found)
  np.testing.assert_equal(within_tau(labels, y, x), found)
  # Within clusters only order counts: a bias of a cluster does nothing.
  np.testing.assert_equal(within_tau(labels, x + 9 * labels, y), found)


def test_undefined_taus():
  x = np.arange(4.0)
  assert math.isnan(within_tau(np.arange(4), x, x))
  assert math.isnan(within_tau(np.zeros(4, int), np.ones(4), x))
  found = compare(np.arange(4), x, x)
  assert math.isnan(found["within"]["value"])
  assert math.isnan(found["random"]["p"])
  assert math.isnan(found["random"]["value"])
  assert found["global"]["value"] == 1


def test_failed_networks_tie():
  x = np.array([0, 1, 2, np.nan])
  y = np.arange(4.0)
  # Three pairs of six agree, and three are tied in x alone.
  found = within_tau(np.zeros(4, int), x, y)
  assert found == pytest.approx(3 / math.sqrt(3 * 6))


def test_large_samples_take_little_time():
  rng = np.random.default_rng(0)
  labels, (x, y) = rng.integers(0, 8, 1000), rng.normal(size=(2, 1000))
  parts = [labels == c for c in range(8)]
  pairs = [p.sum() * (p.sum() - 1) for p in parts]
  taus = [kendall_tau_b(x[p], y[p]) for p in parts]
  want = np.average(taus, weights=pairs)  # without ties
  assert within_tau(labels, x, y) == pytest.approx(want)


def test_simpsons_paradox():
  labels, early, final = paradox()
  found = compare(labels, early, final)
  assert found["within"] == {"value": 1, "low": 1, "high": 1}
  # 3 * 28 pairs agree, 3 * 64 do not.
  assert found["global"]["value"] == pytest.approx((84 - 192) / 276)
  assert found["difference"]["value"] == pytest.approx(1 + 108 / 276)
  assert found["difference"]["low"] > 1
  assert found["random"]["p"] == 1 / 1001
  assert found["random"]["value"] == pytest.approx(-108 / 276, abs=0.02)
  assert found["random"]["high"] < 0.2
  assert found["sizes"] == [8, 8, 8]
  # The early accuracies, given as costs, tell the clusters exactly.
  assert found["macs"]["within"] == found["within"]
  assert found["macs"]["difference"] == found["difference"]


def test_one_cluster_differs_from_nothing():
  rng = np.random.default_rng(1)
  early, final = rng.integers(0, 6, (2, 15)).astype(float)
  found = compare(np.zeros(15, int), early, final)
  assert found["difference"] == {"value": 0, "low": 0, "high": 0}
  assert found["macs"]["difference"] == found["difference"]
  assert found["within"] == found["global"]
  assert found["random"]["value"] == pytest.approx(found["within"]["value"])
  assert found["random"]["p"] == 1


def test_random_clusters_make_no_difference_on_average():
  rng = np.random.default_rng(2)
  early = rng.normal(size=30)
  final = early + rng.normal(size=30)
  differences, ps = [], []
  for seed in range(200):
    labels = rng.permutation(np.repeat(np.arange(3), 10))
    found = compare(labels, early, final, seed=seed, resamples=2, partitions=99)
    differences.append(found["difference"]["value"])
    ps.append(found["random"]["p"])
  # One has a standard deviation of about 0.06, a uniform p one of 0.29.
  assert abs(np.mean(differences)) < 0.02
  assert abs(np.mean(ps) - 0.5) < 0.08
  assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=0.07)


def test_intervals_equal_a_plain_bootstrap():
  rng = np.random.default_rng(3)
  labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
  early, final = rng.integers(0, 7, (2, 9)).astype(float)
  costs = rng.permutation(9).astype(float)
  found = compare(labels, early, final, costs, seed=4, resamples=200)
  # Neighbours in cost: the four cheapest, the next three, the last two.
  near = labels[costs.astype(int)]
  every = np.zeros(9, int)
  same = np.random.default_rng(4)
  draws = []
  for counts in same.multinomial(9, np.full(9, 1 / 9), 200):
    rows = np.repeat(np.arange(9), counts)
    draws.append(
      [loop_tau(c, early, final, rows) for c in (every, labels, near)]
    )
  all_, inside, by_costs = np.array(draws).T
  for got, value, sample in [
    (found["global"], loop_tau(every, early, final), all_),
    (found["within"], loop_tau(labels, early, final), inside),
    (found["macs"]["within"], loop_tau(near, early, final), by_costs),
    (found["difference"], None, inside - all_),
    (found["macs"]["difference"], None, by_costs - all_),
  ]:
    low, high = np.nanpercentile(sample, [2.5, 97.5])
    assert got["low"] == pytest.approx(low)
    assert got["high"] == pytest.approx(high)
    if value is not None:
      assert got["value"] == pytest.approx(value)
  difference = found["within"]["value"] - found["global"]["value"]
  assert found["difference"]["value"] == pytest.approx(difference)


def test_p_counts_all_partitions_of_these_sizes():
  """Few archs: the random partitions against all there are."""
  labels = np.array([0, 0, 0, 1, 1, 1])
  early = np.array([0, 1, 2, 3, 4, 5.0])
  final = np.array([3, 4, 5, 0, 2, 1.0])
  every = [
    loop_tau(np.isin(np.arange(6), chosen), early, final)
    for chosen in itertools.combinations(range(6), 3)
  ]
  found = compare(labels, early, final, partitions=4000)
  ours = loop_tau(labels, early, final)
  assert found["within"]["value"] == pytest.approx(ours)
  share = np.mean(np.array(every) >= ours - 1e-9)
  assert found["random"]["p"] == pytest.approx(share, abs=0.02)
  assert found["random"]["value"] == pytest.approx(np.mean(every), abs=0.02)


def test_fixed_seed_fixed_result():
  labels, early, final = paradox(3)
  final = final[np.random.default_rng(5).permutation(9)]
  assert compare(labels, early, final) == compare(labels, early, final)
  assert compare(labels, early, final) != compare(labels, early, final, seed=1)
