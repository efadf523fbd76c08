import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxnas.scoring.paired import (
  compare_pairs,
  holm,
  paired_t,
  signed_rank,
  student,
  tally,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_student_is_scipys_interval(n, confidence):
  values = RNG.normal(0.9, 0.1, n)
  found = student(values, confidence)
  expected = stats.t.interval(
    confidence, n - 1, values.mean(), stats.sem(values)
  )
  assert found["value"] == pytest.approx(values.mean())
  assert (found["low"], found["high"]) == pytest.approx(expected)


def test_a_single_value_has_no_interval():
  assert student([0.5]) == {"value": 0.5, "low": None, "high": None}


def test_students_interval_covers_as_often_as_it_says():
  draws = np.random.default_rng(1).normal(0.3, 1, (2000, 4))
  found = [student(d) for d in draws]
  covered = np.mean([f["low"] < 0.3 < f["high"] for f in found])
  assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_paired_t_is_scipys(n):
  a, b = RNG.normal(size=(2, n))
  assert paired_t(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


@pytest.mark.parametrize("d", [[0.1], [0, 0, 0], [0.01] * 3, [0.1 + 0.2, 0.3]])
def test_paired_t_without_spread_says_nothing(d):
  assert paired_t(np.array(d)) is None


def brute(d):
  """Two-sided p by all signs."""
  d = np.array([v for v in d if v])
  ranks = stats.rankdata(np.abs(d))
  seen = ranks[d > 0].sum()
  sums = np.array(
    [np.dot(s, ranks) for s in itertools.product((0, 1), repeat=len(d))]
  )
  return min(1, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_signed_rank_counts_all_signs_with_ties_and_zeros(d):
  p, sign = signed_rank(np.array(d))
  if not any(d):
    assert (p, sign) == (None, 0)
    return
  assert p == pytest.approx(brute(d))
  assert signed_rank(-np.array(d)) == (pytest.approx(p), -sign)


@pytest.mark.parametrize("n", [5, 12, 30])
def test_signed_rank_is_scipys_exact_test(n):
  d = RNG.normal(0.3, 1, n)
  p, sign = signed_rank(d)
  assert p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue)
  ranks = stats.rankdata(np.abs(d))
  assert sign == np.sign((ranks * np.sign(d)).sum())


def test_holm_by_hand():
  # 0.01 x 4, 0.03 x 3, then 0.04 x 2 = 0.08 may not fall below 0.09.
  found = holm([0.04, 0.01, 0.03, 0.5])
  np.testing.assert_allclose(found, [0.09, 0.04, 0.09, 0.5])
  assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
  assert not len(holm([]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_holm_rejects_what_its_steps_reject(p, level):
  rejected, order = set(), np.argsort(p, kind="stable")
  for k, i in enumerate(order):
    if p[i] * (len(p) - k) > level:
      break
    rejected.add(int(i))
  assert {i for i, v in enumerate(holm(p)) if v <= level} == rejected


def test_every_pair_is_compared_once():
  values = {
    "far": np.array([0.90, 0.91, 0.92]),
    "near": np.array([0.50, 0.50, 0.53]),
    "same": np.array([0.50, 0.50, 0.53]),
  }
  rows = compare_pairs(values, "t")
  assert [(r["a"], r["b"]) for r in rows] == [
    ("far", "near"), ("far", "same"), ("near", "same"),
  ]  # fmt: skip
  first, _, last = rows
  d = values["far"] - values["near"]
  assert first["difference"] == student(d)
  assert first["p"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
  # Two equal p values: 3 p, and not less for the second.
  assert first["p_holm"] == pytest.approx(3 * first["p"])
  assert first["verdict"] == "better"
  assert (first["wins"], first["ties"], first["losses"]) == (3, 0, 0)
  assert last == {
    "a": "near", "b": "same", "p": None, "p_holm": None, "wins": 0, "ties": 3,
    "losses": 0, "verdict": "undecided",
    "difference": {"value": 0.0, "low": None, "high": None},
  }  # fmt: skip
  found = tally(rows)
  assert found["far"] == {
    "seeds": {"wins": 6, "ties": 0, "losses": 0},
    "tests": {"wins": 2, "ties": 0, "losses": 0},
  }
  assert found["near"] == {
    "seeds": {"wins": 0, "ties": 3, "losses": 3},
    "tests": {"wins": 0, "ties": 1, "losses": 1},
  }


@pytest.mark.parametrize("test", ["t", "signed-rank"])
def test_smaller_is_better_turns_the_verdict(test):
  rng = np.random.default_rng(2)
  regret = rng.random(30)
  values = {"worse": regret + 0.5 + 0.1 * rng.random(30), "better": regret}
  (row,) = compare_pairs(values, test, larger_is_better=False)
  assert row["difference"]["value"] > 0.5
  assert (row["wins"], row["losses"], row["verdict"]) == (0, 30, "worse")
  (turned,) = compare_pairs(values, test)
  assert (turned["wins"], turned["verdict"]) == (30, "better")


@pytest.mark.parametrize("test", ["t", "signed-rank"])
def test_one_seed_decides_nothing(test):
  (row,) = compare_pairs({"a": [0.9], "b": [0.1]}, test)
  assert row["verdict"] == "undecided"
  assert row["difference"] == {"value": 0.8, "low": None, "high": None}
  assert (row["wins"], row["ties"], row["losses"]) == (1, 0, 0)


@pytest.mark.parametrize("test", ["t", "signed-rank"])
def test_equal_methods_are_told_apart_no_oftener_than_promised(test):
  """Any of the six pairs of four equal methods, at most one time in twenty."""
  rng, false = np.random.default_rng(3), 0
  for _ in range(300):
    values = dict(zip("abcd", rng.normal(size=(4, 12)), strict=True))
    rows = compare_pairs(values, test)
    false += any(r["verdict"] != "undecided" for r in rows)
  assert false / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
