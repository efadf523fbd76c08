"""The interpreter: one supernet that runs any block, because wiring is data.

Operations and predecessors are integer arrays, so one compiled program trains
and scores every block of a space (ours; BlockQNN trains each block's own
network). Weights belong to a place in the macro-architecture, a layer's index
and an operation. Everything inside a block has one width, which makes the sum
of 1x1 convolutions of several maps equal to one 1x1 convolution of their
concatenation: concatenations never have to be built.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.errors import UserError
from jaxnas.nets import initial
from jaxnas.nets.graphs import Noise, drop_values, pool
from jaxnas.nets.kernels import dense_conv, depthwise_conv
from jaxnas.nets.layers import moments, standardize
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.spaces import BlockSpace, nsc
from jaxnas.spaces.graph import Pool

# Operations with weights and batch norm, in the order of the norms' rows.
NORMED = {"conv1": 1, "conv3": 2, "conv5": 3, "concat": nsc.CONCAT}


@dataclasses.dataclass(frozen=True)
class BlockSupernet:
  """Weights of every operation at every layer of every block.

  Attributes:
    space: its macro-architecture projects the output of blocks.
    net: numerics.

  Raises:
    UserError: for a macro-architecture that joins leaves at full width.
  """

  space: BlockSpace
  net: NetConfig = NetConfig()

  def __post_init__(self) -> None:
    macro = self.space.macro
    if macro.published or macro.output != "project":
      form = macro.published or f"output={macro.output!r}"
      raise UserError(
        f"space {self.space.name!r} has a macro-architecture with {form}; the"
        " interpreter needs output='project', or use"
        " blocks.evaluation=children."
      )

  @functools.cached_property
  def cells(self) -> tuple[tuple[str, int, int], ...]:
    """Name, input channels and features of each block of the macro."""
    width, cells = self.space.macro.stem, []
    for s, (features, blocks) in enumerate(self.space.macro.stages):
      for b in range(blocks):
        cells.append((f"stage{s}.block{b}", width, features))
        width = features
    return tuple(cells)

  # Variables -----------------------------------------------------------------

  def init(self, key: jax.Array) -> Variables:
    """Draws all weights on the host (`initial.draw`).

    Args:
      key: PRNG key.

    Returns:
      `{"params": ..., "batch_stats": ...}`, `float32`. In the groups
      `stage0.block0` and so on, `layers` holds what each layer has of its own,
      stacked along axis 0.
    """
    rng = initial.rng_of(key)
    space, macro = self.space, self.space.macro
    params: Tree = {}
    stats: Tree = {}
    width = space.image_channels
    for i in range(len(macro.stem_strides)):
      params[f"stem{i}"] = _kernel(3, 3, width, macro.stem)
      width = macro.stem
      self._add_norm(params, stats, f"stem{i}_norm", width)
    for name, width, features in self.cells:
      own, measured = {"input": _kernel(width, features)}, {}
      self._add_norm(own, measured, "input_norm", features)
      self._add_norm(own, measured, "output_norm", features)
      params[name], stats[name] = own, measured
    if macro.hidden:
      shape = (macro.stages[-1][0], macro.hidden)
      params["hidden"] = {**_kernel(*shape), "bias": _leaf(macro.hidden)}
    last = macro.hidden or macro.stages[-1][0]
    params["classifier"] = {
      "linear": _leaf(last, space.n_classes), "bias": _leaf(space.n_classes),
    }  # fmt: skip
    variables = initial.draw({"params": params, "batch_stats": stats}, rng)
    for name, _, features in self.cells:
      drawn = [
        initial.draw(self._layer_shapes(features), rng)
        for _ in range(space.max_layers)
      ]
      stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *drawn)
      variables["params"][name]["layers"] = stacked["params"]
      variables["batch_stats"][name]["layers"] = stacked["batch_stats"]
    return variables

  def _add_norm(self, params: Tree, stats: Tree, name: str, c: int) -> None:
    if self.net.bn_affine:
      params[name] = {"scale": _leaf(c), "bias": _leaf(c)}
    stats[name] = {"mean": _leaf(c), "var": _leaf(c)}

  def _layer_shapes(self, c: int) -> Tree:
    """Shapes of what one layer of a block has of its own."""
    kernels: Tree = {
      name: _kernel(c, c)
      for name in ("conv1", "concat_first", "concat_second", "output")
    }
    for k in (3, 5):
      dense = self.space.convs == "plain"
      kernels[f"conv{k}"] = _kernel(k, k, c, c) if dense else _kernel(c, c)
    if self.space.convs == "separable":
      for k in (1, 3, 5):
        kernels[f"depthwise{k}"] = _kernel(k, k, c)
    stats: Tree = {}
    rows = len(NORMED)
    if self.net.bn_affine:
      kernels["norm"] = {"scale": _leaf(rows, c), "bias": _leaf(rows, c)}
    stats["norm"] = {"mean": _leaf(c), "var": _leaf(c)}
    return {"params": kernels, "batch_stats": stats}

  # Forward -------------------------------------------------------------------

  def apply(
    self,
    variables: Variables,
    arch: jax.Array,
    images: jax.Array,
    stored: bool,
    noise: Noise | None = None,
  ) -> tuple[jax.Array, Tree]:
    """Applies the network of one block.

    Args:
      variables: of the supernet.
      arch: `int32[L]`, may be traced; not checked.
      images: `float32[B, H, W, C]`, normalised.
      stored: use stored batch-norm statistics, else the batch's own.
      noise: of dropout in training; None in evaluation.

    Returns:
      Logits `float32[B, n_classes]`, and the measured statistics, laid out as
      `batch_stats` ({} with `stored`). Those of layers without batch norm are
      meaningless.
    """
    macro = self.space.macro
    params, stats = variables["params"], variables["batch_stats"]
    measured: Tree = {}
    x = images.astype(dtype_of(self.net))

    def norm(own: Tree, old: Tree, new: Tree, name: str, x: jax.Array):
      y, found = _norm(x, own.get(name), old[name] if stored else None)
      if not stored:
        new[name] = found
      return y

    for i, stride in enumerate(macro.stem_strides):
      x = jax.nn.relu(x) if i else x
      kernel = params[f"stem{i}"]["kernel"].astype(x.dtype)
      x = dense_conv(x, kernel, stride)
      x = norm(params, stats, measured, f"stem{i}_norm", x)
    stage = "stage0"
    for name, _, _ in self.cells:
      if not name.startswith(f"{stage}."):
        stage = name.split(".")[0]
        x = pool(x, Pool("max", 2, 2))
      own, old = params[name], stats[name]
      new = measured.setdefault(name, {})
      x = jax.nn.relu(x) @ own["input"]["kernel"].astype(x.dtype)
      x = norm(own, old, new, "input_norm", x)
      x, layers = self._layers(own["layers"], old["layers"], arch, x, stored)
      if not stored:
        new["layers"] = layers
      x = norm(own, old, new, "output_norm", x)
    x = jax.nn.relu(x).mean((-3, -2))
    if macro.hidden:
      own = params["hidden"]
      x = x @ own["kernel"].astype(x.dtype) + own["bias"].astype(x.dtype)
      key = noise.key if noise else None
      x = drop_values(jax.nn.relu(x), macro.dropout, key)
    own = params["classifier"]
    logits = x.astype(jnp.float32) @ own["linear"] + own["bias"]
    return logits, {} if stored else measured

  def _layers(
    self, params: Tree, stats: Tree, arch: jax.Array, x: jax.Array, stored: bool
  ) -> tuple[jax.Array, Tree]:
    """Interprets the codes of one block, up to the 1x1 convolutions of leaves.

    Args:
      params: of all layers, stacked.
      stats: the same.
      arch: `int32[L]`.
      x: the block's projected input `[B, H, W, C]`.
      stored: use stored statistics.
    """
    n = self.space.max_layers
    codes = arch.reshape(n, 3)
    branches = self._branches()
    # A row of `norm` for each operation; what has none takes any.
    rows = np.zeros(len(nsc.OPS), np.int32)
    rows[list(NORMED.values())] = np.arange(len(NORMED))
    normed = np.isin(np.arange(len(nsc.OPS)), list(NORMED.values()))

    def layer(carry, inputs):
      buffer, total = carry
      i, (op, first, second), leaf, own, old = inputs
      y = jax.lax.switch(op, branches, own, buffer[first], buffer[second])
      affine = jax.tree.map(lambda a: a[rows[op]], own.get("norm"))
      y_norm, found = _norm(y, affine, old["norm"] if stored else None)
      y = jnp.where(normed[op], y_norm, y)
      total = jax.lax.cond(
        leaf,
        lambda: (
          total + jax.nn.relu(y) @ own["output"]["kernel"].astype(y.dtype)
        ),
        lambda: total,
      )
      return (buffer.at[i].set(y), total), {} if stored else {"norm": found}

    rows, normed = jnp.asarray(rows), jnp.asarray(normed)
    start = jnp.zeros((n + 1, *x.shape), x.dtype).at[0].set(x)
    inputs = (jnp.arange(1, n + 1), codes, leaves(codes), params, stats)
    # Differentiating a switch would keep residuals of every branch.
    (_, total), found = jax.lax.scan(
      jax.checkpoint(layer), (start, jnp.zeros_like(x)), inputs
    )
    return total, found

  def _branches(self) -> list:
    """What each operation makes of its two inputs, `(own, a, b) -> y`."""

    def pointwise(own, name, x):
      return x @ own[name]["kernel"].astype(x.dtype)

    def conv(k, own, a, b):
      x, name = jax.nn.relu(a), f"conv{k}"
      if self.space.convs == "separable":
        kernel = own[f"depthwise{k}"]["kernel"].astype(x.dtype)
        return pointwise(own, name, depthwise_conv(x, kernel, 1))
      if k == 1:
        return pointwise(own, name, x)
      return dense_conv(x, own[name]["kernel"].astype(x.dtype), 1)

    def concat(own, a, b):
      return pointwise(own, "concat_first", jax.nn.relu(a)) + pointwise(
        own, "concat_second", jax.nn.relu(b)
      )

    def pooled(kind, k, own, a, b):
      return pool(a, Pool(kind, k))

    keep = lambda own, a, b: a
    return [
      lambda own, a, b: jnp.zeros_like(a),
      *(functools.partial(conv, k) for k in (1, 3, 5)),
      keep, functools.partial(pooled, "max", 3),
      keep, functools.partial(pooled, "mean", 3),
      keep, lambda own, a, b: a + b, concat,
    ]  # fmt: skip

  def blend_stats(self, old: Tree, measured: Tree, arch: jax.Array) -> Tree:
    """Moves running statistics one step towards those of one block.

    Statistics of layers whose operation has no batch norm stay as they are.

    Args:
      old: `batch_stats`.
      measured: of `apply`.
      arch: `int32[L]`, the block.
    """
    m = self.net.bn_momentum
    ops = arch.reshape(-1, 3)[:, 0]
    normed = jnp.isin(ops, np.array(list(NORMED.values())))[:, None]

    def move(path, o, new):
      moved = m * o + (1 - m) * new
      stacked = any(key.key == "layers" for key in path)
      return jnp.where(normed, moved, o) if stacked else moved

    return jax.tree_util.tree_map_with_path(move, old, measured)


def leaves(codes: jax.Array) -> jax.Array:
  """Which layers no other reads, `bool[T]`, from `int32[T, 3]`."""
  op, first, second = codes[:, 0], codes[:, 1], codes[:, 2]
  index = jnp.arange(1, len(codes) + 1)[:, None]
  pair = (op == nsc.ADD) | (op == nsc.CONCAT)
  read = ((first == index) & (op != nsc.NONE)) | ((second == index) & pair)
  return (op != nsc.NONE) & ~read.any(1)


def _leaf(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _kernel(*shape: int) -> Tree:
  return {"kernel": _leaf(*shape)}


def _norm(x: jax.Array, affine: Tree | None, old: Tree | None):
  """Batch norm with the statistics `old`, or with the batch's own."""
  mean, var = (old["mean"], old["var"]) if old else moments(x)
  gamma, beta = (affine["scale"], affine["bias"]) if affine else (1.0, 0.0)
  return standardize(x, mean, var, gamma, beta), {"mean": mean, "var": var}


def inherit_block(
  space: BlockSpace, arch: np.ndarray, variables: Variables
) -> Variables:
  """Cuts one block's plain network out of the interpreter.

  Args:
    space: of the block.
    arch: `int32[L]`.
    variables: of `BlockSupernet`.

  Returns:
    Variables of `GraphNetwork(block_graph(space, arch))`, `float32` NumPy
    arrays. Predictions are equal, up to rounding.
  """
  codes, host = space.codes(arch), jax.tree.map(np.asarray, variables)
  params, stats = dict(host["params"]), dict(host["batch_stats"])
  rows = {op: row for row, op in enumerate(NORMED.values())}
  for name in [n for n in params if ".block" in n]:
    own, old = params.pop(name), stats.pop(name)
    layers, layer_stats = own.pop("layers"), old.pop("layers")
    for i, code in enumerate(codes):
      mine = jax.tree.map(lambda a, i=i: a[i], layers)
      op = nsc.OPS[code.op]
      if op not in NORMED:
        continue
      node = f"{name}.layer{i + 1}"
      kernel = mine[op] if op in mine else _joined(mine)
      params[node] = kernel
      if space.convs == "separable" and code.op in nsc.CONVS:
        k = nsc.KERNELS[code.op]
        params[f"{node}_depthwise"] = mine[f"depthwise{k}"]
      if "norm" in mine:
        params[f"{node}_norm"] = {
          leaf: a[rows[code.op]] for leaf, a in mine["norm"].items()
        }
      stats[f"{node}_norm"] = {
        leaf: a[i] for leaf, a in layer_stats["norm"].items()
      }
    ends = [layers["output"]["kernel"][i - 1] for i in nsc.leaves(codes)]
    params[f"{name}.output"] = {"kernel": np.concatenate(ends)}
    params |= {f"{name}.{node}": leafs for node, leafs in own.items()}
    stats |= {f"{name}.{node}": leafs for node, leafs in old.items()}
  return {"params": params, "batch_stats": stats}


def _joined(layer: Tree) -> Tree:
  """The kernel of a 1x1 convolution of a concatenation."""
  parts = [layer[f"concat_{which}"]["kernel"] for which in ("first", "second")]
  return {"kernel": np.concatenate(parts)}
