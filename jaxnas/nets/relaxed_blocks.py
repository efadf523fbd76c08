"""The interpreter on blocks that are not decided yet: sums over all choices.

Every operation of every layer is computed, on weighted sums of all earlier
maps, which is what a relaxation costs: several times the time of one block, and
memory for a copy of all maps at each layer (DARTS, arXiv 1806.09055, on the
interpreter's program; ours).
"""

import jax
import jax.numpy as jnp

from jaxnas.nets.blocks import BlockSupernet
from jaxnas.nets.graphs import Noise
from jaxnas.nets.interpreter import (
  HAS_NORM,
  NORM_ROW,
  batch_norm,
  branches,
)
from jaxnas.nets.paths import Tree
from jaxnas.spaces import nsc
from jaxnas.spaces.blocks import Convs

# The end of a block adds nothing, and what is the identity is computed once.
_SKIPPED = (nsc.NONE, *nsc.SAME_AS_IDENTITY)
_COMPUTED = [o for o in range(len(nsc.OPS)) if o not in _SKIPPED]


def relaxed_logits(
  supernet: BlockSupernet,
  params: Tree,
  mixture: Tree,
  images: jax.Array,
  noise: Noise | None = None,
) -> jax.Array:
  """Applies the network of a block that is not decided yet.

  Batch norm uses the batch's own statistics.

  Args:
    supernet: the interpreter.
    params: its weights.
    mixture: probabilities `float32`: `op` `[T, 11]`, of the operations;
      `first` `[T, T]`, of the layer that those with one input read; `low` and
      `high` `[T, T]`, of the two that additions and concatenations read; and
      `leaf` `[T]`, that no layer reads this one. With 0 and 1 only, the logits
      are those of `BlockSupernet.apply`. Operations that are the identity by
      another name must have 0.
    images: `float32[B, H, W, C]`, normalised.
    noise: of dropout in training; None in evaluation.

  Returns:
    Logits `float32[B, n_classes]`.
  """

  def inside(own, stats, x):
    del stats
    y = relaxed_block(own, mixture, x, supernet.space.convs)
    return y, {}

  variables = {"params": params}
  return supernet.around(variables, inside, images, False, noise)[0]


def relaxed_block(
  params: Tree, mixture: Tree, x: jax.Array, convs: Convs
) -> jax.Array:
  """Runs all layers of a block that is not decided yet, and its leaves.

  Args:
    params: weights of the layers, stacked along axis 0.
    mixture: see `relaxed_logits`.
    x: the block's input `[B, H, W, C]`.
    convs: what convolutions stand for.

  Returns:
    The sum over layers of a 1x1 convolution of their rectified output, each
    times the probability that it is a leaf; of the shape of x.
  """
  table = branches(convs)

  def layer(carry, inputs):
    maps, total = carry
    i, own, chances = inputs
    read = lambda name: jnp.tensordot(chances[name], maps[:-1], 1)
    one, low, high = read("first"), read("low"), read("high")
    y = jnp.zeros_like(x)
    for op in _COMPUTED:
      pair = (low, high) if op in nsc.TWO_INPUTS else (one, one)
      y += chances["op"][op] * _operation(table[op], op, own, *pair)
    kernel = own["output"]["kernel"].astype(y.dtype)
    total += chances["leaf"] * (jax.nn.relu(y) @ kernel)
    return (maps.at[i].set(y), total), None

  chances = jax.tree.map(lambda a: a.astype(x.dtype), mixture)
  n = len(mixture["leaf"])
  maps = jnp.zeros((n + 1, *x.shape), x.dtype).at[0].set(x)
  # Otherwise the backward pass would keep what every operation needs.
  layer = jax.checkpoint(layer, prevent_cse=False)
  (_, total), _ = jax.lax.scan(
    layer, (maps, jnp.zeros_like(x)), (jnp.arange(1, n + 1), params, chances)
  )
  return total


def _operation(branch, op: int, own: Tree, a: jax.Array, b: jax.Array):
  """One operation, with the batch norm that belongs to it."""
  y = branch(own, a, b)
  if not HAS_NORM[op]:
    return y
  affine = own.get("norm")
  if affine is not None:
    affine = {name: v[NORM_ROW[op]] for name, v in affine.items()}
  return batch_norm(y, affine, None)[0]
