"""The rows of a listed space that keep bounds (ours)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from jaxnas.spaces import ListedSpace

Limits = tuple[tuple[str, float], ...]
Cost = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class RowSet:
  """Rows to draw from: all feasible ones, or those of one cost bin.

  Attributes:
    rows: `int32[m, L]`.
  """

  rows: np.ndarray

  @property
  def count(self) -> int:
    """Number of rows."""
    return len(self.rows)

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws rows uniformly, with replacement: `int32[n, L]`."""
    return self.rows[rng.integers(len(self.rows), size=n)]


@dataclasses.dataclass(frozen=True, eq=False)
class ListedSet:
  """See `Budget`, which offers the same methods.

  Attributes:
    limits: `((cost name, largest allowed value), ...)`.
    costs: by name, each `archs -> [n]`; NaN keeps no bound.
    space: the rows.
  """

  limits: Limits
  costs: Mapping[str, Cost]
  space: ListedSpace

  exact = True

  @functools.cached_property
  def kept(self) -> np.ndarray:
    """Which rows are feasible, `bool[N]`."""
    return self._keeping(self.limits)

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """The feasible rows, `int32[m, L]`."""
    return self.space.rows[self.kept]

  @property
  def empty(self) -> bool:
    """Whether nothing is feasible."""
    return not len(self.rows)

  def count(self) -> int:
    """See `Budget.count`."""
    return len(self.rows)

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """See `Budget.allows`."""
    at = self.space.find(archs)
    return (at >= 0) & self.kept[at]

  def smallest(self, name: str, limits: Limits) -> int | float | None:
    """Least cost of any row that keeps `limits`; None if none does."""
    cost = self.costs[name](self.space.rows[self._keeping(limits)])
    cost = cost[np.isfinite(cost)]
    return cost.min().item() if len(cost) else None

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """See `Budget.sample`."""
    return RowSet(self.rows).sample(rng, n)

  def draw(
    self, rng: np.random.Generator, n: int, seen: np.ndarray
  ) -> np.ndarray:
    """See `Budget.draw`."""
    free = np.flatnonzero(self._free(seen))
    n = max(0, min(n, len(free)))
    return self.space.rows[rng.choice(free, n, replace=False)]

  def can_complete(self, prefixes: np.ndarray) -> np.ndarray:
    """See `Budget.can_complete`."""
    return np.array([self._with(prefix).any() for prefix in prefixes], bool)

  def complete(
    self, rng: np.random.Generator, prefixes: np.ndarray
  ) -> np.ndarray:
    """See `Budget.complete`."""
    archs = [
      RowSet(self.rows[self._with(prefix)]).sample(rng, 1)
      for prefix in prefixes
    ]
    return np.concatenate(
      [np.zeros((0, self.space.n_layers), np.int32), *archs]
    )

  def bins(self, name: str, n_bins: int) -> list[RowSet]:
    """Splits the feasible rows by cost; see `Budget.sample_bins`."""
    cost = np.asarray(self.costs[name](self.rows), np.float64)
    rows, cost = self.rows[np.isfinite(cost)], cost[np.isfinite(cost)]
    if not len(rows):
      return []
    edges = np.linspace(cost.min(), cost.max(), n_bins + 1)
    bins = np.searchsorted(edges[1:-1], cost)
    return [RowSet(rows[bins == b]) for b in range(n_bins)]

  def repair(
    self,
    rng: np.random.Generator,
    archs: np.ndarray,
    seen: np.ndarray | None,
  ) -> np.ndarray:
    """See `Budget.repair`."""
    free = self.kept.copy() if seen is None else self._free(seen)
    archs = self.space.canonical(np.asarray(archs, np.int32))
    chosen = []
    for arch, at in zip(archs, self.space.find(archs), strict=True):
      if at < 0 or not free[at]:
        places = np.flatnonzero(free)
        if not len(places):
          break
        far = (self.space.rows[places] != arch).sum(1)
        at = rng.choice(places[far == far.min()])
      free[at] &= seen is None
      chosen.append(at)
    return self.space.rows[np.array(chosen, np.int64)]

  def _keeping(self, limits: Limits) -> np.ndarray:
    kept = np.ones(self.space.size, bool)
    for name, limit in limits:
      kept &= self.costs[name](self.space.rows) <= limit
    return kept

  def _free(self, seen: np.ndarray) -> np.ndarray:
    free = self.kept.copy()
    at = self.space.find(seen)
    free[at[at >= 0]] = False
    return free

  def _with(self, prefix: np.ndarray) -> np.ndarray:
    return (self.rows[:, : len(prefix)] == prefix).all(1)
