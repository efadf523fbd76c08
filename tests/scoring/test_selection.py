"""What selection is worth, against enumeration and simulation."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.scoring import fold_hits, selection_curve
from jaxnas.scoring.selection import FOLDS, best_of_weights, fold_of


def noise(seed, m, n_images, skill=0.7):
  """Correct images of candidates that differ by luck only."""
  rng = np.random.default_rng(seed)
  return rng.random((m, n_images)) < skill


# Best of n -------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_best_of_weights_by_all_subsets(m):
  for n in range(1, m + 1):
    subsets = list(itertools.combinations(range(m), n))
    winners = np.bincount([max(s) for s in subsets], minlength=m)
    np.testing.assert_allclose(
      best_of_weights(m, n), winners / len(subsets), atol=1e-15
    )


@given(st.integers(1, 3000), st.data())
@settings(max_examples=50, deadline=None)
def test_best_of_weights_are_a_distribution(m, data):
  n = data.draw(st.integers(1, m))
  weights = best_of_weights(m, n)
  assert weights.sum() == pytest.approx(1, abs=1e-10)
  assert (np.diff(weights) >= -1e-15).all()
  assert (weights[: n - 1] == 0).all()
  assert (weights >= 0).all()


def test_best_of_weights_of_ten_thousand():
  weights = best_of_weights(10_000, 500)
  assert np.isfinite(weights).all()
  assert weights.sum() == pytest.approx(1, abs=1e-9)
  assert weights[-1] == pytest.approx(0.05)


# Parts -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 10, 11, 97, 1000])
def test_parts_are_even_random_and_fixed(n):
  fold = fold_of(n)
  sizes = np.bincount(fold)
  assert len(sizes) == min(n, FOLDS)
  assert sizes.sum() == n
  assert np.ptp(sizes) <= 1
  np.testing.assert_array_equal(fold, fold_of(n))
  if n == 1000:
    assert (fold != np.arange(n) % FOLDS).mean() > 0.8


@pytest.mark.parametrize("n_images", [3, 57, 200])
def test_hits_of_parts_by_loops(n_images):
  correct = noise(0, 4, n_images)
  found, fold = fold_hits(correct), fold_of(n_images)
  assert np.issubdtype(found.dtype, np.integer)
  assert found.shape == (4, min(FOLDS, n_images))
  for c, f in np.ndindex(found.shape):
    expected = sum(correct[c, i] for i in range(n_images) if fold[i] == f)
    assert found[c, f] == expected


# The curve -------------------------------------------------------------------


def test_the_curve_by_all_subsets():
  m, n_images = 7, 43
  correct = np.random.default_rng(0).random((m, n_images)) < np.linspace(
    0.3, 0.8, m
  ).reshape(-1, 1)
  hits, fold = fold_hits(correct), fold_of(n_images)
  curve = selection_curve(hits, n_images)["curve"]
  assert [row["candidates"] for row in curve] == [1, 2, 5, 7]
  # Ties between candidates are broken by one fixed random order.
  ties = np.random.default_rng(0).permutation(m)
  for row in curve:
    best, held = [], []
    for subset in itertools.combinations(range(m), row["candidates"]):
      best.append(correct[list(subset)].mean(1).max())
      right = 0
      for f in range(FOLDS):
        out = fold == f
        chosen = max(subset, key=lambda c: (correct[c, ~out].sum(), ties[c]))
        right += correct[chosen, out].sum()
      held.append(right / n_images)
    assert row["best"] == pytest.approx(np.mean(best), abs=1e-12)
    assert row["held_out"] == pytest.approx(np.mean(held), abs=1e-12)


def test_gain_and_interval_by_hand():
  m, n_images = 9, 64
  correct = noise(3, m, n_images)
  fold = fold_of(n_images)
  ties = np.random.default_rng(0).permutation(m)
  gains = [], []
  for f in range(FOLDS):
    out, chooses = fold == f, fold % 2 != f % 2
    key = lambda c, at=chooses: (correct[c, at].sum(), ties[c])
    better = correct[max(range(m), key=key), out].mean()
    gains[f % 2].append(better - correct[:, out].mean())
  gain = selection_curve(fold_hits(correct), n_images)["gain"]
  deviations = [np.std(g, ddof=1) / np.sqrt(5) for g in gains]
  half = 2.306004 * np.mean(deviations)  # t, 8 degrees of freedom
  assert gain["value"] == pytest.approx(np.mean(gains))
  assert gain["high"] - gain["value"] == pytest.approx(half, rel=1e-6)
  assert gain["value"] - gain["low"] == pytest.approx(half, rel=1e-6)
  assert gain["confidence"] == 0.95


@pytest.mark.parametrize(("m", "counts"), [
  (1, [1]), (2, [1, 2]), (10, [1, 2, 5, 10]), (11, [1, 2, 5, 10, 11]),
  (1501, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1501]),
])  # fmt: skip
def test_rows_ends_and_summary(m, counts):
  n_images = 120
  correct = noise(1, m, n_images)
  found = selection_curve(fold_hits(correct), n_images)
  assert json.loads(json.dumps(found)) == found
  curve, accuracy = found["curve"], correct.mean(1)
  assert [row["candidates"] for row in curve] == counts
  best = [row["best"] for row in curve]
  assert best[0] == pytest.approx(accuracy.mean())
  assert best[-1] == pytest.approx(accuracy.max())
  assert (np.diff(best) >= 0).all()
  assert curve[0]["held_out"] == pytest.approx(accuracy.mean())
  assert found["mean"] == pytest.approx(accuracy.mean())
  assert found["min"] == accuracy.min()
  assert found["max"] == accuracy.max()
  expected = accuracy.std(ddof=1) if m > 1 else 0.0
  assert found["std"] == pytest.approx(expected)
  p = accuracy.mean()
  assert found["noise"] == pytest.approx(np.sqrt(p * (1 - p) / n_images))


@pytest.mark.parametrize(("m", "n_images"), [(2, 300), (40, 200), (40, 1000)])
def test_luck_is_worth_nothing_on_images_that_did_not_choose(m, n_images):
  runs = 400
  gains, lasts, covered = [], [], 0
  for seed in range(runs):
    found = selection_curve(fold_hits(noise(seed, m, n_images)), n_images)
    gains.append(found["gain"]["value"])
    lasts.append([found["curve"][-1][k] for k in ("best", "held_out")])
    covered += found["gain"]["low"] <= 0 <= found["gain"]["high"]
  error = np.std(gains) / np.sqrt(runs)
  assert abs(np.mean(gains)) < 4 * error
  best, held = np.mean(lasts, 0)
  assert abs(held - 0.7) < 4 * np.std(lasts, 0)[1] / np.sqrt(runs)
  # What choosing flatters by: the best of m standard errors.
  flattered = {2: 0.564, 40: 2.161}[m] * np.sqrt(0.21 / n_images)
  assert best - 0.7 == pytest.approx(flattered, rel=0.15)
  assert covered / runs >= 0.95


def test_skill_is_worth_what_it_is():
  # One candidate is 0.1 better; it is chosen nearly always.
  gains, lows = [], []
  for seed in range(60):
    correct = noise(seed, 20, 2000)
    correct[4] = np.random.default_rng(1000 + seed).random(2000) < 0.8
    gain = selection_curve(fold_hits(correct), 2000)["gain"]
    gains.append(gain["value"])
    lows.append(gain["low"])
  expected = 0.1 * 19 / 20  # against the mean of all, the best included
  assert np.mean(gains) == pytest.approx(expected, abs=0.005)
  assert np.mean(np.array(lows) > 0) > 0.95


def test_equal_candidates_gain_nothing():
  correct = np.repeat(noise(0, 1, 100), 6, 0)
  found = selection_curve(fold_hits(correct), 100)
  gain = found["gain"]
  assert gain["value"] == gain["low"] == gain["high"] == 0
  assert {row["best"] for row in found["curve"]} == {found["max"]}


@pytest.mark.parametrize("n_images", [1, 2, 3])
def test_a_few_images_say_nothing(n_images):
  correct = np.array([[True] * n_images, [False] * n_images])
  gain = selection_curve(fold_hits(correct), n_images)["gain"]
  assert gain["high"] - gain["low"] >= 2  # all that an accuracy can be
