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
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.errors import UserError
from jaxnas.nets import initial
from jaxnas.nets.graphs import Noise, drop_values, pool
from jaxnas.nets.interpreter import HAS_NORM, NORMED, batch_norm, interpret
from jaxnas.nets.kernels import dense_conv
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.spaces import BlockSpace, nsc
from jaxnas.spaces.graph import Pool

Inside = Callable[[Tree, Tree | None, jax.Array], tuple[jax.Array, Tree]]


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

    def inside(params, stats, x):
      codes = arch.reshape(-1, 3)
      return interpret(params, stats, codes, x, self.space.convs)

    return self.around(variables, inside, images, stored, noise)

  def around(
    self,
    variables: Variables,
    inside: Inside,
    images: jax.Array,
    stored: bool,
    noise: Noise | None = None,
  ) -> tuple[jax.Array, Tree]:
    """Applies the macro-architecture around what goes on inside blocks.

    Args:
      variables: of the supernet; statistics only for `stored`.
      inside: `(params, stats, x) -> (y, measured)`, from a block's projected
        input to the sum of its leaves' 1x1 convolutions; weights and statistics
        (None to measure them) of all layers, stacked.
      images: as in `apply`.
      stored: as in `apply`.
      noise: as in `apply`.

    Returns:
      As `apply`.
    """
    macro = self.space.macro
    params, stats = variables["params"], variables.get("batch_stats", {})
    measured: Tree = {}
    x = images.astype(dtype_of(self.net))

    def norm(own: Tree, old: Tree, new: Tree, name: str, x: jax.Array):
      y, found = batch_norm(x, own.get(name), old[name] if stored else None)
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
      own, old = params[name], stats.get(name)
      new = measured.setdefault(name, {})
      x = jax.nn.relu(x) @ own["input"]["kernel"].astype(x.dtype)
      x = norm(own, old, new, "input_norm", x)
      x, layers = inside(own["layers"], old["layers"] if stored else None, x)
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
    normed = jnp.asarray(HAS_NORM)[ops][:, None]

    def move(path, o, new):
      moved = m * o + (1 - m) * new
      stacked = any(key.key == "layers" for key in path)
      return jnp.where(normed, moved, o) if stacked else moved

    return jax.tree_util.tree_map_with_path(move, old, measured)


def _leaf(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _kernel(*shape: int) -> Tree:
  return {"kernel": _leaf(*shape)}


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
