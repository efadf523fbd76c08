"""Archs as graphs: chains with slots for choices, and arbitrary DAGs.

A graph has one *global* node that receives from all nodes, loops on every
node, and edges along (or along and against) the flow of data. Feature columns:
choices or node types, then what kind of node it is, then its position; a chain
without positions could not tell layer 3 from layer 5 (spec 3.3, ours).
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jraph
import numpy as np

from jaxnas.errors import UserError
from jaxnas.predictors.features import offsets

KINDS = ("cell", "input", "output", "global")


@dataclasses.dataclass(frozen=True)
class Chain:
  """The graph of a segment: input, cells or super-cells in turn, output.

  Nodes are numbered cells first, then input, output and global node.

  Attributes:
    n_choices: choices of each cell; a super-cell has those of its sub-archs.
    shared_slots: all cells share one set of slots; else each has its own.
    directed: edges along the flow only, else in both directions.
  """

  n_choices: tuple[int, ...]
  shared_slots: bool = False
  directed: bool = False

  @property
  def n_cells(self) -> int:
    """Number of cells and super-cells."""
    return len(self.n_choices)

  @property
  def n_nodes(self) -> int:
    """Cells, input, output and global node."""
    return self.n_cells + 3

  @property
  def n_slots(self) -> int:
    """Columns of choices."""
    return max(self.n_choices) if self.shared_slots else sum(self.n_choices)

  @property
  def n_features(self) -> int:
    """Columns of choices, kinds and positions."""
    return self.n_slots + len(KINDS) + self.n_cells

  @property
  def first_slots(self) -> np.ndarray:
    """The column of each cell's choice 0, `int32[cells]`."""
    first = offsets(np.array(self.n_choices))
    return np.zeros_like(first) if self.shared_slots else first

  @functools.cached_property
  def fixed_features(self) -> np.ndarray:
    """Features that no choice changes, `float32[nodes, features]`."""
    cells = self.n_cells
    x = np.zeros((self.n_nodes, self.n_features), np.float32)
    kinds = [0] * cells + [1, 2, 3]
    x[np.arange(self.n_nodes), self.n_slots + np.array(kinds)] = 1
    x[np.arange(cells), self.n_slots + len(KINDS) + np.arange(cells)] = 1
    return x

  @functools.cached_property
  def edges(self) -> tuple[np.ndarray, np.ndarray]:
    """Senders and receivers, `int32[edges]` each."""
    cells = self.n_cells
    path = [cells, *range(cells), cells + 1]
    flow = list(zip(path[:-1], path[1:], strict=True))
    return _edges(flow, self.n_nodes, self.directed)

  @functools.cached_property
  def adjacency(self) -> np.ndarray:
    """Row-normalised, `float32[receivers, senders]`; see `normalised`."""
    return normalised(*self.edges, self.n_nodes)

  @functools.cached_property
  def reverse_adjacency(self) -> np.ndarray:
    """The same with every edge turned around."""
    senders, receivers = self.edges
    return normalised(receivers, senders, self.n_nodes)

  def graphs(self, archs: np.ndarray) -> jraph.GraphsTuple:
    """Archs as graphs.

    Args:
      archs: `int32[n, cells]`.

    Returns:
      Graphs stacked: every array has a leading axis `n` (`nodes`
      `float32[n, nodes, features]`); nothing is padded.
    """
    n, cells = archs.shape
    nodes = np.repeat(self.fixed_features[None], n, 0)
    rows, cell = np.indices(archs.shape)
    nodes[rows, cell, archs + self.first_slots] = 1
    senders, receivers = (np.repeat(e[None], n, 0) for e in self.edges)
    return jraph.GraphsTuple(
      nodes=nodes,
      edges=np.zeros((n, senders.shape[1], 0), np.float32),
      senders=senders,
      receivers=receivers,
      globals=None,
      n_node=np.full((n, 1), self.n_nodes, np.int32),
      n_edge=np.full((n, 1), senders.shape[1], np.int32),
    )


def normalised(
  senders: np.ndarray, receivers: np.ndarray, n_nodes: int
) -> np.ndarray:
  """Row-normalised adjacency `D^-1 A`, rows receive and sum to 1.

  Args:
    senders: `int[edges]`.
    receivers: `int[edges]`.
    n_nodes: every one of them receives something.

  Returns:
    `float32[n_nodes, n_nodes]`.
  """
  a = np.zeros((n_nodes, n_nodes), np.float32)
  np.add.at(a, (receivers, senders), 1)
  return a / a.sum(1, keepdims=True)


def _edges(
  flow: Sequence[tuple[int, int]], n_nodes: int, directed: bool
) -> tuple[np.ndarray, np.ndarray]:
  """Edges of the flow, then against it, loops, and to the last node."""
  pairs = list(flow)
  if not directed:
    pairs += [(r, s) for s, r in flow]
  pairs += [(i, i) for i in range(n_nodes)]
  pairs += [(i, n_nodes - 1) for i in range(n_nodes - 1)]
  senders, receivers = np.array(pairs, np.int32).T
  return senders, receivers


def dag(
  node_types: Sequence[int],
  edges: Sequence[tuple[int, int]],
  labels: Sequence[int] | None = None,
  *,
  n_types: int,
  n_labels: int = 0,
  n_positions: int = 0,
  directed: bool = False,
) -> jraph.GraphsTuple:
  """A cell or network as one graph, with a global node added.

  Args:
    node_types: operator or role of each node, 0 to `n_types - 1`.
    edges: (sender, receiver) pairs along the flow, without a cycle.
    labels: operator on each edge, 0 to `n_labels - 1`, as in cells whose edges
      carry operators.
    n_types: columns of node types.
    n_labels: columns of edge labels.
    n_positions: columns that number the nodes in the order given; 0 where the
      order means nothing.
    directed: edges along the flow only, else in both directions.

  Returns:
    One graph; give a list of them to `stack`.

  Raises:
    UserError: for a type, label or node out of range, or a cycle.
  """
  n = len(node_types)
  labels = [] if labels is None else list(labels)
  if len(labels) != (len(edges) if n_labels else 0):
    raise UserError(
      f"{len(labels)} labels for {len(edges)} edges and {n_labels} kinds of"
      " label; each edge needs one where there are kinds."
    )
  for what, values, stop in (
    ("node type", node_types, n_types),
    ("edge label", labels, n_labels),
    ("node of an edge", [v for e in edges for v in e], n),
  ):
    bad = [v for v in values if not 0 <= v < stop]
    if bad:
      raise UserError(f"{what} {bad[0]}; legal: 0 to {stop - 1}.")
  if n_positions and n_positions < n:
    raise UserError(f"{n} nodes, but only {n_positions} positions.")
  _check_acyclic(n, edges)
  senders, receivers = _edges(edges, n + 1, directed)
  nodes = np.zeros((n + 1, n_types + 1 + n_positions), np.float32)
  nodes[np.arange(n), list(node_types)] = 1
  nodes[n, n_types] = 1  # the global node
  if n_positions:
    nodes[np.arange(n), n_types + 1 + np.arange(n)] = 1
  marks = np.zeros((len(senders), n_labels), np.float32)
  for i, label in enumerate(labels):
    marks[i, label] = 1
    if not directed:
      marks[len(edges) + i, label] = 1
  return jraph.GraphsTuple(
    nodes=nodes, edges=marks, senders=senders, receivers=receivers,
    globals=None, n_node=np.array([n + 1]), n_edge=np.array([len(senders)]),
  )  # fmt: skip


def _check_acyclic(n: int, edges: Sequence[tuple[int, int]]) -> None:
  waiting = np.zeros(n, int)
  for _, r in edges:
    waiting[r] += 1
  free = [i for i in range(n) if not waiting[i]]
  done = 0
  while free:
    node = free.pop()
    done += 1
    for s, r in edges:
      if s == node:
        waiting[r] -= 1
        if not waiting[r]:
          free.append(r)
  if done < n:
    raise UserError("the edges of a graph form a cycle; give them as a DAG.")


def stack(
  graphs: Sequence[jraph.GraphsTuple],
  n_node: int | None = None,
  n_edge: int | None = None,
) -> jraph.GraphsTuple:
  """Pads graphs to one size and stacks them.

  Args:
    graphs: of `dag`, with equal columns.
    n_node: nodes to pad to, above those of the largest graph; by default one
      more.
    n_edge: edges to pad to, at least those of the largest graph.

  Returns:
    Every array with a leading axis of graphs; padding nodes have features 0.
  """
  n_node = n_node or 1 + max(int(g.n_node.sum()) for g in graphs)
  n_edge = n_edge or max(int(g.n_edge.sum()) for g in graphs)
  padded = [jraph.pad_with_graphs(g, n_node, n_edge, 2) for g in graphs]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
