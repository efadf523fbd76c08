"""Segment-wise search: arithmetic, labels, look-up, budgets, resuming."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.config import PredictorConfig, SearchConfig, SegmentsConfig
from jaxnas.costs import Budget, CostTable
from jaxnas.errors import RunError, UserError
from jaxnas.search import run_search
from jaxnas.search.segments import MOST_PREDICTED, SegmentSearch
from jaxnas.search.supercell import Segment, segment_bounds
from jaxnas.spaces import Conv, Layer, Space

CHOICES = (3, 4, 3, 2, 4, 3, 3)
RNG = np.random.default_rng(0)
WORTH = RNG.normal(size=(len(CHOICES), 4))
PRICE = RNG.integers(1, 60, (len(CHOICES), 4))


def make_space(n_choices=CHOICES) -> Space:
  kernels = (1, 3, 5, 7, 9, 11)
  layers = tuple(
    Layer(tuple(Conv(k) for k in kernels[:n]), 4) for n in n_choices
  )
  return Space("chain", 8, 1, 2, (), layers)


SPACE = make_space()
COSTS = {"macs": CostTable("macs", 100, PRICE, SPACE.n_choices)}
RIDGE = PredictorConfig(kind="ridge")
SMALL = SegmentsConfig(
  first=3, later=3, top_k=4, samples=40, candidates=12, batch=17
)


def objective(archs):
  layers = np.arange(archs.shape[1])
  return {
    "accuracy": WORTH[layers, archs].sum(1),
    "macs": COSTS["macs"](archs).astype(float),
  }


def searcher(budget="", segments=SMALL, **changes) -> SegmentSearch:
  config = SearchConfig(
    objectives=("accuracy",), predictor=RIDGE, segments=segments, **changes
  )
  return SegmentSearch(SPACE, Budget.parse(budget, COSTS, SPACE), config, COSTS)


def run(search, objective=objective, seed=0, rounds=10_000):
  return run_search(search, objective, rounds, search.init(seed))


def every_arch() -> np.ndarray:
  return np.indices(CHOICES, np.int32).reshape(len(CHOICES), -1).T


# Arithmetic -------------------------------------------------------------------


def test_nineteen_layers_make_the_papers_segments():
  assert segment_bounds(19, 7, 7) == [(0, 7), (7, 13), (13, 19)]
  six = np.full(7, 6, np.int32)
  nodes = Segment(0, 7, np.zeros((1, 0), np.int32), six).all_nodes()
  assert len(nodes) == 279_936
  keys = nodes @ 6 ** np.arange(7)
  assert len(np.unique(keys)) == 279_936


@given(st.integers(1, 60), st.integers(1, 9), st.integers(2, 9))
def test_segments_cover_every_layer_once(n_layers, first, later):
  bounds = segment_bounds(n_layers, first, later)
  covered = [l for start, stop in bounds for l in range(start, stop)]
  assert covered == list(range(n_layers))


def test_expansion_and_its_inverse():
  expand = np.array([[0, 1, 2], [2, 1, 0]], np.int32)
  segment = Segment(3, 5, expand, np.array([2, 4], np.int32))
  nodes = segment.all_nodes()
  assert segment.n_choices.tolist() == [2, 2, 4]
  assert len(nodes) == 16
  archs = segment.expanded(nodes)
  assert archs[5].tolist() == [0, 1, 2, 1, 1]
  whole = np.concatenate([archs, np.ones((16, 2), np.int32)], 1)
  stranger = np.array([[1, 1, 1, 0, 0, 0, 0]], np.int32)
  found, rows = segment.nodes_of(np.concatenate([stranger, whole]))
  np.testing.assert_array_equal(rows, np.arange(1, 17))
  np.testing.assert_array_equal(found, nodes)


# The search -------------------------------------------------------------------


@pytest.mark.parametrize("completion", ["random", "average", "fixed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_additive_objective_is_solved(completion, seed):
  # Enough samples for ridge; completions add noise that re-scoring shares.
  segments = dataclasses.replace(
    SMALL, completion=completion, samples=120, candidates=24, rescore=8,
    top_k=8,
  )  # fmt: skip
  state = run(searcher(segments=segments), seed=seed)
  best = every_arch()[np.argmax(objective(every_arch())["accuracy"])]
  assert state["phase"] == "done"
  assert state["winner"] == best.tolist()


def test_proposals_are_new_and_within_the_budget():
  search = searcher("macs<=260")
  state, seen = search.init(3), set()
  while len(archs := search.ask(state)):
    assert len(archs) <= SMALL.batch
    assert search.budget.allows(archs).all()
    rows = {tuple(a) for a in archs.tolist()}
    assert len(rows) == len(archs) and not rows & seen
    seen |= rows
    np.testing.assert_array_equal(archs, search.ask(state))
    state = search.tell(state, archs, objective(archs))
  assert state["phase"] == "done"
  assert tuple(state["winner"]) in seen
  assert state["round"] <= search.rounds


def test_a_run_that_is_cut_anywhere_ends_the_same():
  search = searcher(
    "macs<=300", dataclasses.replace(SMALL, refine=20, refits=2)
  )
  whole = run(search, seed=1)
  for cut in (1, 3, whole["round"] - 1):
    half = json.loads(json.dumps(run(search, seed=1, rounds=cut)))
    assert run_search(search, objective, 10_000, half) == whole
  assert run(search, seed=2)["winner"] is not None


def test_labels_of_any_phase_count_and_are_averaged():
  search = searcher(segments=dataclasses.replace(SMALL, samples=60))
  state = run(search)
  segment = search.segment(state, 1)
  nodes, values, count = search.labels(state, 1)
  sums: dict[tuple, list] = {}
  for arch, value in zip(
    state["archive"]["archs"], state["archive"]["metrics"]["accuracy"],
    strict=True,
  ):  # fmt: skip
    for choice, head in enumerate(segment.expand.tolist()):
      if arch[: segment.start] == head:
        key = (choice, *arch[segment.start : segment.stop])
        sums.setdefault(key, []).append(value)
  assert {tuple(n) for n in nodes.tolist()} == set(sums)
  for node, value, n in zip(nodes.tolist(), values, count, strict=True):
    assert value == pytest.approx(np.mean(sums[tuple(node)]))
    assert n == len(sums[tuple(node)])
  assert count.max() > 1


def test_nan_can_not_win_and_all_nan_ends_the_run():
  def broken(archs):
    found = objective(archs)
    best = archs[:, 0] == int(np.argmax(WORTH[0, : CHOICES[0]]))
    found["accuracy"][best] = np.nan
    return found

  state = run(searcher(), broken)
  assert state["winner"][0] != np.argmax(WORTH[0, : CHOICES[0]])

  def nothing(archs):
    return {**objective(archs), "accuracy": np.full(len(archs), np.nan)}

  with pytest.raises(RunError, match="finite accuracy"):
    run(searcher(), nothing)


def test_kept_sub_archs_keep_their_distance():
  apart = dataclasses.replace(SMALL, min_distance=2, candidates=30)
  state = run(searcher(segments=apart))
  for kept in state["kept"][:-1]:
    archs = np.array(kept)
    gaps = (archs[:, None] != archs).sum(-1)[~np.eye(len(archs), dtype=bool)]
    assert gaps.min() >= 2
  close = run(searcher(segments=dataclasses.replace(apart, min_distance=0)))
  archs = np.array(close["kept"][0])
  gaps = (archs[:, None] != archs).sum(-1)[~np.eye(len(archs), dtype=bool)]
  assert gaps.min() == 1  # else the option had nothing to do


def test_cost_bins_keep_small_archs():
  def cheapest(bins):
    segments = dataclasses.replace(SMALL, cost_bins=bins, candidates=24)
    search = searcher(segments=segments)
    table = search.table(run(search))
    return COSTS["macs"](table["archs"]).min()

  assert cheapest(4) < cheapest(1)


def test_every_candidate_sub_arch_that_a_budget_allows_is_predicted():
  search = searcher("macs<=250")
  state = run(search)
  table = search.table(state)
  expected = len(state["kept"][-2]) * np.prod(CHOICES[5:])
  assert len(table["archs"]) == len(np.unique(table["archs"], axis=0))
  assert len(table["archs"]) == expected
  assert table["predicted"].shape == table["spread"].shape == (expected,)


def test_minimised_objectives_are_predicted_with_their_own_sign():
  def cost_only(archs):
    return {"macs": objective(archs)["macs"]}

  segments = dataclasses.replace(SMALL, samples=120, candidates=24, top_k=8)
  search = dataclasses.replace(
    searcher(segments=segments),
    config=SearchConfig(
      objectives=("-macs",), predictor=RIDGE, segments=segments
    ),
  )
  state = run(search, cost_only)
  assert COSTS["macs"](np.array([state["winner"]]))[0] == COSTS["macs"].smallest
  table = search.table(state)
  np.testing.assert_allclose(
    table["predicted"], COSTS["macs"](table["archs"]), rtol=0.02
  )


# Refusals ---------------------------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"samples": 3}, "search.segments.samples is 3; it must be at least 4"),
    ({"later": 1}, "search.segments.later is 1; it must be at least 2"),
    ({"top_k": 13}, "top_k is 13; at most .*candidates, 12"),
    ({"cost_bins": 5}, "cost_bins is 5; at most search.segments.top_k, 4"),
    ({"cost_bins": 2, "cost": "mac"}, "unknown cost .*Did you mean 'macs'"),
  ],
)
def test_values_that_no_search_can_use_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    searcher(segments=dataclasses.replace(SMALL, **changes))


def test_a_segment_that_is_too_large_is_refused():
  space = make_space((6,) * 12)
  price = np.ones((12, 6), int)
  costs = {"macs": CostTable("macs", 0, price, space.n_choices)}
  config = SearchConfig(segments=dataclasses.replace(SMALL, first=9))
  with pytest.raises(UserError, match=f"at most {MOST_PREDICTED:,}"):
    SegmentSearch(space, Budget.parse("", costs, space), config, costs)
