"""The archs of a product space that keep bounds on additive costs (ours)."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from jaxnas.costs import feasible
from jaxnas.costs.axis import Axis, make_axis
from jaxnas.costs.table import CostTable

Limits = tuple[tuple[str, float], ...]

# Pareto fronts up to this size take less time than counting.
_EASY = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class ProductSet:
  """See `Budget`, which offers the same methods.

  Attributes:
    limits: `((cost name, largest allowed value), ...)`.
    costs: additive tables by name.
    n_choices: choices of each layer, `int32[L]`.
  """

  limits: Limits
  costs: Mapping[str, CostTable]
  n_choices: np.ndarray

  @functools.cached_property
  def graph(self) -> feasible.Graph:
    """The feasible archs, numbered."""
    names, slack = self._bounds(self.limits)
    rows = self._rows([self._axis(name).above for name in names])
    graph = feasible.build(rows, slack)
    if not graph.exact and not graph.count:
      # The grid left nothing. The Pareto archs decide, and stand in.
      _, archs = feasible.nondominated(rows, slack)
      if len(archs):
        graph = feasible.from_archs(archs, self.n_choices)
    return graph

  @functools.cached_property
  def empty(self) -> bool:
    """Whether nothing is feasible; decided without counting if that is easy."""
    names, slack = self._bounds(self.limits)
    if not names:
      return False
    rows = self._rows([self._axis(name).above for name in names])
    found = feasible.nondominated(rows, slack, _EASY)
    return not (self.graph.count if found is None else len(found[0]))

  def count(self) -> int:
    """See `Budget.count`."""
    return self.graph.count

  @property
  def exact(self) -> bool:
    """See `Budget.exact`."""
    return self.graph.exact

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """See `Budget.allows`."""
    ok = np.ones(len(archs), bool)
    for name, limit in self.limits:
      axis = self._axis(name)
      ok &= axis.spent(archs) <= axis.slack(limit)
    return ok

  def smallest(self, name: str, limits: Limits) -> int | float | None:
    """Least cost of any arch that keeps `limits`; None if none does."""
    names, slack = self._bounds(limits)
    if name not in names:
      names, slack = [*names, name], np.append(slack, self._axis(name).span)
    rows = self._rows([self._axis(n).above for n in names])
    costs, archs = feasible.nondominated(rows, slack)
    if not len(archs):
      return None
    best = np.argmin(costs[:, names.index(name)])
    return self.costs[name](archs[[best]])[0].item()

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """See `Budget.sample`."""
    return self.graph.sample(rng, n)

  def draw(
    self, rng: np.random.Generator, n: int, seen: np.ndarray
  ) -> np.ndarray:
    """See `Budget.draw`."""
    return self.graph.draw(rng, n, seen)

  def can_complete(self, prefixes: np.ndarray) -> np.ndarray:
    """See `Budget.can_complete`."""
    count = self.graph.counts[prefixes.shape[1]]
    return (count[self.graph.walk(prefixes)] > 0).astype(bool)

  def complete(
    self, rng: np.random.Generator, prefixes: np.ndarray
  ) -> np.ndarray:
    """See `Budget.complete`."""
    return self.graph.complete(rng, prefixes)

  def bins(self, name: str, n_bins: int) -> list[feasible.Graph]:
    """Splits the feasible archs by cost; see `Budget.sample_bins`."""
    axis = self._axis(name)
    rows = [row[:, 0] for row in self._rows([axis.above])]
    low, high = self.graph.extremes(rows)
    # The first bin holds `low` itself; the others begin behind their edge.
    edges = [low + (high - low) * b // n_bins for b in range(n_bins + 1)]
    edges[0] -= 1
    # The bin's own upper edge takes the place of a bound on the same cost.
    names, slack = self._bounds(
      tuple((n, v) for n, v in self.limits if n != name)
    )
    rows = self._rows(
      [self._axis(n).above for n in names] + [axis.above, axis.flipped()]
    )
    bins = [
      feasible.build(rows, np.append(slack, [above, axis.span - below - 1]))
      for below, above in zip(edges, edges[1:], strict=False)
    ]
    # A grid too coarse for all of them leaves one bin.
    return bins if any(b.count for b in bins) else [self.graph]

  def nearby(self, rng: np.random.Generator, arch: np.ndarray) -> np.ndarray:
    """Redraws as few random layers as a feasible arch needs, `int32[L]`."""
    names, slack = self._bounds(self.limits)
    above = np.stack([self._axis(n).above for n in names], -1)
    spent = above[np.arange(len(arch)), arch]
    order = rng.permutation(len(arch))
    still = spent.sum(0) - np.cumsum(spent[order], 0)
    # Nothing that frees fewer layers can be feasible; for several bounds more
    # may have to be freed.
    fewest = int(np.argmax((still <= slack).all(1))) + 1
    for n in range(fewest, len(arch)):
      freed = np.sort(order[:n])
      rows = [above[l, : self.n_choices[l]] for l in freed]
      graph = feasible.build(rows, slack - still[n - 1])
      if graph.count:
        arch = arch.copy()
        arch[freed] = graph.sample(rng, 1)[0]
        return arch
    return self.graph.sample(rng, 1)[0]

  def neighbours(self, arch: np.ndarray) -> np.ndarray:
    """Feasible archs that differ in one layer, `int32[m, L]`."""
    layers = np.repeat(np.arange(len(arch)), self.n_choices)
    choices = np.concatenate([np.arange(k) for k in self.n_choices])
    other = choices != arch[layers]
    near = np.repeat(arch[None], other.sum(), 0)
    near[np.arange(len(near)), layers[other]] = choices[other]
    return near[self.allows(near)]

  def repair(
    self,
    rng: np.random.Generator,
    archs: np.ndarray,
    seen: np.ndarray | None,
  ) -> np.ndarray:
    """See `Budget.repair`."""
    archs = np.array(archs, np.int32)
    for i in np.flatnonzero(~self.allows(archs)):
      archs[i] = self.nearby(rng, archs[i])
    if seen is None:
      return archs
    taken = {row.tobytes() for row in np.asarray(seen, np.int32)}
    fresh = []
    for arch in archs:
      if arch.tobytes() in taken:
        near = [a for a in self.neighbours(arch) if a.tobytes() not in taken]
        if not near:
          continue
        arch = near[rng.integers(len(near))]
      taken.add(arch.tobytes())
      fresh.append(arch)
    fresh = np.array(fresh, np.int32).reshape(-1, archs.shape[1])
    more = len(archs) - len(fresh)
    if not more:
      return fresh
    seen = np.concatenate([np.asarray(seen, np.int32), fresh])
    return np.concatenate([fresh, self.draw(rng, more, seen)])

  @functools.cached_property
  def _axes(self) -> dict[str, Axis]:
    return {}

  def _axis(self, name: str) -> Axis:
    if name not in self._axes:
      self._axes[name] = make_axis(self.costs[name])
    return self._axes[name]

  def _bounds(self, limits: Limits) -> tuple[list[str], np.ndarray]:
    """The costs whose bounds can bind, and what each leaves to spend."""
    tightest = {}
    for name, limit in limits:
      tightest[name] = min(limit, tightest.get(name, math.inf))
    slack = {n: self._axis(n).slack(v) for n, v in tightest.items()}
    names = [n for n in slack if slack[n] < self._axis(n).span]
    return names, np.array([slack[n] for n in names], np.int64)

  def _rows(self, tables: list[np.ndarray]) -> list[np.ndarray]:
    """Stacks tables `[L, K]` to `int64[K_l, A]` for each layer."""
    empty = np.zeros((len(self.n_choices), int(self.n_choices.max()), 0))
    stacked = np.stack(tables, -1) if tables else empty.astype(np.int64)
    return [row[:k] for row, k in zip(stacked, self.n_choices, strict=True)]
