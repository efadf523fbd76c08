"""Regularised evolution: the oldest arch dies, not the worst."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, CostTable
from jaxnas.search import base, mutators
from jaxnas.spaces import Space


@dataclasses.dataclass(frozen=True)
class RegularizedEvolution:
  """Aging evolution (Real et al., AAAI 2019, algorithm 1), one objective.

  The population is the last `population` evaluated archs. A child is the
  mutated winner of a tournament. Deviations (ours): children come in batches
  of `offspring`, archs are never evaluated twice, children over budget are
  repaired, and a mutation redraws each layer with probability `mutation_rate`
  (at least one) where the paper changes exactly one place.

  Attributes:
    space: the space.
    budget: bounds on every arch.
    population: archs alive at a time, and archs of the first round.
    offspring: archs of each further round; 0 takes `population`.
    objectives: the first one is the fitness.
    tournament: archs drawn, with replacement, to find one parent.
    mutation_rate: see above.
  """

  space: Space
  budget: Budget
  population: int
  offspring: int = 0
  objectives: tuple[str, ...] = ("accuracy",)
  tournament: int = 25
  mutation_rate: float = 0.1

  def __post_init__(self) -> None:
    base.check_sizes(self)
    base.check_at_least("search.tournament", self.tournament, 1)
    base.check_rate("search.mutation_rate", self.mutation_rate)

  @classmethod
  def from_config(
    cls,
    config: SearchConfig,
    space: Space,
    budget: Budget,
    costs: Mapping[str, CostTable],
  ) -> "RegularizedEvolution":
    """Builds the searcher from a config; `costs` are not needed here."""
    del costs
    return cls(
      space,
      budget,
      config.population,
      config.offspring,
      config.objectives,
      config.tournament,
      config.mutation_rate,
    )

  def init(self, seed: int) -> base.State:
    """See `Searcher.init`."""
    return base.new_state(seed)

  def ask(self, state: base.State, n: int | None = None) -> np.ndarray:
    """See `Searcher.ask`."""
    n = base.round_size(state, self, n)
    rng = base.round_rng(state)
    seen = base.archive_archs(state, self.space)
    alive = seen[-self.population :]
    if not len(alive):
      return self.budget.draw(rng, n, seen)
    values = base.utilities(state["archive"]["metrics"], self.objectives[:1])
    fitness = np.nan_to_num(values[-self.population :, 0], nan=-np.inf)

    def propose() -> np.ndarray:
      rivals = rng.integers(len(alive), size=self.tournament)
      parent = alive[rivals[np.argmax(fitness[rivals])]]
      return mutators.uniform(
        rng, parent, self.space.n_choices, self.mutation_rate
      )

    return base.breed_unseen(rng, self.budget, seen, n, propose)

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`."""
    return base.advance(state, self, archs, metrics)
