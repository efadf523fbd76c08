"""A graph as a network: its nodes one by one, and the plain network.

The variables of a node are named as the node.
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from jaxnas.config import NetConfig
from jaxnas.errors import UserError
from jaxnas.nets import initial
from jaxnas.nets.kernels import dilated_conv
from jaxnas.nets.layers import BatchNorm, Conv, DepthwiseConv
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Variables
from jaxnas.nets.relaxation import EPSILON
from jaxnas.spaces import graph
from jaxnas.spaces.graph import IMAGES, Graph


@flax.struct.dataclass
class Noise:
  """What is random in training besides the masks.

  Attributes:
    key: PRNG key.
    progress: share of the training that is done, 0 to 1; scales drop-path.
  """

  key: jax.Array
  progress: jax.Array


def pool(x: jax.Array, op: graph.Pool) -> jax.Array:
  """Mean or maximum over windows of `[..., B, H, W, C]`, padding left out."""
  lead, (h, w, c) = x.shape[:-3], x.shape[-3:]
  if op.offset:
    o = op.offset
    x = jnp.pad(
      x[..., o:, o:, :], [(0, 0)] * len(lead) + [(0, o)] * 2 + [(0, 0)]
    )
  if op.kernel == 1:
    return x[..., :: op.stride, :: op.stride, :]
  window, strides = (op.kernel, op.kernel), (op.stride, op.stride)
  padding = [((op.kernel - 1) // 2,) * 2] * 2
  x = x.reshape(-1, h, w, c)
  if op.kind == "max":
    y = nn.max_pool(x, window, strides, padding)
  else:
    y = nn.avg_pool(x, window, strides, padding, count_include_pad=False)
  # Flax counts the mean's positions in float32.
  return y.reshape(*lead, *y.shape[1:]).astype(x.dtype)


class DilatedConv(nn.Module):
  """Dense k x k convolution with holes, without bias."""

  features: int
  kernel: int
  stride: int
  dilation: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` to `[..., H / stride, W / stride, features]`."""
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    weights = self.param("kernel", initial.kernel, shape)
    return dilated_conv(x, weights.astype(x.dtype), self.stride, self.dilation)


class Linear(nn.Module):
  """Classifier with bias, in float32."""

  n_classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., C]` to logits `float32[..., n_classes]`."""
    shape = (x.shape[-1], self.n_classes)
    kernel = self.param("linear", initial.linear, shape)
    bias = self.param("bias", initial.zeros, (self.n_classes,))
    return x.astype(jnp.float32) @ kernel + bias


def make_product(op: graph.GraphOp, name: str) -> nn.Module:
  """The module of a convolution.

  Raises:
    UserError: for one with holes and a bias.
  """
  if isinstance(op, graph.Depthwise):
    return DepthwiseConv(op.kernel, op.stride, name=name)
  if op.dilation > 1:
    if op.bias:
      raise UserError(f"node {name!r}: a dilated convolution has no bias here.")
    return DilatedConv(
      op.features, op.kernel, op.stride, op.dilation, name=name
    )
  return Conv(op.features, op.kernel, op.stride, op.bias, name=name)


def apply_node(
  module: nn.Module, node: graph.Node, inputs: list[jax.Array], stored: bool,
  noise: Noise | None, number: int,
) -> jax.Array:  # fmt: skip
  """Applies one node.

  Args:
    module: has `graph` and `net`; modules are made in its scope.
    node: the node.
    inputs: outputs of what it reads.
    stored: use stored batch-norm statistics.
    noise: of training; None in evaluation.
    number: of the node, so that each has noise of its own.
  """
  op, x = node.op, inputs[0]
  match op:  # modules name their own scopes
    case graph.Conv() | graph.Depthwise():
      return make_product(op, node.name)(x)
    case graph.Norm():
      return BatchNorm(module.net.bn_affine, name=node.name)(x, stored)
    case graph.Linear():
      return Linear(module.graph.n_classes, name=node.name)(x)
  with jax.named_scope(node.name):
    return _apply_plain(op, inputs, noise, number)


def _apply_plain(
  op: graph.GraphOp, inputs: list[jax.Array], noise: Noise | None, number: int
) -> jax.Array:
  """Applies a node without weights."""
  x = inputs[0]
  match op:
    case graph.Relu():
      return jax.nn.relu(x)
    case graph.Pool():
      return pool(x, op)
    case graph.Add():
      return functools.reduce(jnp.add, inputs)
    case graph.Concat():
      return jnp.concatenate(inputs, -1)
    case graph.Shake():
      return _shake(*inputs, _key(noise, number))
    case graph.DropPath():
      return _drop_path(x, op.rate, noise, number)
    case graph.Dropout():
      return drop_values(x, op.rate, _key(noise, number))
    case graph.GlobalPool():
      return x.mean((-3, -2))
  raise TypeError(op)


def drop_values(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Dropout of single values; None for the key leaves all of them."""
  if key is None or not rate:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _key(noise: Noise | None, number: int) -> jax.Array | None:
  return None if noise is None else jax.random.fold_in(noise.key, number)


def _shake(a: jax.Array, b: jax.Array, key: jax.Array | None) -> jax.Array:
  """Random share of `a` for each image, another one for the gradient.

  A share is u1 / (u1 + u2) of two uniforms (authors), which lies nearer to 1/2
  than the uniform one of the shake-shake paper.
  """
  if key is None:
    return 0.5 * (a + b)
  u = jax.random.uniform(key, (2, 2, a.shape[0], 1, 1, 1), a.dtype)
  forward, backward = u[0] / (u.sum(0) + EPSILON)
  y = backward * a + (1 - backward) * b
  # The value is the forward share's, the derivative the backward share's.
  return y + jax.lax.stop_gradient(forward * a + (1 - forward) * b - y)


def _drop_path(
  x: jax.Array, rate: float, noise: Noise | None, number: int
) -> jax.Array:
  if noise is None:
    return x
  keep = (1 - rate * noise.progress).astype(x.dtype)
  u = jax.random.uniform(_key(noise, number), (x.shape[0], 1, 1, 1), x.dtype)
  return x * (u < keep) / keep


def draw_variables(
  network: nn.Module, graph: Graph, key: jax.Array
) -> Variables:
  """Draws a network's variables on the host (`initial.draw`).

  Args:
    network: made from the graph, all of it or a part.
    graph: gives the size of the images.
    key: PRNG key.
  """
  shape = (1, graph.image_size, graph.image_size, graph.image_channels)
  shapes = jax.eval_shape(
    network.init, key, jax.ShapeDtypeStruct(shape, jnp.float32)
  )
  return {"batch_stats": {}, **initial.draw(shapes, initial.rng_of(key))}


class GraphNetwork(nn.Module):
  """The plain network of a graph.

  Attributes:
    graph: the network as data.
    net: numerics.
  """

  graph: Graph
  net: NetConfig = NetConfig()

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
      noise: of training; None in evaluation.

    Returns:
      Logits `float32[B, n_classes]`.
    """
    values = {IMAGES: images.astype(dtype_of(self.net))}
    for number, node in enumerate(self.graph.nodes):
      if node.name not in self.graph.training_only:
        inputs = [values[i] for i in node.inputs]
        values[node.name] = apply_node(
          self, node, inputs, stored, noise, number
        )
    return values[self.graph.output]
