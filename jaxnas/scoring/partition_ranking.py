"""Whether networks rank truer inside clusters than all together (DC-NAS).

The claim behind dividing is that early accuracies compare fairly only among
networks that learn alike. Small groups alone change a rank correlation, so
clusters are held against random ones, and against neighbours in multiply-adds,
of the same sizes (ours).
"""

import numpy as np

from jaxnas.scoring.ranking import Estimate


def within_tau(labels: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
  """Kendall's tau-b over pairs of archs in one cluster, -1..1 (ours).

  Pairs of all clusters are pooled: (concordant - discordant) / sqrt((pairs -
  ties in x) (pairs - ties in y)). With one cluster, it is the usual tau-b.

  Args:
    labels: cluster of each arch, `int[n]`.
    x: `float[n]`; NaN counts as tied with everything.
    y: `float[n]`, likewise.

  Returns:
    NaN if there is no pair, or all are tied on one side.
  """
  same = _same(labels)
  return float(_tau(*(np.where(same, m, 0).sum() for m in _signs(x, y))))


def compare_partitions(
  labels: np.ndarray,
  early: np.ndarray,
  final: np.ndarray,
  costs: np.ndarray,
  rng: np.random.Generator,
  resamples: int,
  confidence: float,
  partitions: int = 1000,
) -> dict:
  """Holds the ranking inside clusters against others.

  Intervals are percentiles of a bootstrap over archs, paired: every figure of a
  resample is of the same archs. An arch that is drawn again keeps its cluster;
  pairs of an arch with itself, whose ties would say nothing, are left out of
  every figure. Resamples without a value are left out too.

  Args:
    labels: cluster of each arch, `int[n]`.
    early: early accuracy, `float[n]`.
    final: accuracy after the full training, `float[n]`.
    costs: multiply-adds, `float[n]`.
    rng: NumPy generator.
    resamples: of the bootstrap.
    confidence: coverage of the intervals, such as 0.95.
    partitions: random ones.

  Returns:
    JSON object, figures as `value`, `low`, `high`: `n`; `confidence`; tau-b of
    early and final accuracy, `global` over all pairs and `within` clusters;
    their `difference`; `random`, the mean and percentiles of `within` for
    random partitions of the same sizes, and `p`, the share of these that are at
    least as large, the clusters themselves counted in; `macs`, `within` and
    `difference` for neighbours in multiply-adds, and `beyond`, what clusters
    have more than these; and `sizes`. Any may be NaN.
  """
  n = len(labels)
  signs = _signs(early, final)
  counts = rng.multinomial(n, np.full(n, 1 / n), resamples).astype(float)
  # Row 0 is the archs themselves, each once.
  counts = np.concatenate([np.ones((1, n)), counts])

  def taus(mask: np.ndarray) -> np.ndarray:
    """Tau-b over the pairs of a mask, for each row of `counts`."""
    masked = (np.where(mask, m, 0).astype(float) for m in signs)
    return _tau(*(((counts @ m) * counts).sum(1) for m in masked))

  everywhere = taus(np.ones((n, n), bool))
  inside = taus(_same(labels))
  neighbours = np.empty_like(labels)
  neighbours[np.argsort(costs, kind="stable")] = np.sort(labels)
  by_costs = taus(_same(neighbours))

  def estimate(draws: np.ndarray) -> Estimate:
    return _estimate(float(draws[0]), draws[1:], confidence)

  draws = _random_taus(labels, signs, rng, partitions)
  draws = draws[np.isfinite(draws)]
  above = 1 + np.count_nonzero(draws >= inside[0])
  return {
    "n": n,
    "confidence": confidence,
    "global": estimate(everywhere),
    "within": estimate(inside),
    "difference": estimate(inside - everywhere),
    "random": {
      **_estimate(
        float(draws.mean()) if len(draws) else float("nan"), draws, confidence
      ),
      "p": above / (1 + len(draws)) if np.isfinite(inside[0]) else float("nan"),
    },
    "macs": {
      "within": estimate(by_costs),
      "difference": estimate(by_costs - everywhere),
      "beyond": estimate(inside - by_costs),
    },
    "sizes": np.bincount(labels).tolist(),
  }


def _random_taus(
  labels: np.ndarray,
  signs: tuple[np.ndarray, ...],
  rng: np.random.Generator,
  partitions: int,
) -> np.ndarray:
  """Tau-b within random partitions of the same sizes, `float64[partitions]`."""
  n = len(labels)
  a, b = np.nonzero(np.triu(_same(labels), 1))
  sums = np.empty((len(signs), partitions))
  for p in range(partitions):
    order = rng.permutation(n)
    pairs = order[a] * n + order[b]
    sums[:, p] = [m.take(pairs).sum() for m in signs]
  return _tau(*sums)


def _same(labels: np.ndarray) -> np.ndarray:
  return labels[:, None] == labels[None, :]


def _signs(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
  """Of each pair: agreement, untied in x, untied in y, `int8[n, n]`.

  The diagonal is 0, so an arch and itself never count as a pair; NaN counts as
  tied with everything.
  """
  a, b = (np.greater.outer(v, v) * np.int8(1) - np.less.outer(v, v)
          for v in (x, y))  # fmt: skip
  return a * b, np.abs(a), np.abs(b)


def _tau(agreement, untied_x, untied_y) -> np.ndarray:
  product = np.sqrt(np.multiply(untied_x, untied_y, dtype=float))
  nan = np.full(np.shape(product), np.nan)
  return np.divide(agreement, product, out=nan, where=product > 0)


def _estimate(value: float, draws: np.ndarray, confidence: float) -> Estimate:
  draws = draws[np.isfinite(draws)]
  tail = 50 * (1 - confidence)
  low, high = (
    np.percentile(draws, [tail, 100 - tail])
    if len(draws)
    else (float("nan"),) * 2
  )
  return {"value": value, "low": float(low), "high": float(high)}
