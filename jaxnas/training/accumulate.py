"""Gradient accumulation: a batch in parts, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def in_parts(
  gradients: Callable[[jax.Array, jax.Array, Tree], Tree],
  n: int,
  x: jax.Array,
  y: jax.Array,
  keys: Tree = None,
) -> Tree:
  """Averages what a function finds on n equal parts of a batch.

  Only one part's activations are alive at a time. Equal to the whole batch for
  means over images, up to rounding; batch norm measures each part apart.

  Args:
    gradients: `(x, y, keys) -> tree` of means over the images given to it.
    n: parts; 1 calls the function as it is.
    x: `[..., B, H, W, C]`, B divisible by n.
    y: `[..., B]`.
    keys: tree of PRNG keys; each part folds its number into them.
  """
  if n == 1:
    return gradients(x, y, keys)
  axis = y.ndim - 1

  def split(a):
    # Every n-th image, so that a part lies on all devices as the batch does.
    shape = (*a.shape[:axis], a.shape[axis] // n, n, *a.shape[axis + 1 :])
    return jnp.moveaxis(a.reshape(shape), axis + 1, 0)

  def one(x, y, i):
    own = jax.tree.map(lambda key: jax.random.fold_in(key, i), keys)
    return gradients(x, y, own)

  def body(total, part):
    return jax.tree.map(jnp.add, total, one(*part)), None

  parts = split(x), split(y), jnp.arange(n)
  shapes = jax.eval_shape(one, *jax.tree.map(lambda a: a[0], parts))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, _ = jax.lax.scan(body, zeros, parts)
  return jax.tree.map(lambda a: a / n, total)
