"""Counting and numbering feasible archs, against brute force."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnas.costs import cost_tables, feasible
from jaxnas.costs.axis import make_axis
from jaxnas.costs.table import CostTable
from jaxnas.spaces import get_space


def everything(rows) -> np.ndarray:
  grids = itertools.product(*(range(len(row)) for row in rows))
  return np.array(list(grids), np.int32)


def costs_of(rows, archs) -> np.ndarray:
  return sum(row[choice] for row, choice in zip(rows, archs.T, strict=True))


@st.composite
def problems(draw, fewest_axes=0):
  """Ragged rows with a choice of 0 for each of up to 3 axes, and slack."""
  axes = draw(st.integers(fewest_axes, 3))
  rows = []
  for k in draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)):
    flat = draw(
      st.lists(st.integers(0, 12), min_size=k * axes, max_size=k * axes)
    )
    row = np.array(flat, np.int64).reshape(k, axes)
    rows.append(row - row.min(0))
  slack = draw(st.lists(st.integers(0, 30), min_size=axes, max_size=axes))
  return rows, np.array(slack, np.int64)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_graph_is_the_feasible_archs_in_order(problem):
  rows, slack = problem
  archs = everything(rows)
  kept = (costs_of(rows, archs) <= slack).all(-1)
  graph = feasible.build(rows, slack)
  assert graph.exact
  assert graph.count == kept.sum()
  np.testing.assert_array_equal(
    graph.unrank(np.arange(graph.count)), archs[kept]
  )
  want = np.where(kept, np.cumsum(kept) - 1, -1)
  np.testing.assert_array_equal(graph.rank(archs), want)


@settings(deadline=None, max_examples=100)
@given(problems(), st.integers(1, 6))
def test_a_coarse_grid_only_leaves_out(problem, most):
  rows, slack = problem
  archs = everything(rows)
  kept = (costs_of(rows, archs) <= slack).all(-1)
  graph = feasible.build(rows, slack, most)
  assert max(len(step) - 1 for step in graph.steps) <= most
  found = graph.unrank(np.arange(graph.count))
  assert (costs_of(rows, found) <= slack).all()
  assert len(np.unique(found, axis=0)) == graph.count <= kept.sum()
  np.testing.assert_array_equal(graph.rank(found), np.arange(graph.count))
  if graph.exact:
    assert graph.count == kept.sum()
  if len(slack) == 1:  # the cheapest arch always stays
    assert graph.count > 0


def test_negative_slack_leaves_nothing():
  rows = [np.array([[0], [1]])] * 2
  graph = feasible.build(rows, np.array([-1]))
  archs = everything(rows)
  assert graph.count == 0
  np.testing.assert_array_equal(graph.rank(archs), [-1] * 4)
  assert graph.draw(np.random.default_rng(0), 3, archs).shape == (0, 2)


@settings(deadline=None, max_examples=100)
@given(problems(fewest_axes=1))
def test_pareto_archs(problem):
  rows, slack = problem
  costs, found = feasible.nondominated(rows, slack)
  np.testing.assert_array_equal(costs_of(rows, found), costs)
  every = costs_of(rows, everything(rows))
  every = np.unique(every[(every <= slack).all(1)], axis=0)
  beaten = [((every <= c).all(1) & (every < c).any(1)).any() for c in every]
  want = every[~np.array(beaten, bool)]
  np.testing.assert_array_equal(np.unique(costs, axis=0), want)
  assert len(costs) == len(want)
  if len(found):
    graph = feasible.from_archs(found, np.array([len(r) for r in rows]))
    assert graph.count == len(found) and not graph.exact
    listed = graph.unrank(np.arange(len(found)))
    np.testing.assert_array_equal(listed, np.unique(found, axis=0))


@settings(deadline=None, max_examples=100)
@given(problems(), st.data())
def test_extremes(problem, data):
  rows, slack = problem
  price = [
    np.array(data.draw(st.lists(st.integers(-9, 9), min_size=k, max_size=k)))
    for k in map(len, rows)
  ]
  graph = feasible.build(rows, slack)
  if graph.count:
    costs = costs_of(price, graph.unrank(np.arange(graph.count)))
    assert graph.extremes(price) == (costs.min(), costs.max())


def dictionary_count(rows, slack: int) -> int:
  """Number of archs within one bound, by sums in a dictionary."""
  sums = Counter({0: 1})
  for row in rows:
    after = Counter()
    for total, ways in sums.items():
      for price in row.tolist():
        after[total + price] += ways
    sums = after
  return sum(ways for total, ways in sums.items() if total <= slack)


@pytest.mark.parametrize(("name", "limit"), [
  ("macs", 330e6), ("macs", 480_000_000), ("params", 3.9e6),
])  # fmt: skip
def test_fairnas_is_counted_exactly(name, limit):
  axis = make_axis(cost_tables(get_space("fairnas"))[name])
  graph = feasible.build(
    list(axis.above[..., None]), np.array([axis.slack(limit)])
  )
  assert graph.exact
  assert graph.count == dictionary_count(axis.above, axis.slack(limit))


def test_counts_beyond_64_bits():
  rng = np.random.default_rng(0)
  rows = [np.append(0, rng.integers(0, 40, 8))[:, None] for _ in range(22)]
  slack = np.array([500])
  graph = feasible.build(rows, slack)
  assert graph.exact
  count = dictionary_count([row[:, 0] for row in rows], 500)
  assert graph.count == count > 2**64
  archs = graph.sample(rng, 300)
  assert (costs_of(rows, archs) <= slack).all()
  ranks = graph.rank(archs)
  assert max(ranks) > 2**64
  np.testing.assert_array_equal(graph.unrank(ranks), archs)
  # Uniform numbers: their share of the range is.
  share = np.array([rank / count for rank in ranks])
  assert stats.kstest(share, "uniform").pvalue > 1e-3
  drawn = graph.draw(rng, 300, archs)
  keys = {row.tobytes() for row in np.concatenate([archs, drawn])}
  assert len(keys) == 600
  first, last = graph.unrank(np.array([0, count - 1], object))
  assert not first.any() and graph.rank(last[None])[0] == count - 1


SMALL = [np.array(r)[:, None] for r in ([0, 3, 5], [2, 0], [0, 1, 1, 4], [0])]


@pytest.fixture(scope="module")
def small() -> feasible.Graph:
  graph = feasible.build(SMALL, np.array([6]))
  assert graph.count == 17
  return graph


def test_samples_are_uniform(small):
  ranks = small.rank(small.sample(np.random.default_rng(0), 17 * 400))
  assert stats.chisquare(np.bincount(ranks, minlength=17)).pvalue > 1e-3


def test_completions_are_uniform(small):
  archs = small.complete(
    np.random.default_rng(0), np.repeat([[1], [0]], 3000, 0).astype(np.int32)
  )
  every = small.unrank(np.arange(17))
  for prefix, part in ((1, archs[:3000]), (0, archs[3000:])):
    assert (part[:, 0] == prefix).all()
    counts = np.bincount(small.rank(part), minlength=17)
    assert not counts[every[:, 0] != prefix].any()
    assert stats.chisquare(counts[every[:, 0] == prefix]).pvalue > 1e-3


def test_draws_are_uniform_over_the_unseen(small):
  rng = np.random.default_rng(1)
  seen = small.unrank(np.array([0, 3, 4, 16, 9]))
  seen = np.concatenate([seen, seen[:2], [[2, 0, 3, 0]]])  # twice, unfeasible
  drawn = [small.rank(small.draw(rng, 4, seen)) for _ in range(2600)]
  assert all(len(set(ranks)) == 4 for ranks in drawn)
  free = np.setdiff1d(np.arange(17), [0, 3, 4, 16, 9])
  counts = np.bincount(np.concatenate(drawn), minlength=17)
  assert counts[free].sum() == counts.sum() == 4 * 2600
  assert stats.chisquare(counts[free]).pvalue > 1e-3
  first = np.bincount([ranks[0] for ranks in drawn], minlength=17)
  assert stats.chisquare(first[free]).pvalue > 1e-3


def test_draws_exhaust(small):
  rng = np.random.default_rng(2)
  every = small.unrank(np.arange(17))
  for n in (17, 99):
    drawn = small.draw(rng, n, every[:0])
    np.testing.assert_array_equal(np.sort(small.rank(drawn)), np.arange(17))
  assert small.draw(rng, 5, every).shape == (0, 4)
  assert small.draw(rng, -1, every[:3]).shape == (0, 4)
  (last,) = small.rank(small.draw(rng, 5, np.delete(every, 7, 0)))
  assert last == 7


# Costs in whole units -------------------------------------------------------


def table(rows, fixed=0) -> CostTable:
  width = max(map(len, rows))
  padded = np.array([list(r) + [0] * (width - len(r)) for r in rows])
  return CostTable("c", fixed, padded, np.array([len(r) for r in rows]))


def test_integers_keep_their_differences():
  axis = make_axis(table([[7, 13, 10], [5], [9, 6]], fixed=100))
  assert (axis.unit, axis.lowest, axis.scale, axis.exact) == (3, 118, 1, True)
  np.testing.assert_array_equal(axis.above, [[0, 2, 1], [0, 0, 0], [1, 0, 0]])
  np.testing.assert_array_equal(
    axis.flipped(), [[2, 0, 1], [0, 0, 0], [0, 1, 0]]
  )
  assert axis.span == 3
  slack = {117.9: -1, 118: 0, 120.999: 0, 121: 1, 127: 3, 9e99: 3, np.inf: 3}
  assert {limit: axis.slack(limit) for limit in slack} == slack


def test_decimals_are_decimals():
  # As floats, 0.1 + 0.2 + 0.3 is above 0.6 and 0.1 * 3 above 0.3.
  axis = make_axis(table([[0.1, 0.2, 0.3]] * 3))
  assert (axis.scale, axis.unit, axis.lowest) == (10, 1, 3)
  np.testing.assert_array_equal(axis.above, [[0, 1, 2]] * 3)
  assert [axis.slack(v) for v in (0.3, 0.6, 0.7 - 0.1, 0.59)] == [0, 3, 3, 2]


@settings(deadline=None)
@given(
  st.lists(
    st.lists(st.floats(1e-3, 1e2), min_size=1, max_size=4),
    min_size=1, max_size=5,
  ),
  st.floats(0, 50),
  st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_the_cost_of_an_arch_is_a_bound_it_keeps(rows, fixed, seed):
  cost = table(rows, fixed)
  axis = make_axis(cost)
  rng = np.random.default_rng(seed)
  arch = rng.integers(cost.n_choices).astype(np.int32)[None]
  spent, value = axis.spent(arch)[0], cost(arch)[0]
  assert spent <= axis.slack(value)
  assert spent > axis.slack(value - 1e-9 * cost.largest)
  whole = (axis.lowest + axis.unit * int(spent)) / axis.scale
  assert whole == pytest.approx(value, rel=1e-12)
