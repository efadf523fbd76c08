"""Network structure codes: the wiring of a block, written layer by layer.

A code is `(op, pred1, pred2)`; the index of a layer is its place, counted from
1, and index 0 is the block's input. BlockQNN writes `(index, type, kernel,
pred1, pred2)` (from independent sources); type and kernel are one number here.
A block is the codes of its layers, ended by the terminal code `(0, 0, 0)`.
"""

import functools
from typing import NamedTuple

import numpy as np

# The number of an operation is its place in this tuple.
OPS = (
  "none", "conv1", "conv3", "conv5", "max1", "max3", "avg1", "avg3",
  "identity", "add", "concat",
)  # fmt: skip
NONE, IDENTITY, ADD, CONCAT = 0, 8, 9, 10
CONVS, POOLS, TWO_INPUTS = (1, 2, 3), (4, 5, 6, 7), (ADD, CONCAT)
# Side of the window; 0 where there is none.
KERNELS = (0, 1, 3, 5, 1, 3, 1, 3, 0, 0, 0)
# Pooling over one pixel at stride 1 is the identity.
SAME_AS_IDENTITY = (4, 6)


class Code(NamedTuple):
  """One layer: number of its operation, and the layers that it reads."""

  op: int
  pred1: int
  pred2: int


TERMINAL = Code(0, 0, 0)


@functools.cache
def next_codes(index: int) -> tuple[Code, ...]:
  """Lists the codes that may follow, the actions of BlockQNN's agent.

  Operations with one input read any earlier layer; additions and
  concatenations read an ordered pair of two different ones.

  Args:
    index: of the next layer, 1 or more.

  Returns:
    `8 i + 2 i (i - 1)` codes in ascending order; from index 2 on preceded by
    the terminal code, so 8, 21, 81, 261, 1197 at 1, 2, 5, 10, 23.
  """
  codes = [TERMINAL] if index > 1 else []
  codes += [
    Code(op, p, 0) for op in range(1, IDENTITY + 1) for p in range(index)
  ]
  codes += [
    Code(op, a, b) for op in TWO_INPUTS for a in range(index)
    for b in range(index) if a != b
  ]  # fmt: skip
  return tuple(codes)


def reads(code: Code) -> tuple[int, ...]:
  """The layers that a code reads: none, one or two."""
  if code.op == NONE:
    return ()
  return code[1:] if code.op in TWO_INPUTS else code[1:2]


def leaves(codes: tuple[Code, ...]) -> list[int]:
  """Indices of the layers that no other reads, ascending.

  They are concatenated into the output of the block.
  """
  used = {p for code in codes for p in reads(code)}
  return [i for i in range(1, len(codes) + 1) if i not in used]


def dag(codes: tuple[Code, ...]) -> tuple[list[str], np.ndarray]:
  """A block as a directed graph, for predictors and drawings.

  Args:
    codes: of the block.

  Returns:
    The m + 2 nodes in topological order, `input`, the operations of the layers,
    `output`; and `bool[m + 2, m + 2]`, whether column j reads row i.
  """
  n = len(codes) + 2
  edges = np.zeros((n, n), bool)
  for i, code in enumerate(codes, 1):
    edges[list(reads(code)), i] = True
  edges[leaves(codes), -1] = True
  return ["input", *(OPS[code.op] for code in codes), "output"], edges


def density(codes: tuple[Code, ...]) -> float:
  """Edges over nodes of a block's graph (`dag`).

  The sources do not say which nodes count; that input and output do is ours.
  """
  nodes, edges = dag(codes)
  return float(edges.sum() / len(nodes))


def to_text(code: Code) -> str:
  """Writes one layer, such as `conv3@0` or `add@0+2`."""
  return f"{OPS[code.op]}@{'+'.join(map(str, reads(code)))}"


def edit_distance(a: tuple[Code, ...], b: tuple[Code, ...]) -> int:
  """Layers to insert, remove or change that make one block of another.

  Codes are equal if their operations are, and what they read lies equally far
  back (ours): wiring counts, not the place in the block.

  Args:
    a: codes of a block, in canonical form for a fair count.
    b: the same.
  """
  first, second = _relative(a), _relative(b)
  row = np.arange(len(second) + 1)
  for i, token in enumerate(first, 1):
    above, row = row, np.full(len(second) + 1, i)
    for j, other in enumerate(second, 1):
      row[j] = min(
        above[j] + 1, row[j - 1] + 1, above[j - 1] + (token != other)
      )
  return int(row[-1])


def _relative(codes: tuple[Code, ...]) -> list[tuple[int, ...]]:
  return [
    (code.op, *(i - p for p in reads(code))) for i, code in enumerate(codes, 1)
  ]
