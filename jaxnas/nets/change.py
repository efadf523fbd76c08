"""How far each layer's parameters moved: features of a network (DC-NAS).

From changes in the parameters of each layer (paper, arXiv 2005.14456,
abstract); how a change is measured is ours.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.nets.paths import Tree
from jaxnas.spaces import Space

Change = Literal["norm", "cosine"]
Array = np.ndarray | jax.Array


def change_of(
  before: Array, delta: Array, kind: Change, eps: float = 1e-12
) -> Array:
  """Relative change of vectors, NumPy's or JAX's.

  Args:
    before: `float[..., m]`.
    delta: what was added to it, `float[..., m]`.
    kind: `norm`, ||delta|| / (||before|| + eps); or `cosine`, 1 - cos of
      before and after.
    eps: added to norms that divide.

  Returns:
    `float[...]`, 0 where nothing changed.
  """

  def norm(a):
    return (a * a).sum(-1) ** 0.5

  def unit(a):
    return a / (norm(a)[..., None] + eps)

  if kind == "norm":
    return norm(delta) / (norm(before) + eps)
  # 1 - cos as half the squared distance of unit vectors: small angles would
  # vanish in the difference of two numbers near 1.
  apart = unit(before + delta) - unit(before)
  return (apart * apart).sum(-1) / 2


def own_parameters(space: Space, params: Tree, l: int, c: int) -> list[Array]:
  """Leaves of choice `c` of layer `l` in a supernet's parameters."""
  group = params.get(f"layer_{l:02d}", {})
  return jax.tree.leaves(group.get(space.layers[l].choices[c].name, {}))


def presence(space: Space, archs: np.ndarray, params: Tree) -> np.ndarray:
  """Whether the choices of archs have parameters.

  Args:
    space: the space.
    archs: `int32[n, L]`.
    params: of its supernet, or of a cohort, or their shapes.

  Returns:
    `bool[n, L]`.
  """
  archs, out = np.asarray(archs), np.zeros(np.shape(archs), bool)
  for l, layer in enumerate(space.layers):
    has = [
      bool(own_parameters(space, params, l, c))
      for c in range(len(layer.choices))
    ]
    out[:, l] = np.array(has)[archs[:, l]]
  return out


def layer_changes(
  space: Space,
  archs: np.ndarray,
  before: Tree,
  after: Tree,
  kind: Change,
  eps: float = 1e-12,
) -> tuple[np.ndarray, np.ndarray]:
  """How far a cohort's parameters moved, layer by layer.

  A layer's parameters are all those of the network's own choice, as one vector.

  Args:
    space: the space.
    archs: `int32[n, L]`.
    before: parameters of the cohort, every leaf `[n, ...]`.
    after: the same, later.
    kind: as in `change_of`.
    eps: as in `change_of`.

  Returns:
    Changes `float64[n, L]`, 0 for choices without parameters not finite where
    parameters are not, and whether there are any, `bool[n, L]`.
  """
  archs = np.asarray(archs)
  before, after = jax.device_get((before, after))
  out = np.zeros(archs.shape)
  for l, column in enumerate(archs.T):
    for c in np.unique(column):
      rows = np.flatnonzero(column == c)

      def vectors(tree, l=l, c=c, rows=rows):
        leaves = own_parameters(space, tree, l, c)
        flat = [leaf[rows].reshape(len(rows), -1) for leaf in leaves]
        return np.concatenate([np.zeros((len(rows), 0)), *flat], 1)

      old = vectors(before)
      with np.errstate(invalid="ignore"):  # of networks that diverged: NaN
        out[rows, l] = change_of(old, vectors(after) - old, kind, eps)
  return out, presence(space, archs, before)


def changes_of_gradients(
  space: Space,
  arch: jax.Array,
  params: Tree,
  gradients: Tree,
  rate: float | jax.Array,
  kind: Change,
) -> jax.Array:
  """How far one step of gradient descent would move each layer of a path.

  Traceable, so that a compiled program need return nothing else.

  Args:
    space: the space.
    arch: `int32[L]`, may be traced.
    params: of the supernet.
    gradients: the same tree.
    rate: learning rate.
    kind: as in `change_of`.

  Returns:
    `float32[L]`, 0 for choices without parameters.
  """

  def branch(l, c):
    def run():
      old, slope = (
        [leaf.reshape(-1) for leaf in own_parameters(space, tree, l, c)]
        for tree in (params, gradients)
      )
      if not old:
        return jnp.zeros(())
      delta = -rate * jnp.concatenate(slope)
      return change_of(jnp.concatenate(old), delta, kind)

    return run

  return jnp.stack([
    jax.lax.switch(
      arch[l], [branch(l, c) for c in range(len(layer.choices))]
    )
    for l, layer in enumerate(space.layers)
  ])  # fmt: skip
