"""Ranks inside clusters, trains their best longer, and merges them (DC-NAS).

That networks are compared within clusters only, and the clusters' best merged,
is the paper's (arXiv 2005.14456, abstract); how is ours. Scores are numbers
that callbacks return, so any evaluation will do.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from jaxnas.config import DivideConfig
from jaxnas.errors import RunError


@dataclasses.dataclass(frozen=True, eq=False)
class Conquered:
  """What conquering the clusters found; archs are indices of the n sampled.

  Attributes:
    survivors: those trained longer, `int[m]`, by cluster, then best first.
    longer: their scores after that, `float[m]`.
    winner: the best of them, which is the merge `compare`.
    champions: best of each cluster after the longer training, `int[c]`, best
      first; c is less than k where all of a cluster failed.
    rungs: what successive halving did, see `halve`.
  """

  survivors: np.ndarray
  longer: np.ndarray
  winner: int
  champions: np.ndarray
  rungs: list[dict[str, int]]


def conquer(
  labels: np.ndarray,
  early: np.ndarray,
  config: DivideConfig,
  evaluate: Callable[[np.ndarray, int], np.ndarray],
  longer: Callable[[np.ndarray], np.ndarray],
) -> Conquered:
  """Everything after the clustering.

  One cluster is plain early stopping, and n clusters train everything longer.

  Args:
    labels: cluster of each arch, `int[n]`.
    early: score after the short training, larger is better, NaN if it failed,
      `float[n]`.
    config: `keep` and `halving`; what `merge=vote` takes is `vote` of the
      champions.
    evaluate: `(archs int[m], rung) -> float[m]`, see `halve`.
    longer: `archs int[m] -> float[m]`, scores after the longer training.

  Raises:
    RunError: if all archs failed, in the short or in the longer training.
  """
  # Step 4, evaluation separately in each cluster.
  survivors, rungs = halve(labels, early, config.keep, config.halving, evaluate)
  if not len(survivors):
    raise RunError("the short training of every sampled network failed.")
  # Step 5, merging: scores after the same long training compare.
  scores = np.asarray(longer(survivors), float)
  if np.isnan(scores).all():
    raise RunError("the longer training of every cluster's best failed.")
  all_scores = np.full(len(labels), np.nan)
  all_scores[survivors] = scores
  champions = within(labels, all_scores, 1)
  champions = champions[np.lexsort([champions, -all_scores[champions]])]
  return Conquered(survivors, scores, int(champions[0]), champions, rungs)


def within(labels: np.ndarray, scores: np.ndarray, keep: int) -> np.ndarray:
  """The best of each cluster.

  Args:
    labels: cluster of each arch, `int[n]`.
    scores: `float[n]`, larger is better; NaN is never kept, and of equals the
      earlier arch comes first.
    keep: how many of each cluster.

  Returns:
    Indices `int[m]`, by cluster, then best first.
  """
  order, rank = _ranked(labels, scores)
  return order[rank < keep]


def halve(
  labels: np.ndarray,
  early: np.ndarray,
  keep: int,
  halving: int,
  evaluate: Callable[[np.ndarray, int], np.ndarray],
) -> tuple[np.ndarray, list[dict[str, int]]]:
  """Successive halving inside each cluster (ours).

  A cluster of s archs keeps the best `ceil(s / halving)`, but at least `keep`,
  and scores them again after a longer training, until only `keep` are left;
  these need no further score. Archs without a score do not count. Larger
  clusters take more rungs. All that are scored at one rung, of whatever
  cluster, are scored by one call.

  Args:
    labels: cluster of each arch, `int[n]`.
    early: score of each arch, as in `within`, `float[n]`; rung 0.
    keep: archs of each cluster at the end.
    halving: 2 or more; 0 ranks by `early` alone, as `within` does.
    evaluate: `(archs int[m] ascending, rung) -> float[m]`; rung r = 1, 2, ...
      trains `halving ** r` times longer than rung 0.

  Returns:
    Those left, ordered as by `within`, and for each rung `{"rung", "times",
    "networks"}`: r, `halving ** r` and the networks scored.
  """
  scores, rungs = np.array(early, float), []
  for rung in itertools.count(1):
    order, rank = _ranked(labels, scores)
    sizes = np.bincount(labels[order], minlength=labels.max(initial=0) + 1)
    if not halving or (sizes <= keep).all():
      return order[rank < keep], rungs
    limits = np.maximum(-(-sizes // halving), keep)
    scores[order[rank >= limits[labels[order]]]] = np.nan
    kept = order[rank < limits[labels[order]]]
    running = np.sort(kept[limits[labels[kept]] > keep])
    if len(running):
      scores[running] = evaluate(running, rung)
      rungs.append(
        {"rung": rung, "times": halving**rung, "networks": len(running)}
      )
  raise AssertionError("clusters shrink at every rung")


def vote(archs: np.ndarray) -> np.ndarray:
  """Merges archs layer by layer: the choice that most of them made (ours).

  Args:
    archs: best first, `int32[n, L]`. Of choices with equal votes, the one of
      the best arch among their voters is taken.

  Returns:
    `int32[L]`, which may break a budget that all the archs keep.
  """
  archs = np.asarray(archs)
  merged = np.empty(archs.shape[1], np.int32)
  for layer, choices in enumerate(archs.T):
    votes = np.bincount(choices)[choices]
    merged[layer] = choices[votes.argmax()]
  return merged


def _ranked(
  labels: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Archs with a score, by cluster and best first, and their ranks from 0."""
  known = np.flatnonzero(~np.isnan(scores))
  order = known[np.lexsort([-scores[known], labels[known]])]
  clusters = labels[order]
  return order, np.arange(len(order)) - np.searchsorted(clusters, clusters)
