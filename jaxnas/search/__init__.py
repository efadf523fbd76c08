"""Searchers: `init / ask / tell` over an objective, state as JSON."""

from collections.abc import Callable, Mapping

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, CostTable
from jaxnas.errors import unknown
from jaxnas.search.base import (
  Searcher,
  archive_archs,
  parse_objective,
  single_best,
  utilities,
)
from jaxnas.search.block_search import BlockReward
from jaxnas.search.block_searchers import BLOCK_SEARCHERS, make_block_searcher
from jaxnas.search.evolution import RegularizedEvolution
from jaxnas.search.irl import Guide, learn_guide
from jaxnas.search.nsga2 import NSGA2
from jaxnas.search.pareto import Front, finalists, front, pick_equispaced
from jaxnas.search.posterior import PosteriorSampler, best_number
from jaxnas.search.random_search import RandomSearch
from jaxnas.search.runner import run_search
from jaxnas.search.segments import SegmentSearch
from jaxnas.spaces import Space

SEARCHERS: dict[str, Callable[..., Searcher]] = {
  "evolution": RegularizedEvolution.from_config,
  "nsga2": NSGA2.from_config,
  "random": RandomSearch.from_config,
  "segments": SegmentSearch.from_config,
}


def make_searcher(
  config: SearchConfig,
  space: Space,
  budget: Budget,
  costs: Mapping[str, CostTable],
) -> Searcher:
  """Builds the searcher that `config.algorithm` names.

  Args:
    config: constants of the search.
    space: the space.
    budget: bounds on every proposed arch.
    costs: additive costs of the space.

  Raises:
    UserError: for an unknown algorithm or an illegal constant.
  """
  if config.algorithm not in SEARCHERS:
    raise unknown("search algorithm", config.algorithm, SEARCHERS)
  return SEARCHERS[config.algorithm](config, space, budget, costs)


def planned_rounds(searcher: Searcher, config: SearchConfig) -> int:
  """The rounds that a search takes at most, the first population included."""
  return getattr(searcher, "rounds", config.generations + 1)


__all__ = [
  "BLOCK_SEARCHERS", "SEARCHERS", "BlockReward", "Front", "Guide", "NSGA2",
  "PosteriorSampler", "RandomSearch", "RegularizedEvolution", "Searcher",
  "SegmentSearch", "archive_archs", "best_number", "finalists", "front",
  "learn_guide", "make_block_searcher", "make_searcher", "parse_objective",
  "pick_equispaced", "planned_rounds", "run_search", "single_best", "utilities",
]  # fmt: skip
