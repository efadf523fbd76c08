"""A graph cut into segments, for what masks have in common at its beginning."""

import dataclasses
import functools

import numpy as np

from jaxnas.spaces.graph import IMAGES, Graph, Node

# Each segment is one compiled program, and one more level of a walk.
MOST_SEGMENTS = 16


@dataclasses.dataclass(frozen=True)
class Segment:
  """Successive nodes of a graph.

  Attributes:
    nodes: their names.
    reads: earlier nodes, or `images`, whose outputs they need.
    writes: nodes whose outputs later segments need, these or earlier ones; of
      the last segment the logits.
    gates: the part of an arch that gates their inputs.
    macs: multiply-adds of the whole segment for one image.
  """

  nodes: tuple[str, ...]
  reads: tuple[str, ...]
  writes: tuple[str, ...]
  gates: slice
  macs: int


@functools.lru_cache(maxsize=16)
def cut(graph: Graph) -> tuple[Segment, ...]:
  """Cuts a graph where as few outputs as possible are alive.

  What lies behind a cut depends on the nodes before it through these outputs
  only, so masks that agree on all gates before it share them. Nodes that only
  training needs are left out.

  Args:
    graph: the network.

  Returns:
    Segments in order, at most `MOST_SEGMENTS`; one if the graph has no cut.
  """
  nodes = [n for n in graph.nodes if n.name not in graph.training_only]
  alive = _alive(nodes)
  for most in (1, 2):
    pieces = _pieces(graph, nodes, alive, most)
    if len(pieces) > 3:
      break
  pieces = _join(graph, pieces)
  return tuple(
    _segment(graph, piece, alive, last=piece is pieces[-1]) for piece in pieces
  )


def _alive(nodes: list[Node]) -> dict[str, tuple[str, ...]]:
  """Outputs that are needed behind each node."""
  last = {i: k for k, node in enumerate(nodes) for i in node.inputs}
  known, alive = [IMAGES], {}
  for k, node in enumerate(nodes):
    known.append(node.name)
    known = [name for name in known if last.get(name, -1) > k]
    alive[node.name] = tuple(known)
  return alive


def _pieces(graph, nodes, alive, most) -> list[list[Node]]:
  pieces: list[list[Node]] = [[]]
  for node in nodes:
    pieces[-1].append(node)
    if 1 <= len(alive[node.name]) <= most:
      pieces.append([])
  pieces = [piece for piece in pieces if piece]
  # What has no gate goes to the piece before it: it is the same for as many
  # masks. Only the beginning stands alone, for all masks share it.
  joined = [pieces[0]]
  for piece in pieces[1:]:
    if any(node.name in graph.gates for node in piece):
      joined.append(piece)
    else:
      joined[-1] = joined[-1] + piece
  return joined


def _join(graph: Graph, pieces: list[list[Node]]) -> list[list[Node]]:
  """Joins neighbours of the least work until there are few enough."""
  pieces = list(pieces)
  while len(pieces) > MOST_SEGMENTS:
    work = [sum(_macs(graph, n) for n in piece) for piece in pieces]
    pairs = [a + b for a, b in zip(work, work[1:], strict=False)]
    k = int(np.argmin(pairs))
    pieces[k : k + 2] = [pieces[k] + pieces[k + 1]]
  return pieces


def _macs(graph: Graph, node: Node) -> int:
  out = graph.shapes[node.name]
  read = graph.shapes[node.inputs[0]].channels
  match type(node.op).__name__:
    case "Conv":
      return node.op.kernel**2 * read * out.channels * out.size**2
    case "Depthwise":
      return node.op.kernel**2 * out.channels * out.size**2
    case "Linear":
      return read * out.channels
  return 0


def _segment(graph, piece, alive, last) -> Segment:
  own = {node.name for node in piece}
  reads = dict.fromkeys(i for n in piece for i in n.inputs if i not in own)
  gates = [graph.gates[n.name] for n in piece if n.name in graph.gates]
  span = slice(0, 0)
  if gates:
    span = slice(gates[0].start, gates[-1].stop)
  end = piece[-1].name
  return Segment(
    nodes=tuple(node.name for node in piece),
    reads=tuple(reads),
    writes=(end,) if last else alive[end],
    gates=span,
    macs=sum(_macs(graph, n) for n in piece),
  )
