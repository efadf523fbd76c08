"""Budgets: upper bounds on costs, such as `macs<=330M,latency.pixel<=80ms`."""

import dataclasses
import decimal
import functools
import re
from collections.abc import Mapping

import numpy as np

from jaxnas.costs.listed import ListedSet
from jaxnas.costs.product import ProductSet
from jaxnas.costs.table import CostTable, format_count
from jaxnas.errors import UserError, unknown
from jaxnas.spaces import ListedSpace, Space

# Powers of ten. The decimals are scaled exactly: as floats, 1.005 x 1e6 would
# fall below 1005000 and shut out an arch that costs just that.
_COUNTS = {"": 0, "k": 3, "m": 6, "g": 9}
_TIMES = {"": 0, "us": -3, "ms": 0, "s": 3}  # latencies are in ms
_LIMIT = re.compile(
  r"([a-z][\w.\-]*)\s*<=\s*([0-9.]+(?:e-?[0-9]+)?)\s*([a-z]*)"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Budget:
  """Upper bounds on the costs of a space; empty bounds accept every arch.

  The archs within the bounds are counted and numbered (`costs/feasible.py`;
  of a listed space, they are a list), so that they are drawn exactly uniformly
  and without trying. Additive costs are compared as whole numbers, sums of
  decimals as decimals, other floats up to 1e-12 of the largest cost.

  Attributes:
    limits: `((cost name, largest allowed value), ...)`; latencies in ms.
    costs: at least one for every limit, each `archs -> [n]`. Those of a product
      space are `CostTable`s.
    space: a product space, or a listed one.
  """

  limits: tuple[tuple[str, float], ...]
  costs: Mapping[str, CostTable]
  space: Space | ListedSpace

  @classmethod
  def parse(
    cls, text: str, costs: Mapping[str, CostTable], space: Space | ListedSpace
  ) -> "Budget":
    """Reads `macs<=60M,params<=5M,latency.pixel<=80ms`; empty is no bound.

    Args:
      text: comma-separated bounds. Units of counts are k, M and G (1e3, 1e6
        and 1e9), of costs named `latency...` us, ms and s; without a unit they
        are ms.
      costs: the costs of the space, by name.
      space: the space.

    Raises:
      UserError: if the text cannot be read, names no known cost, or no arch
        of the space can keep it; the sentence names the nearest reachable
        value.
    """
    parts = filter(None, (p.strip() for p in text.split(",")))
    limits = tuple(read_limit(part, costs) for part in parts)
    budget = cls(limits, costs, space)
    budget._check()
    return budget

  def __str__(self) -> str:
    return ",".join(write_limit(name, value) for name, value in self.limits)

  @functools.cached_property
  def _archs(self) -> ProductSet | ListedSet:
    if isinstance(self.space, ListedSpace):
      return ListedSet(self.limits, self.costs, self.space)
    return ProductSet(self.limits, self.costs, self.space.n_choices)

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """Whether each of `archs` `int32[n, L]` keeps every bound: `bool[n]`.

    Archs that a listed space does not list are not allowed.
    """
    return self._archs.allows(np.asarray(archs, np.int32))

  def count(self) -> int:
    """Number of feasible archs, or of those known if it is not `exact`."""
    return self._archs.count()

  @property
  def exact(self) -> bool:
    """Whether `count` and all draws take in every feasible arch.

    False only where several bounds bind on a space with too many distinct sums,
    or where float costs have too many. Then costs are rounded up to a grid:
    every arch drawn keeps every bound, but some near the bounds are left out.
    """
    return self._archs.exact

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws archs uniformly among the feasible ones, with replacement.

    Args:
      rng: NumPy generator.
      n: number of archs.

    Returns:
      `int32[n, L]`.

    Raises:
      UserError: if nothing is feasible.
    """
    self._check()
    return self._archs.sample(rng, n)

  def draw(
    self, rng: np.random.Generator, n: int, seen: np.ndarray | None = None
  ) -> np.ndarray:
    """Draws distinct feasible archs uniformly, in a fixed number of steps.

    Args:
      rng: NumPy generator.
      n: number of archs wanted.
      seen: archs to leave out, `int32[s, L]`, feasible or not.

    Returns:
      `int32[m, L]` in random order; `m < n` only where fewer are left.

    Raises:
      UserError: if nothing is feasible.
    """
    self._check()
    return self._archs.draw(rng, n, self._seen(seen))

  def sample_bins(
    self, rng: np.random.Generator, n: int, cost: str, bins: int
  ) -> np.ndarray:
    """Draws archs that are spread evenly over the values of a cost.

    The bins are equally wide, from the smallest to the largest value among the
    feasible archs, and each includes its upper edge. Those that hold no arch
    are left out, the others share `n` evenly; random ones get the remainder.

    Args:
      rng: NumPy generator.
      n: number of archs.
      cost: its name.
      bins: number of bins.

    Returns:
      `int32[n, L]` by ascending bin, uniform with replacement in each.

    Raises:
      UserError: for an unknown cost, fewer than one bin, or if nothing is
        feasible.
    """
    self._check()
    if cost not in self.costs:
      raise unknown("cost of the bins", cost, self.costs)
    if bins < 1:
      raise UserError(f"the number of cost bins is {bins}; at least 1.")
    filled = [b for b in self._archs.bins(cost, bins) if b.count]
    if not filled:
      raise UserError(f"no arch within the budget has a known {cost}.")
    shares = np.full(len(filled), n // len(filled))
    shares[rng.permutation(len(filled))[: n % len(filled)]] += 1
    return np.concatenate(
      [b.sample(rng, k) for b, k in zip(filled, shares.tolist(), strict=True)]
    )

  def can_complete(self, prefixes: np.ndarray) -> np.ndarray:
    """Whether a feasible arch begins with each of `int32[n, l]`: `bool[n]`."""
    return self._archs.can_complete(np.asarray(prefixes, np.int32))

  def complete(
    self, rng: np.random.Generator, prefixes: np.ndarray
  ) -> np.ndarray:
    """Draws one arch for each prefix, uniform among the feasible ones.

    Args:
      rng: NumPy generator.
      prefixes: choices of the first l layers, `int32[n, l]`.

    Returns:
      `int32[n, L]`.

    Raises:
      UserError: if a prefix cannot be completed.
    """
    prefixes = np.asarray(prefixes, np.int32)
    dead = np.flatnonzero(~self.can_complete(prefixes))
    if len(dead):
      self._check()
      raise UserError(
        f"no arch that begins with {prefixes[dead[0]].tolist()} keeps the"
        f" budget {self}."
      )
    return self._archs.complete(rng, prefixes)

  def repair(
    self,
    rng: np.random.Generator,
    archs: np.ndarray,
    seen: np.ndarray | None = None,
  ) -> np.ndarray:
    """Makes archs feasible near themselves; not uniform over all of them.

    In a product space, random layers are freed one by one until the others
    leave room within the bounds; those freed are drawn anew, uniform among all
    that is feasible. With `seen`, an arch that was seen or came up before turns
    into a random unseen one that differs in one layer, or where there is none,
    into one of `draw`. In a listed space, both kinds turn into the nearest row
    (Hamming distance of canonical archs, random among equals).

    Args:
      rng: NumPy generator.
      archs: `int32[n, L]` with legal indices.
      seen: if given, archs that must not come back, `int32[s, L]`.

    Returns:
      `int32[n, L]`; feasible archs come back unchanged. With `seen`, no row
      twice, and fewer rows where fewer are left.

    Raises:
      UserError: if nothing is feasible.
    """
    self._check()
    seen = None if seen is None else self._seen(seen)
    return self._archs.repair(rng, archs, seen)

  def _seen(self, seen: np.ndarray | None) -> np.ndarray:
    if seen is None:
      seen = []
    return np.asarray(seen, np.int32).reshape(-1, self.space.n_layers)

  def _check(self) -> None:
    """Refuses bounds that nothing keeps."""
    if self._archs.empty:
      raise UserError(self._why())

  def _why(self) -> str:
    """Names the nearest values that can be reached."""
    archs, limits = self._archs, self.limits
    # The fewest bounds that nothing keeps; more only clutter the sentence.
    singles = [limits[i : i + 1] for i in range(len(limits))]
    for some in singles + [limits[:n] for n in range(2, len(limits) + 1)]:
      if archs.smallest(some[-1][0], some) is None:
        limits = some
        break
    text = ",".join(write_limit(*limit) for limit in limits)
    hints = []
    for i, (name, _) in enumerate(limits):
      others = limits[:i] + limits[i + 1 :]
      value = archs.smallest(name, others)
      if value is None:
        continue
      nearest = f"{write_limit(name, value, '')} ({_shown(name, value)})"
      if len(limits) == 1:
        return (
          f"budget {text!r} cannot be kept: the smallest network of this space"
          f" has {name} {value:,}, so the nearest reachable budget is"
          f" {nearest}."
        )
      given = ",".join(write_limit(*limit) for limit in others)
      hints.append(f"with {given} the nearest reachable is {nearest}")
    return (
      f"budget {text!r}: no network keeps all of these bounds at once;"
      f" {', '.join(hints)}."
    )


def read_limit(part: str, costs: Mapping[str, CostTable]) -> tuple[str, float]:
  """Reads one bound."""
  match = _LIMIT.fullmatch(part.lower())
  name, number, unit = match.groups() if match else ("", "", "")
  units = _TIMES if name.startswith("latency") else _COUNTS
  if not match or unit not in units:
    how = (
      f"{name}<=80ms, with us, ms or s as unit"
      if units is _TIMES
      else "macs<=60M, with k, M or G as unit"
    )
    raise UserError(
      f"budget {part!r} cannot be read; write it as {how} and commas between"
      " several bounds."
    )
  if name not in costs:
    raise unknown("cost in the budget", name, costs)
  try:
    return name, float(decimal.Decimal(number).scaleb(units[unit]))
  except decimal.InvalidOperation as error:
    raise UserError(f"budget {part!r}: {number!r} is no number.") from error


def write_limit(name: str, value: float, units: str = "gmk") -> str:
  """Writes a bound without loss, so that `parse` reads the same value."""
  number = decimal.Decimal(repr(float(value)))
  if name.startswith("latency"):
    return f"{name}<={number.normalize():f}ms"
  unit = next((u for u in units if number.adjusted() >= _COUNTS[u]), "")
  number = number.scaleb(-_COUNTS[unit]).normalize()
  return f"{name}<={number:f}{unit if unit == 'k' else unit.upper()}"


def _shown(name: str, value: float) -> str:
  if name.startswith("latency"):
    return f"{value:.4g}ms"
  return format_count(value)
