"""The prefix trie of a set of archs, and the order in which it is computed.

With fixed images, activations and recalibrated batch-norm statistics after
layer l depend on choices 1..l only. Sorted archs that share a prefix are
neighbours, so the distinct prefixes of every length, the nodes of the trie,
are runs of rows. Node i of a layer has consecutive children in the next one.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Step:
  """One call: some nodes of one layer, computed from parents that are live.

  Attributes:
    layer: the layer.
    first: number, within the layer, of the first node; the others follow.
    parents: `int32[m]`, where each node's parent is among the nodes of the
      last step of the layer before.
    choices: `int32[m]`.
  """

  layer: int
  first: int
  parents: np.ndarray
  choices: np.ndarray


class Trie:
  """Distinct prefixes of archs.

  Args:
    archs: `int32[n, L]`, distinct rows in lexicographic order.
  """

  def __init__(self, archs: np.ndarray) -> None:
    new = np.ones(len(archs), bool)
    new[1:] = (archs[1:] != archs[:-1]).any(1)
    if not new.all():
      raise ValueError("archs repeat.")
    starts = np.zeros(len(archs), bool)
    starts[0] = True
    self.choices, self.parents, self.children = [], [], []
    number = np.zeros(len(archs), np.int64)  # of each arch's node, layer before
    for column in archs.T:
      starts[1:] |= column[1:] != column[:-1]
      rows = np.flatnonzero(starts)
      parents = number[rows]
      self.choices.append(column[rows].astype(np.int32))
      self.parents.append(parents)
      # The children of node p are nodes children[p] to children[p + 1].
      bounds = np.arange(number[-1] + 2)
      self.children.append(np.searchsorted(parents, bounds))
      number = np.cumsum(starts) - 1

  @property
  def sizes(self) -> list[int]:
    """Nodes of each layer."""
    return [len(c) for c in self.choices]

  def walk(self, capacity: Sequence[int]) -> Iterator[Step]:
    """Visits every node once, depth first, `capacity[l]` of layer l at a time.

    Only the nodes of the last step of each layer need to be kept. Those of the
    last layer come in order, so their numbers are the archs'.
    """
    yield from self._descend(0, 0, 1, capacity)

  def _descend(self, layer, low, high, capacity):
    if layer == len(self.choices):
      return
    begin, end = self.children[layer][[low, high]]
    for first in range(begin, end, capacity[layer]):
      stop = min(first + capacity[layer], end)
      yield Step(
        layer, first,
        (self.parents[layer][first:stop] - low).astype(np.int32),
        self.choices[layer][first:stop],
      )  # fmt: skip
      yield from self._descend(layer + 1, first, stop, capacity)


def sort_archs(archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct archs in lexicographic order.

  Args:
    archs: `int32[n, L]`.

  Returns:
    The distinct rows `int32[u, L]`, and `int64[n]`, the row of each arch.
  """
  distinct, rows = np.unique(archs, axis=0, return_inverse=True)
  return distinct, rows.reshape(-1)
