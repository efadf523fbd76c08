"""Networks: layers, blocks, the single-path supernet, plain networks."""

from jaxnas.nets.blocks import BlockSupernet, inherit_block
from jaxnas.nets.compact import CompactNetwork, compact
from jaxnas.nets.export import export_network, load_network
from jaxnas.nets.graphs import GraphNetwork, Noise
from jaxnas.nets.masks import MaskedNetwork, MaskedSupernet, drop_rates
from jaxnas.nets.paths import (
  PathSupernet,
  Variables,
  blend_stats,
  group_names,
)
from jaxnas.nets.standalone import Fleet, PlainNetwork, inherit

__all__ = [
  "BlockSupernet", "CompactNetwork", "Fleet", "GraphNetwork", "MaskedNetwork",
  "MaskedSupernet", "Noise", "PathSupernet", "PlainNetwork", "Variables",
  "blend_stats", "compact", "drop_rates", "export_network", "group_names",
  "inherit", "inherit_block", "load_network",
]  # fmt: skip
