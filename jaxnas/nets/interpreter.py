"""Interprets the codes of a block: a program whose wiring is its data.

The outputs of all layers live in one buffer, and each layer reads what its code
says. Left to automatic differentiation, every read of the buffer would become a
sum over the whole buffer, and every step would keep a copy of it: memory and
time square in the number of layers. Here the backward pass is written out: the
buffer is what the forward pass leaves behind anyway, and gradients are added in
place in a second one.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.nets.graphs import pool
from jaxnas.nets.kernels import dense_conv, depthwise_conv
from jaxnas.nets.layers import measure, standardize
from jaxnas.nets.paths import Tree
from jaxnas.spaces import nsc
from jaxnas.spaces.blocks import Convs
from jaxnas.spaces.graph import Pool

# Operations with weights and batch norm, in the order of the norms' rows.
NORMED = {"conv1": 1, "conv3": 2, "conv5": 3, "concat": nsc.CONCAT}
HAS_NORM = np.isin(np.arange(len(nsc.OPS)), list(NORMED.values()))
# A row of the norms for each operation; what has none takes any.
NORM_ROW = np.zeros(len(nsc.OPS), np.int32)
NORM_ROW[list(NORMED.values())] = np.arange(len(NORMED))

# What an operation makes of its two inputs: `(own, a, b) -> y`.
Branch = Callable[[Tree, jax.Array, jax.Array], jax.Array]


def interpret(
  params: Tree, stats: Tree | None, codes: jax.Array, x: jax.Array, convs: Convs
) -> tuple[jax.Array, Tree]:
  """Runs all layers of a block, and the 1x1 convolutions of its leaves.

  Args:
    params: weights of the layers, stacked along axis 0.
    stats: their batch-norm statistics; None measures the batch's own.
    codes: `int32[T, 3]`.
    x: the block's input `[B, H, W, C]`.
    convs: what convolutions stand for.

  Returns:
    The sum over leaves of a 1x1 convolution of their rectified output, of the
    shape of x, and the measured statistics (those given, if given), through
    which no gradient flows.
  """
  total, found = _run(convs, params, x, stats, codes)
  return total, jax.lax.stop_gradient(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(convs, params, x, stats, codes):
  return _forward(convs, params, x, stats, codes)[0]


def _forward(convs, params, x, stats, codes):
  table, ends = branches(convs), leaves(codes)

  def layer(carry, inputs):
    buffer, total = carry
    i, (op, first, second), leaf, own, old = inputs
    raw = jax.lax.switch(op, table, own, buffer[first], buffer[second])
    y, found = _norm(own, raw, old, op)
    total = jax.lax.cond(leaf, lambda: total + _project(own, y), lambda: total)
    return (buffer.at[i].set(y), total), (raw, found)

  buffer = jnp.zeros((len(codes) + 1, *x.shape), x.dtype).at[0].set(x)
  index = jnp.arange(1, len(codes) + 1)
  (buffer, total), (raw, found) = jax.lax.scan(
    layer, (buffer, jnp.zeros_like(x)), (index, codes, ends, params, stats)
  )
  return (total, found), (params, stats, codes, buffer, raw)


def _backward(convs, kept, gradient):
  params, stats, codes, buffer, raw = kept
  g_total = gradient[0]
  table, ends = branches(convs), leaves(codes)

  def backwards(branch: Branch):
    def run(own, a, b, g):
      return jax.vjp(branch, own, a, b)[1](g)

    return run

  # A switch over gradients: the gradient of a switch would keep what every
  # operation needs.
  transposed = [backwards(branch) for branch in table]

  def layer(g_buffer, inputs):
    i, (op, first, second), leaf, own, old, raw = inputs
    (y, _), norm_vjp = jax.vjp(
      lambda own, raw: _norm(own, raw, old, op), own, raw
    )
    g_leaf, g_y = jax.lax.cond(
      leaf,
      lambda: jax.vjp(_project, own, y)[1](g_total),
      lambda: (jax.tree.map(jnp.zeros_like, own), jnp.zeros_like(y)),
    )
    g_norm, g_raw = norm_vjp((g_buffer[i] + g_y, _zeros_of(old, raw)))
    g_op, g_a, g_b = jax.lax.switch(
      op, transposed, own, buffer[first], buffer[second], g_raw
    )
    g_buffer = g_buffer.at[first].add(g_a).at[second].add(g_b)
    g_own = jax.tree.map(lambda *g: sum(g), g_leaf, g_norm, g_op)
    return g_buffer, g_own

  index = jnp.arange(1, len(codes) + 1)
  g_buffer, g_params = jax.lax.scan(
    layer, jnp.zeros_like(buffer), (index, codes, ends, params, stats, raw),
    reverse=True,
  )  # fmt: skip
  return g_params, g_buffer[0], None, None


_run.defvjp(_forward, _backward)


def _norm(own: Tree, raw: jax.Array, old: Tree | None, op: jax.Array):
  """Batch norm where the operation has one; and the statistics used."""
  affine = own.get("norm")
  if affine is not None:
    affine = {name: a[jnp.asarray(NORM_ROW)[op]] for name, a in affine.items()}
  y, found = batch_norm(raw, affine, None if old is None else old["norm"])
  return jnp.where(jnp.asarray(HAS_NORM)[op], y, raw), {"norm": found}


def _zeros_of(old: Tree | None, raw: jax.Array) -> Tree:
  """The gradient of statistics, which nothing depends on."""
  zeros = jnp.zeros(raw.shape[-1], jnp.float32)
  return {"norm": {"mean": zeros, "var": zeros}}


def batch_norm(x: jax.Array, affine: Tree | None, old: Tree | None):
  """Batch norm with the statistics `old`, or with the batch's own.

  Args:
    x: `[B, H, W, C]`.
    affine: `scale` and `bias`, `[C]`; None for neither.
    old: `mean` and `var`, `[C]`; None measures them.

  Returns:
    The normalised x and the statistics that were used.
  """
  used = kept = (old["mean"], old["var"]) if old else None
  if used is None:
    used, kept = measure(x)
  gamma, beta = (affine["scale"], affine["bias"]) if affine else (1.0, 0.0)
  mean, var = kept
  return standardize(x, *used, gamma, beta), {"mean": mean, "var": var}


def _pointwise(own: Tree, name: str, x: jax.Array) -> jax.Array:
  return x @ own[name]["kernel"].astype(x.dtype)


def _project(own: Tree, y: jax.Array) -> jax.Array:
  return _pointwise(own, "output", jax.nn.relu(y))


def branches(convs: Convs) -> list[Branch]:
  """The operations by number, every one of them width-preserving."""

  def conv(k, own, a, b):
    x, name = jax.nn.relu(a), f"conv{k}"
    if convs == "separable":
      kernel = own[f"depthwise{k}"]["kernel"].astype(x.dtype)
      return _pointwise(own, name, depthwise_conv(x, kernel, 1))
    if k == 1:
      return _pointwise(own, name, x)
    return dense_conv(x, own[name]["kernel"].astype(x.dtype), 1)

  def pooled(kind, own, a, b):
    return pool(a, Pool(kind, 3))

  def concat(own, a, b):
    first = _pointwise(own, "concat_first", jax.nn.relu(a))
    return first + _pointwise(own, "concat_second", jax.nn.relu(b))

  nothing = lambda own, a, b: jnp.zeros_like(a)
  keep = lambda own, a, b: a
  by_name = {
    "none": nothing, "identity": keep, "max1": keep, "avg1": keep,
    "max3": functools.partial(pooled, "max"),
    "avg3": functools.partial(pooled, "mean"),
    "add": lambda own, a, b: a + b, "concat": concat,
    **{f"conv{k}": functools.partial(conv, k) for k in (1, 3, 5)},
  }  # fmt: skip
  return [jax.named_scope(name)(by_name[name]) for name in nsc.OPS]


def leaves(codes: jax.Array) -> jax.Array:
  """Which layers no other reads, `bool[T]`, from `int32[T, 3]`."""
  op, first, second = codes[:, 0], codes[:, 1], codes[:, 2]
  index = jnp.arange(1, len(codes) + 1)[:, None]
  pair = (op == nsc.ADD) | (op == nsc.CONCAT)
  read = ((first == index) & (op != nsc.NONE)) | ((second == index) & pair)
  return (op != nsc.NONE) & ~read.any(1)
