"""Tabular Q-learning over network structure codes, as BlockQNN does it.

The agent writes a block code by code. Its state is the last code with its
index, its actions are the codes that may follow (from independent sources).
Codes are numbered by their place in `nsc.next_codes(index)`: state (1, 0) is
the start, (i + 1, k) is reached by action k at index i, and action 0 at any
index above 1 ends the block, as does index T + 1.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxnas.errors import UserError
from jaxnas.search import base
from jaxnas.spaces import nsc
from jaxnas.spaces.nsc import Code

Order = Literal["reverse", "forward"]


@dataclasses.dataclass(frozen=True, eq=False)
class QTable:
  """Values Q(s, a) of legal actions; those never updated are not stored.

  At T = 23 there are 6,973,877 pairs, of which a search meets a few per cent.

  Attributes:
    max_layers: T.
    initial: value of what was never updated.
    rows: values of the updated actions of each state, `{state: {action: Q}}`;
      `update` and `replay` write here.
  """

  max_layers: int
  initial: float = 0.5
  rows: dict[tuple[int, int], dict[int, float]] = dataclasses.field(
    default_factory=dict
  )

  def value(self, index: int, state: int, action: int) -> float:
    """Q of one legal action.

    Args:
      index: of the next layer, 1 to T.
      state: number of the code before it, 0 at index 1.
      action: number of the next code.
    """
    return self.rows.get((index, state), {}).get(action, self.initial)

  def best(self, index: int, state: int) -> float:
    """Largest Q of the legal actions of a state."""
    row = self.rows.get((index, state))
    if not row:
      return self.initial
    top = max(row.values())
    return top if len(row) == _n_actions(index) else max(top, self.initial)

  def greedy(self, index: int, state: int) -> list[int]:
    """The legal actions whose Q is largest, ascending."""
    row = self.rows.get((index, state), {})
    top = self.best(index, state)
    if top != self.initial:
      return sorted(a for a, q in row.items() if q == top)
    get = row.get
    return [a for a in range(_n_actions(index)) if get(a, top) == top]

  def draw(self, rng: np.random.Generator, epsilon: float) -> tuple[Code, ...]:
    """Writes one block: each action random or greedy, ties broken at random.

    Args:
      rng: NumPy generator.
      epsilon: probability that an action is uniform among the legal ones.

    Returns:
      The codes of the block, the terminal left out.
    """
    codes, state = [], 0
    for index in range(1, self.max_layers + 1):
      if rng.random() < epsilon:
        state = int(rng.integers(_n_actions(index)))
      else:
        best = self.greedy(index, state)
        state = best[rng.integers(len(best))]
      code = nsc.next_codes(index)[state]
      if code == nsc.TERMINAL:
        break
      codes.append(code)
    return tuple(codes)

  def update(
    self,
    index: int,
    state: int,
    action: int,
    reward: float,
    alpha: float,
    gamma: float,
    ended: bool,
  ) -> None:
    """Q <- (1 - alpha) Q + alpha (reward + gamma max Q of the next state).

    Args:
      index: of the next layer, 1 to T.
      state: number of the code before it.
      action: number of the code that was taken.
      reward: of this step.
      alpha: learning rate.
      gamma: discount.
      ended: whether the episode ended with this action; nothing follows then.
    """
    target = reward
    if not ended:
      target += gamma * self.best(index + 1, action)
    row = self.rows.setdefault((index, state), {})
    old = row.get(action, self.initial)
    row[action] = (1 - alpha) * old + alpha * target

  def replay(
    self,
    codes: Sequence[Code],
    reward: float,
    shaped: bool,
    alpha: float,
    gamma: float,
    order: Order = "reverse",
  ) -> None:
    """Updates the decisions of one remembered block.

    The last decision has the target r_T. Those before it have the reward
    r_T / T if shaped (from independent sources), where T is the number of
    decisions of this block, the terminal code counted (ours); else 0. Shaped
    rewards come on top of r_T: at gamma = 1 they sum to (2 - 1 / T) r_T, so
    that longer blocks gain a little, as the sources have it.

    Args:
      codes: the block, the terminal left out.
      reward: r_T.
      shaped: see above.
      alpha: learning rate.
      gamma: discount.
      order: `reverse` starts at the last decision, so that one pass carries
        the reward to the first; `forward` is for comparison.
    """
    actions = self.actions(codes)
    states = [0, *actions[:-1]]
    last = len(actions)
    inner = reward / last if shaped else 0.0
    steps = range(1, last + 1)
    for t in steps if order == "forward" else reversed(steps):
      ended = t == last
      r = reward if ended else inner
      self.update(t, states[t - 1], actions[t - 1], r, alpha, gamma, ended)

  def actions(self, codes: Sequence[Code]) -> list[int]:
    """Numbers of a block's decisions, the terminal one at the end unless full.

    Raises:
      UserError: for an illegal code.
    """
    numbers = []
    for index, code in enumerate(codes, 1):
      if code not in (legal := _numbers(index)) or code == nsc.TERMINAL:
        raise UserError(
          f"code {tuple(code)} at layer {index} of a block; the legal ones are"
          f" those of nsc.next_codes({index})."
        )
      numbers.append(legal[code])
    return numbers + [0] * (len(codes) < self.max_layers)

  def to_json(self) -> dict:
    """Returns the table as a JSON object.

    Returns:
      `initial`, and one row `[index, state, actions, values]` for each state
      that was updated, in the order of their first updates.
    """
    rows = [
      [index, state, list(row), list(row.values())]
      for (index, state), row in self.rows.items()
    ]
    return {"initial": self.initial, "rows": rows}

  @classmethod
  def from_json(cls, value: dict, max_layers: int) -> "QTable":
    """Inverse of `to_json`; the new table shares nothing with `value`."""
    rows = {
      (index, state): dict(zip(actions, values, strict=True))
      for index, state, actions, values in value["rows"]
    }
    return cls(max_layers, value["initial"], rows)


def check_constants(alpha: float, gamma: float, replay: int) -> None:
  """Checks the constants of Q-learning, named as in `BlocksConfig`.

  Raises:
    UserError: for a value outside its range.
  """
  base.check_rate("blocks.learning_rate", alpha)
  base.check_rate("blocks.discount", gamma)
  base.check_at_least("blocks.replay", replay, 0)


def _n_actions(index: int) -> int:
  return len(nsc.next_codes(index))


@functools.cache
def _numbers(index: int) -> dict[Code, int]:
  return {code: k for k, code in enumerate(nsc.next_codes(index))}
