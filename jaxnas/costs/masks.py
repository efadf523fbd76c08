"""Costs of the compact networks of channel masks (ours).

They count what is left after everything that a mask makes superfluous is really
removed, see `spaces.pruning`. Counting convention as in `costs.table`; stored
constants count as parameters.
"""

import numpy as np

from jaxnas.spaces.graph import Conv, Depthwise, Graph, Linear, Node, Norm
from jaxnas.spaces.masks import MaskSpace
from jaxnas.spaces.pruning import Pruning, prune

# Masks pruned at once: a large network has some 100,000 channels, each with
# several flags for every mask.
CHUNK = 64


def mask_costs(space: MaskSpace, archs: np.ndarray) -> dict[str, np.ndarray]:
  """Counts multiply-adds and parameters of compact networks.

  Args:
    space: of the masks.
    archs: `int32[n, L]`.

  Returns:
    `macs` (of convolution and linear weights, for one image) and `params`
    (these weights, scale and shift of batch norms, the classifier's bias, and
    stored constants), each `int64[n]`.

  Raises:
    UserError: for archs that are no masks of the space.
  """
  archs = space.validate(archs)
  totals = np.zeros((2, len(archs)), np.int64)
  for first in range(0, len(archs), CHUNK):
    rows = slice(first, first + CHUNK)
    for pair in _node_costs(space.graph, prune(space, archs[rows])).values():
      totals[:, rows] += pair
  return {"macs": totals[0], "params": totals[1]}


def _node_costs(graph: Graph, cut: Pruning) -> dict[str, np.ndarray]:
  """Multiply-adds and parameters of the nodes that can have any.

  Returns:
    `int64[2, n]` for each node of the network, macs first.
  """
  costs = {}
  for node in graph.nodes:
    if node.name in graph.training_only:
      continue
    size = graph.shapes[node.name].size
    area, kept = size**2, cut.kept[node.name].sum(1, dtype=np.int64)
    macs = params = np.zeros_like(kept)
    match node.op:
      case Conv() | Linear():
        reads = cut.reads[node.name].sum(1, dtype=np.int64)
        params = getattr(node.op, "kernel", 1) ** 2 * reads * kept
        macs = params * area
      case Depthwise():
        params = node.op.kernel**2 * kept
        macs = params * area
      case Norm():
        params = 2 * kept
    if isinstance(node.op, Linear):
      params = params + graph.n_classes  # the bias; a dead network has it too
    if node.name in cut.constant:
      constants = cut.constant[node.name].sum(1, dtype=np.int64)
      maps = np.where(cut.mapped[node.name], area, 1)
      params = params + constants * maps
    costs[node.name] = np.stack([macs, params])
  return costs


def kept_weights(space: MaskSpace, archs: np.ndarray) -> np.ndarray:
  """Share of weights whose input channel is kept: the paper's counting.

  All weights of convolutions and of the classifier count, those of an
  auxiliary classifier do not; weights that are not gated count as kept. A
  filter that nobody reads, or that reads constants only, counts as well, so
  this is an upper bound of what `mask_costs` finds.

  Args:
    space: of the masks.
    archs: `int32[n, L]`.

  Returns:
    `float64[n]`, 0..1.

  Raises:
    UserError: for archs that are no masks of the space.
  """
  archs = space.validate(archs)
  graph = space.graph
  nodes = {node.name: node for node in _products(graph)}
  fixed = 0
  for name, node in nodes.items():
    if name not in graph.gates:
      wide = not isinstance(node.op, Depthwise)
      fan_in = graph.shapes[node.inputs[0]].channels if wide else 1
      fixed += fan_in * _weights_per_input(graph, node)
  per_input = np.array([
    _weights_per_input(graph, nodes[g.node]) if g.node in nodes else 0
    for g in space.groups
  ])  # fmt: skip
  channels = np.array([g.channels for g in space.groups])
  kept = np.add.reduceat(archs, [g.offset for g in space.groups], axis=1)
  return (kept @ per_input + fixed) / (channels @ per_input + fixed)


def _products(graph: Graph) -> list[Node]:
  """What has weights, but for what only an auxiliary classifier needs."""
  return [
    node
    for node in graph.nodes
    if isinstance(node.op, Conv | Depthwise | Linear)
    and node.name not in graph.training_only
  ]


def _weights_per_input(graph: Graph, node: Node) -> int:
  """Weights of a product that read one input channel (all of a depthwise)."""
  kernel = getattr(node.op, "kernel", 1)
  return kernel**2 * graph.shapes[node.name].channels


def mask_layer_rows(space: MaskSpace, arch: np.ndarray) -> list[dict]:
  """Lists every product of one mask's network, for tables and reports.

  Args:
    space: of the mask.
    arch: `int32[L]`.

  Returns:
    One dict per convolution and classifier in forward order, removed ones
    included: `node`, `op`, `kernel`, `size` (side of the output map, pixels),
    `in_channels` and `features` (of the full network), `in_kept` and
    `features_kept` (of the compact one; 0 for what is removed), `macs` and
    `params` of the compact one. `params` holds weights, bias and stored
    constants; batch norms and the constants of sums are in `mask_costs` only.

  Raises:
    UserError: for an arch that is no mask of the space.
  """
  graph, cut = space.graph, prune(space, arch)
  costs, rows = _node_costs(graph, cut), []
  for node in _products(graph):
    shape, source = graph.shapes[node.name], graph.shapes[node.inputs[0]]
    # A depthwise convolution reads what it writes.
    read = cut.reads.get(node.name, cut.kept[node.name])
    macs, params = costs[node.name][:, 0].tolist()
    rows.append(
      dict(
        node=node.name, op=type(node.op).__name__,
        kernel=getattr(node.op, "kernel", 1), size=shape.size,
        in_channels=source.channels, features=shape.channels,
        in_kept=int(read[0].sum()),
        features_kept=int(cut.kept[node.name][0].sum()),
        macs=macs, params=params,
      )
    )  # fmt: skip
  return rows
