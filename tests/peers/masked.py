"""The masked network of a graph in PyTorch, written as its peers write it.

A mask is set in the network, then the validation set passes through it; masks
multiply what a product reads, as in the released code of PGNAS. Nothing is
compiled.
"""

from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from jaxnas.spaces.graph import (
  IMAGES,
  Add,
  Concat,
  Conv,
  Depthwise,
  DropPath,
  GlobalPool,
  Graph,
  Linear,
  Node,
  Norm,
  Pool,
  Relu,
  Shake,
)


def key_of(name: str) -> str:
  """A node's key among modules, which must not contain dots."""
  return name.replace(".", "/")


def make_module(graph: Graph, node: Node) -> nn.Module | None:
  """The module of a node; None for what has no weights."""
  op, inputs = node.op, graph.shapes[node.inputs[0]].channels
  match op:
    case Conv():
      return nn.Conv2d(
        inputs, op.features, op.kernel, op.stride,
        op.dilation * (op.kernel // 2), op.dilation, bias=False,
      )  # fmt: skip
    case Depthwise():
      return nn.Conv2d(
        inputs, inputs, op.kernel, op.stride, op.kernel // 2, groups=inputs,
        bias=False,
      )  # fmt: skip
    case Norm():
      return nn.BatchNorm2d(inputs)
    case Linear():
      return nn.Linear(inputs, graph.n_classes)
  return None


def pool(x: torch.Tensor, op: Pool) -> torch.Tensor:
  if op.offset:
    o = op.offset
    x = F.pad(x[:, :, o:, o:], (0, o, 0, o))
  if op.kernel == 1:
    return x[:, :, :: op.stride, :: op.stride]
  pad = (op.kernel - 1) // 2
  if op.kind == "max":
    return F.max_pool2d(x, op.kernel, op.stride, pad)
  return F.avg_pool2d(x, op.kernel, op.stride, pad, count_include_pad=False)


class MaskedNetwork(nn.Module):
  """`net.set_mask(keep)`, then `net(x)`; in evaluation mode.

  Images are `float32[B, C, H, W]`, `keep` is `float32[L]`, logits are
  `float32[B, n_classes]`.
  """

  def __init__(self, graph: Graph) -> None:
    super().__init__()
    self.graph = graph
    self.nodes = [n for n in graph.nodes if n.name not in graph.training_only]
    self.ops = nn.ModuleDict(
      {
        key_of(node.name): module
        for node in self.nodes
        if (module := make_module(graph, node)) is not None
      }
    )
    self.masks: dict[str, torch.Tensor] = {}
    reads = Counter(i for node in self.nodes for i in node.inputs)
    # What nobody else reads is rectified in place, as peers do.
    self._alone = {
      name for name, n in reads.items() if n == 1 and name != IMAGES
    }

  def set_mask(self, keep: torch.Tensor) -> None:
    """Sets the mask of all later images."""
    for name, gate in self.graph.gates.items():
      shape = (
        (1, -1) if isinstance(self.graph[name].op, Linear) else (1, -1, 1, 1)
      )
      self.masks[name] = keep[gate].reshape(shape)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    values = {IMAGES: x}
    for node in self.nodes:
      inputs = [values[i] for i in node.inputs]
      if node.name in self.masks:
        inputs[0] = inputs[0] * self.masks[node.name]
      values[node.name] = self._compute(node, inputs)
    return values[self.graph.output]

  def _compute(self, node, inputs):
    x = inputs[0]
    match node.op:
      case Relu():
        return F.relu(x, inplace=node.inputs[0] in self._alone)
      case Pool():
        return pool(x, node.op)
      case Add():
        return sum(inputs[1:], x)
      case Shake():
        return 0.5 * (inputs[0] + inputs[1])
      case Concat():
        return torch.cat(inputs, 1)
      case DropPath():
        return x
      case GlobalPool():
        return x.mean((2, 3))
    return self.ops[key_of(node.name)](x)


@torch.no_grad()
def score_masks(
  net: MaskedNetwork,
  masks: Sequence[torch.Tensor],
  x: torch.Tensor,
  y: torch.Tensor,
  batch_size: int,
) -> tuple[list[float], list[float]]:
  """Accuracy and loss of masks on all images, stored statistics."""
  accuracy, loss = [], []
  for keep in masks:
    net.set_mask(keep)
    logits = torch.cat([net(part) for part in x.split(batch_size)])
    accuracy.append((logits.argmax(1) == y).double().mean().item())
    loss.append(F.cross_entropy(logits, y).item())
  return accuracy, loss
