"""Counting the archs within bounds, and numbering them (ours).

Standard dynamic programming, as for counting knapsack solutions. Costs are
whole units above the cheapest choice of each layer, so what matters at layer l
is what the bounds leave to spend, a vector `left >= 0`. Archs whose first l
choices leave the same are one *state*. Two rules merge more states and change
no count:

    left <- min(left, the most that layers l.. can spend)
    left <- the largest sum that layers l.. can spend and that is <= left

Few states leave the first layers and few sums are left for the last ones, so
that their number stays small in between. Where it does not (several bounds on
a large space), `left` is rounded *down* to a coarser grid: the archs counted
then keep every bound for certain, but some that do are left out, and `exact`
says so.

With the number of archs below every state known, the feasible archs are
numbered 0 to count - 1 in lexicographic order. Uniform integers are uniform
archs.
"""

import dataclasses
import math
import random
from collections.abc import Sequence

import moocore
import numpy as np

# Most states of one layer.
MOST_STATES = 2**17
_NEVER = 2**62

Rows = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
  """Archs as the paths of a layered graph of states.

  State 0 of layer 0 is the start, and state -1, the last row of every array, a
  dead end.

  Attributes:
    steps: where each choice leads, `int32[S_l + 1, K_l]` for each layer.
    counts: paths from each state to the end, `[S_l + 1]` for layers 0 to L;
      `int64`, or Python integers where those could overflow.
    exact: whether no feasible arch was left out.
  """

  steps: tuple[np.ndarray, ...]
  counts: tuple[np.ndarray, ...]
  exact: bool

  @property
  def count(self) -> int:
    """Number of archs."""
    return int(self.counts[0][0])

  def walk(self, prefixes: np.ndarray) -> np.ndarray:
    """Returns the states behind prefixes `int32[n, l]`: `int64[n]`."""
    state = np.zeros(len(prefixes), np.int64)
    for step, choice in zip(self.steps, prefixes.T, strict=False):
      state = step[state, choice]
    return state

  def rank(self, archs: np.ndarray) -> np.ndarray:
    """Numbers archs; the inverse of `unrank`.

    Args:
      archs: `int32[n, L]`.

    Returns:
      `[n]`, -1 for an arch that is not in the graph.
    """
    state = np.zeros(len(archs), np.int64)
    rank = np.zeros(len(archs), self.counts[0].dtype)
    for step, count, choice in zip(
      self.steps, self.counts[1:], np.asarray(archs).T, strict=True
    ):
      ways = count[step[state]]
      earlier = np.arange(step.shape[1]) < choice[:, None]
      rank = rank + np.where(earlier, ways, 0).sum(1)
      state = step[state, choice]
    return np.where(self.counts[-1][state] > 0, rank, -1)

  def unrank(
    self, ranks: np.ndarray, start: int = 0, state: np.ndarray | int = 0
  ) -> np.ndarray:
    """Returns the archs with given numbers.

    Args:
      ranks: `[n]`, each below the count of its state.
      start: the layer to go on from.
      state: states at that layer, `int64[n]`.

    Returns:
      Choices of the layers from `start` on, `int32[n, L - start]`.
    """
    n = len(ranks)
    state = np.broadcast_to(np.asarray(state, np.int64), n)
    archs = np.zeros((n, len(self.steps) - start), np.int32)
    rows = np.arange(n)
    for l, step in enumerate(self.steps[start:]):
      # Choices that lead nowhere add 0 ways and are never picked.
      ways = np.cumsum(self.counts[start + l + 1][step[state]], 1)
      pick = (ways <= ranks[:, None]).sum(1)
      ranks = ranks - np.where(pick > 0, ways[rows, pick - 1], 0)
      state = step[state, pick]
      archs[:, l] = pick
    return archs

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws archs uniformly, with replacement: `int32[n, L]`."""
    return self.complete(rng, np.zeros((n, 0), np.int32))

  def complete(
    self, rng: np.random.Generator, prefixes: np.ndarray
  ) -> np.ndarray:
    """Draws one arch for each prefix, uniform among those that begin with it.

    Args:
      rng: NumPy generator.
      prefixes: `int32[n, l]`, each that of an arch in the graph.

    Returns:
      `int32[n, L]`.
    """
    start = prefixes.shape[1]
    state = self.walk(prefixes)
    ranks = _below(rng, self.counts[start][state])
    return np.concatenate([prefixes, self.unrank(ranks, start, state)], 1)

  def draw(
    self, rng: np.random.Generator, n: int, seen: np.ndarray
  ) -> np.ndarray:
    """Draws distinct archs that were not seen, uniformly.

    Args:
      rng: NumPy generator.
      n: archs wanted.
      seen: `int32[s, L]`, with repeated and unknown ones at will.

    Returns:
      `int32[min(n, unseen), L]` in random order.
    """
    taken = self.rank(seen)
    taken = np.unique(taken[taken >= 0])
    free = self.count - len(taken)
    ranks = _distinct_below(rng, free, max(0, min(n, free)))
    # The i-th free number lies behind every taken one that has at most i free
    # numbers before it.
    ranks = ranks + np.searchsorted(
      taken - np.arange(len(taken)), ranks, side="right"
    )
    return self.unrank(ranks)

  def extremes(self, rows: Rows) -> tuple[int, int]:
    """Least and largest sum of an additive cost over all archs of the graph.

    Args:
      rows: the cost of each choice, `int64[K_l]` for each layer.
    """
    ends = []
    for sign in (1, -1):
      best = np.where(self.counts[-1] > 0, 0, _NEVER)
      for step, row in zip(self.steps[::-1], rows[::-1], strict=True):
        best = np.minimum(best[step] + sign * row, _NEVER).min(1)
        # Signed costs must not make a dead end look alive.
        best = np.where(best > _NEVER // 2, _NEVER, best)
      ends.append(sign * int(best[0]))
    return ends[0], ends[1]


def build(rows: Rows, slack: np.ndarray, most: int = MOST_STATES) -> Graph:
  """Counts the archs whose costs stay within `slack`.

  Args:
    rows: units of each choice, none negative, `int64[K_l, A]` for each layer
      and A bounds; every layer has a choice of 0 for each of them.
    slack: units to spend, `int64[A]`; nothing is feasible if one is negative.
    most: states of one layer before `left` is rounded to a grid.
  """
  rest = [np.zeros(len(slack), np.int64)]
  for row in reversed(rows):
    rest.append(rest[-1] + row.max(0))
  rest.reverse()
  sums = _sums(rows, slack, most)
  left = np.minimum(slack, rest[0])[None]
  left = left[(left >= 0).all(1)]
  steps, exact, cells = [], True, most
  for l, row in enumerate(rows):
    after = left[:, None] - row
    alive = (after >= 0).all(-1)
    after = np.minimum(after[alive], rest[l + 1])
    for a, reachable in enumerate(sums[l + 1]):
      if reachable is not None:
        at = np.searchsorted(reachable, after[:, a], side="right") - 1
        after[:, a] = reachable[at]
    left, state = _distinct(after)
    while len(left) > most:
      grid = rest[l + 1] // cells + 1
      left, state = _distinct(after - after % grid)
      exact, cells = False, cells // 2
    cells = min(most, cells * 4)  # finer again than what was enough here
    step = np.full((len(alive) + 1, len(row)), -1, np.int32)
    step[:-1][alive] = state
    steps.append(step)
  return _counted(steps, len(left), exact)


def from_archs(archs: np.ndarray, n_choices: np.ndarray) -> Graph:
  """Returns the graph of a few archs, `int32[n, L]`; never called exact."""
  steps, state = [], np.zeros(len(archs), np.int64)
  for choice, k in zip(archs.T, n_choices, strict=True):
    after, state_after = np.unique(state * k + choice, return_inverse=True)
    step = np.full((state.max() + 2, k), -1, np.int32)
    step[after // k, after % k] = np.arange(len(after))
    steps.append(step)
    state = state_after
  # All ends are one state.
  steps[-1] = np.where(steps[-1] >= 0, 0, -1).astype(np.int32)
  return _counted(steps, 1, exact=False)


def nondominated(
  rows: Rows, slack: np.ndarray, most: int | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
  """Finds the archs within bounds that no other beats in every cost.

  Dynamic programming over the Pareto fronts of prefixes: a beaten prefix stays
  beaten however it goes on. It decides whether anything keeps the bounds, in
  milliseconds where costs go together; where one is had for another, fronts
  may grow like the number of distinct sums.

  Args:
    rows: see `build`; at least one axis.
    slack: see `build`.
    most: front to give up at, if any.

  Returns:
    Costs `int64[m, A]` and archs `int32[m, L]`, one for each cost vector; None
    if a front has more than `most`.
  """
  costs = np.zeros((1, len(slack)), np.int64)[: int((slack >= 0).all())]
  back = []
  for row in rows:
    after = (costs[:, None] + row).reshape(-1, len(slack))
    first = np.flatnonzero((after <= slack).all(1))
    if len(first):  # of equal ones the first stays
      first = first[moocore.is_nondominated(after[first].astype(np.float64))]
    if most is not None and len(first) > most:
      return None
    back.append(first)
    costs = after[first]
  archs = np.zeros((len(costs), len(rows)), np.int32)
  at = np.arange(len(costs))
  for l in range(len(rows) - 1, -1, -1):
    at, archs[:, l] = np.divmod(back[l][at], len(rows[l]))
  return costs, archs


def _sums(
  rows: Rows, slack: np.ndarray, most: int
) -> list[list[np.ndarray | None]]:
  """Every sum that layers l.. may spend, `[L + 1][A]`; None if too many."""
  sums = [[np.zeros(1, np.int64)] * len(slack)]
  for row in reversed(rows):
    here = []
    for a, later in enumerate(sums[-1]):
      choices = np.unique(row[:, a])
      # Longer lists would merge too few states to be worth their making.
      if later is None or len(later) * len(choices) > 16 * most:
        here.append(None)
      else:
        every = np.unique(later[:, None] + choices)
        here.append(every[every <= max(slack[a], 0)])
    sums.append(here)
  return sums[::-1]


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct rows of `int64[n, A]`, and the place of each row among them."""
  key = np.zeros(len(rows), np.int64)
  for column in rows.T:
    values, place = np.unique(column, return_inverse=True)
    _, key = np.unique(key * len(values) + place, return_inverse=True)
  distinct = np.zeros((key.max(initial=-1) + 1, rows.shape[1]), np.int64)
  distinct[key] = rows
  return distinct, key


def _counted(steps: list[np.ndarray], ends: int, exact: bool) -> Graph:
  small = math.prod(step.shape[1] for step in steps) < 2**62
  counts = [np.array([1] * ends + [0], np.int64 if small else object)]
  for step in reversed(steps):
    counts.append(counts[-1][step].sum(1))
  return Graph(tuple(steps), tuple(counts[::-1]), exact)


def _below(rng: np.random.Generator, bounds: np.ndarray) -> np.ndarray:
  """Uniform integers, each from 0 to below its bound."""
  if bounds.dtype != object:
    return rng.integers(bounds)
  big = random.Random(int(rng.integers(2**63)))
  return np.array([big.randrange(bound) for bound in bounds], object)


def _distinct_below(rng: np.random.Generator, bound: int, n: int) -> np.ndarray:
  """Uniform distinct integers from 0 to below `bound`, in random order."""
  if bound < 2**63:
    return rng.choice(bound, n, replace=False) if n else np.zeros(0, np.int64)
  # Floyd's algorithm (Bentley and Floyd, CACM 30(9), 1987): as many draws as
  # numbers, also when a number comes up twice.
  big = random.Random(int(rng.integers(2**63)))
  chosen = {}
  for last in range(bound - n, bound):
    number = big.randrange(last + 1)
    chosen[last if number in chosen else number] = None
  return rng.permutation(np.array(list(chosen), object))
