"""A masked network in training, slow and by definition; see also `graphs`.

Masks are applied image by image in a Python loop, convolutions and pools are
sums over shifted images, and shake-shake is a function with a hand-written
gradient. Random draws are those of `nets.masks`, from the same keys.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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


def plain(graph: Graph, variables, images, keep=None, noise=None, stored=False):
  """All node values, and the statistics that batch norms measured.

  Args:
    graph: the network.
    variables: of it.
    images: `float32[B, H, W, C]`.
    keep: `float32[B, L]` or None.
    noise: `(key, progress)` of training or None.
    stored: whether batch norms use stored statistics.
  """
  values, measured = {IMAGES: images}, {}
  for number, node in enumerate(graph.nodes):
    inputs = [values[i] for i in node.inputs]
    gate = graph.gates.get(node.name)
    if keep is not None and gate is not None:
      inputs[0] = jnp.stack(
        [image * row[gate] for image, row in zip(inputs[0], keep, strict=True)]
      )
    x, params = inputs[0], variables["params"].get(node.name, {})
    key = None if noise is None else jax.random.fold_in(noise[0], number)
    match node.op:
      case Conv(features=f, kernel=k, stride=s, dilation=d):
        y = conv(x, params["kernel"].reshape(k, k, -1, f), s, d)
      case Depthwise(stride=s):
        y = conv(x, params["kernel"], s, 1, depthwise=True)
      case Norm():
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        measured[node.name] = {"mean": mean, "var": var}
        if stored:
          stats = variables["batch_stats"][node.name]
          mean, var = stats["mean"], stats["var"]
        y = (x - mean) / jnp.sqrt(var + 1e-5)
        y = y * params["scale"] + params["bias"]
      case Relu():
        y = jnp.where(x > 0, x, 0)
      case Pool():
        y = pool(x, node.op)
      case Add():
        y = sum(inputs)
      case Concat():
        y = jnp.concatenate(inputs, -1)
      case Shake():
        forward = backward = jnp.full((len(x), 1, 1, 1), 0.5)
        if key is not None:
          forward, backward = shares(key, len(x))
        y = shake(*inputs, forward, backward)
      case DropPath(rate=rate):
        y = x
        if key is not None:
          rate = rate * noise[1]
          u = jax.random.uniform(key, (len(x), 1, 1, 1))
          y = jnp.where(u < 1 - rate, x / (1 - rate), 0)
      case GlobalPool():
        y = x.sum((1, 2)) / (x.shape[1] * x.shape[2])
      case Linear():
        y = x @ params["linear"] + params["bias"]
    values[node.name] = y
  return values, measured


def conv(x, kernel, stride, dilation, depthwise=False):
  """Sum over the taps of a kernel, padding `dilation * (k // 2)`."""
  k, size = kernel.shape[0], x.shape[1]
  pad = dilation * (k // 2)
  wide = jnp.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
  total = 0.0
  for p, q in np.ndindex(k, k):
    r, s = p * dilation, q * dilation
    seen = wide[:, r : r + size : stride, s : s + size : stride]
    total += seen * kernel[p, q] if depthwise else seen @ kernel[p, q]
  return total


def pool(x, op):
  """Over shifted images; what lies outside of them is left out."""
  size, k = x.shape[1], op.kernel
  if op.offset:
    moved = jnp.zeros_like(x)
    rest = x[:, op.offset :, op.offset :]
    x = moved.at[:, : rest.shape[1], : rest.shape[2]].set(rest)
  before = (k - 1) // 2
  out = size // 2 if k == 2 else -(-size // op.stride)
  empty = {"mean": 0.0, "max": -jnp.inf}[op.kind]

  def taps(x, empty):
    edge = (before, k)
    wide = jnp.pad(x, [(0, 0), edge, edge, (0, 0)], constant_values=empty)
    span = (out - 1) * op.stride + 1
    return [
      wide[:, p : p + span : op.stride, q : q + span : op.stride]
      for p, q in np.ndindex(k, k)
    ]

  if op.kind == "max":
    return functools.reduce(jnp.maximum, taps(x, empty))
  return sum(taps(x, empty)) / sum(taps(jnp.ones_like(x), 0.0))


def shares(key, n):
  """Forward and backward share of the first branch, `float32[n, 1, 1, 1]`."""
  u = jax.random.uniform(key, (2, 2, n, 1, 1, 1))
  return tuple(u[0, i] / (u[0, i] + u[1, i]) for i in range(2))


@jax.custom_vjp
def shake(a, b, forward, backward):
  """Weights the branches by one share, their gradients by the other."""
  del backward
  return forward * a + (1 - forward) * b


def _shake_forward(a, b, forward, backward):
  return shake(a, b, forward, backward), backward


def _shake_backward(backward, g):
  return backward * g, (1 - backward) * g, None, None


shake.defvjp(_shake_forward, _shake_backward)
