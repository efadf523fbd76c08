"""Whether one of several methods is better: paired tests over seeds.

Values with one seed belong together: the same split, the same test images. So
tests are of the differences of pairs, and intervals say what other seeds would
give; what other test images would give they do not say.
"""

import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy import stats

Test = Literal["t", "signed-rank"]


def student(values: np.ndarray, confidence: float = 0.95) -> dict:
  """A mean with Student's interval.

  Args:
    values: `float[n]`, n above 0.
    confidence: coverage.

  Returns:
    `value`, `low` and `high`; no bounds (None) of a single value.
  """
  values = np.asarray(values, float)
  mean = float(values.mean())
  if len(values) < 2:
    return {"value": mean, "low": None, "high": None}
  t = stats.t.ppf(0.5 + confidence / 2, len(values) - 1)
  half = float(t * values.std(ddof=1) / np.sqrt(len(values)))
  return {"value": mean, "low": mean - half, "high": mean + half}


def paired_t(differences: np.ndarray) -> float | None:
  """Two-sided p of the paired t test, None where there is no spread.

  Differences that are all equal, as a few accuracies on few images may be, say
  nothing of what another seed would give: no p is better than one of 0.
  """
  d = np.asarray(differences, float)
  # Equal accuracies may differ in their last bits.
  if len(d) < 2 or np.ptp(d) <= 1e-12 * max(1.0, np.abs(d).max()):
    return None
  t = d.mean() / (d.std(ddof=1) / np.sqrt(len(d)))
  return float(2 * stats.t.sf(abs(t), len(d) - 1))


def signed_rank(differences: np.ndarray) -> tuple[float | None, int]:
  """Wilcoxon's signed-rank test, exact with ties as well.

  Zeros are dropped (Wilcoxon 1945). Given the absolute values every sign is
  equally likely, which one convolution for each rank enumerates.

  Args:
    differences: `float[n]`.

  Returns:
    Two-sided p, None if all are zero; and the sign of the sum of the signed
    ranks.
  """
  d = np.asarray(differences, float)
  d = d[d != 0]
  if not len(d):
    return None, 0
  # Mean ranks of ties end in a half, so their doubles are whole.
  ranks = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)
  chances = np.ones(1)
  for rank in ranks:
    grown = np.zeros(len(chances) + rank)
    grown[: len(chances)] += chances / 2
    grown[rank:] += chances / 2
    chances = grown
  seen = ranks[d > 0].sum()
  p = 2 * min(chances[: seen + 1].sum(), chances[seen:].sum())
  return min(1.0, float(p)), int(np.sign(2 * seen - ranks.sum()))


def holm(p: np.ndarray) -> np.ndarray:
  """Adjusts p values for their number (Holm 1979).

  At most the level is the chance that any true null hypothesis is rejected,
  however the tests depend on each other.

  Args:
    p: `float[m]`.

  Returns:
    `float[m]`, to be compared with the level.
  """
  p = np.asarray(p, float)
  order = np.argsort(p, kind="stable")
  steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
  adjusted = np.empty(len(p))
  adjusted[order] = np.minimum(1.0, steps)
  return adjusted


def compare_pairs(
  values: Mapping[str, np.ndarray],
  test: Test,
  larger_is_better: bool = True,
  confidence: float = 0.95,
) -> list[dict]:
  """Compares every two of several methods.

  Two answers are given. Wins, ties and losses count seeds by their plain
  values, a tie being equality. The verdict is the test's, its p adjusted by
  Holm for the number of pairs: `better` or `worse` below 1 - confidence, else
  `undecided`. A few seeds and many pairs can decide little, and that is meant.

  Args:
    values: `float[n]` by name, in the same order of seeds.
    test: `t`, of means; or `signed-rank`, for many seeds whose differences are
      far from normal.
    larger_is_better: whether larger values win.
    confidence: of intervals and verdicts.

  Returns:
    A JSON object for each pair: `a`, `b`; `difference`, the mean of a minus b
    with Student's interval for this one pair; `p`, `p_holm`; `wins`, `ties` and
    `losses` of a; `verdict` on a.
  """
  rows = []
  for a, b in itertools.combinations(values, 2):
    d = np.asarray(values[a], float) - np.asarray(values[b], float)
    if test == "t":
      p, sign = paired_t(d), int(np.sign(d.mean()))
    else:
      p, sign = signed_rank(d)
    difference = student(d, confidence)
    if paired_t(d) is None:
      difference |= {"low": None, "high": None}
    gains = d if larger_is_better else -d
    rows.append(
      {
        "a": a, "b": b, "difference": difference, "p": p,
        "wins": int((gains > 0).sum()), "ties": int((gains == 0).sum()),
        "losses": int((gains < 0).sum()),
        "verdict": sign if larger_is_better else -sign,
      }
    )  # fmt: skip
  adjusted = holm([1.0 if row["p"] is None else row["p"] for row in rows])
  for row, p in zip(rows, adjusted.tolist(), strict=True):
    sure = row["p"] is not None and p < 1 - confidence
    row["p_holm"] = None if row["p"] is None else p
    row["verdict"] = (
      {1: "better", -1: "worse"}.get(row["verdict"], "undecided")
      if sure
      else "undecided"
    )
  return rows


def tally(rows: list[dict]) -> dict[str, dict[str, dict[str, int]]]:
  """Sums each method's pairs.

  Args:
    rows: of `compare_pairs`.

  Returns:
    By name: `seeds` and `tests`, each with `wins`, `ties` and `losses`; an
    undecided test is a tie.
  """
  names = dict.fromkeys(n for row in rows for n in (row["a"], row["b"]))
  found = {
    name: {k: dict.fromkeys(("wins", "ties", "losses"), 0)
           for k in ("seeds", "tests")}
    for name in names
  }  # fmt: skip
  place = {"better": "wins", "worse": "losses", "undecided": "ties"}
  other = {"wins": "losses", "losses": "wins", "ties": "ties"}
  for row in rows:
    a, b = found[row["a"]], found[row["b"]]
    for name, opposite in other.items():
      a["seeds"][name] += row[name]
      b["seeds"][opposite] += row[name]
    verdict = place[row["verdict"]]
    a["tests"][verdict] += 1
    b["tests"][other[verdict]] += 1
  return found
