"""Budgets: upper bounds on additive costs, such as `macs<=330M,params<=5M`."""

import dataclasses
import decimal
import re
from collections.abc import Mapping

import numpy as np

from jaxnas.costs.table import CostTable, format_count
from jaxnas.errors import UserError, unknown
from jaxnas.spaces import Space

# Powers of ten. The decimals are scaled exactly: as floats, 1.005 x 1e6 would
# fall below 1005000 and shut out an arch that costs just that.
_UNITS = {"": 0, "k": 3, "m": 6, "g": 9}
_LIMIT = re.compile(r"([a-z][\w.\-]*)\s*<=\s*([0-9.]+(?:e[0-9]+)?)\s*([kmg]?)")


@dataclasses.dataclass(frozen=True)
class Budget:
  """Upper bounds on the costs of a space; empty bounds accept every arch.

  Attributes:
    limits: `((cost name, largest allowed value), ...)`.
    costs: the additive tables, at least one for every limit.
  """

  limits: tuple[tuple[str, float], ...]
  costs: Mapping[str, CostTable]

  @classmethod
  def parse(cls, text: str, costs: Mapping[str, CostTable]) -> "Budget":
    """Reads `macs<=60M,params<=5M`; an empty text is no bound.

    Args:
      text: comma-separated bounds; k, M and G are 1e3, 1e6 and 1e9.
      costs: the tables of the space, by name.

    Raises:
      UserError: if the text cannot be read, names no known cost, or no arch
        of the space can keep it; the sentence names the nearest reachable
        value.
    """
    limits = []
    for part in filter(None, (p.strip() for p in text.split(","))):
      match = _LIMIT.fullmatch(part.lower())
      if not match:
        raise UserError(
          f"budget {part!r} cannot be read; write it as macs<=60M, with k, M"
          " or G as unit and commas between several bounds."
        )
      name, number, unit = match.groups()
      if name not in costs:
        raise unknown("cost in the budget", name, costs)
      try:
        limit = float(decimal.Decimal(number).scaleb(_UNITS[unit]))
      except decimal.InvalidOperation as error:
        raise UserError(f"budget {part!r}: {number!r} is no number.") from error
      smallest = costs[name].smallest
      if limit < smallest:
        raise UserError(
          f"budget {part!r} cannot be kept: the smallest network of this space"
          f" has {name} {smallest:,} ({format_count(smallest)}), so the nearest"
          f" reachable budget is {name}<={smallest}."
        )
      limits.append((name, limit))
    return cls(tuple(limits), costs)

  def __str__(self) -> str:
    return ",".join(f"{n}<={_exact(v)}" for n, v in self.limits)

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """Whether each of `archs` `int32[n, L]` keeps every bound: `bool[n]`."""
    ok = np.ones(len(archs), bool)
    for name, limit in self.limits:
      ok &= self.costs[name](archs) <= limit
    return ok

  def repair(self, rng: np.random.Generator, archs: np.ndarray) -> np.ndarray:
    """Makes archs feasible by replacing choices with cheaper ones.

    Random layers of a violating arch step to a random cheaper choice until
    every bound holds, so at most L x K steps are needed for one bound. The
    result is feasible but *not* uniform over the feasible archs.

    Args:
      rng: NumPy generator.
      archs: `int32[n, L]`.

    Returns:
      `int32[n, L]`; feasible archs come back unchanged.

    Raises:
      UserError: if several bounds cannot be met together by single steps.
    """
    archs = np.array(archs, np.int32)
    for i in np.flatnonzero(~self.allows(archs)):
      arch = archs[i]
      for _ in range(arch.size * int(max(self._n_choices())) * 4):
        over = [n for n, v in self.limits if self.costs[n](arch[None])[0] > v]
        if not over:
          break
        cost = self.costs[over[rng.integers(len(over))]]
        current = cost.table[np.arange(arch.size), arch][:, None]
        legal = np.arange(cost.table.shape[1]) < cost.n_choices[:, None]
        layers, choices = np.nonzero((cost.table < current) & legal)
        if not len(layers):
          break
        pick = rng.integers(len(layers))
        arch[layers[pick]] = choices[pick]
      if not self.allows(arch[None])[0]:
        raise UserError(
          f"no network was found that keeps {self} at once; loosen one bound"
          f" ({self._smallest()})."
        )
    return archs

  def sample(
    self, rng: np.random.Generator, space: Space, n: int
  ) -> np.ndarray:
    """Draws `n` feasible archs: uniform draws, those over budget repaired.

    Returns:
      `int32[n, L]`; may hold duplicates.
    """
    return self.repair(rng, space.sample(rng, n))

  def _n_choices(self) -> np.ndarray:
    return next(iter(self.costs.values())).n_choices

  def _smallest(self) -> str:
    rows = (f"smallest {n} {self.costs[n].smallest:,}" for n, _ in self.limits)
    return ", ".join(rows)


def _exact(value: float) -> str:
  """Writes a bound without loss, so that `parse` reads the same value."""
  number = decimal.Decimal(repr(float(value)))
  unit = next((u for u in "gmk" if number.adjusted() >= _UNITS[u]), "")
  scaled = number.scaleb(-_UNITS[unit])
  return f"{scaled.normalize():f}{unit if unit == 'k' else unit.upper()}"
