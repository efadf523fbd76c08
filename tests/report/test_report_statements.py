"""Words follow numbers: intervals, claims, formats."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from jaxnas.report import statements as say
from jaxnas.report.statements import Estimate

TAU = st.floats(-1, 1)


def interval(values):
  low, value, high = sorted(values)
  return Estimate(value, low, high)


INTERVALS = st.tuples(TAU, TAU, TAU).map(interval)


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.5, 0.999))
def test_wilson_bounds_are_the_roots_of_the_score_equation(n, share, level):
  share = round(share * n) / n
  z = stats.norm.ppf((1 + level) / 2)
  low, high = say.wilson(share, n, level)
  assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
  for p in (low, high):
    if 0 < p < 1:
      score = (share - p) ** 2 - z * z * p * (1 - p) / n
      assert abs(score) < 1e-9


def test_wilson_equals_scipy():
  found = stats.binomtest(350, 360).proportion_ci(0.95, "wilson")
  assert say.wilson(350 / 360, 360) == pytest.approx((found.low, found.high))
  assert say.wilson(1.0, 10)[1] == 1.0
  # All right: the lower bound is n / (n + z^2).
  z = stats.norm.ppf(0.975)
  assert say.wilson(1.0, 10)[0] == pytest.approx(10 / (10 + z * z))
  root = optimize.brentq(
    lambda p: (0.5 - p) - z * math.sqrt(p * (1 - p) / 9), 1e-9, 0.5
  )
  assert say.wilson(0.5, 9)[0] == pytest.approx(root)


@given(INTERVALS, INTERVALS)
def test_better_is_claimed_only_where_intervals_exclude_it(supernet, other):
  verdict = say.compare(supernet, other)
  if verdict == "better":
    assert supernet.low > other.high and supernet.low > -other.low
  if verdict == "worse":
    assert other.low > supernet.high or -other.high > supernet.high
  overlap = supernet.low <= other.high and other.low <= supernet.high
  if overlap and other.high >= 0:
    assert verdict == "undecided"
  if supernet.low <= max(other.high, -other.low):
    assert verdict != "better"


@given(INTERVALS, INTERVALS)
def test_the_words_agree_with_the_verdict(supernet, other):
  text = claims(supernet, other)
  assert ("better" in text) == (say.compare(supernet, other) == "better")
  assert ("worse" in text) == (say.compare(supernet, other) == "worse")


def claims(supernet, other):
  as_json = lambda e: {"value": e.value, "low": e.low, "high": e.high}
  ranking = {
    "n": 24, "kendall_tau_b": as_json(supernet),
    "baselines": {"macs": as_json(other)},
  }  # fmt: skip
  return say.ranking_claims(ranking)[1][-1]


@given(INTERVALS, INTERVALS, INTERVALS)
def test_paired_differences_decide_where_there_are_any(supernet, other, gain):
  verdict = say.judge(supernet, other, gain)
  if other.value < 0:  # a backwards order counts by its magnitude
    assert verdict == say.compare(supernet, other)
  else:
    assert (verdict == "better") == (gain.low > 0)
    assert (verdict == "worse") == (gain.high < 0)
  assert say.judge(supernet, other, None) == say.compare(supernet, other)


def test_a_paired_difference_is_shown():
  ranking = {
    "n": 24,
    "kendall_tau_b": {"value": 0.4, "low": 0.1, "high": 0.6},
    "baselines": {
      "macs": {
        "value": 0.1,
        "low": -0.1,
        "high": 0.3,
        "gain": {"value": 0.3, "low": 0.05, "high": 0.5},
      }
    },
  }
  text = say.ranking_claims(ranking)[1][-1]
  assert "ranks better than MACs alone" in text
  assert "0.300 [0.050, 0.500]" in text
  ranking["baselines"]["macs"]["gain"]["low"] = -0.01
  assert "nothing is claimed" in say.ranking_claims(ranking)[1][-1]


@given(INTERVALS)
def test_a_warning_appears_when_the_interval_includes_zero(tau):
  ranking = {
    "n": 24,
    "kendall_tau_b": {"value": tau.value, "low": tau.low, "high": tau.high},
  }
  warnings, _ = say.ranking_claims(ranking)
  includes = tau.low <= 0 <= tau.high
  assert any("includes zero" in w for w in warnings) == includes
  assert bool(warnings) == (tau.low <= 0)


def test_unknown_bounds_claim_nothing():
  known, unknown = Estimate(0.9, 0.8, 0.95), Estimate.from_json(None)
  assert say.compare(known, unknown) == "undecided"
  assert say.compare(unknown, known) == "undecided"
  assert not unknown.excludes_zero
  half = Estimate.from_json({"value": 0.1, "low": -0.2, "high": None})
  assert say.compare(known, half) == "undecided"


def test_known_verdicts():
  supernet = Estimate(0.7, 0.55, 0.83)
  assert say.compare(supernet, Estimate(0.3, 0.0, 0.5)) == "better"
  assert say.compare(supernet, Estimate(0.6, 0.4, 0.77)) == "undecided"
  assert say.compare(supernet, Estimate(0.9, 0.86, 0.95)) == "worse"
  # Fewer MACs rank as well as more MACs would.
  assert say.compare(supernet, Estimate(-0.9, -0.95, -0.86)) == "worse"
  assert say.compare(supernet, Estimate(-0.3, -0.6, 0.0)) == "undecided"


def test_evenly_spaced_selection_is_qualified():
  tau = {"value": 0.9, "low": 0.8, "high": 0.95}
  for selection, said in (("uniform", False), ("evenly-spaced", True)):
    ranking = {"n": 13, "kendall_tau_b": tau, "selection": selection}
    text = " ".join(say.ranking_claims(ranking)[1])
    assert selection in text and ("raises" in text) == said


@pytest.mark.parametrize("seconds, text", [
  (0.0004, "0 ms"), (0.25, "250 ms"), (12.34, "12.3 s"), (59.97, "1 min 00 s"),
  (119.6, "2 min 00 s"), (3599.7, "1 h 00 min"), (11100, "3 h 05 min"),
  (math.nan, "–"),
])  # fmt: skip
def test_durations(seconds, text):
  assert say.duration(seconds) == text


def test_formats():
  assert say.percent(0.97222) == "97.22%"
  assert say.decimal(-0.0504) == "−0.050"
  assert say.exact(388120480) == "388,120,480"
  for write in (say.percent, say.decimal, say.exact, say.count):
    assert write(None) == write(np.nan) == say.NONE
