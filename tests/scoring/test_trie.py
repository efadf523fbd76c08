"""The trie against brute force, and its walk against simulated memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxnas.scoring.trie import Trie, sort_archs


@st.composite
def candidates(draw):
  """`int32[n, L]` with unequal numbers of choices, often with repeats."""
  n = draw(st.integers(1, 30))
  n_choices = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
  column = lambda k: hnp.arrays(np.int32, n, elements=st.integers(0, k - 1))
  return np.stack([draw(column(k)) for k in n_choices], 1)


@st.composite
def tries(draw):
  """Distinct sorted archs and room for some nodes of each layer."""
  archs = np.unique(draw(candidates()), axis=0)
  room = st.integers(1, draw(st.sampled_from([1, 3, 40])))
  size = archs.shape[1]
  return archs, draw(st.lists(room, min_size=size, max_size=size))


def prefixes(archs: np.ndarray, length: int) -> list[tuple[int, ...]]:
  """Distinct prefixes of a length, in lexicographic order."""
  return sorted({tuple(row[:length].tolist()) for row in archs})


@given(candidates())
def test_sorting_gives_distinct_rows_in_order_and_the_way_back(archs):
  distinct, rows = sort_archs(archs)
  assert [tuple(a) for a in distinct.tolist()] == prefixes(archs, len(archs.T))
  assert rows.shape == (len(archs),)
  np.testing.assert_array_equal(distinct[rows], archs)


@given(tries())
def test_nodes_are_the_distinct_prefixes(case):
  archs, _ = case
  trie = Trie(archs)
  assert len(trie.sizes) == archs.shape[1]
  above = [()]
  for l, size in enumerate(trie.sizes):
    expected = prefixes(archs, l + 1)
    assert size == len(expected)
    found = [
      (*above[p], int(c))
      for p, c in zip(trie.parents[l], trie.choices[l], strict=True)
    ]
    assert found == expected
    above = found


@given(tries())
def test_walk_reads_only_what_is_live_and_visits_every_node_once(case):
  archs, capacity = case
  n_layers = archs.shape[1]
  expected = [prefixes(archs, l + 1) for l in range(n_layers)]
  # Pool l + 1 holds the prefixes that the last step of layer l computed, and
  # no older ones; they end on l + 1 choices. A parent is a place in a pool.
  pools = [[()]] + [[] for _ in range(n_layers)]
  visited = [[] for _ in range(n_layers)]
  for step in Trie(archs).walk(capacity):
    l, m = step.layer, len(step.choices)
    assert 0 < m <= capacity[l]
    assert step.parents.shape == (m,)
    assert step.parents.dtype == step.choices.dtype == np.int32
    assert step.parents.min() >= 0
    # Reading past the end of a pool raises IndexError.
    pools[l + 1] = [
      (*pools[l][p], c)
      for p, c in zip(step.parents.tolist(), step.choices.tolist(), strict=True)
    ]
    # What hung on the nodes that this step replaced is dead, too.
    pools[l + 2 :] = [[] for _ in pools[l + 2 :]]
    assert pools[l + 1] == expected[l][step.first : step.first + m]
    visited[l] += pools[l + 1]
  # Each once and in order; those of the last layer are the archs themselves.
  assert visited == expected
  assert visited[-1] == [tuple(a) for a in archs.tolist()]


@given(tries())
def test_room_that_holds_a_layer_takes_one_step_for_it(case):
  archs, _ = case
  trie = Trie(archs)
  steps = list(trie.walk(trie.sizes))
  assert [s.layer for s in steps] == list(range(archs.shape[1]))
  assert [len(s.choices) for s in steps] == trie.sizes


def test_walk_goes_depth_first_where_room_is_short():
  archs = np.array([[0, 0], [0, 1], [1, 0]], np.int32)
  steps = [
    (s.layer, s.first, s.parents.tolist(), s.choices.tolist())
    for s in Trie(archs).walk([1, 2])
  ]
  assert steps == [
    (0, 0, [0], [0]), (1, 0, [0, 0], [0, 1]), (0, 1, [0], [1]),
    (1, 2, [0], [0]),
  ]  # fmt: skip


def test_one_path_is_a_chain():
  trie = Trie(np.array([[2, 0, 1]], np.int32))
  assert trie.sizes == [1, 1, 1]
  assert [c.tolist() for c in trie.choices] == [[2], [0], [1]]


@given(tries(), st.data())
def test_repeats_are_refused(case, data):
  archs, _ = case
  again = data.draw(st.integers(0, len(archs) - 1))
  with pytest.raises(ValueError, match="repeat"):
    Trie(np.insert(archs, again, archs[again], axis=0))
