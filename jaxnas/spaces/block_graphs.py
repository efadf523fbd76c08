"""The network of one block: its graph, built as the macro says."""

import numpy as np

from jaxnas.errors import UserError
from jaxnas.spaces import nsc
from jaxnas.spaces.blocks import BlockSpace
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import (
  Add,
  Concat,
  Conv,
  Depthwise,
  Dropout,
  GlobalPool,
  Graph,
  Linear,
  Pool,
  Relu,
)
from jaxnas.spaces.nsc import Code

IRLAS_MOBILE = "conv1@0-conv3@0-add@0+2-conv5@0-conv1@3"


def block_graph(space: BlockSpace, arch: np.ndarray) -> Graph:
  """Builds the network that stacks one block.

  Args:
    space: of the block.
    arch: `int32[L]`.

  Returns:
    The graph; nodes are named `stage0.block0.layer1` and so on.

  Raises:
    UserError: for an illegal block, for another block than the published one
      of a published macro, or images too small for the macro's pooling.
  """
  codes = space.codes(arch)
  if space.macro.published:
    if codes != space.codes(space.from_string(IRLAS_MOBILE)):
      raise UserError(
        f"the macro-architecture of {space.name!r} is published with rules for"
        f" its own block only, {IRLAS_MOBILE}; not for"
        f" {space.to_string(arch)}. Other blocks: space blocks-imagenet."
      )
    draft = _irlas_mobile()
  else:
    draft = _stacked(space, codes)
  return draft.graph(
    space.name, space.image_size, space.n_classes, space.image_channels
  )


def _stacked(space: BlockSpace, codes: tuple[Code, ...]) -> Draft:
  macro, draft, x = space.macro, Draft(), "images"
  for i, stride in enumerate(macro.stem_strides):
    if i:
      x = draft.add(f"stem{i}_relu", Relu(), x)
    x = draft.conv_norm(f"stem{i}", x, macro.stem, kernel=3, stride=stride)
  width = macro.stem
  for s, (features, blocks) in enumerate(macro.stages):
    if s:
      x = draft.add(f"pool{s}", Pool("max", 2, 2), x)
    for b in range(blocks):
      at = draft.within(f"stage{s}.block{b}")
      x, width = _Block(at, features, space).build(x, width, codes)
  # Blocks end in batch norms or sums; the sources name no rectifier (ours).
  x = draft.add("head_relu", Relu(), x)
  x = draft.add("head_pool", GlobalPool(), x)
  if macro.hidden:
    x = draft.add("hidden", Conv(macro.hidden, bias=True), x)
    x = draft.add("hidden_relu", Relu(), x)
    if macro.dropout:
      x = draft.add("hidden_dropout", Dropout(macro.dropout), x)
  draft.add("classifier", Linear(), x)
  return draft


class _Block:
  """Writes one block; keeps the name and the width of each layer's output."""

  def __init__(self, draft: Draft, features: int, space: BlockSpace) -> None:
    self.draft, self.features = draft, features
    self.separable = space.convs == "separable"
    self.project = space.macro.output == "project"

  def build(
    self, x: str, width: int, codes: tuple[Code, ...]
  ) -> tuple[str, int]:
    """Adds the block; returns its output and that one's channels."""
    if self.project:
      x = self.draft.relu_conv_norm("input", x, self.features)
      width = self.features
    outputs = [(x, width)]
    for i, code in enumerate(codes, 1):
      read = [outputs[p] for p in nsc.reads(code)]
      outputs.append(self._layer(f"layer{i}", code, read))
    ends = [outputs[i] for i in nsc.leaves(codes)]
    x, width = ends[0][0], sum(w for _, w in ends)
    if len(ends) > 1:
      x = self.draft.add("join", Concat(), *(name for name, _ in ends))
    if self.project:
      x = self.draft.relu_conv_norm("output", x, self.features)
      width = self.features
    return x, width

  def _layer(
    self, name: str, code: Code, read: list[tuple[str, int]]
  ) -> tuple[str, int]:
    draft, kernel = self.draft, nsc.KERNELS[code.op]
    x, width = read[0]
    if code.op in nsc.CONVS:
      return self._conv(name, x, kernel), self.features
    if code.op in nsc.POOLS:
      kind = "max" if nsc.OPS[code.op].startswith("max") else "mean"
      return draft.add(name, Pool(kind, kernel), x), width
    if code.op == nsc.IDENTITY:
      return x, width
    if code.op == nsc.CONCAT:
      x = draft.add(f"{name}_join", Concat(), *(x for x, _ in read))
      return draft.relu_conv_norm(name, x, self.features), self.features
    if len({w for _, w in read}) > 1:  # equal widths need no 1x1 convolution
      read = [
        (self._equal(f"{name}_equal{i}", *part), self.features)
        for i, part in enumerate(read)
      ]
    return draft.add(name, Add(), *(x for x, _ in read)), read[0][1]

  def _equal(self, name: str, x: str, width: int) -> str:
    if width == self.features:
      return x
    return self.draft.relu_conv_norm(name, x, self.features)

  def _conv(self, name: str, x: str, kernel: int) -> str:
    if not self.separable:
      return self.draft.relu_conv_norm(name, x, self.features, kernel=kernel)
    x = self.draft.add(f"{name}_relu", Relu(), x)
    x = self.draft.add(f"{name}_depthwise", Depthwise(kernel), x)
    return self.draft.conv_norm(name, x, self.features)


# IRLAS-mobile, exact (authors; layer order as in the released prototxt) ------

_STAGES = ((32, 1), (128, 1), (256, 4), (512, 1))


def _irlas_mobile() -> Draft:
  draft = Draft()
  x = draft.conv_norm("stem", "images", 32, kernel=3, stride=2)
  x, width = draft.add("stem_relu", Relu(), x), 32
  for s, (features, blocks) in enumerate(_STAGES):
    at = draft.within(f"stage{s}")
    if s:
      x = at.relu_conv_norm("narrow", x, features, bias=True)
    x = at.relu_conv_norm("down", x, features, kernel=3, stride=2, bias=True)
    width = features
    for b in range(blocks):
      x = _published_block(at.within(f"block{b}"), x, width, features)
      width = 3 * features
  # The authors pool 7x7, the whole map at 224.
  draft.classify(x)
  return draft


def _published_block(draft: Draft, x: str, width: int, features: int) -> str:
  """The block whose input may be wider than its layers."""

  def separable(name: str, x: str, kernel: int, out: int = features) -> str:
    x = draft.add(f"{name}_relu", Relu(), x)
    x = draft.add(f"{name}_depthwise", Depthwise(kernel), x)
    return draft.conv_norm(name, x, out)

  def narrowed(name: str) -> str:
    if width == features:
      return x
    return draft.relu_conv_norm(f"{name}_narrow", x, features, bias=True)

  first = separable("layer1", x, 1)
  second = separable("layer2", narrowed("layer2"), 3)
  if width != features:
    # Without bias: the only reading with the published number of parameters.
    second = draft.conv_norm("layer2_widen", second, width)
  third = draft.add("layer3", Add(), x, second)
  fourth = separable("layer4", narrowed("layer4"), 5)
  fifth = separable("layer5", third, 1)
  return draft.add("output", Concat(), first, fourth, fifth)
