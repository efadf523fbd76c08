"""Networks: layers, blocks, the single-path supernet, plain networks."""

from jaxnas.nets.export import export_network, load_network
from jaxnas.nets.paths import (
  PathSupernet,
  Variables,
  blend_stats,
  group_names,
)
from jaxnas.nets.standalone import Fleet, PlainNetwork, inherit

__all__ = [
  "Fleet", "PathSupernet", "PlainNetwork", "Variables", "blend_stats",
  "export_network", "group_names", "inherit", "load_network",
]  # fmt: skip
