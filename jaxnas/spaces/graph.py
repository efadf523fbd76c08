"""A network as data: operations in topological order, and their shapes.

What chains of layers cannot say: branches that meet again, concatenations that
grow, parallel kernels. A graph holds no weights and no JAX tracing; costs,
networks and drawings are derived from it.
"""

import dataclasses
import functools
import typing
from typing import Literal

from jaxnas.errors import UserError, unknown
from jaxnas.spaces.ops import is_count

# How the input channels of a product are gated: by one drop rate, by one for
# each source of the concatenation that it reads, or not at all.
Gate = Literal["one", "sources", "none"]


@dataclasses.dataclass(frozen=True)
class Conv:
  """Dense convolution, padded to keep the size at stride 1.

  Behind a global pooling, with kernel 1, it is a fully connected layer.
  """

  features: int
  kernel: int = 1
  stride: int = 1
  dilation: int = 1
  gate: Gate = "one"
  bias: bool = False


@dataclasses.dataclass(frozen=True)
class Depthwise:
  """Depthwise convolution without bias; never gated."""

  kernel: int
  stride: int = 1


@dataclasses.dataclass(frozen=True)
class Norm:
  """Batch norm with scale and shift."""


@dataclasses.dataclass(frozen=True)
class Relu:
  """Rectifier."""


@dataclasses.dataclass(frozen=True)
class Pool:
  """Mean or maximum over a window; padding is left out of both.

  Attributes:
    kind: `mean` or `max`.
    kernel: side of the window, odd; or 2, with stride 2, which pads nothing and
      leaves out a last odd row.
    stride: 1 or 2.
    offset: pixels that the image is first moved up and left, zeros moving in.
  """

  kind: Literal["mean", "max"]
  kernel: int
  stride: int = 1
  offset: int = 0


@dataclasses.dataclass(frozen=True)
class Add:
  """Sum of inputs of one shape."""


@dataclasses.dataclass(frozen=True)
class Shake:
  """Shake-shake of two branches: random shares in training, else halves.

  The share is drawn for each image, and another one for the backward pass
  (arXiv 1705.07485).
  """


@dataclasses.dataclass(frozen=True)
class Concat:
  """Concatenation of channels."""


@dataclasses.dataclass(frozen=True)
class DropPath:
  """Drops the whole input of an image in training, and rescales the others.

  Attributes:
    rate: probability at the end of training; it grows linearly from 0.
  """

  rate: float


@dataclasses.dataclass(frozen=True)
class Dropout:
  """Drops single values in training, and rescales the others.

  Attributes:
    rate: probability, 0 to below 1.
  """

  rate: float


@dataclasses.dataclass(frozen=True)
class GlobalPool:
  """Mean over all positions."""


@dataclasses.dataclass(frozen=True)
class Linear:
  """Classifier with bias; its width is the graph's number of classes."""

  gate: Gate = "one"


GraphOp = (
  Conv | Depthwise | Norm | Relu | Pool | Add | Shake | Concat | DropPath
  | Dropout | GlobalPool | Linear
)  # fmt: skip
GRAPH_OPS = {op.__name__: op for op in typing.get_args(GraphOp)}
IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Node:
  """One operation of a graph.

  Attributes:
    name: unique; dots part it into stage, block and so on.
    op: what it computes.
    inputs: names of earlier nodes, or `images`.
  """

  name: str
  op: GraphOp
  inputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class NodeShape:
  """Output of a node: side of its square map, 1 after pooling; channels."""

  size: int
  channels: int


@dataclasses.dataclass(frozen=True)
class Group:
  """Input channels of one product that share a drop rate.

  Attributes:
    node: name of the convolution or classifier.
    kernel: side of its kernel, 1 for the classifier.
    source: node that the channels come from.
    first: position of the first one among the input channels of `node`.
    channels: how many, K of the paper.
    features: output channels of `node`, H of the paper.
    offset: position of the first one in an arch.
  """

  node: str
  kernel: int
  source: str
  first: int
  channels: int
  features: int
  offset: int


@dataclasses.dataclass(frozen=True)
class Graph:
  """A network as data.

  Attributes:
    name: such as `supnet-m`.
    image_size: height and width of the images, in pixels.
    image_channels: 1 for grey, 3 for colour.
    n_classes: outputs of every `Linear`.
    nodes: in topological order; the last one gives the logits.
    auxiliary: a further `Linear` whose loss helps in training; it is not part
      of the network that is kept. Empty for none.
  """

  name: str
  image_size: int
  image_channels: int
  n_classes: int
  nodes: tuple[Node, ...]
  auxiliary: str = ""

  def __post_init__(self) -> None:
    for field in ("image_size", "image_channels", "n_classes"):
      if not is_count(getattr(self, field)):
        raise UserError(
          f"graph {self.name!r}: {field} is {getattr(self, field)!r}; legal: a"
          " whole number, 1 or more."
        )
    known = {IMAGES}
    for node in self.nodes:
      for source in node.inputs:
        if source not in known:
          raise unknown(
            f"input of node {node.name!r} in graph {self.name!r}",
            source, known,
          )  # fmt: skip
      if node.name in known:
        raise UserError(
          f"graph {self.name!r} has two nodes named {node.name!r}."
        )
      known.add(node.name)
    if not self.nodes or not isinstance(self.nodes[-1].op, Linear):
      raise UserError(f"graph {self.name!r} does not end with a Linear.")
    if self.auxiliary and self.auxiliary not in known:
      raise unknown(f"auxiliary of graph {self.name!r}", self.auxiliary, known)

  def __getitem__(self, name: str) -> Node:
    """The node of a name."""
    return self._by_name[name]

  @functools.cached_property
  def _by_name(self) -> dict[str, Node]:
    return {node.name: node for node in self.nodes}

  @property
  def output(self) -> str:
    """Name of the node that gives the logits."""
    return self.nodes[-1].name

  @functools.cached_property
  def training_only(self) -> frozenset[str]:
    """Nodes that nothing but the auxiliary classifier needs."""
    needed = {self.output}
    for node in reversed(self.nodes):
      if node.name in needed:
        needed |= set(node.inputs)
    return frozenset(n.name for n in self.nodes if n.name not in needed)

  @functools.cached_property
  def shapes(self) -> dict[str, NodeShape]:
    """Output shape of `images` and of every node.

    Raises:
      UserError: naming the node, where inputs do not fit together.
    """
    shapes = {IMAGES: NodeShape(self.image_size, self.image_channels)}
    for node in self.nodes:
      shapes[node.name] = self._shape(node, [shapes[i] for i in node.inputs])
    return shapes

  def _shape(self, node: Node, inputs: list[NodeShape]) -> NodeShape:
    where = f"graph {self.name!r}, node {node.name!r}"
    many = isinstance(node.op, Add | Shake | Concat)
    if not inputs or (len(inputs) > 1 and not many):
      raise UserError(f"{where} has {len(inputs)} inputs; legal: 1.")
    size, channels = inputs[0].size, inputs[0].channels
    match node.op:
      case Conv() | Depthwise() | Pool():
        kernel, stride = node.op.kernel, node.op.stride
        if isinstance(node.op, Pool) and kernel == stride == 2 <= size:
          return NodeShape(size // 2, channels)
        if kernel % 2 == 0 or stride not in (1, 2):
          raise UserError(f"{where}: legal are odd kernels, strides 1 and 2.")
        features = getattr(node.op, "features", channels)
        if not is_count(features):
          raise UserError(
            f"{where}: features is {features!r}; legal: a whole number, 1 or"
            " more."
          )
        return NodeShape(-(-size // node.op.stride), features)
      case Add() | Shake():
        if len({*inputs}) > 1:
          raise UserError(f"{where} adds outputs of different shapes: {inputs}")
        if isinstance(node.op, Shake) and len(inputs) != 2:
          raise UserError(f"{where} has {len(inputs)} branches; legal: 2.")
      case Concat():
        if len({i.size for i in inputs}) > 1:
          raise UserError(f"{where} joins maps of different sizes: {inputs}")
        channels = sum(i.channels for i in inputs)
      case GlobalPool():
        size = 1
      case Linear():
        if size != 1:
          raise UserError(f"{where} reads a map; put a GlobalPool before it.")
        channels = self.n_classes
    return NodeShape(size, channels)

  def sources(self, name: str) -> list[tuple[str, int]]:
    """Where the output channels of a node come from, in order.

    Args:
      name: of a node, or `images`.

    Returns:
      `(node, channels)`; concatenations are resolved, through operations that
      work on each channel alone.
    """
    if name == IMAGES:
      return [(name, self.image_channels)]
    node = self[name]
    if isinstance(node.op, Concat):
      return [s for i in node.inputs for s in self.sources(i)]
    one_by_one = Norm | Relu | Pool | GlobalPool | DropPath | Dropout
    if isinstance(node.op, one_by_one):
      return self.sources(node.inputs[0])
    return [(name, self.shapes[name].channels)]

  @functools.cached_property
  def groups(self) -> tuple[Group, ...]:
    """All groups, in the order of the nodes and of their sources."""
    groups, offset = [], 0
    for node in self.nodes:
      gate = getattr(node.op, "gate", "none")
      if gate == "none":
        continue
      (read,) = node.inputs
      parts = [(read, self.shapes[read].channels)]
      if gate == "sources":
        parts = self.sources(read)
      first = 0
      for source, channels in parts:
        groups.append(
          Group(
            node.name, getattr(node.op, "kernel", 1), source, first, channels,
            self.shapes[node.name].channels, offset,
          )
        )  # fmt: skip
        first += channels
        offset += channels
    return tuple(groups)

  @functools.cached_property
  def gates(self) -> dict[str, slice]:
    """The part of an arch that gates each gated node's input channels."""
    gates: dict[str, slice] = {}
    for g in self.groups:
      start = gates[g.node].start if g.node in gates else g.offset
      gates[g.node] = slice(start, g.offset + g.channels)
    return gates

  def replace(self, **fields) -> "Graph":
    """Returns a copy with some fields changed, such as `n_classes`."""
    return dataclasses.replace(self, **fields)

  def to_json(self) -> dict:
    """Returns the whole graph as a JSON object."""
    return {
      **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
      "nodes": [
        {
          "name": node.name,
          "op": type(node.op).__name__,
          **dataclasses.asdict(node.op),
          "inputs": list(node.inputs),
        }
        for node in self.nodes
      ],
    }

  @classmethod
  def from_json(cls, value: dict) -> "Graph":
    """Inverse of `to_json`."""
    nodes = []
    for row in value["nodes"]:
      fields = dict(row)
      name, inputs = fields.pop("name"), tuple(fields.pop("inputs"))
      op = GRAPH_OPS[fields.pop("op")](**fields)
      nodes.append(Node(name, op, inputs))
    return cls(**{**value, "nodes": tuple(nodes)})
