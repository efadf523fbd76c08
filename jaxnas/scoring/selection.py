"""What choosing the best of many candidates is worth on images not seen."""

import numpy as np
from scipy import stats

FOLDS = 10


def fold_of(n_images: int) -> np.ndarray:
  """A fixed random part of each validation image, `int[n_images]`."""
  rng = np.random.default_rng(0)  # the same parts in every run
  return rng.permutation(np.arange(n_images) % min(FOLDS, n_images))


def fold_hits(correct: np.ndarray) -> np.ndarray:
  """Correct images of each part, `int64[m, folds]`.

  Args:
    correct: `bool[m, n_images]`.
  """
  fold = fold_of(correct.shape[1])
  return np.stack(
    [correct[:, fold == f].sum(1) for f in range(fold.max() + 1)], 1
  )


def best_of_weights(m: int, n: int) -> np.ndarray:
  """How likely the i-th worst of m is the best of n drawn without replacement.

  C(i - 1, n - 1) / C(m, n) for i = 1..m, `float64[m]`.

  Args:
    m: candidates there are.
    n: candidates drawn, at most m.
  """
  weights = np.zeros(m)
  weights[-1] = n / m
  for i in range(m - 1, n - 1, -1):  # C(i - 1, n - 1) from C(i, n - 1)
    weights[i - 1] = weights[i] * (i - n + 1) / i
  return weights


def selection_curve(
  hits: np.ndarray, n_images: int, confidence: float = 0.95
) -> dict:
  """Best validation accuracy against the number of candidates (ours).

  The best of n is flattered: it is judged on the images that chose it. So each
  tenth of the images judges what the other nine tenths chose. For the gain each
  half judges what the other half chose: ten choices that share most of their
  images vary together, and an interval from their spread would cover luck in
  only 70 of 100 cases instead of 95.

  Args:
    hits: correct images of each part, `int[m, folds]`.
    n_images: validation images.
    confidence: coverage of the interval of the gain.

  Returns:
    JSON object: `curve`, a row for 1, 2, 5, 10... candidates with the expected
    `best` accuracy on all images and `held_out` on images that did not choose;
    `gain` with its interval, what the best of all by one half has more than the
    mean candidate on the other half, from the spread over its parts; `mean`,
    `std`, `min` and `max` of the candidates; and `noise`, the standard error of
    one accuracy on so many images.
  """
  m, folds = hits.shape
  sizes = np.bincount(fold_of(n_images))
  whole = hits.sum(1) / n_images
  ties = np.random.default_rng(0).permutation(m)
  ranks = [np.lexsort([ties, hits.sum(1)])]
  ranks += [np.lexsort([ties, hits.sum(1) - hits[:, f]]) for f in range(folds)]
  counts = [
    k * 10**e for e in range(len(str(m))) for k in (1, 2, 5) if k * 10**e < m
  ]
  curve = []
  for n in [*counts, m]:
    weights = best_of_weights(m, n)
    held = [
      (weights * hits[ranks[f + 1], f]).sum() / sizes[f] for f in range(folds)
    ]
    curve.append(
      {
        "candidates": n,
        "best": float((weights * whole[ranks[0]]).sum()),
        "held_out": float(np.average(held, weights=sizes)),
      }
    )
  gain, half = _gain(hits, sizes, ties, confidence)
  accuracy = float(whole.mean())
  return {
    "curve": curve,
    "gain": {
      "value": gain, "low": gain - half, "high": gain + half,
      "confidence": confidence,
    },
    "mean": accuracy,
    "std": float(whole.std(ddof=1)) if m > 1 else 0.0,
    "min": float(whole.min()),
    "max": float(whole.max()),
    "noise": float(np.sqrt(accuracy * (1 - accuracy) / n_images)),
  }  # fmt: skip


def _gain(
  hits: np.ndarray, sizes: np.ndarray, ties: np.ndarray, confidence: float
) -> tuple[float, float]:
  """Mean gain over both halves, and half the width of its interval.

  The deviation of a mean of two is at most the mean of their deviations, so
  the interval holds however the halves' choices depend on each other.
  """
  gains, squares = np.zeros(hits.shape[1]), []
  for parity in (0, 1):
    judges = np.arange(hits.shape[1]) % 2 == parity
    chosen = np.lexsort([ties, hits[:, ~judges].sum(1)])[-1]
    better = hits[chosen, judges] - hits[:, judges].mean(0)
    gains[judges] = better / sizes[judges]
    if judges.sum() > 1:
      squares.append(gains[judges].var(ddof=1) / judges.sum())
  if len(squares) < 2:
    return float(gains.mean()), 1.0  # too few images to say anything
  deviation = np.sqrt(squares).mean()
  t = stats.t.ppf(0.5 + confidence / 2, len(gains) - 2)
  return float(gains.mean()), float(t * deviation)
