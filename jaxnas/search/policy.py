"""A policy learned on a synthetic reward alone: no network is trained."""

from collections.abc import Callable

import numpy as np

from jaxnas.search.qlearning import epsilons
from jaxnas.search.qtable import QTable
from jaxnas.spaces import BlockSpace
from jaxnas.spaces.nsc import Code

Blocks = list[tuple[Code, ...]]

# Episodes and updates of a round, and the steps of an update (ours). BlockQNN's
# learning rate of 0.01 needs about 100 visits of an action to learn its value;
# the few rounds here leave a handful.
EPISODES, REPLAY, LEARNING_RATE = 32, 64, 0.2


def learn_policy(
  space: BlockSpace,
  reward: Callable[[Blocks], np.ndarray],
  rounds: int,
  seed: int,
  samples: int,
) -> np.ndarray:
  """Learns to write blocks of a high reward; draws blocks from the result.

  Q-learning as in `BlockQLearning`, on rewards that cost nothing. Rewards are
  given at the end only, not shaped: shaped ones favour long blocks, which here
  would be mistaken for a preference of the reward (ours). Untried actions
  start at the mean reward of the first round, as rewards have any scale.

  Args:
    space: of the blocks.
    reward: `blocks -> float64[n]`, finite; called once for each block.
    rounds: of Q-learning; epsilon falls as `epsilons` says.
    seed: of all draws.
    samples: number of blocks to draw.

  Returns:
    `int32[samples, L]`, drawn from the final policy with epsilon 0.1, as
    drawn: neither canonical nor distinct.
  """
  rng = np.random.default_rng(seed)
  known: dict[tuple[Code, ...], float] = {}

  def rewards(blocks: Blocks) -> list[float]:
    new = [b for b in dict.fromkeys(blocks) if b not in known]
    if new:
      known.update(zip(new, map(float, reward(new)), strict=True))
    return [known[b] for b in blocks]

  table = QTable(space.max_layers)
  memory: list[tuple[tuple[Code, ...], float]] = []
  for epsilon in epsilons(rounds):
    blocks = [table.draw(rng, epsilon) for _ in range(EPISODES)]
    memory += zip(blocks, values := rewards(blocks), strict=True)
    if not table.rows:
      table = QTable(space.max_layers, float(np.mean(values)))
    for i in rng.integers(len(memory), size=REPLAY):
      block, value = memory[i]
      table.replay(block, value, False, LEARNING_RATE, 1.0)
  drawn = [space.from_codes(table.draw(rng, 0.1)) for _ in range(samples)]
  return np.array(drawn, np.int32).reshape(-1, space.n_layers)
