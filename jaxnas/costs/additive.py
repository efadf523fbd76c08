"""An additive cost fitted to measurements of whole networks (ours).

`value = fixed + sum_l table[l, arch[l]] + noise`, by ridge regression on
one-hots. Where layers really add up (most edge devices, batch 1) this recovers
the table that nobody measured; where they do not, the held-out figures say so.
"""

import dataclasses
import warnings

import numpy as np
from scipy import stats
from sklearn.linear_model import RidgeCV

from jaxnas.costs.table import CostTable
from jaxnas.errors import UserError

Estimate = dict[str, float]

# Penalties on one-hots, in networks: from none, up to the shrinkage of a fit
# to a handful of noisy networks. Leave-one-out errors choose among them.
PENALTIES = np.logspace(-8, 3, 12)


@dataclasses.dataclass(frozen=True)
class AdditiveFit:
  """A fitted table and how well such a table predicts unseen networks.

  Attributes:
    table: the fit to all networks. Every layer's cheapest choice costs 0 and
      `fixed` holds the rest, the cheapest network: from whole networks only
      differences between choices can be known.
    predicted: for every network the prediction of a fit that has not seen it
      (nor a repetition of it), `float64[n]`.
    held_out: `agreement` of `predicted` with the measurements.
    folds: of the cross-validation behind `predicted`.
    unseen: `((layer, choice), ...)` that occur in no network; they got the mean
      of their layer's other choices.
    penalty: of the ridge regression.
  """

  table: CostTable
  predicted: np.ndarray
  held_out: dict
  folds: int
  unseen: tuple[tuple[int, int], ...]
  penalty: float


def fit_additive(
  archs: np.ndarray,
  values: np.ndarray,
  n_choices: np.ndarray,
  name: str,
  folds: int = 5,
  seed: int = 0,
  resamples: int = 200,
  confidence: float = 0.95,
) -> AdditiveFit:
  """Fits an additive table to whole-network measurements.

  Args:
    archs: `int[n, L]`; repetitions are allowed and stay in one fold.
    values: measurements such as latencies in ms, `float[n]`, finite.
    n_choices: choices of each layer, `int[L]`.
    name: of the cost, such as `latency.pixel3`.
    folds: parts of the cross-validation, 2 or more.
    seed: of the split and of the bootstrap.
    resamples: bootstrap resamples of the held-out figures.
    confidence: coverage of their intervals.

  Raises:
    UserError: if shapes do not match, a value is not finite, an index is out
      of range, or fewer distinct networks than folds are given.
  """
  archs, n_choices = np.asarray(archs, np.int32), np.asarray(n_choices)
  values = np.asarray(values, np.float64)
  groups = _check(archs, values, n_choices, name, folds)
  rng = np.random.default_rng(seed)
  fold = rng.permutation(groups.max() + 1)[groups] % folds
  predicted = np.empty(len(values))
  for f in range(folds):
    rest, part = fold != f, fold == f
    table, _ = _fit(archs[rest], values[rest], n_choices, name)
    predicted[part] = table(archs[part])
  table, penalty = _fit(archs, values, n_choices, name)
  seen = [np.bincount(archs[:, l], minlength=k) for l, k in _rows(n_choices)]
  unseen = [
    (l, int(c)) for l, s in enumerate(seen) for c in np.where(s == 0)[0]
  ]
  held_out = agreement(predicted, values, rng, resamples, confidence)
  return AdditiveFit(table, predicted, held_out, folds, tuple(unseen), penalty)


def _rows(n_choices: np.ndarray) -> list[tuple[int, int]]:
  return [(l, int(k)) for l, k in enumerate(n_choices)]


def _check(archs, values, n_choices, name, folds) -> np.ndarray:
  """Refuses what cannot be fitted; numbers the distinct networks, `int[n]`."""
  if archs.ndim != 2 or archs.shape != (len(values), len(n_choices)):
    raise UserError(
      f"fit of {name!r}: archs are {list(archs.shape)} for {len(values)} values"
      f" and {len(n_choices)} layers; legal: [{len(values)}, {len(n_choices)}]."
    )
  bad = np.argwhere((archs < 0) | (archs >= n_choices))
  if len(bad):
    i, l = bad[0]
    raise UserError(
      f"fit of {name!r}: network {i} has index {archs[i, l]} at layer {l};"
      f" legal: 0..{n_choices[l] - 1}."
    )
  if not np.isfinite(values).all():
    i = int(np.flatnonzero(~np.isfinite(values))[0])
    raise UserError(
      f"fit of {name!r}: the value of network {i} is {values[i]}; drop the"
      " networks that were not measured."
    )
  distinct, groups = np.unique(archs, axis=0, return_inverse=True)
  if folds < 2 or len(distinct) < folds:
    raise UserError(
      f"fit of {name!r}: {len(distinct)} distinct networks cannot make {folds}"
      " folds; legal: 2 or more folds, and as many networks at least."
    )
  return groups.reshape(-1)


def _fit(archs, values, n_choices, name) -> tuple[CostTable, float]:
  one_hot = np.concatenate(
    [archs[:, l, None] == np.arange(k) for l, k in _rows(n_choices)], axis=1
  ).astype(np.float64)
  # In units of their spread, so that the solver's rounding does not depend on
  # the unit of the measurements.
  scale = np.ptp(values) or 1.0
  ridge = RidgeCV(PENALTIES).fit(one_hot, (values - values.mean()) / scale)
  fixed = float(values.mean() + ridge.intercept_ * scale)
  table = np.zeros((len(n_choices), int(max(n_choices))))
  start = 0
  for l, k in _rows(n_choices):
    row = ridge.coef_[start : start + k] * scale
    start += k
    fixed += float(row.min())
    table[l, :k] = row - row.min()
  counts = np.asarray(n_choices, np.int32)
  return CostTable(name, fixed, table, counts), float(ridge.alpha_)


def r_squared(predicted: np.ndarray, measured: np.ndarray) -> float:
  """Share of the variance that is explained; NaN if nothing varies."""
  total = np.square(measured - measured.mean()).sum()
  if total == 0:
    return float("nan")
  return float(1 - np.square(measured - predicted).sum() / total)


def _rank(correlation, a: np.ndarray, b: np.ndarray) -> float:
  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return float("nan")
  return float(correlation(a, b).statistic)


STATISTICS = {
  "r2": r_squared,
  "kendall_tau_b": lambda p, m: _rank(stats.kendalltau, p, m),
  "spearman": lambda p, m: _rank(stats.spearmanr, p, m),
}


def agreement(
  predicted: np.ndarray,
  measured: np.ndarray,
  rng: np.random.Generator,
  resamples: int = 200,
  confidence: float = 0.95,
) -> dict:
  """How well predictions agree with measurements of the same networks.

  Args:
    predicted: `float[n]`.
    measured: `float[n]`, above 0.
    rng: NumPy generator of the bootstrap over networks.
    resamples: number of resamples.
    confidence: coverage of the percentile intervals.

  Returns:
    JSON object: `n`; `r2`, `kendall_tau_b` and `spearman`, each with `value`,
    `low` and `high` (NaN where nothing varies); `mean_relative_error` and
    `largest_relative_error` of absolute differences, and `bias`, the mean
    signed difference, all relative to the measured value; `confidence`.
  """
  n = len(measured)
  rows = rng.integers(0, n, (resamples, n))
  relative = (predicted - measured) / measured
  tail = 50 * (1 - confidence)

  def estimate(statistic) -> Estimate:
    draws = [statistic(predicted[r], measured[r]) for r in rows]
    with warnings.catch_warnings():  # all-NaN where nothing varies
      warnings.simplefilter("ignore", RuntimeWarning)
      low, high = np.nanpercentile(draws, [tail, 100 - tail])
    value = statistic(predicted, measured)
    return {"value": value, "low": float(low), "high": float(high)}

  return {
    "n": n,
    **{key: estimate(statistic) for key, statistic in STATISTICS.items()},
    "mean_relative_error": float(np.abs(relative).mean()),
    "largest_relative_error": float(np.abs(relative).max()),
    "bias": float(relative.mean()),
    "confidence": confidence,
  }
