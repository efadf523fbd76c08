"""The regulariser of PGNAS: weight term and entropy of the drop rates."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import MasksConfig
from jaxnas.errors import UserError
from jaxnas.spaces.masks import MaskSpace


def regulariser(
  logits: jax.Array,
  squares: jax.Array,
  channels: np.ndarray,
  config: MasksConfig,
  examples: float,
) -> jax.Array:
  """KL divergence of the drop rates and weights to their prior, over N.

  The form of the authors' code; `MasksConfig` says how it differs from print.

  Args:
    logits: of the drop rates p, `float32[G]`.
    squares: squared norm S of the weights of each group, `float32[G]`.
    channels: K of each group, `int[G]`.
    config: length scale, forms and weights.
    examples: N.

  Returns:
    `float32[]`, nats per example.
  """
  p = jax.nn.sigmoid(logits)
  scale = config.length_scale * (0.5 if config.half else 1.0)
  kept = 1.0 - p if config.weight_term == "coupled" else 1.0
  weights = scale * (kept * squares).sum()
  # By log-sigmoid, for the gradient of p log p at p = 0 is infinite.
  log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
  bracket = p * log_p
  if config.entropy == "full":
    bracket += (1.0 - p) * log_q
  if config.prior_drop:
    u = config.prior_drop
    bracket -= p * np.log(u) + (1.0 - p) * np.log1p(-u)
  entropy = config.entropy_weight * (channels * bracket).sum()
  return (weights + entropy) / examples


def target_penalty(
  logits: jax.Array, space: MaskSpace, config: MasksConfig
) -> jax.Array:
  """What the expected size exceeds its target by, weighted (ours).

  Expected sizes count the kept input channels of every product at its full
  number of outputs; channels of a group are dropped independently.

  Args:
    logits: of the drop rates, `float32[G]`.
    space: the masks.
    config: kind, share and weight of the target.

  Returns:
    `float32[]`: `target_weight * max(0, expected share - target_share)`.
  """
  if config.target == "none":
    return jnp.zeros(())
  sizes = group_sizes(space, config.target)
  expected = (jax.nn.sigmoid(-logits) * (sizes / sizes.sum())).sum()
  return config.target_weight * jnp.maximum(0.0, expected - config.target_share)


def group_sizes(space: MaskSpace, kind: str) -> np.ndarray:
  """What the channels of each group cost at full width, `float64[G]`.

  Those of an auxiliary classifier, which is not kept, cost nothing.

  Args:
    space: the masks.
    kind: `macs`, `params` (weights) or `channels`.
  """
  sizes = []
  for g in space.groups:
    weights = g.kernel**2 * g.features
    area = space.graph.shapes[g.node].size ** 2
    each = {"macs": weights * area, "params": weights, "channels": 1}[kind]
    kept = g.node not in space.graph.training_only
    sizes.append(kept * g.channels * each)
  return np.array(sizes, float)


def check_masks(config: MasksConfig) -> None:
  """Refuses values that no training or selection can use.

  Raises:
    UserError: naming the field and its legal values.
  """
  above = {
    "length_scale": 0, "examples": 0, "entropy_weight": 0, "rate_speed": 0,
    "rate_delay": 0, "target_weight": 0,
  }  # fmt: skip
  for name, low in above.items():
    value = getattr(config, name)
    if not low <= value < np.inf:
      raise UserError(f"masks.{name} is {value}; it must be at least {low}.")
  for name in ("candidates", "batch"):
    if getattr(config, name) < 1:
      raise UserError(
        f"masks.{name} is {getattr(config, name)}; it must be at least 1."
      )
  if not 0 < config.initial_rate < 1:
    raise UserError(
      f"masks.initial_rate is {config.initial_rate}; it must lie between 0 and"
      " 1."
    )
  if not 0 <= config.prior_drop < 1:
    raise UserError(
      f"masks.prior_drop is {config.prior_drop}; it must be at least 0 and"
      " below 1."
    )
  if not 0 < config.tau < np.inf:
    raise UserError(f"masks.tau is {config.tau}; it must be above 0.")
  if not 0 < config.target_share <= 1:
    raise UserError(
      f"masks.target_share is {config.target_share}; it must be above 0 and at"
      " most 1."
    )
  if config.halving < 0 or config.halving == 1:
    raise UserError(
      f"masks.halving is {config.halving}; legal: 0 (off), 2 and more."
    )
