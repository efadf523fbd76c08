"""What a channel mask leaves of a graph (ours).

A mask drops input channels of products. From that follows what can go without
any change of the logits: filters that nobody reads any more, operations behind
them, and everything that no longer depends on the image, which shrinks to
stored constants. Vectorised over masks, exact, without weights: a channel
counts as needed or dynamic if it is so for some weights.
"""

import dataclasses

import numpy as np

from jaxnas.spaces.graph import (
  IMAGES,
  Add,
  Concat,
  Conv,
  Depthwise,
  Graph,
  GraphOp,
  Linear,
  Node,
  Norm,
  Pool,
  Shake,
)
from jaxnas.spaces.masks import MaskSpace

Channels = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pruning:
  """What remains of a graph under n masks.

  Attributes:
    dynamic: output channels of `images` and of every node that depend on the
      image, `bool[n, C]`.
    zero: channels that are exactly 0, for all images and weights, `bool[n, C]`.
    flat: channels that do not depend on the image and have one value at all
      positions; zero channels are among them, `bool[n, C]`. Zero padding bends
      a constant that passes a kernel wider than 1.
    kept: dynamic channels that the logits depend on, `bool[n, C]`.
    reads: dynamic input channels that each convolution or classifier still
      reads, `bool[n, Cin]`; none where it has no kept outputs.
    constant: kept output channels of each convolution or sum that contain a
      constant addend which may differ from 0, `bool[n, C]`.
    mapped: whether these addends differ between positions, so that the
      constant is a map, `bool[n]`.
  """

  dynamic: Channels
  zero: Channels
  flat: Channels
  kept: Channels
  reads: Channels
  constant: Channels
  mapped: Channels


def prune(space: MaskSpace, archs: np.ndarray) -> Pruning:
  """Finds what remains of a graph under each mask.

  The compact network of a mask computes `kept` channels from `kept` channels,
  adding a stored constant of the channels `constant` where there are any. The
  auxiliary classifier is not part of it.

  Args:
    space: of the masks.
    archs: `int32[n, L]`, 1 = keep; or one arch.

  Raises:
    UserError: for archs that are no masks of the space.
  """
  graph, keep = space.graph, space.validate(archs).astype(bool)
  masks = {
    node.name: product_mask(graph, node, keep)
    for node in graph.nodes
    if isinstance(node.op, Conv | Linear)
  }
  dynamic, zero, flat = _forward(graph, masks, len(keep))
  kept, reads = _backward(graph, masks, dynamic)
  constant, mapped = {}, {}
  for node in graph.nodes:
    if not isinstance(node.op, Conv | Add | Shake):
      continue
    # Per input: the constant channels that enter, and those among them that
    # would make the output differ between positions.
    enter = [~dynamic[i] & ~zero[i] for i in node.inputs]
    bent = [e & ~flat[i] for e, i in zip(enter, node.inputs, strict=True)]
    own = kept[node.name]
    if isinstance(node.op, Conv):
      enter = [(e & masks[node.name]).any(1)[:, None] for e in enter]
      bent = [(b & masks[node.name]).any(1)[:, None] for b in bent]
      if node.op.kernel > 1:
        bent = enter
    constant[node.name] = own & np.logical_or.reduce(enter)
    bends = (own & np.logical_or.reduce(bent)).any(1)
    mapped[node.name] = bends & (graph.shapes[node.name].size > 1)
  return Pruning(dynamic, zero, flat, kept, reads, constant, mapped)


def product_mask(graph: Graph, node: Node, keep: np.ndarray) -> np.ndarray:
  """The input channels of a convolution or classifier that masks keep.

  Args:
    graph: the graph.
    node: with an op `Conv` or `Linear`.
    keep: masks, `bool[n, L]`.

  Returns:
    `bool[n, Cin]`, all true where the node is not gated.
  """
  if node.name in graph.gates:
    return keep[:, graph.gates[node.name]]
  channels = graph.shapes[node.inputs[0]].channels
  return np.broadcast_to(True, (len(keep), channels))


def _forward(
  graph: Graph, masks: Channels, n: int
) -> tuple[Channels, Channels, Channels]:
  """`dynamic`, `zero` and `flat` of `images` and of every node."""
  shape = (n, graph.image_channels)
  dynamic = {IMAGES: np.broadcast_to(True, shape)}
  zero = {IMAGES: np.broadcast_to(False, shape)}
  flat = {IMAGES: np.broadcast_to(False, shape)}
  for node in graph.nodes:
    op, inputs = node.op, node.inputs
    d, z, f = ([of[i] for i in inputs] for of in (dynamic, zero, flat))
    size, channels = dataclasses.astuple(graph.shapes[node.name])
    match op:
      case Concat():
        d, z, f = (np.concatenate(parts, 1) for parts in (d, z, f))
      case Add() | Shake():
        d = np.logical_or.reduce(d)
        z, f = np.logical_and.reduce(z), np.logical_and.reduce(f)
      case Conv() | Linear():
        mask = masks[node.name]
        biased = isinstance(op, Linear)
        empty = ~(mask & ~z[0]).any(1)
        even = ~(mask & ~f[0]).any(1)
        d = _spread((mask & d[0]).any(1), channels)
        z = _spread(empty & (not biased), channels)
        wide = not biased and op.kernel > 1
        f = _spread(empty if wide else even, channels)
      case Norm():
        d, z, f = d[0], np.zeros_like(z[0]), f[0]
      case _:
        d, z, f = d[0], z[0], f[0]
        if _bends(op, graph.shapes[inputs[0]].size, size):
          f = z
    if size == 1:
      f = ~d
    dynamic[node.name], zero[node.name], flat[node.name] = d, z, f
  return dynamic, zero, flat


def _bends(op: GraphOp, size: int, out_size: int) -> bool:
  """Whether an operation on single channels bends a flat one."""
  if isinstance(op, Depthwise):
    return op.kernel > 1  # zero padding
  if isinstance(op, Pool):
    # The window that reaches furthest down; zeros start at size - offset.
    last = (out_size - 1) * op.stride + op.kernel // 2
    return op.offset > 0 and last >= size - op.offset
  return False


def _spread(column: np.ndarray, channels: int) -> np.ndarray:
  return np.broadcast_to(column[:, None], (len(column), channels))


def _backward(
  graph: Graph, masks: Channels, dynamic: Channels
) -> tuple[Channels, Channels]:
  """`kept` of `images` and every node, `reads` of every product."""
  kept = {name: np.broadcast_to(False, d.shape) for name, d in dynamic.items()}
  reads = {}

  def need(name: str, channels: np.ndarray) -> None:
    kept[name] = kept[name] | channels

  need(graph.output, dynamic[graph.output])
  for node in reversed(graph.nodes):
    own = kept[node.name]
    match node.op:
      case Conv() | Linear():
        (source,) = node.inputs
        read = masks[node.name] & dynamic[source] & own.any(1)[:, None]
        reads[node.name] = read
        need(source, read)
      case Concat():
        first = 0
        for source in node.inputs:
          channels = dynamic[source].shape[1]
          need(source, own[:, first : first + channels])
          first += channels
      case _:
        for source in node.inputs:
          need(source, own & dynamic[source])
  return kept, reads
