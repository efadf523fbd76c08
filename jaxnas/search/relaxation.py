"""Blocks as probabilities: what gradient descent can move (DARTS, for blocks).

That a mirror stimuli function may guide other search algorithms is IRLAS's
claim (paper); that it has a differentiable variant is recalled. First-order
DARTS (arXiv 1806.09055) on BlockQNN's decisions, and all that follows, is ours.

Each layer has three independent categoricals: over its operation, over the
first and over the second layer that it reads. An addition or a concatenation
reads two different layers; their order does not count, as blocks that differ in
nothing else are one block.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import BlocksConfig
from jaxnas.errors import UserError
from jaxnas.search import base, block_search
from jaxnas.search.block_search import BlockSearcher, Drawn
from jaxnas.search.features import FeatureMap
from jaxnas.search.irl import Guide
from jaxnas.spaces import nsc
from jaxnas.spaces.nsc import Code

# "op" [T, 11], "first" and "second" [T, T]: logits, or probabilities. Row i is
# layer i + 1; column j of the latter two is layer j, 0 being the block's input.
Alpha = dict[str, jax.Array]
Probabilities = dict[str, jax.Array]

# Standard deviation of the first logits (DARTS, recalled): without it, equal
# logits would make the first operation the most likely one.
NOISE = 1e-3
_TINY = 1e-12
_PAIR = np.isin(np.arange(len(nsc.OPS)), nsc.TWO_INPUTS)
_ONE = ~_PAIR & (np.arange(len(nsc.OPS)) != nsc.NONE)


def initial_alpha(max_layers: int, seed: int) -> Alpha:
  """Logits of nearly uniform probabilities, `float32`.

  Args:
    max_layers: T.
    seed: of the noise.
  """
  rng, t = np.random.default_rng(seed), max_layers
  shapes = {"op": (t, len(nsc.OPS)), "first": (t, t), "second": (t, t)}
  return {
    name: jnp.asarray(NOISE * rng.standard_normal(shape), jnp.float32)
    for name, shape in shapes.items()
  }


def legal(max_layers: int) -> dict[str, np.ndarray]:
  """Which choices exist, `bool` of the shapes of `Alpha`.

  The first layer neither ends the block nor reads two layers; layer i reads
  layers before it; pooling over one pixel, which is the identity, is left out.
  """
  op = np.ones((max_layers, len(nsc.OPS)), bool)
  op[:, list(nsc.SAME_AS_IDENTITY)] = False
  op[0, [nsc.NONE, *nsc.TWO_INPUTS]] = False
  earlier = np.tri(max_layers, dtype=bool)
  return {"op": op, "first": earlier, "second": earlier}


def probabilities(alpha: Alpha) -> Probabilities:
  """Softmax over the legal choices of each layer; illegal ones have 0."""
  masks = legal(len(alpha["op"]))
  return {
    name: jax.nn.softmax(jnp.where(masks[name], logits, -jnp.inf))
    for name, logits in alpha.items()
  }


def pairs(chances: Probabilities) -> tuple[jax.Array, jax.Array]:
  """What additions and concatenations read, in ascending order.

  First and second input are drawn independently, given that they differ.

  Args:
    chances: probabilities.

  Returns:
    The probabilities of the lower and of the higher of both, `[T, T]` each;
    zeros at the first layer, which cannot read two.
  """
  joint = chances["first"][:, :, None] * chances["second"][:, None, :]
  joint = joint * (1 - np.eye(joint.shape[-1]))
  joint = joint / jnp.maximum(joint.sum((1, 2), keepdims=True), _TINY)
  ordered = jnp.triu(joint + joint.swapaxes(1, 2))
  return ordered.sum(2), ordered.sum(1)


def mixture(chances: Probabilities) -> dict[str, jax.Array]:
  """What a network needs to compute a block that is not decided yet.

  A layer is a leaf if it exists, that is, if neither it nor one before it ends
  the block, and if no later one reads it.

  Args:
    chances: probabilities; 0 and 1 only make it the block itself, with sums
      and concatenations in ascending order.

  Returns:
    `op` `[T, 11]`; `first` `[T, T]`, read by operations with one input; `low`
    and `high` `[T, T]`, read by those with two; and `leaf` `[T]`, all of them
    probabilities.
  """
  op, first = chances["op"], chances["first"]
  low, high = pairs(chances)
  reads = _share(op, _ONE) * first + _share(op, _PAIR) * (low + high)
  ends = op[:, nsc.NONE]
  # Probability that no layer from the j-th on reads layer i, by i, given that
  # those between them exist. The last layer is read by none.
  readers = jnp.pad(reads[:, 1:], ((0, 0), (0, 1)))
  unread = jnp.ones(len(op))
  for j in range(1, len(op))[::-1]:
    passed = ends[j] + (1 - ends[j] - readers[j]) * unread
    unread = jnp.where(np.arange(len(op)) < j, passed, unread)
  leaf = jnp.cumprod(1 - ends) * unread
  return {"op": op, "first": first, "low": low, "high": high, "leaf": leaf}


def expected_counts(features: FeatureMap, chances: Probabilities) -> jax.Array:
  """Feature counts of a block that is not decided yet, with a gradient.

  The expected sum of the features of its layers, which is linear in the
  probabilities of each layer's operation and of what it reads, over its
  expected number of layers. Layers behind the end have no features. With
  probabilities 0 and 1 these are the counts of the block in canonical form.

  Args:
    features: of kind `onehot`.
    chances: probabilities.

  Returns:
    `float32[F]`.

  Raises:
    UserError: for features of another kind.
  """
  check_features(features)
  op, (low, high) = chances["op"], pairs(chances)
  alive = jnp.cumprod(1 - op[:, nsc.NONE])
  before = _before(alive)
  n = len(features.names) - 2 * (features.offsets + 1)
  own = features.of_layers([Code(o, 0, 0) for o in range(1, len(nsc.OPS))])
  one, pair = _share(op, _ONE), _share(op, _PAIR)
  slots = _slots(len(op), features.offsets)

  def offsets(reads):
    return jnp.einsum("t,tj,tjd->d", before, reads, slots)

  sums = [
    before @ op[:, 1:] @ own[:, :n],
    offsets(one * chances["first"] + pair * low), jnp.zeros(1),
    offsets(pair * high), before @ one,
  ]  # fmt: skip
  return jnp.concatenate(sums) / alive.sum()


def expected_mirror(guide: Guide, chances: Probabilities) -> jax.Array:
  """F of the expected feature counts, scaled as F of blocks is.

  Args:
    guide: the mirror stimuli function.
    chances: probabilities.

  Raises:
    UserError: for features or a discount whose expectation is not linear.
  """
  check_features(guide.features, guide.discount)
  counts = expected_counts(guide.features, chances)
  return guide.scale(counts @ np.array(guide.weights, np.float32))


def check_features(features: FeatureMap, discount: float = 1.0) -> None:
  """Refuses features whose expected counts are not linear in probabilities.

  Raises:
    UserError: naming the field.
  """
  if features.kind != "onehot":
    raise UserError(
      f"expert.features is {features.kind!r}; the guidance of"
      " search.algorithm=differentiable needs 'onehot'."
    )
  if discount != 1:
    raise UserError(
      f"expert.discount is {discount}; the guidance of"
      " search.algorithm=differentiable needs 1."
    )


def decode(chances: Probabilities) -> np.ndarray:
  """The block that the most likely choices of each layer make.

  It ends at the first layer whose most likely operation is the end.

  Args:
    chances: probabilities.

  Returns:
    `int32[3 T]`, legal and in canonical form.
  """
  op, first, second = (
    np.asarray(chances[name], np.float64) for name in ("op", "first", "second")
  )
  arch = np.zeros((len(op), 3), np.int32)
  for i, best in enumerate(op.argmax(1)):
    if best == nsc.NONE:
      break
    reads = (first[i].argmax(), 0)
    if best in nsc.TWO_INPUTS:
      joint = np.outer(first[i, : i + 1], second[i, : i + 1])
      ordered = np.where(np.tri(i + 1), -1.0, joint + joint.T)
      reads = np.unravel_index(ordered.argmax(), ordered.shape)
    arch[i] = best, *reads
  return arch.reshape(-1)


def _share(op: jax.Array, which: np.ndarray) -> jax.Array:
  """Probability that the operation is one of some, `[T, 1]`."""
  return op @ which.astype(np.float32)[:, None]


def _before(products: jax.Array) -> jax.Array:
  """Running products up to the place before, along the last axis."""
  ones = jnp.ones_like(products[..., :1])
  return jnp.concatenate([ones, products[..., :-1]], -1)


def _slots(max_layers: int, offsets: int) -> np.ndarray:
  """One-hot distance of layer i + 1 to layer j, `float32[T, T, D]`."""
  near = np.arange(1, max_layers + 1)[:, None] - np.arange(max_layers)
  return np.eye(offsets, dtype=np.float32)[np.clip(near, 1, offsets) - 1]


@dataclasses.dataclass(frozen=True)
class BlockRelaxation(BlockSearcher):
  """The blocks that a relaxation becomes; gradients move it elsewhere.

  Each round makes `per_round` updates and decodes one block.

  Attributes:
    learning_rate: of the probabilities.
  """

  learning_rate: float = 0.05

  def __post_init__(self) -> None:
    super().__post_init__()
    block_search.check_step(self.learning_rate)
    # They have no gradient here.
    for field in ("flops_penalty", "density_penalty"):
      if value := getattr(self.reward, field):
        raise UserError(
          f"blocks.{field} is {value}; with search.algorithm=differentiable it"
          " must be 0."
        )

  @classmethod
  def constants_of(cls, config: BlocksConfig) -> dict:
    """See `BlockSearcher`."""
    return {"learning_rate": config.policy_learning_rate}

  @property
  def random_rounds(self) -> int:
    """Rounds at the start whose blocks are random: none."""
    return 0

  def ask(self, state: base.State, chances: Probabilities) -> np.ndarray:
    """The block that the probabilities decode to, if it is new.

    One over budget loses layers at its end until it keeps it.

    Args:
      state: blocks of its archive are left out.
      chances: probabilities.

    Returns:
      `int32[m, L]`, one row or none.
    """
    arch = decode(chances)
    length = len(self.space.codes(arch))
    shorter = np.repeat(arch[None], length, 0)
    for cut, row in enumerate(shorter):
      row[3 * (length - cut) :] = 0
    kept = shorter[np.asarray(self.budget.allows(shorter), bool)][:1]
    drawn = Drawn(kept, np.ones(len(kept), bool))
    return block_search.unseen(self.space, state, drawn)
