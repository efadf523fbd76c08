"""Initial values: one rule per kind of parameter, found by the leaf's name.

Linen modules use the rules one by one (`module.init`). A supernet has hundreds
of leaves, and compiling a random generator for each takes longer than training
a small one; `draw` fills a whole tree on the host instead, with the same rules
and the same values on every platform.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def kernel_std(shape: tuple[int, ...]) -> float:
  """sqrt(2 / fan_out), fan_out = k*k*out, not divided by groups (authors).

  Args:
    shape: `[in, out]`, `[k, k, channels]` (depthwise) or `[k, k, in, out]`.
  """
  fan_out = shape[-1] * (int(np.prod(shape[:2])) if len(shape) > 2 else 1)
  return float(np.sqrt(2.0 / fan_out))


def kernel(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Convolution weights: N(0, `kernel_std`)."""
  return kernel_std(shape) * jax.random.normal(key, shape)


def linear(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Classifier weights: U(-1/sqrt(n), 1/sqrt(n)), n outputs (authors)."""
  bound = 1.0 / np.sqrt(shape[-1])
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def draw(shapes: Tree, rng: np.random.Generator) -> Tree:
  """Draws a tree of variables on the host.

  Args:
    shapes: tree of `ShapeDtypeStruct` whose leaves are named `kernel`,
      `linear`, `scale`, `bias`, `constant`, `mean` or `var`.
    rng: NumPy generator; consumed in the order of the tree's leaves.

  Returns:
    The same tree of `float32` NumPy arrays.
  """

  def leaf(path, s):
    match path[-1].key:
      case "kernel":
        return kernel_std(s.shape) * rng.standard_normal(s.shape, np.float32)
      case "linear":
        bound = 1.0 / np.sqrt(s.shape[-1])
        return rng.uniform(-bound, bound, s.shape).astype(np.float32)
      case "scale" | "var":
        return np.ones(s.shape, np.float32)
      case "bias" | "mean" | "constant":
        return np.zeros(s.shape, np.float32)
    raise TypeError(f"no initial value for {jax.tree_util.keystr(path)}")

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def rng_of(key: jax.Array) -> np.random.Generator:
  """A NumPy generator seeded by a PRNG key."""
  return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


ones = lambda key, shape: jnp.ones(shape)
zeros = lambda key, shape: jnp.zeros(shape)
