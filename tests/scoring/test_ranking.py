"""Rank statistics against closed forms, brute force and scipy."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnas.scoring import compare_rankings, evenly_spaced
from jaxnas.scoring.ranking import (
  bootstrap,
  kendall_tau_a,
  kendall_tau_b,
  regret,
  spearman,
  top_k_overlap,
)

PAIRS = st.lists(
  st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12
)


def columns(pairs):
  x, y = np.array(pairs, float).T
  return x, y


@pytest.mark.parametrize(
  ("order", "agreeing"),
  [
    # Two neighbours swapped twice: 2 discordant pairs of 78.
    ([1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 11], 74),
    # The first six reversed: 6 * 5 / 2 = 15 discordant pairs.
    ([5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 10, 11, 12], 48),
  ],
)
def test_the_papers_thirteen_models(order, agreeing):
  """FairNAS reports 0.9487 and 0.6154 for its 13 models."""
  truth = np.arange(13) / 13
  predicted = np.array(order, float)
  assert kendall_tau_a(predicted, truth) == pytest.approx(agreeing / 78)
  assert kendall_tau_b(predicted, truth) == pytest.approx(agreeing / 78)


@given(PAIRS)
def test_kendall_equals_its_definition(pairs):
  x, y = columns(pairs)
  n = len(x)
  agree = tied_x = tied_y = 0
  for i, j in itertools.combinations(range(n), 2):
    agree += np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
    tied_x += x[i] == x[j]
    tied_y += y[i] == y[j]
  total = n * (n - 1) / 2
  assert kendall_tau_a(x, y) == pytest.approx(agree / total)
  if tied_x < total and tied_y < total:
    want = agree / np.sqrt((total - tied_x) * (total - tied_y))
    assert kendall_tau_b(x, y) == pytest.approx(want)
  else:
    assert np.isnan(kendall_tau_b(x, y))


@given(PAIRS)
def test_spearman_is_the_correlation_of_mean_ranks(pairs):
  x, y = columns(pairs)
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    assert np.isnan(spearman(x, y))
    return
  want = np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]
  assert spearman(x, y) == pytest.approx(want)
  assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_spearman_without_ties_is_the_textbook_formula():
  x, y = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
  assert spearman(x, y) == pytest.approx(1 - 6 * 4 / (5 * 24))


@settings(max_examples=25, deadline=None)
@given(
  st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=4
  ),
  st.integers(1, 5),
)
def test_overlap_is_the_mean_over_all_ways_to_break_ties(pairs, k):
  x, y = columns(pairs)
  n, kept = len(x), min(k, len(x))

  def tops(values):
    return [
      set(np.lexsort((order, values))[-kept:])
      for order in itertools.permutations(range(n))
    ]

  want = np.mean([len(a & b) / kept for a in tops(x) for b in tops(y)])
  assert top_k_overlap(x, y, k) == pytest.approx(want)


def test_overlap_by_hand():
  truth = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
  assert top_k_overlap(truth, truth, 2) == 1
  assert top_k_overlap(-truth, truth, 2) == 0
  assert top_k_overlap(np.zeros(5), truth, 2) == pytest.approx(2 / 5)


@given(PAIRS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_no_statistic_depends_on_the_order_of_rows(pairs, k, random):
  x, y = columns(pairs)
  rows = list(range(len(x)))
  random.shuffle(rows)
  for f in (kendall_tau_a, kendall_tau_b, spearman, regret):
    np.testing.assert_allclose(f(x[rows], y[rows]), f(x, y), atol=1e-12)
  assert top_k_overlap(x[rows], y[rows], k) == pytest.approx(
    top_k_overlap(x, y, k)
  )


def test_regret():
  truth = np.array([0.5, 0.9, 0.7, 0.6])
  assert regret(np.array([0.0, 1, 0, 0]), truth) == 0
  assert regret(np.array([0.0, 0, 1, 0]), truth) == pytest.approx(0.2)
  # Two archs share the first place: the mean of what either would cost.
  assert regret(np.array([1.0, 0, 1, 0]), truth) == pytest.approx(0.3)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.data())
def test_evenly_spaced_picks(scores, data):
  scores = np.array(scores, float) / 50
  n = data.draw(st.integers(1, len(scores)))
  picks = evenly_spaced(scores, n)
  assert len(picks) == n == len(set(picks.tolist()))
  assert (np.diff(scores[picks]) >= 0).all()
  assert scores[picks[0]] == scores.min()
  if n > 1:
    assert scores[picks[-1]] == scores.max()


def test_evenly_spaced_steps_are_even_in_a_dense_pool():
  scores = np.random.default_rng(0).permutation(np.linspace(0.2, 0.8, 601))
  picked = scores[evenly_spaced(scores, 13)]
  np.testing.assert_allclose(picked, np.linspace(0.2, 0.8, 13), atol=6e-4)


def test_bootstrap_interval_covers_the_true_mean():
  rng = np.random.default_rng(1)
  hits = 0
  for _ in range(300):
    sample = rng.normal(2.0, 1.0, 40)
    e = bootstrap(np.mean, (sample,), rng, 150, 0.9)
    assert e["low"] <= e["value"] <= e["high"]
    hits += e["low"] <= 2.0 <= e["high"]
  # 90 % asked; percentile intervals of 40 values are a little narrow.
  assert 0.83 <= hits / 300 <= 0.96


def test_bootstrap_interval_covers_the_true_tau():
  rng = np.random.default_rng(2)
  truth = 2 / np.pi * np.arcsin(0.6)  # of a binormal with correlation 0.6
  hits = 0
  for _ in range(60):
    x, noise = rng.standard_normal((2, 40))
    y = 0.6 * x + 0.8 * noise
    e = bootstrap(kendall_tau_b, (x, y), rng, 80, 0.95)
    hits += e["low"] <= truth <= e["high"]
  assert hits >= 0.85 * 60


def test_bootstrap_resamples_networks_whole_and_is_seeded():
  x = np.arange(30.0)

  def identity(a, b):
    return float((a == b).all())

  assert bootstrap(identity, (x, x), np.random.default_rng(0), 20, 0.9) == {
    "value": 1.0,
    "low": 1.0,
    "high": 1.0,
  }
  one, two = (
    bootstrap(np.mean, (x,), np.random.default_rng(3), 50, 0.9)
    for _ in range(2)
  )
  assert one == two


def test_bootstrap_of_a_constant_has_no_value_and_does_not_warn():
  e = bootstrap(
    kendall_tau_b, (np.ones(5), np.arange(5.0)), np.random.default_rng(0), 9,
    0.9,
  )  # fmt: skip
  assert all(np.isnan(v) for v in e.values())


def test_compare_rankings_reports_every_figure():
  truth = np.linspace(0.5, 0.9, 12)
  good = truth.copy()
  good[[3, 4]] = good[[4, 3]]
  costs = {"macs": -truth, "params": truth}
  out = compare_rankings(
    good, truth, costs, 5, np.random.default_rng(0), 60, 0.9
  )
  assert out["n"] == 12
  assert out["pairs"] == 66
  assert out["top_k"] == 5
  assert out["confidence"] == 0.9
  tau = 64 / 66
  assert out["kendall_tau_a"] == pytest.approx(tau)
  assert out["kendall_tau_b"]["value"] == pytest.approx(tau)
  assert out["top_k_overlap"]["value"] == 1
  assert out["regret"] == 0
  # Positive gain: the supernet ranks better than the cost alone.
  macs, params = out["baselines"]["macs"], out["baselines"]["params"]
  assert macs["value"] == pytest.approx(-1)
  assert macs["gain"]["value"] == pytest.approx(tau + 1)
  assert macs["gain"]["low"] > 0
  assert params["gain"]["value"] == pytest.approx(tau - 1)
  assert params["gain"]["high"] <= 0


def test_top_k_is_at_most_the_number_of_networks():
  x = np.arange(3.0)
  out = compare_rankings(x, x, {}, 5, np.random.default_rng(0), 5, 0.9)
  assert out["top_k"] == 3
  assert out["top_k_overlap"]["value"] == 1
