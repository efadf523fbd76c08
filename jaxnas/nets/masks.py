"""Masked networks: a graph whose products gate their input channels.

Masks are data. One network, compiled once, is trained with a relaxed mask for
each image and evaluated with hard masks, alone or vectorised over many. The
mask multiplies the *activations* that a product reads, so under `vmap` its
kernel stays one and the masks become more batch.
"""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.nets import initial
from jaxnas.nets.kernels import dilated_conv
from jaxnas.nets.layers import BatchNorm, Conv, DepthwiseConv
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.spaces import graph
from jaxnas.spaces.graph import IMAGES, Graph
from jaxnas.spaces.masks import MaskSpace

Relaxation = Literal["concrete", "straight-through", "hard-concrete"]

EPSILON = 1e-8  # inside logarithms (authors)
# Ends to which the hard-concrete gate is stretched (1712.01312, recalled).
STRETCH = (-0.1, 1.1)


@flax.struct.dataclass
class Noise:
  """What is random in training besides the masks.

  Attributes:
    key: PRNG key.
    progress: share of the training that is done, 0 to 1; scales drop-path.
  """

  key: jax.Array
  progress: jax.Array


def relaxed_drop(
  logits: jax.Array, r1: jax.Array, r2: jax.Array, tau: float
) -> jax.Array:
  """Relaxed Bernoulli: how far a channel is dropped, 0..1.

  `sigmoid((logit(p) + log(-log r1) - log(-log r2)) / tau)` (authors; eq. 16 of
  the paper with its sign repaired). The noise is Logistic(0, 1), so the value
  exceeds 1/2 with probability p for every `tau`.

  Args:
    logits: `log(p / (1 - p))` of the drop rates.
    r1: uniform in 0..1, of a shape that broadcasts against `logits`.
    r2: the same, independent.
    tau: temperature, above 0; towards 0 the value becomes 0 or 1.
  """
  noise = _gumbel(r1) - _gumbel(r2)
  return jax.nn.sigmoid((logits - noise) / tau)


def _gumbel(r: jax.Array) -> jax.Array:
  return -jnp.log(-jnp.log(r + EPSILON) + EPSILON)


def relaxed_keep(
  logits: jax.Array,
  r1: jax.Array,
  r2: jax.Array,
  tau: float,
  relaxation: Relaxation = "concrete",
) -> jax.Array:
  """What multiplies a channel in training.

  Args:
    logits: of the drop rates.
    r1: as in `relaxed_drop`.
    r2: the same.
    tau: temperature.
    relaxation: `concrete` (authors); `straight-through` rounds it to 0 or 1
      and keeps its gradient; `hard-concrete` stretches it and clips it, so that
      exact zeros and ones occur (both recalled).
  """
  keep = 1 - relaxed_drop(logits, r1, r2, tau)
  if relaxation == "concrete":
    return keep
  if relaxation == "hard-concrete":
    low, high = STRETCH
    return jnp.clip(keep * (high - low) + low, 0.0, 1.0)
  return keep + jax.lax.stop_gradient((keep > 0.5) - keep)


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
  return y.reshape(*lead, *y.shape[1:])


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
  """The module of a convolution."""
  if isinstance(op, graph.Depthwise):
    return DepthwiseConv(op.kernel, op.stride, name=name)
  if op.dilation > 1:
    return DilatedConv(
      op.features, op.kernel, op.stride, op.dilation, name=name
    )
  return Conv(op.features, op.kernel, op.stride, name=name)


class MaskedNetwork(nn.Module):
  """A graph as a network whose gated inputs are multiplied by a mask.

  Attributes:
    graph: the network as data.
    net: numerics.
  """

  graph: Graph
  net: NetConfig = NetConfig()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    keep: jax.Array | None = None,
    stored: bool = True,
    noise: Noise | None = None,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Classifies images.

    Args:
      images: `float32[B, H, W, C]`, normalised.
      keep: what the gated channels are multiplied by, `float32[L]` for all
        images or `[B, L]` for each; None leaves the network plain.
      stored: use stored batch-norm statistics, else the batch's own, which
        are then written to `batch_stats` if that is mutable.
      noise: of training; None in evaluation.

    Returns:
      Logits `float32[B, n_classes]`; in training (`noise` given) of a graph
      with an auxiliary classifier, a pair with its logits second.
    """
    dtype = dtype_of(self.net)
    values = {IMAGES: images.astype(dtype)}
    with_auxiliary = noise is not None or self.is_initializing()
    for number, node in enumerate(self.graph.nodes):
      if not with_auxiliary and node.name in self.graph.training_only:
        continue
      inputs = [values[i] for i in node.inputs]
      if keep is not None and node.name in self.graph.gates:
        gate = keep[..., self.graph.gates[node.name]].astype(inputs[0].dtype)
        if inputs[0].ndim == 4 and gate.ndim == 2:
          gate = gate[:, None, None, :]
        inputs[0] = inputs[0] * gate
      values[node.name] = self._apply(node, inputs, stored, noise, number)
    logits = values[self.graph.output]
    if noise is None or not self.graph.auxiliary:
      return logits
    return logits, values[self.graph.auxiliary]

  def _apply(self, node, inputs, stored, noise, number):
    op, x = node.op, inputs[0]
    match op:
      case graph.Conv() | graph.Depthwise():
        return make_product(op, node.name)(x)
      case graph.Norm():
        return BatchNorm(self.net.bn_affine, name=node.name)(x, stored)
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
      case graph.GlobalPool():
        return x.mean((-3, -2))
      case graph.Linear():
        return Linear(self.graph.n_classes, name=node.name)(x)
    raise TypeError(op)


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


@dataclasses.dataclass(frozen=True)
class MaskedSupernet:
  """A masked network with learned drop rates.

  `params["drop"]["logits"]`, `float32[G]`, are the logits of the drop rates in
  the order of `MaskSpace.groups`; all other variables are those of
  `MaskedNetwork`.

  Attributes:
    space: its masks.
    net: numerics.
  """

  space: MaskSpace
  net: NetConfig = NetConfig()

  @functools.cached_property
  def network(self) -> MaskedNetwork:
    """The network without rates."""
    return MaskedNetwork(self.space.graph, self.net)

  def init(self, key: jax.Array, rate: float = 0.1) -> Variables:
    """Draws all weights on the host (`initial.draw`).

    Args:
      key: PRNG key.
      rate: drop rate of every group, between 0 and 1; 0.1 (paper, authors).

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32.
    """
    g = self.space.graph
    shape = (1, g.image_size, g.image_size, g.image_channels)
    shapes = jax.eval_shape(
      self.network.init, key, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    variables = initial.draw(shapes, initial.rng_of(key))
    logits = np.full(len(self.space.groups), np.log(rate / (1 - rate)))
    params = {**variables["params"], "drop": {"logits": np.float32(logits)}}
    return {"batch_stats": {}, **variables, "params": params}

  def apply(
    self,
    variables: Variables,
    images: jax.Array,
    keep: jax.Array | None,
    stored: bool,
    noise: Noise | None = None,
  ) -> tuple[jax.Array, Tree]:
    """Applies the network; arguments as in `MaskedNetwork`.

    Returns:
      Logits, in training those of the auxiliary classifier in a pair with
      them, and the measured statistics.
    """
    params = {k: v for k, v in variables["params"].items() if k != "drop"}
    own = {**variables, "params": params}
    if stored:
      return self.network.apply(own, images, keep, True, noise), {}
    y, measured = self.network.apply(
      own, images, keep, False, noise, mutable=["batch_stats"]
    )
    return y, measured.get("batch_stats", {})

  def draw_keep(
    self,
    variables: Variables,
    key: jax.Array,
    n: int,
    tau: float,
    relaxation: Relaxation = "concrete",
  ) -> jax.Array:
    """Draws relaxed masks of independent channels, `float32[n, L]`."""
    logits = variables["params"]["drop"]["logits"][self.space.group_of]
    r1, r2 = jax.random.uniform(key, (2, n, self.space.n_layers))
    return relaxed_keep(logits, r1, r2, tau, relaxation)

  def blend_stats(self, old: Tree, measured: Tree) -> Tree:
    """Moves running statistics one step towards the measured ones."""
    m = self.net.bn_momentum
    moved = jax.tree.map(
      lambda o, new: m * o + (1 - m) * new,
      {name: old[name] for name in measured}, measured,
    )  # fmt: skip
    return {**old, **moved}


def drop_rates(variables: Variables) -> np.ndarray:
  """Drop rate of each group, `float64[G]`, 0..1."""
  logits = np.asarray(variables["params"]["drop"]["logits"], np.float64)
  return 1 / (1 + np.exp(-logits))


def group_squares(space: MaskSpace, params: Tree) -> jax.Array:
  """Sum of squared weights that each group's channels enter, `float32[G]`.

  Args:
    space: the masks.
    params: of the supernet.
  """
  per_channel = []
  for name in space.graph.gates:
    weights = params[name]["linear" if "linear" in params[name] else "kernel"]
    squares = jnp.square(weights)
    per_channel.append(squares.sum((*range(squares.ndim - 2), -1)))
  return jax.ops.segment_sum(
    jnp.concatenate(per_channel), space.group_of, len(space.groups),
    indices_are_sorted=True,
  )  # fmt: skip
