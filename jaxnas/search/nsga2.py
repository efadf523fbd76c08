"""NSGA-II with weighted crowding and FairNAS's hierarchy of mutators."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, CostTable
from jaxnas.search import base, controller, mutators, pareto
from jaxnas.spaces import Space


@dataclasses.dataclass(frozen=True)
class NSGA2:
  """The multi-objective search of FairNAS.

  NSGA-II is Deb et al. 2002. Recalled, unverified: the weighted crowding
  distance, the reinforced controller, and the defaults of `SearchConfig` for
  population, generations, objectives and their weights, mutation share and
  mutator shares. Ours: the first round is one random population, not two;
  crossover is uniform per layer; children over budget are repaired; the
  controller's reward is the weighted sum of the objectives, each scaled to
  0..1 over the archive; a controller whose share is 0 does not exist.

  Attributes:
    space: the space.
    budget: bounds on every arch.
    config: constants of the search.
    costs: additive costs of the space; one of them drives the roulette (see
      `roulette_cost`).
  """

  space: Space
  budget: Budget
  config: SearchConfig
  costs: Mapping[str, CostTable]

  def __post_init__(self) -> None:
    config = self.config
    base.check_sizes(config)
    base.check_at_least("search.tournament", config.tournament, 1)
    base.check_rate("search.mutation_share", config.mutation_share)
    base.check_rate("search.mutation_rate", config.mutation_rate)
    base.check_shares("search.mutators", config.mutators, 3)
    base.check_shares(
      "search.objective_weights",
      config.objective_weights,
      len(config.objectives),
    )

  @classmethod
  def from_config(
    cls,
    config: SearchConfig,
    space: Space,
    budget: Budget,
    costs: Mapping[str, CostTable],
  ) -> "NSGA2":
    """Builds the searcher from a config."""
    return cls(space, budget, config, costs)

  @property
  def objectives(self) -> tuple[str, ...]:
    """See `Searcher.objectives`."""
    return self.config.objectives

  @functools.cached_property
  def roulette_cost(self) -> CostTable:
    """The first cost that is minimised, else bounded, else listed.

    Only additive ones count; without any, the roulette is uniform.
    """
    signed = [base.parse_objective(o) for o in self.objectives]
    names = [name for name, sign in signed if sign < 0]
    names += [name for name, _ in self.budget.limits] + list(self.costs)
    for name in names:
      if hasattr(self.costs.get(name), "table"):
        return self.costs[name]
    n_choices = self.space.n_choices
    flat = np.zeros((len(n_choices), int(n_choices.max())))
    return CostTable("none", 0, flat, n_choices)

  def init(self, seed: int) -> base.State:
    """See `Searcher.init`.

    Returns:
      The state, with `population` (positions in the archive, best first) and
      `controller` (None when its share is 0).
    """
    learns = self.config.mutators[1] > 0
    return base.new_state(
      seed,
      population=[],
      controller=controller.init(self.space.n_choices) if learns else None,
    )

  def ask(self, state: base.State, n: int | None = None) -> np.ndarray:
    """See `Searcher.ask`."""
    config = self.config
    n = base.round_size(state, config, n)
    rng = base.round_rng(state)
    seen = base.archive_archs(state, self.space)
    parents = seen[state["population"]]
    if not len(parents):
      return self.budget.draw(rng, n, seen)
    kinds = self._mutators(state)

    def parent() -> np.ndarray:
      # The population is sorted, so the winner is the smallest position.
      return parents[rng.integers(len(parents), size=config.tournament).min()]

    def propose() -> np.ndarray:
      first, second = parent(), parent()
      child = np.where(rng.random(len(first)) < 0.5, first, second)
      if rng.random() < config.mutation_share:
        child = mutators.hierarchical(rng, child, kinds)
      return child

    return base.breed_unseen(rng, self.budget, seen, n, propose)

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`."""
    new = base.advance(state, self, archs, metrics)
    values = base.utilities(new["archive"]["metrics"], self.objectives)
    told = np.arange(len(values) - len(archs), len(values))
    rivals = np.concatenate([state["population"], told]).astype(np.int64)
    weights = self.config.objective_weights
    best = pareto.select(values[rivals], weights, self.config.population)
    new["population"] = rivals[best].tolist()
    if state["controller"] is not None:
      new["controller"] = self._teach(state["controller"], new, values, told)
    return new

  def front(self, state: base.State) -> pareto.Front:
    """Returns the Pareto front of the whole archive."""
    return pareto.front(state, self.space, self.objectives)

  def _mutators(
    self, state: base.State
  ) -> list[tuple[float, mutators.Mutator]]:
    n_choices, rate = self.space.n_choices, self.config.mutation_rate
    uniform = functools.partial(
      mutators.uniform, n_choices=n_choices, rate=rate
    )
    roulette = functools.partial(
      mutators.roulette, cost=self.roulette_cost, rate=rate
    )
    shares = self.config.mutators
    kinds = [(shares[0], uniform), (shares[2], roulette)]
    if state["controller"] is not None:
      policy = controller.policy(state["controller"], n_choices)
      sample = functools.partial(mutators.sample_policy, policy=policy)
      kinds.append((shares[1], sample))
    return kinds

  def _teach(
    self, taught: dict, state: base.State, values: np.ndarray, told: np.ndarray
  ) -> dict:
    told = told[np.isfinite(values[told]).all(1)]
    archs = base.archive_archs(state, self.space)[told]
    rewards = scaled(values)[told] @ np.array(self.config.objective_weights)
    settings = controller.PPO(self.config.controller_learning_rate)
    return controller.update(
      taught, self.space.n_choices, archs, rewards, settings
    )


def scaled(values: np.ndarray) -> np.ndarray:
  """Scales every objective to 0..1 over the rows that hold no NaN.

  Args:
    values: `float64[n, m]`, rows either finite or all NaN.

  Returns:
    `float64[n, m]`; an objective with one value only becomes 0.
  """
  finite = values[np.isfinite(values).all(1)]
  if not len(finite):
    return values
  low, high = finite.min(0), finite.max(0)
  return (values - low) / np.where(high > low, high - low, 1.0)
