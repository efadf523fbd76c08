"""The searchers of blocks by name."""

from jaxnas.config import BlocksConfig, SearchConfig
from jaxnas.errors import unknown
from jaxnas.search.block_evolution import BlockEvolution
from jaxnas.search.block_search import (
  BlockBudget,
  BlockRandom,
  BlockSearcher,
)
from jaxnas.search.qlearning import BlockQLearning
from jaxnas.search.reinforce import BlockReinforce
from jaxnas.spaces import BlockSpace

BLOCK_SEARCHERS: dict[str, type[BlockSearcher]] = {
  "qlearning": BlockQLearning,
  "reinforce": BlockReinforce,
  "evolution": BlockEvolution,
  "random": BlockRandom,
}


def make_block_searcher(
  algorithm: str,
  search: SearchConfig,
  blocks: BlocksConfig,
  guidance: float,
  space: BlockSpace,
  budget: BlockBudget,
) -> BlockSearcher:
  """Builds a searcher of blocks.

  Each draws `blocks.per_round` blocks in each of `blocks.rounds` rounds, only
  the first round of evolution draws `search.population`.

  Args:
    algorithm: `qlearning`, `reinforce`, `evolution` or `random`.
    search: population and tournament of evolution.
    blocks: all other constants; its `guidance` is not read.
    guidance: lambda.
    space: the space.
    budget: bounds on every block.

  Raises:
    UserError: for an unknown algorithm or an illegal constant.
  """
  if algorithm not in BLOCK_SEARCHERS:
    raise unknown("search algorithm of blocks", algorithm, BLOCK_SEARCHERS)
  more = {}
  if algorithm == "evolution":
    more = {"population": search.population, "tournament": search.tournament}
  kind = BLOCK_SEARCHERS[algorithm]
  return kind.from_config(blocks, guidance, space, budget, **more)
