"""Tiny graphs that cover every operation, masks, and a slow evaluation."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.spaces.draft import Draft
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
  Norm,
  Pool,
  Relu,
  Shake,
)
from jaxnas.spaces.masks import MaskSpace


def _graph(
  name: str, draft: Draft, size: int = 6, auxiliary: str = ""
) -> Graph:
  return Graph(name, size, 3, 4, tuple(draft.nodes), auxiliary)


def shake() -> Graph:
  """Two shake-shake blocks; the second one halves the map."""
  d = Draft()
  x = d.conv_norm("stem", IMAGES, 4, kernel=3)
  for b, (width, stride) in enumerate(((4, 1), (6, 2))):
    s = d.within(f"block{b}")
    branches = []
    for scope in "ab":
      t = s.within(scope)
      y = t.relu_conv_norm("first", x, width, kernel=3, stride=stride)
      branches.append(t.relu_conv_norm("second", y, width, kernel=3))
    skip = x
    if stride > 1:
      r = s.add("skip_relu", Relu(), x)
      halves = [
        s.add(
          f"path{o}",
          Conv(width // 2),
          s.add(f"pool{o}", Pool("mean", 1, 2, offset=o), r),
        )
        for o in (0, 1)
      ]
      skip = s.add("skip_norm", Norm(), s.add("skip", Concat(), *halves))
    x = s.add("add", Add(), s.add("shake", Shake(), *branches), skip)
  d.classify(d.add("relu", Relu(), x))
  return _graph("shake", d)


def dense() -> Graph:
  """Concatenations that grow, a drop rate for each source, a plain stem."""
  d = Draft()
  x = d.add("stem", Conv(4, 3, gate="none"), IMAGES)
  for block in range(2):
    s = d.within(f"block{block}")
    for i in range(2):
      t = s.within(f"layer{i}")
      y = t.add("relu", Relu(), t.add("norm", Norm(), x))
      y = t.conv_norm("narrow", y, 5, gate="sources")
      y = t.add("wide", Conv(3, 3), t.add("narrow_relu", Relu(), y))
      x = t.add("join", Concat(), x, y)
    if block == 0:
      y = s.add("relu", Relu(), s.add("norm", Norm(), x))
      y = s.add("transition", Conv(5, gate="sources"), y)
      x = s.add("pool", Pool("mean", 3, 2), y)
  d.classify(d.add("norm", Norm(), x), "sources")
  return _graph("dense", d, 5)


def parallel() -> Graph:
  """Kernels side by side, two of them with holes, around a residual."""
  d = Draft()
  x = d.conv_norm("stem", IMAGES, 4, kernel=3, stride=2, gate="none")
  for b in range(2):
    s = d.within(f"block{b}")
    y = s.relu_conv_norm("in", x, 4)
    y = s.add("relu", Relu(), y)
    parts = [
      s.add(f"conv{k}x{r}", Conv(2, k, dilation=r), y)
      for k, r in ((1, 1), (3, 1), (3, 2), (5, 2))
    ]
    y = s.add("norm", Norm(), s.add("join", Concat(), *parts))
    y = s.conv_norm("out", s.add("out_relu", Relu(), y), 4)
    x = s.add("add", Add(), y, x)
  d.classify(x)
  return _graph("parallel", d, 7)


def cell() -> Graph:
  """Separable convolutions, pools, drop-path, an auxiliary classifier."""
  d = Draft()
  x = d.conv_norm("stem", IMAGES, 4, kernel=3)
  s = d.within("cell")
  y = s.add("deep", Depthwise(3), s.add("relu", Relu(), x))
  y = s.conv_norm("point", y, 4)
  y = s.add("deep2", Depthwise(5, 2), s.add("relu2", Relu(), y))
  a = s.add("path", DropPath(0.3), s.conv_norm("point2", y, 4))
  b = s.conv_norm("b", s.add("mean", Pool("mean", 3, 2), x), 4)
  c = s.conv_norm("c", s.add("max", Pool("max", 3, 2), x), 4)
  e = s.add("e", DropPath(0.3), s.add("max2", Pool("max", 3), c))
  # One sum of three, one of twice the same.
  f = s.add("f", Add(), a, b, e)
  g = s.add("g", Add(), b, b)
  x = s.add("join", Concat(), f, g, c)
  y = d.add("aux_relu", Relu(), x)
  y = d.add("aux_conv", Conv(3), y)
  aux = d.add("aux", Linear(), d.add("aux_pool", GlobalPool(), y))
  x = d.relu_conv_norm("last", x, 5, gate="sources")
  d.classify(d.add("relu", Relu(), x))
  return _graph("cell", d, auxiliary=aux)


def constants() -> Graph:
  """A branch whose constant is bent by padding, then read by a live product."""
  d = Draft()
  x = d.add("stem", Conv(4, 3, gate="none"), IMAGES)
  y = d.conv_norm("a", x, 3, kernel=3)
  flat = d.conv_norm("point", y, 3)
  y = d.add("deep_norm", Norm(), d.add("deep", Depthwise(3), y))
  y = d.conv_norm("holes", y, 3, kernel=3, dilation=2)
  y = d.add("move", Pool("mean", 3, 1, offset=1), y)
  bent = d.add("add", Add(), y, flat)
  # Nothing between these two: what the first one does not compute stays zero.
  z = d.add(
    "zero", Conv(3, 3), d.add("zero_relu", Relu(), d.add("b", Conv(3), x))
  )
  x = d.add("join", Concat(), x, bent, flat, z)
  x = d.relu_conv_norm("mix", x, 4, gate="sources")
  skip = d.add("skip", Conv(4, 1, 2), x)
  x = d.add("wide", Conv(4, 3, 2), d.add("join2", Concat(), x, bent))
  x = d.add("sum", Add(), skip, x, d.conv_norm("shrink", bent, 4, stride=2))
  d.classify(x)
  return _graph("constants", d, 5)


BUILDERS = (shake, dense, parallel, cell, constants)
GRAPHS = {g.name: g for g in (build() for build in BUILDERS)}
SPACES = {name: MaskSpace(g) for name, g in GRAPHS.items()}


def masks(space: MaskSpace, n: int, seed: int = 0) -> np.ndarray:
  """Masks `int32[2 n + 8, L]`: full and empty, single channels, operations.

  n have whole groups dropped and kept at random, n both that and holes.
  """
  rng = np.random.default_rng(seed)
  groups = len(space.groups)
  rows = [
    space.draw(rng, np.full(groups, rate))
    for rate in (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.95, 1.0)
  ]
  for i in range(n):
    whole = rng.random(groups) < (0.15, 0.3, 0.5)[i % 3]
    rows.append(space.draw(rng, whole.astype(float)))
    rows.append(space.draw(rng, np.where(whole, 1.0, 0.2)))
  return np.concatenate(rows)


def positive(variables: dict, seed: int = 0) -> dict:
  """Weights for which every value grows with everything that it depends on.

  Rectifiers never close, nothing cancels, so numerics show the structure.
  """
  rng = np.random.default_rng(seed)

  def leaf(path, a):
    value = rng.uniform(0.2, 1.0, a.shape).astype(np.float32)
    return -value if path[-1].key == "mean" else value

  return jax.tree_util.tree_map_with_path(leaf, variables)


def evaluate(
  graph: Graph,
  variables: dict,
  images: jax.Array,
  keep: jax.Array,
  offsets: dict[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
  """Every node's value in evaluation mode, by XLA's most general operations.

  Args:
    graph: the graph.
    variables: of its masked network.
    images: `float32[B, H, W, C]`.
    keep: `float32[L]`.
    offsets: added to the channels of nodes and images, `float32[C]` by name.
  """
  offsets = offsets or {}
  values = {IMAGES: images + offsets.get(IMAGES, 0.0)}
  for node in graph.nodes:
    inputs = [values[i] for i in node.inputs]
    if node.name in graph.gates:
      inputs[0] = inputs[0] * keep[graph.gates[node.name]]
    own = variables["params"].get(node.name, {})
    stats = variables["batch_stats"].get(node.name, {})
    y = evaluate_op(node.op, inputs, own, stats)
    values[node.name] = y + offsets.get(node.name, 0.0)
  return values


def evaluate_op(op, inputs, params, stats):
  x = inputs[0]
  match op:
    case Conv():
      kernel = params["kernel"].reshape(op.kernel, op.kernel, x.shape[-1], -1)
      return _conv(x, kernel, op.stride, op.dilation, 1)
    case Depthwise():
      kernel = params["kernel"][:, :, None, :]
      return _conv(x, kernel, op.stride, 1, x.shape[-1])
    case Norm():
      unit = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
      return unit * params.get("scale", 1.0) + params.get("bias", 0.0)
    case Relu():
      return jnp.maximum(x, 0)
    case Pool():
      return _pool(x, op)
    case Add():
      return sum(inputs)
    case Shake():
      return inputs[0] / 2 + inputs[1] / 2
    case Concat():
      return jnp.concatenate(inputs, -1)
    case DropPath():
      return x
    case GlobalPool():
      return x.mean((1, 2))
    case Linear():
      return x @ params["linear"] + params["bias"]
  raise TypeError(op)


def _conv(x, kernel, stride, dilation, groups):
  pad = dilation * (kernel.shape[0] // 2)
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), [(pad, pad)] * 2, (1, 1), (dilation,) * 2,
    ("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
  )  # fmt: skip


def _pool(x, op):
  """By explicit windows: each output position, the pixels that it sees."""
  size = x.shape[1]
  if op.offset:
    moved = x[:, op.offset :, op.offset :]
    x = jnp.zeros_like(x).at[:, : moved.shape[1], : moved.shape[2]].set(moved)
  reach, reduce = op.kernel // 2, {"mean": jnp.mean, "max": jnp.max}[op.kind]
  spans = [
    slice(max(0, i - reach), i + reach + 1) for i in range(0, size, op.stride)
  ]
  return jnp.stack(
    [jnp.stack([reduce(x[:, r, c], (1, 2)) for c in spans], 1) for r in spans],
    1,
  )
