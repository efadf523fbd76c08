"""Q-learning of blocks: BlockQNN, and with guidance IRLAS."""

import dataclasses

import numpy as np

from jaxnas.config import BlocksConfig
from jaxnas.search import base, block_search, qtable
from jaxnas.search.block_search import BlockSearcher, Drawn
from jaxnas.search.qtable import QTable
from jaxnas.spaces.nsc import Code

# Rounds at epsilon 1.0, 0.9, ..., 0.1 (from independent sources); 178 in all.
SCHEDULE = (95, 7, 7, 7, 10, 10, 10, 10, 10, 12)


def epsilons(rounds: int) -> np.ndarray:
  """Epsilon of each round: BlockQNN's schedule, scaled.

  Every epsilon gets its share of the rounds, rounded by largest remainder, and
  one round at least where there are ten or more (ours). Fewer rounds than ten
  leave out epsilons whose share is small.

  Args:
    rounds: 1 or more; 178 gives the schedule itself.

  Returns:
    `float64[rounds]`, descending from 1.0, to 0.1 if there are ten or more.
  """
  total = sum(SCHEDULE)
  least = int(rounds >= len(SCHEDULE))
  counts = np.full(len(SCHEDULE), least)
  wanted = np.array(SCHEDULE) * rounds
  while counts.sum() < rounds:
    counts[np.argmax(wanted - counts * total)] += 1
  return np.repeat((10 - np.arange(10)) / 10, counts)


@dataclasses.dataclass(frozen=True)
class BlockQLearning(BlockSearcher):
  """BlockQNN's agent on a reward (from independent sources; defaults theirs).

  Each round draws blocks by the epsilon-greedy policy, remembers them with
  their rewards, and makes `replay` updates, each on one block remembered from
  any round, drawn uniformly, from its last decision to its first. Blocks that
  were drawn before are not evaluated again but remembered again. Blocks over
  budget are remembered as the worst so far, as are failed ones (ours). Blocks
  that were told without being drawn are remembered as told (ours).

  Epsilon falls over the planned rounds and stays at its last value behind them.
  BlockQNN draws 64 blocks a round (recalled).

  Attributes:
    replay: updates after each round.
    learning_rate: alpha.
    discount: gamma.
    initial_q: value of what was never tried.
    shaped: see `QTable.replay`.
  """

  replay: int = 64
  learning_rate: float = 0.01
  discount: float = 1.0
  initial_q: float = 0.5
  shaped: bool = True

  def __post_init__(self) -> None:
    super().__post_init__()
    qtable.check_constants(self.learning_rate, self.discount, self.replay)

  @classmethod
  def constants_of(cls, config: BlocksConfig) -> dict:
    """See `BlockSearcher`."""
    names = ("replay", "learning_rate", "discount", "initial_q", "shaped")
    return {name: getattr(config, name) for name in names}

  @property
  def random_rounds(self) -> int:
    """Rounds at the start in which every code is drawn at random."""
    return int((epsilons(self.rounds) == 1).sum())

  def init(self, seed: int) -> base.State:
    """Returns the state of round 0: see `Searcher.init`.

    Returns:
      Beside what every state has, `q`, a `QTable` as JSON, and `memory`:
      `blocks`, each the numbers of its codes one after another, and `rewards`.
    """
    table = QTable(self.space.max_layers, float(self.initial_q))
    memory = {"blocks": [], "rewards": []}
    return base.new_state(seed, q=table.to_json(), memory=memory)

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`; no blocks need no metrics."""
    table = self._table(state)
    drawn = self._draw(state, None, table)
    new = block_search.advance(state, self, archs, metrics)
    learned, rewards = block_search.lessons(new, self, drawn, archs)
    memory = {
      "blocks": state["memory"]["blocks"] + [_trim(a) for a in learned],
      "rewards": state["memory"]["rewards"] + rewards.tolist(),
    }
    # A stream apart from the one that the blocks are drawn with.
    rng = np.random.default_rng([state["seed"], state["round"], 1])
    for _ in range(self.replay if memory["rewards"] else 0):
      i = rng.integers(len(memory["rewards"]))
      table.replay(
        _codes(memory["blocks"][i]),
        memory["rewards"][i],
        self.shaped,
        self.learning_rate,
        self.discount,
      )
    return {**new, "q": table.to_json(), "memory": memory}

  def _table(self, state: base.State) -> QTable:
    return QTable.from_json(state["q"], self.space.max_layers)

  def _draw(
    self, state: base.State, n: int | None, table: QTable | None = None
  ) -> Drawn:
    table = table or self._table(state)
    rng = base.round_rng(state)
    epsilon = epsilons(self.rounds)[min(state["round"], self.rounds - 1)]
    return self._draw_with(
      lambda: self.space.from_codes(table.draw(rng, epsilon)), n
    )


def _trim(arch: np.ndarray) -> list[int]:
  """A block without the zeros behind it, which JSON need not carry."""
  return arch[: 3 * np.count_nonzero(arch[::3])].tolist()


def _codes(numbers: list[int]) -> list[Code]:
  return [Code(*numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
