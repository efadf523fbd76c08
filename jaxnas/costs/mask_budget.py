"""Budgets on masks: bounds on what the compact network costs."""

import dataclasses

import numpy as np

from jaxnas.costs.budget import read_limit, write_limit
from jaxnas.costs.masks import mask_costs
from jaxnas.errors import UserError
from jaxnas.spaces.masks import MaskSpace


@dataclasses.dataclass(frozen=True, eq=False)
class MaskBudget:
  """Upper bounds on multiply-adds and parameters of compact networks.

  These are not additive over channels, so masks within the bounds are neither
  counted nor drawn directly: draws from the learned rates are kept or passed
  over, each one once.

  Attributes:
    limits: `((cost name, largest allowed value), ...)`.
    space: the masks.
  """

  limits: tuple[tuple[str, float], ...]
  space: MaskSpace

  @classmethod
  def parse(cls, text: str, space: MaskSpace) -> "MaskBudget":
    """Reads `macs<=60M,params<=5M`; empty is no bound.

    Raises:
      UserError: if the text cannot be read, names no known cost, or not even
        the empty mask can keep it.
    """
    parts = filter(None, (p.strip() for p in text.split(",")))
    names = dict.fromkeys(("macs", "params"))
    limits = tuple(read_limit(part, names) for part in parts)
    empty = np.zeros((1, space.n_layers), np.int32)
    least = mask_costs(space, empty) if limits else {}
    for name, limit in limits:
      if limit < (low := int(least[name][0])):
        raise UserError(
          f"budget {write_limit(name, limit)} cannot be kept: what is never"
          f" masked in {space.name!r} has {low:,} {name}."
        )
    return cls(limits, space)

  def __str__(self) -> str:
    return ",".join(write_limit(name, value) for name, value in self.limits)

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """Whether each of `archs` `int32[n, L]` keeps every bound: `bool[n]`."""
    if not self.limits:
      return np.ones(len(archs), bool)
    costs = mask_costs(self.space, archs)
    return np.all([costs[name] <= limit for name, limit in self.limits], 0)
