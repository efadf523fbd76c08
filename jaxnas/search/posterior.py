"""Candidates from learned drop rates (PGNAS, Algorithm 1, second half).

The state is a JSON object. Its archive holds no masks, which may have ten
thousands of channels, but the numbers that they are drawn from:

    {"seed": 0, "round": 2, "next": 200, "over_budget": 3,
     "archive": {"numbers": [-1, 0, 1], "digests": ["5f..."],
                 "metrics": {"accuracy": [0.91, ...], ...}}}
"""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from jaxnas.errors import UserError
from jaxnas.search.base import Metrics, State
from jaxnas.spaces.masks import MaskSpace

THRESHOLD = -1


@dataclasses.dataclass(frozen=True, eq=False)
class PosteriorSampler:
  """Draws candidate c from the rates with a generator of its own.

  Candidate c is therefore the same for every batch size and every C; number
  -1 is the mask that drops a group iff its rate exceeds 1/2 (ours). A mask that
  was drawn before, or that exceeds the budget, is passed over.

  Attributes:
    space: the masks.
    rates: drop rate of each group, `float[G]`.
    allows: `archs int32[n, L] -> bool[n]`, whether they keep the budget.
    candidates: C, numbers drawn.
    batch: candidates of a round.
    threshold: whether number -1 takes part.
  """

  space: MaskSpace
  rates: np.ndarray
  allows: Callable[[np.ndarray], np.ndarray]
  candidates: int
  batch: int
  threshold: bool = True

  def init(self, seed: int) -> State:
    """Returns the state of round 0."""
    return {
      "seed": int(seed),
      "round": 0,
      "next": THRESHOLD if self.threshold else 0,
      "over_budget": 0,
      "archive": {"numbers": [], "digests": [], "metrics": {}},
    }

  def mask(self, seed: int, number: int) -> np.ndarray:
    """The mask of a candidate's number, `int32[L]`.

    Args:
      seed: of the search.
      number: 0 or more, or -1 for the threshold mask.
    """
    if number == THRESHOLD:
      return (self.rates <= 0.5).astype(np.int32)[self.space.group_of]
    rng = np.random.default_rng([seed, number])
    return self.space.draw(rng, self.rates)[0]

  def propose(self, state: State) -> tuple[State, list[int], np.ndarray]:
    """The next candidates.

    Args:
      state: a state of this sampler.

    Returns:
      The state with these candidates counted, their numbers, and their masks
      `int32[m, L]`, m at most `batch` and 0 only when all were drawn.
    """
    seen = set(state["archive"]["digests"])
    numbers, masks, digests, over = [], [], [], 0
    n = state["next"]
    while n < self.candidates:
      mask = self.mask(state["seed"], n)
      key = hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:32]
      if key not in seen:
        # What is passed over behind the last one belongs to this round, and
        # each repeat counts: so no count depends on the size of a batch.
        if not self.allows(mask[None])[0]:
          over += 1
        elif len(numbers) == self.batch:
          break
        else:
          seen.add(key)
          numbers.append(n)
          masks.append(mask)
          digests.append(key)
      n += 1
    archive = state["archive"]
    counted = {
      **state,
      "next": n,
      "over_budget": state["over_budget"] + over,
      "archive": {**archive, "digests": archive["digests"] + digests},
    }
    masks = np.array(masks, np.int32).reshape(-1, self.space.n_layers)
    return counted, numbers, masks

  def ask(self, state: State) -> np.ndarray:
    """Proposes masks that were never evaluated, `int32[m, L]`."""
    return self.propose(state)[2]

  def tell(self, state: State, archs: np.ndarray, metrics: Metrics) -> State:
    """Returns the state of the next round.

    Args:
      state: a state of this sampler.
      archs: what `ask` proposed in this state.
      metrics: values `[m]` by name.

    Raises:
      UserError: for other masks, or a metric of another length.
    """
    counted, numbers, expected = self.propose(state)
    if not np.array_equal(archs, expected):
      raise UserError("these masks are not those that were asked for.")
    archive = counted["archive"]
    columns = {}
    for name, values in metrics.items():
      column = np.asarray(values, np.float64)
      if column.shape != (len(archs),):
        raise UserError(
          f"metric {name!r} has shape {column.shape} for {len(archs)} masks."
        )
      columns[name] = archive["metrics"].get(name, []) + column.tolist()
    return {
      **counted,
      "round": state["round"] + 1,
      "archive": {
        **archive,
        "numbers": archive["numbers"] + numbers,
        "metrics": columns,
      },
    }


def best_number(archive: dict) -> int:
  """Position of the winner: highest accuracy, then lower loss, then MACs.

  Args:
    archive: with metrics `accuracy`, `loss` and `macs`; NaN can never win.

  Raises:
    UserError: if no candidate has finite values.
  """
  metrics = {k: np.array(v, float) for k, v in archive["metrics"].items()}
  keys = [-metrics["accuracy"], metrics["loss"], metrics["macs"]]
  finite = np.flatnonzero(np.isfinite(keys).all(0))
  if not len(finite):
    raise UserError("no candidate has a finite accuracy and loss.")
  order = np.lexsort([finite, *(k[finite] for k in reversed(keys))])
  return int(finite[order[0]])
