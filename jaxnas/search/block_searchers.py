"""The searchers of blocks by name."""

from collections.abc import Callable

from jaxnas.config import BlocksConfig, SearchConfig
from jaxnas.errors import unknown
from jaxnas.search.base import Searcher
from jaxnas.search.block_evolution import BlockEvolution
from jaxnas.search.block_search import BlockBudget, BlockRandom, BlockReward
from jaxnas.search.qlearning import BlockQLearning
from jaxnas.search.reinforce import BlockReinforce
from jaxnas.spaces import BlockSpace


def _random(search, blocks, guidance, space, budget) -> BlockRandom:
  reward = BlockReward.from_config(blocks, guidance)
  return BlockRandom(space, budget, reward, blocks.rounds, blocks.per_round)


BLOCK_SEARCHERS: dict[str, Callable[..., Searcher]] = {
  "qlearning": lambda search, *rest: BlockQLearning.from_config(*rest),
  "reinforce": lambda search, *rest: BlockReinforce.from_config(*rest),
  "evolution": BlockEvolution.from_config,
  "random": _random,
}


def make_block_searcher(
  algorithm: str,
  search: SearchConfig,
  blocks: BlocksConfig,
  guidance: float,
  space: BlockSpace,
  budget: BlockBudget,
) -> Searcher:
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
  return BLOCK_SEARCHERS[algorithm](search, blocks, guidance, space, budget)
