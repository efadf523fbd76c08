"""The supernet of a jaxnas space in PyTorch, written as its peers write it.

Every layer is an `nn.ModuleList` of choices, of which the forward pass picks
one in Python; nothing is compiled. Modules are named as in jaxnas.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from jaxnas.costs import squeeze_width
from jaxnas.spaces import Conv, Identity, MBConv, Op, Shape, Space

ACTIVATIONS = {
  "relu": lambda: nn.ReLU(inplace=True),
  "relu6": lambda: nn.ReLU6(inplace=True),
  "swish": lambda: nn.SiLU(inplace=True),
  "none": nn.Identity,
}


def conv(inputs: int, outputs: int, kernel=1, stride=1, groups=1) -> nn.Conv2d:
  return nn.Conv2d(
    inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
  )


class BatchNorm(nn.BatchNorm2d):
  """Batch norm that knows over how many pixels of an image it averages."""

  def __init__(self, channels: int, size: int) -> None:
    super().__init__(channels)
    self.pixels = size * size


class ConvBlock(nn.Module):
  def __init__(self, kernel: int, act: str, s: Shape) -> None:
    super().__init__()
    self.conv = conv(s.in_channels, s.features, kernel, s.stride)
    self.bn = BatchNorm(s.features, s.out_size)
    self.act = ACTIVATIONS[act]()

  def forward(self, x):
    return self.act(self.bn(self.conv(x)))


class SqueezeExcite(nn.Module):
  def __init__(self, channels: int, narrow: int, act: str) -> None:
    super().__init__()
    self.reduce = nn.Conv2d(channels, narrow, 1)
    self.act = ACTIVATIONS[act]()
    self.expand = nn.Conv2d(narrow, channels, 1)

  def forward(self, x):
    pooled = x.mean((2, 3), keepdim=True)
    return x * torch.sigmoid(self.expand(self.act(self.reduce(pooled))))


class MBConvBlock(nn.Module):
  def __init__(self, op: MBConv, s: Shape) -> None:
    super().__init__()
    wide = s.in_channels * op.expand
    self.residual = op.residual and s.keeps
    self.expand = None
    if op.expand != 1:
      self.expand = conv(s.in_channels, wide)
      self.expand_bn = BatchNorm(wide, s.in_size)
    self.depthwise = conv(wide, wide, op.kernel, s.stride, groups=wide)
    self.depthwise_bn = BatchNorm(wide, s.out_size)
    self.se = None
    if op.se_ratio:
      self.se = SqueezeExcite(wide, squeeze_width(op, s), op.act)
    self.project = conv(wide, s.features)
    self.project_bn = BatchNorm(s.features, s.out_size)
    self.act = ACTIVATIONS[op.act]()

  def forward(self, x):
    y = x
    if self.expand is not None:
      y = self.act(self.expand_bn(self.expand(y)))
    y = self.act(self.depthwise_bn(self.depthwise(y)))
    if self.se is not None:
      y = self.se(y)
    y = self.project_bn(self.project(y))
    return x + y if self.residual else y


def make_block(op: Op, s: Shape) -> nn.Module:
  match op:
    case Conv():
      return ConvBlock(op.kernel, op.act, s)
    case MBConv():
      return MBConvBlock(op, s)
    case Identity():
      return nn.Identity() if s.keeps else ConvBlock(1, "none", s)
  raise TypeError(op)


def norms_of(module: nn.Module) -> list[BatchNorm]:
  return [m for m in module.modules() if isinstance(m, BatchNorm)]


class Supernet(nn.Module):
  """All choices of a space; `net(x, arch)` runs one path.

  Images are `float32[B, C, H, W]`, `arch` is a sequence of `L` ints, logits
  are `float32[B, n_classes]`.
  """

  def __init__(self, space: Space) -> None:
    super().__init__()

    def blocks(layers, shapes):
      return [
        [make_block(op, s) for op in layer.choices]
        for layer, s in zip(layers, shapes, strict=True)
      ]

    stem, layers, head = (
      blocks(part, shapes)
      for part, shapes in zip(
        (space.stem, space.layers, space.head), space.shapes, strict=True
      )
    )
    self.stem = nn.Sequential(*(b for (b,) in stem))
    self.layers = nn.ModuleList(nn.ModuleList(choices) for choices in layers)
    self.head = nn.Sequential(*(b for (b,) in head))
    self.classifier = nn.Linear(space.out_features, space.n_classes)
    self._fixed_norms = norms_of(self.stem) + norms_of(self.head)
    self._norms = [[norms_of(b) for b in choices] for choices in layers]

  def forward(self, x: torch.Tensor, arch: Sequence[int]) -> torch.Tensor:
    x = self.stem(x)
    for choices, c in zip(self.layers, arch, strict=True):
      x = choices[c](x)
    return self.classifier(self.head(x).mean((2, 3)))

  def norms(self, arch: Sequence[int]) -> list[BatchNorm]:
    """The batch norms on one path."""
    found = list(self._fixed_norms)
    for choices, c in zip(self._norms, arch, strict=True):
      found += choices[c]
    return found


@torch.no_grad()
def score_paths(
  net: Supernet,
  archs: Sequence[Sequence[int]],
  calibration: torch.Tensor,
  x: torch.Tensor,
  y: torch.Tensor,
) -> tuple[list[float], list[float]]:
  """Accuracy and loss of paths, batch norm recalibrated for each.

  Only the batch norms on the path are reset and switched between modes:
  `net.train()` would walk over all choices and cost more than it must.
  """
  accuracy, loss = [], []
  for arch in archs:
    norms = net.norms(arch)
    for bn in norms:
      bn.reset_running_stats()
      bn.momentum = None  # the plain average over batches, here of one
      bn.training = True
    net(calibration, arch)
    # PyTorch stores the unbiased variance, jaxnas the biased one: one fused
    # call sets them equal.
    counts = [len(calibration) * bn.pixels for bn in norms]
    torch._foreach_mul_(
      [bn.running_var for bn in norms], [(n - 1) / n for n in counts]
    )
    for bn in norms:
      bn.training = False
    logits = net(x, arch)
    accuracy.append((logits.argmax(1) == y).double().mean().item())
    loss.append(F.cross_entropy(logits, y).item())
  return accuracy, loss


def fair_step(
  net: Supernet,
  optimizer: torch.optim.Optimizer,
  archs: Sequence[Sequence[int]],
  x: torch.Tensor,
  y: torch.Tensor,
  smoothing: float,
) -> float:
  """K back-propagations on one batch, one update; the mean loss of the paths.

  Source: FairNAS (arXiv 1907.01845), algorithm 1.
  """
  optimizer.zero_grad()
  losses = []
  for arch in archs:
    loss = F.cross_entropy(net(x, arch), y, label_smoothing=smoothing)
    loss.backward()
    losses.append(loss.detach())
  optimizer.step()
  return torch.stack(losses).mean().item()
