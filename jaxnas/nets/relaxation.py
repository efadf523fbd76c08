"""Relaxed Bernoulli masks: what multiplies a channel in training."""

from typing import Literal

import jax
import jax.numpy as jnp

Relaxation = Literal["concrete", "straight-through", "hard-concrete"]

EPSILON = 1e-8  # inside logarithms (authors)
# Ends to which the hard-concrete gate is stretched (1712.01312, recalled).
STRETCH = (-0.1, 1.1)


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
