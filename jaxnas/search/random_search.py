"""Random search: the baseline that every other searcher has to beat."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, CostTable
from jaxnas.search import base
from jaxnas.spaces import Space


@dataclasses.dataclass(frozen=True)
class RandomSearch:
  """Draws unseen archs within the budget; no round learns from another.

  Attributes:
    space: the space.
    budget: bounds on every arch.
    population: archs of the first round.
    offspring: archs of each further round; 0 takes `population`.
    objectives: checked when told, and used to pick the best afterwards.
  """

  space: Space
  budget: Budget
  population: int
  offspring: int = 0
  objectives: tuple[str, ...] = ("accuracy",)

  def __post_init__(self) -> None:
    base.check_sizes(self)

  @classmethod
  def from_config(
    cls,
    config: SearchConfig,
    space: Space,
    budget: Budget,
    costs: Mapping[str, CostTable],
  ) -> "RandomSearch":
    """Builds the searcher from a config; `costs` are not needed here."""
    del costs
    return cls(
      space, budget, config.population, config.offspring, config.objectives
    )

  def init(self, seed: int) -> base.State:
    """See `Searcher.init`."""
    return base.new_state(seed)

  def ask(self, state: base.State, n: int | None = None) -> np.ndarray:
    """See `Searcher.ask`."""
    n = base.round_size(state, self, n)
    seen = base.archive_archs(state, self.space)
    rng = base.round_rng(state)
    return self.budget.draw(rng, n, seen)

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`."""
    return base.advance(state, self, archs, metrics)
