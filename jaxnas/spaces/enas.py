"""SupNet-E and SupNet-EI of PGNAS: a fixed ENAS micro cell (authors).

As in the released TensorFlow code, with these differences (ours): strided
windows are padded as elsewhere in this project, the classifier has a bias, and
the auxiliary head is not gated (an arch is about the network that is kept),
pools 5x5 with stride 2 and padding instead of 3 and none, and ends with a 3x3
kernel instead of one as large as the map.
"""

from typing import NamedTuple

from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import Add, Concat, Depthwise, DropPath, Pool, Relu
from jaxnas.spaces.masks import MaskSpace

# Nodes of a cell, (input, operation) twice; inputs 0 and 1 are the two cells
# before it, 2 is its first node (authors).
NORMAL = ((0, 2, 0, 0), (0, 4, 0, 1), (0, 4, 1, 1), (1, 0, 0, 1), (0, 2, 1, 1))
REDUCE = ((1, 0, 1, 0), (0, 3, 0, 2), (1, 1, 3, 1), (1, 0, 0, 4), (0, 3, 1, 1))
# Operation 4 is the identity (authors).
SEPARABLE = {0: 3, 1: 5}
POOLS = {2: "mean", 3: "max"}
# Largest drop-path rate: keep probability 0.6 (authors).
DROP_PATH = 0.4


class _Map(NamedTuple):
  node: str
  features: int
  scale: int  # pixels of the image to one of the map


def supnet_e(filters: int = 36, **options) -> MaskSpace:
  """SupNet-E: 3,894,382 parameters; the paper's 4.6M are those of ENAS's paper.

  Args:
    filters: of the cells before the first reduction; every reduction doubles
      them.
    **options: `layers`, normal cells in three parts with a reduction cell
      between them, default 15; `image_size` 32, `n_classes` 10,
      `image_channels` 3.
  """
  return _enas("supnet-e", filters, **options)


def supnet_ei(filters: int = 72, **options) -> MaskSpace:
  """SupNet-EI: 14,784,562 parameters (paper: 15.3M); arguments as above.

  With the released auxiliary head the code has 15.37M (ours).
  """
  return _enas("supnet-ei", filters, **options)


def _enas(
  name, filters, layers=15, image_size=32, n_classes=10, image_channels=3
):
  draft = Draft()
  stem = draft.conv_norm("stem", "images", 3 * filters, kernel=3)
  before = last = _Map(stem, 3 * filters, 1)
  reductions = (layers // 3, 2 * (layers // 3) + 1)
  for i in range(layers + 2):
    reduce = i in reductions
    filters *= 2 if reduce else 1
    rate = DROP_PATH * (i + 1) / (layers + 2)
    at = draft.within(f"cell{i}")
    before, last = last, _cell(at, before, last, filters, reduce, rate)
    if i == reductions[1] + 1:
      auxiliary = _auxiliary(draft.within("auxiliary"), last.node)
  draft.classify(draft.add("relu", Relu(), last.node))
  return draft.space(name, image_size, n_classes, image_channels, auxiliary)


def _cell(draft, before, last, features, reduce, rate) -> _Map:
  x, y = before.node, last.node
  if before.scale < last.scale:
    x = draft.add("x_relu", Relu(), x)
    x = draft.factorized_reduction("x", x, features)
  elif before.features != features:
    x = draft.relu_conv_norm("x", x, features)
  if last.features != features:
    y = draft.relu_conv_norm("y", y, features)
  maps = [x, draft.relu_conv_norm("base", y, features)]
  used = set()
  for i, node in enumerate(REDUCE if reduce else NORMAL):
    pair = []
    for side, source, op in zip("ab", node[::2], node[1::2], strict=True):
      stride = 2 if reduce and source < 2 else 1
      at = draft.within(f"node{i}{side}")
      pair.append(_operation(at, op, maps[source], features, stride, rate))
    used |= set(node[::2])
    maps.append(draft.add(f"node{i}", Add(), *pair))
  loose = [m for i, m in enumerate(maps) if i not in used]
  joined = draft.add("join", Concat(), *loose)
  return _Map(joined, len(loose) * features, last.scale * (2 if reduce else 1))


def _operation(draft, op, x, features, stride, rate) -> str:
  if op in POOLS:
    x = draft.add("pool", Pool(POOLS[op], 3, stride), x)
  elif op in SEPARABLE:
    for i, s in enumerate((stride, 1)):
      x = draft.add(f"relu{i}", Relu(), x)
      x = draft.add(f"depthwise{i}", Depthwise(SEPARABLE[op], s), x)
      x = draft.conv_norm(f"pointwise{i}", x, features)
  elif stride == 1:
    return x
  else:
    return draft.factorized_reduction("identity", x, features)
  return draft.add("drop_path", DropPath(rate), x)


def _auxiliary(draft: Draft, x: str) -> str:
  x = draft.add("pool5", Pool("mean", 5, 2), draft.add("relu", Relu(), x))
  for features, kernel in ((128, 1), (768, 3)):
    name = f"conv{kernel}"
    x = draft.conv_norm(name, x, features, kernel=kernel, gate="none")
    x = draft.add(f"{name}_relu", Relu(), x)
  return draft.classify(x, "none")
