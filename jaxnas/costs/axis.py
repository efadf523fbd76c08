"""Additive costs in whole units above the cheapest arch, for exact sums (ours).

Counting needs sums that are equal to be equal to the last bit. Integer costs
are that already. Float costs (latencies in ms) become integers: decimals of up
to 9 places on their decimal grid, so that 0.1 + 0.2 is 0.3; all others in
steps of 2^-k, so fine that rounding to them is far below `TOLERANCE`.
"""

import dataclasses
import functools
import math
from fractions import Fraction

import numpy as np

from jaxnas.costs.table import CostTable

# A float bound is kept to this share of the largest cost: sums of float64 are
# not exact, and the cost of an arch has to be a bound that the arch keeps.
TOLERANCE = Fraction(1, 10**12)
# The largest cost stays below 2^57 units, so that no sum overflows int64.
_BITS = 57


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
  """One cost as non-negative integers.

  An arch costs `(lowest + unit * above[range(L), arch].sum()) / scale`.

  Attributes:
    above: units of each choice above the cheapest of its layer, `int64[L, K]`;
      entries past a layer's last choice are 0.
    n_choices: choices of each layer, `int32[L]`.
    lowest: the cheapest arch, in 1 / `scale`.
    unit: greatest common divisor of all differences.
    scale: 1 for integer costs.
    exact: whether the costs are integers.
  """

  above: np.ndarray
  n_choices: np.ndarray
  lowest: int
  unit: int
  scale: int
  exact: bool

  @functools.cached_property
  def span(self) -> int:
    """Units between the cheapest and the dearest arch."""
    return int(self.above.max(1).sum())

  def slack(self, limit: float) -> int:
    """Units that a bound leaves above the cheapest arch; negative if none.

    Args:
      limit: in the units of the cost table, also infinite.
    """
    if limit == math.inf:
      return self.span
    units = Fraction(repr(float(limit))) * self.scale - self.lowest
    if not self.exact:
      units += TOLERANCE * abs(self.lowest + self.unit * self.span)
    return min(math.floor(units / self.unit), self.span)

  def spent(self, archs: np.ndarray) -> np.ndarray:
    """Units of `archs` `int32[n, L]` above the cheapest arch: `int64[n]`."""
    return self.above[np.arange(self.above.shape[0]), archs].sum(-1)

  def flipped(self) -> np.ndarray:
    """Units of each choice *below* the dearest of its layer, `int64[L, K]`."""
    legal = np.arange(self.above.shape[1]) < self.n_choices[:, None]
    return np.where(legal, self.above.max(1, keepdims=True) - self.above, 0)


def make_axis(cost: CostTable) -> Axis:
  """Returns a cost table in whole units."""
  legal = np.arange(cost.table.shape[1]) < cost.n_choices[:, None]
  table = np.where(legal, cost.table, 0)
  exact = table.dtype.kind in "iub" and isinstance(cost.fixed, int | np.integer)
  if exact:
    scale, table, fixed = 1, table.astype(np.int64), int(cost.fixed)
  else:
    scale, table, fixed = _whole(table.astype(np.float64), float(cost.fixed))
  low = np.where(legal, table, np.iinfo(np.int64).max).min(1)
  above = np.where(legal, table - low[:, None], 0)
  unit = int(np.gcd.reduce(above, axis=None)) or 1
  lowest = fixed + sum(low.tolist())
  return Axis(above // unit, cost.n_choices, lowest, unit, scale, exact)


def _whole(table: np.ndarray, fixed: float) -> tuple[int, np.ndarray, int]:
  """Scales floats to integers: the scale, the entries and the fixed part."""
  largest = abs(fixed) + float(np.abs(table).max(1).sum())
  values = np.append(table, fixed)
  for digits in range(10):
    scale = 10**digits
    whole = np.rint(values * scale)
    if largest * scale < 2**53 and (whole / scale == values).all():
      break
  else:
    scale = 2 ** max(0, _BITS - 1 - math.frexp(largest)[1])
    whole = np.rint(values * float(scale))
  return scale, whole[:-1].astype(np.int64).reshape(table.shape), int(whole[-1])
