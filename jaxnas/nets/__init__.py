"""Networks: layers, blocks, the single-path supernet, plain networks."""

from jaxnas.nets.paths import (
  PathSupernet,
  Variables,
  blend_stats,
  group_names,
)
from jaxnas.nets.standalone import Fleet, PlainNetwork, inherit

__all__ = [
  "Fleet", "PathSupernet", "PlainNetwork", "Variables", "blend_stats",
  "group_names", "inherit",
]  # fmt: skip
