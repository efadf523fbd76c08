"""Segments of a chain, and super-cells that stand for earlier layers."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Segment:
  """Layers `start` to `stop`, behind a super-cell if `start` is above 0.

  A *node* is a choice of the super-cell or of a cell.

  Attributes:
    start: first layer of its cells.
    stop: first layer behind them.
    expand: layers 0 to `start` that each choice of the super-cell stands for,
      `int32[k, start]`.
    cells: choices of each cell, `int32[stop - start]`.
  """

  start: int
  stop: int
  expand: np.ndarray
  cells: np.ndarray

  @property
  def n_choices(self) -> np.ndarray:
    """Choices of each node."""
    if not self.start:
      return self.cells
    return np.concatenate([[len(self.expand)], self.cells]).astype(np.int32)

  def all_nodes(self) -> np.ndarray:
    """Every combination of choices, `int32[size, nodes]`."""
    return np.indices(self.n_choices, np.int32).reshape(
      len(self.n_choices), -1
    ).T  # fmt: skip

  def expanded(self, nodes: np.ndarray) -> np.ndarray:
    """Layers 0 to `stop` that choices of nodes stand for, `int32[n, stop]`."""
    if not self.start:
      return nodes
    return np.concatenate([self.expand[nodes[:, 0]], nodes[:, 1:]], 1)

  def nodes_of(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of `expanded`, for any archs.

    Args:
      archs: `int32[n, L]`.

    Returns:
      `int32[m, nodes]` of those that begin as a choice of the super-cell does,
      and their rows in `archs`.
    """
    if not self.start:
      return archs[:, : self.stop], np.arange(len(archs))
    heads = archs[:, None, : self.start] == self.expand
    rows, choice = np.nonzero(heads.all(-1))
    cells = archs[rows, self.start : self.stop]
    return np.concatenate([choice[:, None], cells], 1).astype(np.int32), rows


@dataclasses.dataclass(frozen=True)
class Listing(Segment):
  """A listed space as one segment: what is predicted are its rows."""

  rows: np.ndarray = None

  def all_nodes(self) -> np.ndarray:
    """See `Segment`."""
    return self.rows


def segment_bounds(n_layers: int, first: int, later: int) -> list[tuple]:
  """Returns `(start, stop)` of each segment; the last takes what is left.

  19 layers with 7 and 7 give 7 + 6 + 6, since each later segment counts its
  super-cell (ours; the paper's space is not established).

  Args:
    n_layers: of the space.
    first: cells of the first segment.
    later: nodes of each later one, its super-cell included.
  """
  stops = list(range(first, n_layers, later - 1))
  return list(zip([0, *stops], [*stops, n_layers], strict=True))


def best_rows(
  values: np.ndarray, rows: np.ndarray, unscored: np.ndarray, n: int
) -> np.ndarray:
  """The rows with the largest values, down to the n-th that has no score.

  Args:
    values: `float64[m]`.
    rows: which of them take part.
    unscored: `bool[m]`; the others cost nothing and come along.
    n: rows to pay for.
  """
  order = rows[np.argsort(-values[rows], kind="stable")]
  paid = np.cumsum(unscored[order])
  return order[: np.searchsorted(paid, n) + 1]


def spread_out(
  prefixes: np.ndarray, bins: np.ndarray, n: int, n_bins: int, distance: int
) -> list[int]:
  """Rows to keep: every bin in turn gives its best that is unlike the others.

  Args:
    prefixes: the best first, `int32[m, l]`.
    bins: cost bin of each.
    n: rows to keep.
    n_bins: number of bins.
    distance: least number of layers in which any two differ.
  """
  queues = [np.flatnonzero(bins == b).tolist() for b in range(n_bins)]
  kept: list[int] = []
  while any(queues) and len(kept) < n:
    for queue in queues:
      while queue and len(kept) < n:
        row = queue.pop(0)
        unlike = (prefixes[kept] != prefixes[row]).sum(1) >= distance
        if unlike.all():
          kept.append(row)
          break
  return sorted(kept)
