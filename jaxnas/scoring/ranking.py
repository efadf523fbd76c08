"""How well a ranking agrees with the truth, with intervals.

A rank correlation from few networks is uncertain, and depends on how they were
chosen: every figure comes with n, the selection rule and a bootstrap interval.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

Estimate = dict[str, float]


def kendall_tau_b(x: np.ndarray, y: np.ndarray) -> float:
  """Kendall's tau-b, -1..1, which allows for ties; NaN if one side is tied."""
  return float(stats.kendalltau(x, y, variant="b").statistic)


def kendall_tau_a(x: np.ndarray, y: np.ndarray) -> float:
  """Kendall's tau-a: (concordant - discordant) / all pairs."""
  a, b = _signs(x), _signs(y)
  n = len(x)
  return float((a * b).sum() / (n * (n - 1)))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
  """Spearman's rank correlation; NaN if one side is constant."""
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return float("nan")
  return float(stats.spearmanr(x, y).statistic)


def top_k_overlap(x: np.ndarray, y: np.ndarray, k: int) -> float:
  """Share of the true top k that is in the predicted top k.

  Ties at the border are shared out: an arch tied for the last places counts by
  its chance to be among them, so the order of rows does not matter.
  """
  return float((_top_share(x, k) * _top_share(y, k)).sum() / min(k, len(x)))


def regret(x: np.ndarray, y: np.ndarray) -> float:
  """Best truth minus the truth of the arch ranked first (mean over ties)."""
  return float(y.max() - y[x == x.max()].mean())


def bootstrap(
  statistic: Callable[..., float],
  columns: tuple[np.ndarray, ...],
  rng: np.random.Generator,
  resamples: int,
  confidence: float,
) -> Estimate:
  """A statistic with its percentile bootstrap interval over networks.

  Args:
    statistic: of the columns.
    columns: arrays `[n]`, resampled together.
    rng: NumPy generator.
    resamples: number of resamples.
    confidence: coverage, such as 0.95.

  Returns:
    `value`, `low` and `high`; resamples without a value are left out.
  """
  n = len(columns[0])
  draws = []
  for _ in range(resamples):
    rows = rng.integers(0, n, n)
    draws.append(statistic(*(c[rows] for c in columns)))
  draws = np.array(draws, float)
  draws = draws[np.isfinite(draws)]
  tail = 50 * (1 - confidence)
  low, high = (
    np.percentile(draws, [tail, 100 - tail])
    if len(draws)
    else (float("nan"),) * 2
  )
  return {
    "value": float(statistic(*columns)),
    "low": float(low),
    "high": float(high),
  }


def evenly_spaced(scores: np.ndarray, n: int) -> np.ndarray:
  """Picks archs evenly spaced in score, lowest and highest included.

  The 13 models of FairNAS Fig. 1 sit at even steps of one-shot accuracy; the
  rule is inferred from that figure (ours).

  Args:
    scores: `[pool]`.
    n: number of picks, at most the pool's size.

  Returns:
    Indices `[n]`, by ascending score, no index twice.
  """
  free = np.ones(len(scores), bool)
  picks = []
  for target in np.linspace(scores.min(), scores.max(), n):
    distance = np.where(free, np.abs(scores - target), np.inf)
    picks.append(int(np.argmin(distance)))
    free[picks[-1]] = False
  return np.array(sorted(picks, key=lambda i: scores[i]))


def compare_rankings(
  supernet: np.ndarray,
  truth: np.ndarray,
  costs: dict[str, np.ndarray],
  top_k: int,
  rng: np.random.Generator,
  resamples: int,
  confidence: float,
  fits: dict[str, np.ndarray] | None = None,
) -> dict:
  """All ranking figures of one set of networks.

  Args:
    supernet: accuracy with inherited weights, `[n]`.
    truth: stand-alone accuracy, `[n]`.
    costs: cost alone as a ranking, `[n]` by name: what any method must beat.
    top_k: size of the compared top sets.
    rng: NumPy generator of the bootstrap.
    resamples: bootstrap resamples.
    confidence: coverage of the intervals.
    fits: accuracies predicted by fits to supernet accuracies, `[n]` by name.

  Returns:
    JSON object with `n`, `pairs`, `kendall_tau_a`, `kendall_tau_b`,
    `spearman`, `top_k`, `top_k_overlap`, `regret`, `baselines` (tau-b of each
    cost, and `gain`: the supernet's tau-b minus it, paired), `fits` (tau-b of
    each, and `gain`: it minus the supernet's) and `confidence`.
  """

  def interval(statistic, *columns):
    return bootstrap(statistic, columns, rng, resamples, confidence)

  def gain(x, y, c):
    return kendall_tau_b(x, y) - kendall_tau_b(c, y)

  n = len(truth)
  k = min(top_k, n)
  return {
    "n": n,
    "pairs": n * (n - 1) // 2,
    "kendall_tau_a": kendall_tau_a(supernet, truth),
    "kendall_tau_b": interval(kendall_tau_b, supernet, truth),
    "spearman": interval(spearman, supernet, truth),
    "top_k": k,
    "top_k_overlap": interval(
      lambda x, y: top_k_overlap(x, y, k), supernet, truth
    ),
    "regret": regret(supernet, truth),
    "baselines": {
      name: {
        **interval(kendall_tau_b, cost, truth),
        "gain": interval(gain, supernet, truth, cost),
      }
      for name, cost in costs.items()
    },
    "fits": {
      name: {
        **interval(kendall_tau_b, fit, truth),
        "gain": interval(gain, fit, truth, supernet),
      }
      for name, fit in (fits or {}).items()
    },
    "confidence": confidence,
  }


def _signs(x: np.ndarray) -> np.ndarray:
  return np.sign(x[:, None] - x[None, :])


def _top_share(x: np.ndarray, k: int) -> np.ndarray:
  k = min(k, len(x))
  border = np.sort(x)[-k]
  above = x > border
  tied = x == border
  return above + tied * (k - above.sum()) / tied.sum()
