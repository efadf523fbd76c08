"""Mutations of one arch, and the draw among them.

The hierarchy (first draw the kind of mutation, then mutate) and its three
kinds are recalled, unverified; the kinds' inner workings are ours.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxnas.costs import CostTable

Mutator = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def uniform(
  rng: np.random.Generator,
  arch: np.ndarray,
  n_choices: np.ndarray,
  rate: float,
) -> np.ndarray:
  """Redraws some layers uniformly among their other choices.

  Args:
    rng: NumPy generator.
    arch: `int32[L]`, left alone.
    n_choices: choices of each layer, `int32[L]`.
    rate: probability of each layer to change; at least one changes.

  Returns:
    `int32[L]`, unlike `arch` unless no layer has a second choice.
  """
  free = np.flatnonzero(n_choices > 1)
  if not len(free):
    return arch.copy()
  picked = free[rng.random(len(free)) < rate]
  if not len(picked):
    picked = rng.choice(free, size=1)
  child = arch.copy()
  # A step of 1..K-1 around the circle reaches every choice but the present.
  step = rng.integers(1, n_choices[picked])
  child[picked] = (child[picked] + step) % n_choices[picked]
  return child


def roulette(
  rng: np.random.Generator, arch: np.ndarray, cost: CostTable, rate: float
) -> np.ndarray:
  """Redraws expensive layers more often, and to cheap choices more often.

  The design is ours. The number of layers is binomial as in `uniform`. Layers
  are drawn half uniformly and half in proportion to what they cost now; a new
  choice half uniformly and half in proportion to what it saves against the
  dearest choice. The uniform halves keep everything reachable.

  Args:
    rng: NumPy generator.
    arch: `int32[L]`, left alone.
    cost: the cost that spins the wheel.
    rate: expected share of changed layers; at least one changes.

  Returns:
    `int32[L]`, unlike `arch` unless no layer has a second choice.
  """
  free = np.flatnonzero(cost.n_choices > 1)
  if not len(free):
    return arch.copy()
  count = max(1, rng.binomial(len(free), rate))
  wheel = _half_uniform(cost.table[free, arch[free]])
  child = arch.copy()
  for layer in rng.choice(free, size=count, replace=False, p=wheel):
    others = np.delete(np.arange(cost.n_choices[layer]), arch[layer])
    price = cost.table[layer, others]
    child[layer] = rng.choice(others, p=_half_uniform(price.max() - price))
  return child


def sample_policy(
  rng: np.random.Generator, arch: np.ndarray, policy: np.ndarray
) -> np.ndarray:
  """Replaces the arch by a sample of the controller's policy.

  Args:
    rng: NumPy generator.
    arch: `int32[L]`; the policy does not look at it.
    policy: probabilities `[L, K]`, rows sum to 1.

  Returns:
    `int32[L]`.
  """
  del arch
  # Division by the last entry makes every row end in exactly 1, so that no
  # draw falls past the last choice.
  cumulative = np.cumsum(policy, 1)
  cumulative /= cumulative[:, -1:]
  draws = rng.random((len(policy), 1))
  return (draws >= cumulative).sum(1).astype(np.int32)


def hierarchical(
  rng: np.random.Generator,
  arch: np.ndarray,
  mutators: Sequence[tuple[float, Mutator]],
) -> np.ndarray:
  """Draws one of the mutators by its share, and mutates with it.

  Args:
    rng: NumPy generator.
    arch: `int32[L]`.
    mutators: pairs of share and function; the shares sum to 1.

  Returns:
    `int32[L]`.
  """
  shares = [share for share, _ in mutators]
  return mutators[rng.choice(len(mutators), p=shares)][1](rng, arch)


def _half_uniform(weights: np.ndarray) -> np.ndarray:
  flat = np.full(len(weights), 1 / len(weights))
  total = weights.sum()
  return (flat + weights / total) / 2 if total > 0 else flat
