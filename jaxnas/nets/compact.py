"""Compact networks: what a channel mask leaves, as an ordinary Linen module.

Everything that the mask makes superfluous is really gone: parameters, products
and activations are only those of `spaces.pruning`. With stored batch-norm
statistics the predictions equal the masked network's. What no longer depends on
the image has become stored constants; in training they are biases like others.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.nets import initial
from jaxnas.nets.graphs import (
  Linear,
  Noise,
  draw_variables,
  make_product,
  pool,
)
from jaxnas.nets.layers import EPSILON, BatchNorm
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.spaces import graph as ops
from jaxnas.spaces.graph import IMAGES, Graph, Node
from jaxnas.spaces.masks import MaskSpace
from jaxnas.spaces.pruning import Pruning, product_mask, prune


class Stored(nn.Module):
  """A parameter by itself, zero at first.

  Attributes:
    leaf: its name.
    shape: its shape.
  """

  leaf: str
  shape: tuple[int, ...]

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the parameter, `float32`."""
    return self.param(self.leaf, initial.zeros, self.shape)


class ProductPlus(nn.Module):
  """Convolution plus a stored constant, in one scope.

  Attributes:
    op: the convolution.
    constant: shape of the constant, `[C]` or `[H, W, C]`.
  """

  op: ops.GraphOp
  constant: tuple[int, ...]

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""
    product = make_product(self.op, None)
    nn.share_scope(self, product)
    constant = self.param("constant", initial.zeros, self.constant)
    return product(x) + constant.astype(x.dtype)


class CompactNetwork(nn.Module):
  """The network that a channel mask leaves.

  Its variables are named as those of `nets.MaskedNetwork`, with fewer channels;
  nodes that add something constant hold a further leaf `constant`. A network
  without any path from image to logits is a bias.

  Attributes:
    graph: the full network.
    arch: the mask, one 0 or 1 per gated channel.
    net: numerics.
  """

  graph: Graph
  arch: tuple[int, ...]
  net: NetConfig = NetConfig()

  @property
  def space(self) -> MaskSpace:
    """The space that `arch` is from."""
    return MaskSpace(self.graph)

  def init_variables(self, key: jax.Array) -> Variables:
    """Draws fresh variables on the host (`initial.draw`).

    Args:
      key: PRNG key.
    """
    return draw_variables(self, self.graph, key)

  @nn.compact
  def __call__(
    self, images: jax.Array, stored: bool = True, noise: Noise | None = None
  ) -> jax.Array:
    """Classifies images.

    Args:
      images: `float32[B, H, W, C]`, normalised.
      stored: use stored batch-norm statistics, else the batch's own, which
        are then written to `batch_stats` if that is mutable.
      noise: taken as `GraphNetwork` does, and not used: what a mask leaves is
        tuned without drop-path and shake-shake.

    Returns:
      Logits `float32[B, n_classes]`.
    """
    del noise
    graph = self.graph
    cut = prune(self.space, np.array([self.arch], np.int32))
    own = cut.kept[IMAGES][0]
    values = {
      IMAGES: _take(images.astype(dtype_of(self.net)), np.ones_like(own), own)
    }
    for node in graph.nodes:
      if cut.kept[node.name].any():
        values[node.name] = self._apply(node, cut, values, stored)
    if graph.output in values:
      return values[graph.output]
    bias = Stored("bias", (graph.n_classes,), name=graph.output)()
    return jnp.broadcast_to(bias, (images.shape[0], graph.n_classes))

  def _apply(
    self, node: Node, cut: Pruning, values: Tree, stored: bool
  ) -> jax.Array:
    op, name, own = node.op, node.name, cut.kept[node.name][0]

    def read(source: str, channels: np.ndarray) -> jax.Array:
      return _take(values[source], cut.kept[source][0], channels)

    match op:
      case ops.Conv():
        x = read(node.inputs[0], cut.reads[name][0])
        op = dataclasses.replace(op, features=int(own.sum()))
        if cut.constant[name].any():
          shape = _constant_shape(self.graph, cut, name)
          return ProductPlus(op, shape, name=name)(x)
        return make_product(op, name)(x)
      case ops.Linear():
        x = read(node.inputs[0], cut.reads[name][0])
        return Linear(self.graph.n_classes, name=name)(x)
      case ops.Concat():
        pieces = _split(self.graph, node, own)
        parts = [read(i, want) for i, want in pieces if want.any()]
        return jnp.concatenate(parts, -1)
      case ops.Add() | ops.Shake():
        return self._sum(node, cut, read)
    x = read(node.inputs[0], own)
    match op:
      case ops.Depthwise():
        return make_product(op, name)(x)
      case ops.Norm():
        return BatchNorm(self.net.bn_affine, name=name)(x, stored)
      case ops.Relu():
        return jax.nn.relu(x)
      case ops.Pool():
        return pool(x, op)
      case ops.GlobalPool():
        return x.mean((-3, -2))
      case ops.DropPath():
        return x
    raise TypeError(op)

  def _sum(self, node: Node, cut: Pruning, read) -> jax.Array:
    """Sum of what the inputs have of the kept channels, and the constants."""
    own, parts = cut.kept[node.name][0], []
    for source in node.inputs:
      have = own & cut.dynamic[source][0]
      if have.any():
        parts.append(_place(read(source, have), have[own]))
    y = functools.reduce(jnp.add, parts)
    if isinstance(node.op, ops.Shake):
      y = 0.5 * y
    where = cut.constant[node.name][0]
    if where.any():
      shape = _constant_shape(self.graph, cut, node.name)
      constant = Stored("constant", shape, name=node.name)()
      y = y + _place(constant, where[own]).astype(y.dtype)
    return y


def _take(x: jax.Array, have: np.ndarray, want: np.ndarray) -> jax.Array:
  """The channels `want` of a map that holds the channels `have`."""
  if (want == have).all():
    return x
  return x[..., np.flatnonzero(want[have])]


def _place(x: jax.Array, where: np.ndarray) -> jax.Array:
  """Puts the channels of x at the true places of `where`, zeros elsewhere."""
  if where.all():
    return x
  # A gather that reads a further, zero channel: cheaper than a scatter.
  padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])
  return padded[..., np.where(where, np.cumsum(where) - 1, x.shape[-1])]


def _split(
  graph: Graph, node: Node, channels: np.ndarray
) -> list[tuple[str, np.ndarray]]:
  """Parts channels of a concatenation, `bool[C]`, by its inputs."""
  ends = np.cumsum([graph.shapes[i].channels for i in node.inputs])
  return list(zip(node.inputs, np.split(channels, ends[:-1]), strict=True))


def _constant_shape(graph: Graph, cut: Pruning, name: str) -> tuple[int, ...]:
  size, channels = graph.shapes[name].size, int(cut.constant[name].sum())
  return (size, size, channels) if cut.mapped[name].any() else (channels,)


def compact(
  space: MaskSpace, arch: np.ndarray, variables: Variables
) -> Variables:
  """Cuts a mask's compact network out of a masked network.

  Its predictions equal those of the masked network with this mask and stored
  statistics, up to rounding. With measured statistics they differ where a mask
  leaves constants: the masked network would normalise a constant by its own
  mean and variance, the compact one keeps what the stored ones made of it.

  Args:
    space: of the mask.
    arch: `int32[L]`.
    variables: of the `MaskedNetwork`, learned drop rates allowed.

  Returns:
    Variables of `CompactNetwork(space.graph, arch)` as `float32` NumPy arrays,
    `{"params": ..., "batch_stats": ...}`.
  """
  graph, cut = space.graph, prune(space, arch)
  keep = space.validate(arch).astype(bool)
  params: Tree = {}
  stats: Tree = {}
  size = graph.image_size
  images = np.zeros((1, size, size, graph.image_channels), np.float32)
  constants = {IMAGES: images}
  for node in graph.nodes:
    name = node.name
    if name in graph.training_only:
      continue
    full, full_stats = (
      {k: np.asarray(v, np.float32) for k, v in tree.get(name, {}).items()}
      for tree in (variables["params"], variables.get("batch_stats", {}))
    )
    inputs = [constants[i] for i in node.inputs]
    if isinstance(node.op, ops.Conv | ops.Linear):
      inputs = [inputs[0] * product_mask(graph, node, keep)[0]]
    addend = _constant_part(node, inputs, full, full_stats)
    constants[name] = np.where(cut.dynamic[name][0], np.float32(0), addend)
    own, new = cut.kept[name][0], {}
    if own.any():
      new = _cut_params(node, cut, full)
      if full_stats:
        stats[name] = {k: v[own] for k, v in full_stats.items()}
    if name == graph.output:
      new["bias"] = addend[0]
    if name in cut.constant and cut.constant[name].any():
      shape = _constant_shape(graph, cut, name)
      value = addend[..., cut.constant[name][0]]
      value = value[0] if len(shape) == 3 else value.reshape(-1, *shape)[0]
      new["constant"] = value
    if new:
      params[name] = new
  return {"params": params, "batch_stats": stats}


def _cut_params(node: Node, cut: Pruning, full: Tree) -> Tree:
  """The kept rows and columns of a node's parameters."""
  own = cut.kept[node.name][0]
  if node.name not in cut.reads:
    return {k: v[..., own] for k, v in full.items()}
  reads = cut.reads[node.name][0]
  return {
    k: v[..., own] if k == "bias" else v[..., reads, :][..., own]
    for k, v in full.items()
  }


def _constant_part(
  node: Node, inputs: list[np.ndarray], params: Tree, stats: Tree
) -> np.ndarray:
  """What a node makes of the constant channels of its inputs.

  Args:
    node: the node.
    inputs: the constant channels, zero where a channel is dynamic or masked,
      `float32[1, H, W, C]`, or `[1, C]` after pooling.
    params: of the node in the masked network.
    stats: the same.

  Returns:
    The node's output if the other channels were zero. It is meaningless at
    dynamic channels, but for products and sums, which add it to the rest.
  """
  x = inputs[0]
  match node.op:
    case ops.Conv() | ops.Depthwise() if not x.any():
      # The usual case, and the costly one. What is left of its shape?
      channels = params["kernel"].shape[-1]
      stride = node.op.stride
      x = x[..., ::stride, ::stride, :] if x.ndim == 4 else x
      return np.zeros((*x.shape[:-1], channels), np.float32)
    case ops.Conv() | ops.Depthwise():
      y = make_product(node.op, None).apply({"params": params}, x)
    case ops.Linear():
      y = x @ params["linear"] + params["bias"]
    case ops.Norm():
      scale = params.get("scale", 1) / np.sqrt(
        stats["var"] + np.float32(EPSILON)
      )
      y = (x - stats["mean"]) * scale + params.get("bias", 0)
    case ops.Relu():
      y = np.maximum(x, 0)
    case ops.Pool():
      y = pool(jnp.asarray(x), node.op)
    case ops.Add():
      y = sum(inputs)
    case ops.Shake():
      y = (inputs[0] + inputs[1]) / 2
    case ops.Concat():
      y = np.concatenate(inputs, -1)
    case ops.GlobalPool():
      y = x.mean((-3, -2))
    case ops.DropPath():
      y = x
  return np.asarray(y, np.float32)
