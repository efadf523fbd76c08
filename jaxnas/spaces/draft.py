"""How the graphs of super-networks are written: node by node, with scopes."""

from jaxnas.spaces.graph import (
  Concat,
  Conv,
  Gate,
  GlobalPool,
  Graph,
  GraphOp,
  Linear,
  Node,
  Norm,
  Pool,
  Relu,
)
from jaxnas.spaces.masks import MaskSpace


class Draft:
  """Collects the nodes of a graph; methods that add return the last one's name.

  Args:
    scope: put before the names of the nodes, with a dot.
    nodes: where they go; default a new list.
  """

  def __init__(self, scope: str = "", nodes: list[Node] | None = None) -> None:
    self._scope = scope
    self.nodes: list[Node] = [] if nodes is None else nodes

  def within(self, scope: str) -> "Draft":
    """A draft that adds to the same nodes under a longer scope."""
    return Draft(self._name(scope), self.nodes)

  def _name(self, name: str) -> str:
    return f"{self._scope}.{name}" if self._scope else name

  def add(self, name: str, op: GraphOp, *inputs: str) -> str:
    """Adds one node."""
    self.nodes.append(Node(self._name(name), op, inputs))
    return self.nodes[-1].name

  def conv_norm(self, name: str, x: str, features: int, **conv) -> str:
    """Convolution and batch norm."""
    x = self.add(name, Conv(features, **conv), x)
    return self.add(f"{name}_norm", Norm(), x)

  def relu_conv_norm(self, name: str, x: str, features: int, **conv) -> str:
    """Rectifier, convolution and batch norm."""
    x = self.add(f"{name}_relu", Relu(), x)
    return self.conv_norm(name, x, features, **conv)

  def factorized_reduction(
    self, name: str, x: str, features: int, stride: int = 2
  ) -> str:
    """Two strided 1x1 convolutions, one pixel apart, joined; batch norm."""
    paths = []
    for i in range(2):
      path = self.add(f"{name}{i}_pool", Pool("mean", 1, stride, offset=i), x)
      paths.append(self.add(f"{name}{i}", Conv(features // 2), path))
    joined = self.add(f"{name}_join", Concat(), *paths)
    return self.add(f"{name}_norm", Norm(), joined)

  def classify(self, x: str, gate: Gate = "one") -> str:
    """Global pooling and classifier."""
    return self.add(
      "classifier", Linear(gate), self.add("pool", GlobalPool(), x)
    )

  def graph(
    self, name: str, image_size: int, n_classes: int, image_channels: int,
    auxiliary: str = "",
  ) -> Graph:  # fmt: skip
    """The graph that all nodes so far make."""
    nodes = tuple(self.nodes)
    return Graph(name, image_size, image_channels, n_classes, nodes, auxiliary)

  def space(self, *fields, **more) -> MaskSpace:
    """The masks of that graph; arguments as of `graph`.

    Raises:
      UserError: naming the node, where outputs do not fit together.
    """
    return MaskSpace(self.graph(*fields, **more))
