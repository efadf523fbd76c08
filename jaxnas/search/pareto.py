"""Pareto ranks, weighted crowding, fronts. Larger values are better here."""

from collections.abc import Sequence
from typing import NamedTuple

import moocore
import numpy as np

from jaxnas.search import base
from jaxnas.spaces import Space


class Front(NamedTuple):
  """Evaluated archs that no other one dominates, best first objective first.

  Attributes:
    index: positions in the archive, `int64[k]`.
    archs: `int32[k, L]`.
    values: objective values with the sign that makes larger better,
      `float64[k, m]`.
  """

  index: np.ndarray
  archs: np.ndarray
  values: np.ndarray


def finalists(state: base.State, space: Space, objectives) -> list[int]:
  """Positions in the archive from which the winner is picked.

  Args:
    state: of a finished search. A searcher that decides itself leaves its
      choice in `winner`; of the others every arch off the front is worse than
      some arch in one objective and better in none.
    space: the space.
    objectives: of the search.
  """
  if state.get("winner") is not None:
    return [state["archive"]["archs"].index(state["winner"])]
  return sorted(front(state, space, objectives).index.tolist())


def pareto_rank(values: np.ndarray) -> np.ndarray:
  """Nondominated sorting (Deb et al. 2002, fast nondominated sort).

  Args:
    values: `float64[n, m]`, finite, larger is better.

  Returns:
    `int64[n]`: 0 for the nondominated, 1 for those dominated by rank 0 only,
    and so on.
  """
  if not len(values):
    return np.zeros(0, np.int64)
  return np.asarray(moocore.pareto_rank(values, maximise=True), np.int64)


def crowding(values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
  """Weighted crowding distance within one front.

  d(j) = sum_i w_i |f_i(j+1) - f_i(j-1)| / (max f_i - min f_i), over the
  neighbours of j in the order of f_i; the two ends of an objective have
  infinite distance. With equal weights it is proportional to Deb et al. 2002;
  that FairNAS weights it is recalled, unverified. An objective of weight 0, or
  with one value only, adds nothing and has no ends (ours).

  Args:
    values: `float64[n, m]`, finite.
    weights: `m` numbers that sum to 1.

  Returns:
    `float64[n]`, larger where the front is emptier; never NaN.
  """
  distance = np.zeros(len(values))
  for f, weight in zip(values.T, weights, strict=True):
    if not len(f) or f.max() == f.min() or weight == 0:
      continue
    order = np.argsort(f, kind="stable")
    gap = (f[order[2:]] - f[order[:-2]]) / (f.max() - f.min())
    distance[order[1:-1]] += weight * gap
    distance[order[[0, -1]]] = np.inf
  return distance


def select(values: np.ndarray, weights: Sequence[float], n: int) -> np.ndarray:
  """Environmental selection: the best by rank, then by weighted crowding.

  Args:
    values: `float64[r, m]`; rows with NaN are never selected.
    weights: weights of the crowding distance.
    n: number of survivors.

  Returns:
    Positions of at most `n` rows, best first, `int64`.
  """
  finite = np.flatnonzero(np.isfinite(values).all(1))
  kept = values[finite]
  rank = pareto_rank(kept)
  distance = np.zeros(len(kept))
  for r in np.unique(rank):
    distance[rank == r] = crowding(kept[rank == r], weights)
  return finite[np.lexsort((-distance, rank))[:n]]


def front(state: base.State, space: Space, objectives: Sequence[str]) -> Front:
  """Returns the Pareto front of everything a searcher has evaluated.

  Args:
    state: any searcher's state.
    space: its space.
    objectives: what to compare.

  Returns:
    The front; archs with equal values are all in it, archs with a value that
    is not finite never.
  """
  values = base.utilities(state["archive"]["metrics"], objectives)
  finite = np.flatnonzero(np.isfinite(values).all(1))
  index = finite[pareto_rank(values[finite]) == 0]
  index = index[np.lexsort(-values[index].T[::-1])]
  return Front(index, base.archive_archs(state, space)[index], values[index])


def pick_equispaced(points: Front, k: int) -> Front:
  """Picks members whose first objective is spread evenly over the front.

  Picking equispaced is recalled, unverified; the rule is ours: `k` evenly
  spaced targets from the best to the worst first objective, and for each the
  nearest member that is still free.

  Args:
    points: a front.
    k: number of members; 1 gives the best.

  Returns:
    A front of `min(k, len)` members, in the order of the front.
  """
  first = points.values[:, 0]
  free = np.ones(len(first), bool)
  for target in np.linspace(first[0], first[-1], k) if len(first) else ():
    if free.any():
      distance = np.where(free, np.abs(first - target), np.inf)
      free[np.argmin(distance)] = False
  return Front(*(part[~free] for part in points))
