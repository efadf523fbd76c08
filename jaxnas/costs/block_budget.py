"""Costs of blocks, and budgets on them."""

import dataclasses
import functools

import numpy as np

from jaxnas.costs.budget import read_limit, write_limit
from jaxnas.costs.graph import graph_costs
from jaxnas.errors import UserError
from jaxnas.spaces import nsc
from jaxnas.spaces.block_graphs import block_graph
from jaxnas.spaces.blocks import BlockSpace


def block_costs(space: BlockSpace, archs: np.ndarray) -> dict[str, np.ndarray]:
  """Counts what the networks of blocks cost.

  Args:
    space: of the blocks.
    archs: `int32[n, L]`.

  Returns:
    `macs` and `params` (`int64[n]`, convention of `costs.table`) and `density`
    (`float64[n]`, edges over nodes of the block).

  Raises:
    UserError: for archs that are no blocks of the space.
  """
  found = [_costs(space, arch.tobytes()) for arch in space.validate(archs)]
  macs, params, density = np.array(found, np.float64).reshape(-1, 3).T
  return {
    "macs": macs.astype(np.int64),
    "params": params.astype(np.int64),
    "density": density,
  }


@functools.lru_cache(maxsize=1 << 16)
def _costs(space: BlockSpace, arch: bytes) -> tuple[int, int, float]:
  arch = np.frombuffer(arch, np.int32)
  costs = graph_costs(block_graph(space, arch))
  return costs["macs"], costs["params"], nsc.density(space.codes(arch))


@dataclasses.dataclass(frozen=True, eq=False)
class BlockBudget:
  """Upper bounds on multiply-adds and parameters of a block's network.

  They are not additive over layers, so blocks within the bounds are neither
  counted nor drawn directly: searchers pass over what is not allowed.

  Attributes:
    limits: `((cost name, largest allowed value), ...)`.
    space: of the blocks.
  """

  limits: tuple[tuple[str, float], ...]
  space: BlockSpace

  @classmethod
  def parse(cls, text: str, space: BlockSpace) -> "BlockBudget":
    """Reads `macs<=60M,params<=5M`; empty is no bound.

    Raises:
      UserError: if the text cannot be read, names no known cost, or not even a
        block without any convolution can keep it.
    """
    parts = filter(None, (p.strip() for p in text.split(",")))
    names = dict.fromkeys(("macs", "params"))
    limits = tuple(read_limit(part, names) for part in parts)
    if limits:
      least = block_costs(space, _smallest(space)[None])
      for name, limit in limits:
        if limit < (low := int(least[name][0])):
          raise UserError(
            f"budget {write_limit(name, limit)} cannot be kept: the smallest"
            f" block of {space.name!r} has {low:,} {name}."
          )
    return cls(limits, space)

  def __str__(self) -> str:
    return ",".join(write_limit(name, value) for name, value in self.limits)

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """Whether each of `archs` `int32[n, L]` keeps every bound: `bool[n]`."""
    if not self.limits or not len(archs):
      return np.ones(len(archs), bool)
    costs = block_costs(self.space, archs)
    return np.all([costs[name] <= limit for name, limit in self.limits], 0)


def _smallest(space: BlockSpace) -> np.ndarray:
  if space.macro.published:
    return space.from_string(space.presets[0][0])
  return space.from_codes([(nsc.IDENTITY, 0, 0)])
