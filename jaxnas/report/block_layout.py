"""Where the layers of a block stand in a drawing: rows, order, places.

Layered drawing (Sugiyama, Tagawa and Toda 1981): rows by the longest way from
the input, few crossings by means of neighbours and by swaps, then places by
least squares with distances kept.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np

from jaxnas.spaces import nsc
from jaxnas.spaces.nsc import Code

# A layer's index, or (layer, row) where a line of that layer passes a row.
Key = int | tuple[int, int]
Rows = list[list[Key]]
Links = dict[Key, list[Key]]  # neighbours in the row above or below

STARTS, SWEEPS, PULLS = 12, 8, 60
# Lines that pass rows become straight at the cost of lines between boxes.
_STRAIGHT = (1, 2, 12)


@dataclasses.dataclass(frozen=True)
class Layout:
  """A drawing in units of its own; y is the row.

  Attributes:
    rows: keys of each row from left to right; row 0 is the input alone, the
      last row the output alone.
    x: centre of each key.
    ways: keys that each connection passes, from a layer (0 is the input) to a
      reader; the output is the number of layers plus 1.
    crossings: of lines.
  """

  rows: Rows
  x: dict[Key, float]
  ways: tuple[tuple[Key, ...], ...]
  crossings: int


def layout(
  codes: Sequence[Code], size: Callable[[Key], float], gap: float
) -> Layout:
  """Arranges a block; the same block always in the same way.

  Lines of one layer to several readers are one line until they part.

  Args:
    codes: the layers.
    size: width of what a key stands for.
    gap: least distance between two in a row.

  Returns:
    The layout; the smallest x of any left edge is 0.
  """
  rows, ways = _rows(codes)
  links = {(a, b) for way in ways for a, b in itertools.pairwise(way)}
  above: Links = {key: [] for row in rows for key in row}
  below: Links = {key: [] for row in rows for key in row}
  for a, b in sorted(links, key=str):
    above[b].append(a)
    below[a].append(b)
  rows, crossings = _untangled(rows, above, below)
  x = _places(rows, above, below, size, gap)
  left = min(x[k] - size(k) / 2 for k in x)
  return Layout(rows, {k: v - left for k, v in x.items()}, ways, crossings)


def _rows(codes: Sequence[Code]) -> tuple[Rows, tuple[tuple[Key, ...], ...]]:
  row, out = {0: 0}, len(codes) + 1
  read = {i: nsc.reads(code) for i, code in enumerate(codes, 1)}
  for i, preds in read.items():
    row[i] = 1 + max(row[p] for p in preds)
  read[out] = tuple(nsc.leaves(tuple(codes)))
  row[out] = 1 + max(row.values())
  ways = tuple(
    (p, *((p, r) for r in range(row[p] + 1, row[i])), i)
    for i, preds in read.items()
    for p in preds
  )
  rows: Rows = [[] for _ in range(row[out] + 1)]
  for i, r in row.items():
    rows[r].append(i)
  for key in dict.fromkeys(k for way in ways for k in way[1:-1]):
    rows[key[1]].append(key)
  return rows, ways


# Order -----------------------------------------------------------------------


def _untangled(rows: Rows, above: Links, below: Links) -> tuple[Rows, int]:
  """The order with the fewest crossings of several attempts."""
  rng = np.random.default_rng(0)
  best, least = rows, _crossings(rows, below)
  for start in range(STARTS):
    now = [list(row) for row in rows]
    if start:
      now = [[row[i] for i in rng.permutation(len(row))] for row in now]
    for _ in range(SWEEPS):
      for order, links in (
        (range(1, len(now)), above), (range(len(now) - 2, -1, -1), below),
      ):  # fmt: skip
        for r in order:
          _sort(now, r, links)
      _swap(now, above, below)
      crossings = _crossings(now, below)
      if crossings < least:
        best, least = [list(row) for row in now], crossings
      if not least:
        return best, least
  return best, least


def _sort(rows: Rows, r: int, links: Links) -> None:
  """Orders a row by the mean place of its neighbours in the next one."""
  near = {k: i for row in rows for i, k in enumerate(row)}
  own = {k: i for i, k in enumerate(rows[r])}

  def mean(key: Key) -> tuple[float, int]:
    places = [near[k] for k in links[key]]
    # What has no neighbour there stays where it is.
    value = sum(places) / len(places) if places else float(own[key])
    return value, own[key]

  rows[r].sort(key=mean)


def _swap(rows: Rows, above: Links, below: Links) -> None:
  """Swaps neighbours of a row as long as lines cross less for it."""
  better = True
  while better:
    better = False
    for r, row in enumerate(rows):
      for i in range(len(row) - 1):
        before = _around(rows, r, above, below, i)
        row[i], row[i + 1] = row[i + 1], row[i]
        if _around(rows, r, above, below, i) < before:
          better = True
        else:
          row[i], row[i + 1] = row[i + 1], row[i]


def _around(rows: Rows, r: int, above: Links, below: Links, i: int) -> int:
  """Crossings of the lines of keys i and i + 1 of a row."""
  total = 0
  for links, other in ((above, r - 1), (below, r + 1)):
    if 0 <= other < len(rows):
      place = {k: n for n, k in enumerate(rows[other])}
      left, right = (
        [place[k] for k in links[key]] for key in rows[r][i : i + 2]
      )
      total += sum(a > b for a in left for b in right)
  return total


def _crossings(rows: Rows, below: Links) -> int:
  total = 0
  for upper, lower in itertools.pairwise(rows):
    place = {k: n for n, k in enumerate(lower)}
    lines = [(i, place[b]) for i, a in enumerate(upper) for b in below[a]]
    total += sum(
      (a[0] - b[0]) * (a[1] - b[1]) < 0
      for a, b in itertools.combinations(lines, 2)
    )
  return total


# Places ----------------------------------------------------------------------


def _places(
  rows: Rows, above: Links, below: Links, size, gap: float
) -> dict[Key, float]:
  """Centres: near the neighbours, in order and apart."""
  apart = [
    [(size(a) + size(b)) / 2 + gap for a, b in itertools.pairwise(row)]
    for row in rows
  ]
  x: dict[Key, float] = {}
  for row, steps in zip(rows, apart, strict=True):
    starts = np.cumsum([0.0, *steps])
    x |= dict(zip(row, (starts - starts.mean()).tolist(), strict=True))

  def pull(r: int, links: tuple[Links, ...]) -> None:
    goals, weights = [], []
    for key in rows[r]:
      near = [(_pull_of(key, k), x[k]) for part in links for k in part[key]]
      total = sum(w for w, _ in near)
      goals.append(sum(w * v for w, v in near) / total if near else x[key])
      weights.append(total or 0.1)
    x.update(zip(rows[r], keep_apart(goals, weights, apart[r]), strict=True))

  for i in range(PULLS):
    # Late pulls look both ways, so that no row is left off centre.
    late = i >= PULLS // 2
    for order, links in (
      (range(1, len(rows)), above), (range(len(rows) - 2, -1, -1), below),
    ):  # fmt: skip
      for r in order:
        pull(r, (above, below) if late else (links,))
  return x


def _pull_of(a: Key, b: Key) -> int:
  return _STRAIGHT[isinstance(a, tuple) + isinstance(b, tuple)]


def keep_apart(
  goals: Sequence[float], weights: Sequence[float], apart: Sequence[float]
) -> list[float]:
  """Places next to their goals (weighted squares) at least so far apart.

  Args:
    goals: wanted places, in the order that is kept, `[n]`.
    weights: positive, `[n]`.
    apart: least distances of neighbours, `[n - 1]`.

  Returns:
    The places, ascending, `[n]`; exact, by pooling adjacent violators.
  """
  offsets = np.cumsum([0.0, *apart])
  pools: list[list[float]] = []  # value, weight, how many
  for goal, weight, offset in zip(goals, weights, offsets, strict=True):
    pools.append([goal - offset, weight, 1])
    while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
      value, weight_, n = pools.pop()
      last = pools[-1]
      last[0] = (last[0] * last[1] + value * weight_) / (last[1] + weight_)
      last[1], last[2] = last[1] + weight_, last[2] + n
  values = [value for value, _, n in pools for _ in range(int(n))]
  return [v + float(o) for v, o in zip(values, offsets, strict=True)]
