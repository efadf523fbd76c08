"""Inverse reinforcement learning: a reward that an expert's block explains.

That IRLAS (arXiv 1812.05285) learns a linear reward from a hand-designed block
is the paper's; how is not known. This is apprenticeship learning (Abbeel and Ng
2004) and maximum entropy (Ziebart et al. 2008) on feature counts (ours).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import get_args, get_type_hints

import numpy as np

from jaxnas.config import ExpertConfig
from jaxnas.errors import UserError, unknown
from jaxnas.search.base import check_at_least
from jaxnas.search.features import FeatureMap, canonical
from jaxnas.search.irl_solvers import (
  TINY,
  differences,
  max_entropy,
  max_margin,
  project,
  soft_margin,
)
from jaxnas.search.policy import learn_policy
from jaxnas.spaces import BlockSpace
from jaxnas.spaces.nsc import Code

__all__ = [
  "Guide", "learn_guide", "max_entropy", "max_margin", "project", "soft_margin",
]  # fmt: skip

Block = tuple[Code, ...]
# learn(space, reward, rounds, seed, samples) -> int32[samples, L]
Learn = Callable[..., np.ndarray]
_ALIKE = (
  "expert.blocks have the features of random blocks, so there is nothing to"
  " learn from them; choose other experts or other expert.features."
)


@dataclasses.dataclass(frozen=True)
class Guide:
  """The mirror stimuli function F, frozen after it was learned.

  F(M) = w . mu(M) is linear in the feature counts of a block (paper); that it
  is scaled so that random blocks and the experts span 0..1 is ours, so other
  blocks may lie outside.

  Attributes:
    features: phi.
    weights: w, F numbers.
    low: F of the lowest of these blocks, before scaling.
    high: F of the highest.
    discount: of the feature counts.
  """

  features: FeatureMap
  weights: tuple[float, ...]
  low: float
  high: float
  discount: float = 1.0

  def __call__(self, space: BlockSpace, archs: np.ndarray) -> np.ndarray:
    """F of some blocks, scaled.

    Args:
      space: the blocks.
      archs: `int32[n, L]`, in any form: blocks that are trivially the same
        have the same F.

    Returns:
      `float64[n]`.
    """
    return self.scale(self.raw(space, archs))

  def raw(self, space: BlockSpace, archs: np.ndarray) -> np.ndarray:
    """F of some blocks before scaling, `float64[n]`."""
    archs = space.canonical(archs)
    counts = self.features.counts_of(space, archs, self.discount)
    return counts @ np.array(self.weights)

  def scale(self, values: np.ndarray) -> np.ndarray:
    """Scales raw values of any shape."""
    return (values - self.low) / (self.high - self.low)

  def to_json(self) -> dict:
    """Returns all fields as a JSON object."""
    return dataclasses.asdict(self) | {"weights": list(self.weights)}

  @classmethod
  def from_json(cls, value: dict) -> "Guide":
    """Inverse of `to_json`."""
    fields = dict(value)
    fields["features"] = FeatureMap(**fields["features"])
    fields["weights"] = tuple(fields["weights"])
    return cls(**fields)


def learn_guide(
  space: BlockSpace,
  experts: Sequence[Block],
  config: ExpertConfig,
  seed: int,
  learn: Learn = learn_policy,
) -> tuple[Guide, dict]:
  """Learns the mirror stimuli function from experts.

  Starts from random blocks, then in turn solves for w and learns a policy on
  the reward w . mu alone, which trains no network. Of several experts,
  `max-margin` separates each from each policy and `projection` goes towards
  their mean. `max-entropy` learns no policy: it solves once, over random
  blocks.

  Args:
    space: what policies and random blocks are drawn from.
    experts: one or more blocks, which may have more layers than the space
      takes: feature counts do not depend on that.
    config: how to learn.
    seed: of blocks and policies.
    learn: `learn(space, reward, rounds, seed, samples)` returns blocks
      `int32[m, L]` of a policy that maximises `reward(blocks) -> float64[n]`.

  Returns:
    The guide, and a JSON object. Its `experts` hold their codes; `rows` the
    iterations, each with `margin`, the least `w . (mu_E - mu_j)` over the
    policies before it, for a w of length 1; `gap` of `projection`, from the
    experts to the mixture of these policies; `policy_value` and
    `expert_value`, w . mu of the policy learned on w (of random blocks for
    `max-entropy`) and of the experts' mean. `weights` is the w that was frozen.
    `random_values` and `expert_values` are the scaled F of fresh random blocks
    and of the experts; `share_below` is the share of the former that lie below
    the lowest expert.

  Raises:
    UserError: for a setting that is not legal, no experts, or experts whose
      features are those of random blocks.
  """
  _check(experts, config)
  features = FeatureMap(config.features, config.offsets)
  task = _Task(space, features, config, seed)
  goal, pool = task.counts(experts), task.random(0)
  if config.solver == "max-entropy":
    steps = _solve_once(goal, pool)
  else:
    steps = list(_apprentice(task, goal, pool, learn))
  w = _freeze([w for w, _ in steps], goal, pool)
  random_values, expert_values = task.random(1) @ w, goal @ w
  low, high = _span(random_values, expert_values)
  guide = Guide(features, tuple(w.tolist()), low, high, config.discount)
  report = {
    "experts": [{"arch": [list(map(int, c)) for c in b]} for b in experts],
    "solver": config.solver,
    "features": config.features,
    "rows": [{"iteration": i, **row} for i, (_, row) in enumerate(steps)],
    "weights": [
      {"name": name, "value": value}
      for name, value in zip(features.names, guide.weights, strict=True)
    ],
    "random_values": guide.scale(random_values).tolist(),
    "expert_values": guide.scale(expert_values).tolist(),
    "share_below": float((random_values < expert_values.min()).mean()),
  }
  return guide, report


@dataclasses.dataclass(frozen=True)
class _Task:
  """What all steps of one learning share."""

  space: BlockSpace
  features: FeatureMap
  config: ExpertConfig
  seed: int

  def counts(self, blocks: Sequence[Block]) -> np.ndarray:
    """Feature counts of blocks in canonical form, `float64[n, F]`."""
    discount = self.config.discount
    rows = [self.features.counts(canonical(b), discount) for b in blocks]
    return np.array(rows)

  def counts_of(self, archs: np.ndarray) -> np.ndarray:
    return self.counts([self.space.codes(arch) for arch in archs])

  def random(self, stream: int) -> np.ndarray:
    """Feature counts of random blocks, `float64[samples, F]`."""
    rng = np.random.default_rng([self.seed, stream])
    return self.counts_of(self.space.sample(rng, self.config.samples))

  def policy_seed(self, iteration: int) -> int:
    # Seeds side by side would give policies in common to runs of other seeds.
    sequence = np.random.SeedSequence([self.seed, 2, iteration])
    return int(sequence.generate_state(1)[0])


def _apprentice(
  task: _Task, goal: np.ndarray, pool: np.ndarray, learn: Learn
) -> Iterator[tuple[np.ndarray, dict]]:
  """Yields w and its row until the margin, or gap, is small (Abbeel and Ng)."""
  config, mean = task.config, goal.mean(0)
  # The policy of the start writes random blocks.
  policies = [pool.mean(0)]
  mixture, left = policies[0], np.inf
  for i in range(config.iterations):
    if left <= config.epsilon:
      return
    if config.solver == "projection":
      gap = float(np.linalg.norm(mean - mixture))
      w, left = _unit(mean - mixture), gap
    else:
      w, left = soft_margin(goal, np.array(policies), config.slack)
      gap = None
    if not w.any():
      return
    mu = _learned(task, w, goal, pool, learn, task.policy_seed(i))
    yield w, _row(w, goal, np.array(policies), gap, mu)
    policies.append(mu)
    mixture = project(mixture, mean, mu)


def _learned(
  task: _Task,
  w: np.ndarray,
  goal: np.ndarray,
  pool: np.ndarray,
  learn: Learn,
  seed: int,
) -> np.ndarray:
  """Feature counts `float64[F]` of a policy learned on the reward w . mu."""
  # Rewards of about 0..1 suit any learner, whatever the features' scale.
  low, high = _span(pool @ w, goal @ w)
  reward = lambda blocks: (task.counts(blocks) @ w - low) / (high - low)
  config = task.config
  archs = learn(task.space, reward, config.rounds, seed, config.samples)
  return task.counts_of(archs).mean(0)


def _solve_once(
  goal: np.ndarray, pool: np.ndarray
) -> list[tuple[np.ndarray, dict]]:
  # Only the direction counts, as F is scaled.
  w = _unit(max_entropy(goal, pool))
  mu = pool.mean(0)
  return [(w, _row(w, goal, mu[None], None, mu))]


def _row(
  w: np.ndarray,
  goal: np.ndarray,
  policies: np.ndarray,
  gap: float | None,
  mu: np.ndarray,
) -> dict:
  return {
    "margin": float((differences(goal, policies) @ w).min()),
    "gap": gap,
    "policy_value": float(mu @ w),
    "expert_value": float(goal.mean(0) @ w),
  }


def _unit(vector: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(vector)
  return vector / length if length > TINY else np.zeros_like(vector)


def _freeze(
  ws: Sequence[np.ndarray], goal: np.ndarray, pool: np.ndarray
) -> np.ndarray:
  """The w under which the experts exceed most random blocks; later wins ties.

  Not just the last one: late w separate the experts from policies that are
  already like them, in what is left to tell apart, and may rank random blocks
  worse. In 8 and 10 layers, with policies near the best possible, experts
  exceeded as few as 90 % of random blocks under such a w, and 99 % and more
  under each one that this rule chose. The random blocks are those of the
  start, not those that the report counts.
  """
  if not ws:
    raise UserError(_ALIKE)
  shares = [float(((pool @ w) < (goal @ w).min()).mean()) for w in ws]
  return max(zip(shares, range(len(ws)), ws, strict=True))[2]


def _span(*values: np.ndarray) -> tuple[float, float]:
  """Lowest and highest of some values, which must differ."""
  joined = np.concatenate(values)
  if np.ptp(joined) <= TINY * max(1.0, np.abs(joined).max()):
    raise UserError(_ALIKE)
  return float(joined.min()), float(joined.max())


def _check(experts: Sequence[Block], config: ExpertConfig) -> None:
  check_at_least("the number of expert.blocks", len(experts), 1)
  for field in ("iterations", "rounds", "samples"):
    check_at_least(f"expert.{field}", getattr(config, field), 1)
  legal = get_args(get_type_hints(ExpertConfig)["solver"])
  if config.solver not in legal:
    raise unknown("expert.solver", config.solver, legal)
  if not config.slack > 0:
    raise UserError(f"expert.slack is {config.slack}; it must be above 0.")
