"""Costs of a plain graph. Counting convention as in `costs.table`."""

from jaxnas.spaces.graph import Conv, Depthwise, Graph, Linear, Node, Norm


def graph_rows(graph: Graph) -> list[dict]:
  """Lists every node that has weights, in forward order.

  What only an auxiliary classifier needs is left out.

  Args:
    graph: the network.

  Returns:
    One dict for each: `node`, `op`, `kernel`, `size` (side of the output map,
    pixels), `in_channels`, `features`, `macs` (of convolution and linear
    weights, for one image) and `params` (batch-norm scale and shift included).
  """
  rows = []
  for node in graph.nodes:
    if node.name in graph.training_only:
      continue
    params = _weights(graph, node)
    bias = _biases(graph, node)
    if not params and not bias:
      continue
    shape = graph.shapes[node.name]
    rows.append(
      {
        "node": node.name,
        "op": type(node.op).__name__,
        "kernel": getattr(node.op, "kernel", 1),
        "size": shape.size,
        "in_channels": graph.shapes[node.inputs[0]].channels,
        "features": shape.channels,
        "macs": params * shape.size**2,
        "params": params + bias,
      }
    )
  return rows


def graph_costs(graph: Graph) -> dict[str, int]:
  """Multiply-adds of one image, and parameters: `macs` and `params`."""
  rows = graph_rows(graph)
  return {name: sum(r[name] for r in rows) for name in ("macs", "params")}


def _weights(graph: Graph, node: Node) -> int:
  features = graph.shapes[node.name].channels
  fan_in = graph.shapes[node.inputs[0]].channels
  match node.op:
    case Conv():
      return node.op.kernel**2 * fan_in * features
    case Depthwise():
      return node.op.kernel**2 * features
    case Linear():
      return fan_in * features
  return 0


def _biases(graph: Graph, node: Node) -> int:
  features = graph.shapes[node.name].channels
  match node.op:
    case Norm():
      return 2 * features
    case Linear() | Conv(bias=True):
      return features
  return 0
