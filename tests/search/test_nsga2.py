import json

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget
from jaxnas.errors import UserError
from jaxnas.search import (
  NSGA2,
  Front,
  controller,
  mutators,
  pick_equispaced,
  run_search,
)
from jaxnas.search.nsga2 import scaled
from jaxnas.search.pareto import crowding, pareto_rank, select
from jaxnas.spaces import ListedSpace, get_space

# Few distinct values, so that ties and equal points are common.
points = hnp.arrays(
  np.float64,
  st.tuples(st.integers(0, 25), st.integers(1, 4)),
  elements=st.integers(0, 4).map(float),
)


def brute_force_rank(values):
  rank = np.full(len(values), -1)
  level = 0
  while (rank < 0).any():
    open_ = np.flatnonzero(rank < 0)
    front = [
      i
      for i in open_
      if not any(
        (values[j] >= values[i]).all() and (values[j] > values[i]).any()
        for j in open_
      )
    ]
    rank[front] = level
    level += 1
  return rank


@settings(deadline=None, max_examples=200)
@given(points)
def test_rank_equals_brute_force(values):
  np.testing.assert_array_equal(pareto_rank(values), brute_force_rank(values))


def reference_crowding(values, weights):
  """The formula, one point and one objective at a time."""
  n, m = values.shape
  out = [0.0] * n
  for i in range(m):
    f = values[:, i]
    span = max(f) - min(f)
    order = sorted(range(n), key=lambda j: f[j])
    for place, j in enumerate(order):
      if span == 0 or weights[i] == 0:
        continue
      if place in (0, n - 1):
        out[j] = float("inf")
      else:
        gap = abs(f[order[place + 1]] - f[order[place - 1]])
        out[j] += weights[i] * gap / span
  return out


@settings(deadline=None, max_examples=200)
@given(points.filter(len), st.data())
def test_crowding_equals_the_formula(values, data):
  m = values.shape[1]
  raw = data.draw(st.lists(st.integers(0, 3), min_size=m, max_size=m))
  weights = np.array(raw) / max(sum(raw), 1)
  got = crowding(values, weights)
  assert not np.isnan(got).any()
  np.testing.assert_allclose(got, reference_crowding(values, weights))


def test_crowding_by_hand():
  # Objective 0 spans 10, objective 1 spans 100.
  values = np.array([[0, 100], [2, 70], [5, 60], [10, 0.0]])
  got = crowding(values, (0.25, 0.75))
  second = 0.25 * (5 - 0) / 10 + 0.75 * (100 - 60) / 100
  third = 0.25 * (10 - 2) / 10 + 0.75 * (70 - 0) / 100
  np.testing.assert_allclose(got, [np.inf, second, third, np.inf])
  # Equal weights are proportional to the unweighted distance.
  even = crowding(values, (0.5, 0.5))
  np.testing.assert_allclose(even[1:3], [0.5 * (0.5 + 0.4), 0.5 * (0.8 + 0.7)])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_degenerate_objectives(n):
  values = np.column_stack([np.full(n, 3.0), np.arange(n)])
  got = crowding(values, (0.5, 0.5))
  assert not np.isnan(got).any()
  np.testing.assert_array_equal(crowding(values[:, :1], (1.0,)), np.zeros(n))
  assert np.isfinite(scaled(values)).all()


def test_select_prefers_rank_then_room():
  values = np.array(
    [
      [np.nan, np.nan],  # never
      [0, 10],  # end of the front
      [1, 9],
      [1.1, 8.9],  # most crowded
      [6, 5],
      [10, 0],  # end of the front
      [0, 0.0],  # dominated
    ]
  )
  weights = (0.5, 0.5)
  assert set(select(values, weights, 2)) == {1, 5}
  assert select(values, weights, 4)[2] == 4
  # Neighbours at 0 and 1.1 leave row 2 less room than 1 and 6 leave row 3.
  assert list(select(values, weights, 99)[2:]) == [4, 3, 2, 6]
  assert not len(select(values[:1], weights, 3))
  assert not len(select(values[:0], weights, 3))


def test_weights_turn_the_selection():
  # Row 1 has room in objective 0, row 3 in objective 1.
  values = np.array([[0, 20], [1, 19], [8, 18], [9, 17], [10, 0.0]])
  assert select(values, (0.9, 0.1), 5)[2] in (1, 2)
  assert select(values, (0.1, 0.9), 5)[2] == 3


def test_front_is_the_brute_forced_one(build, chain):
  case = build(
    "nsga2",
    chain(4, 4, 4),
    holes=True,
    objectives=("accuracy", "-macs"),
    objective_weights=(0.5, 0.5),
  )
  searcher = case.searcher
  state = run_search(searcher, case.objective, 99, searcher.init(0))
  metrics = {k: np.array(v) for k, v in state["archive"]["metrics"].items()}
  assert len(metrics["macs"]) == 64
  values = np.stack([metrics["accuracy"], -metrics["macs"]], 1)
  fine = np.flatnonzero(np.isfinite(values).all(1))
  expected = fine[brute_force_rank(values[fine]) == 0]
  found = searcher.front(state)
  assert sorted(found.index) == sorted(expected)
  assert (np.diff(found.values[:, 0]) <= 0).all()
  np.testing.assert_array_equal(found.values, values[found.index])
  archs = np.array(state["archive"]["archs"])[found.index]
  np.testing.assert_array_equal(found.archs, archs)


def test_pick_equispaced():
  first = np.array([10, 9.9, 9.8, 7, 4.5, 0.0])
  points = Front(
    np.arange(6), np.zeros((6, 2), np.int32), np.stack([first, -first], 1)
  )
  assert list(pick_equispaced(points, 3).index) == [0, 4, 5]
  assert list(pick_equispaced(points, 1).index) == [0]
  assert list(pick_equispaced(points, 0).index) == []
  assert list(pick_equispaced(points, 9).index) == list(range(6))
  # Equal values still give as many members as asked for.
  flat = points._replace(values=np.zeros((6, 2)))
  assert len(pick_equispaced(flat, 4).index) == 4
  empty = Front(*(part[:0] for part in points))
  assert len(pick_equispaced(empty, 3).index) == 0


def volume(case, state, costs):
  metrics = {k: np.array(v) for k, v in state["archive"]["metrics"].items()}
  span = costs.largest - costs.smallest
  cheap = 1 - (metrics["macs"] - costs.smallest) / span
  values = np.stack([metrics["accuracy"], cheap], 1)
  return moocore.hypervolume(values, ref=[-1, 0], maximise=True)


def test_front_beats_random_search(build):
  fields = {
    "population": 30,
    "offspring": 30,
    "objectives": ("accuracy", "-macs"),
    "objective_weights": (0.5, 0.5),
  }
  gains = []
  for seed in range(5):
    volumes = {}
    for algorithm in ("nsga2", "random"):
      case = build(algorithm, get_space("digits"), **fields)
      searcher = case.searcher
      state = run_search(searcher, case.objective, 20, searcher.init(seed))
      assert len(state["archive"]["archs"]) == 600
      volumes[algorithm] = volume(case, state, case.costs["macs"])
    gains.append(volumes["nsga2"] / volumes["random"] - 1)
  assert min(gains) > 0.05, gains


@pytest.mark.parametrize(
  "fields",
  [
    {"objective_weights": (0.5, 0.4, 0.2)},
    {"objective_weights": (0.5, 0.5)},
    {"objective_weights": (1.2, -0.4, 0.2)},
    {"objective_weights": (float("nan"), 0.5, 0.5)},
    {"mutators": (0.5, 0.4)},
    {"mutators": (0.5, 0.4, 0.2)},
    {"mutation_rate": 1.5},
    {"mutation_share": -0.1},
    {"tournament": 0},
  ],
)
def test_illegal_constants(build, chain, fields):
  with pytest.raises(UserError):
    build("nsga2", chain(3, 2, 3), **fields)


def test_roulette_follows_the_objectives(build, chain):
  def cost(budget="", **fields):
    searcher = build("nsga2", chain(3, 3), budget, **fields).searcher
    return searcher.roulette_cost.name

  pair = {"objective_weights": (0.5, 0.5)}
  assert cost() == "macs"
  assert cost(objectives=("accuracy", "-params"), **pair) == "params"
  up = {"objectives": ("accuracy", "macs")} | pair
  assert cost("macs<=1M", **up) == "macs"
  assert cost("params<=1M", **up) == "params"


def test_roulette_is_uniform_without_additive_costs():
  space = ListedSpace("rows", (("a", "b"), ("c", "d", "e")), [[0, 1], [1, 2]])

  def latency(archs):
    return archs.sum(1) * 1.0

  costs = {"latency.x": latency}
  budget = Budget.parse("latency.x<=2ms", costs, space)
  searcher = NSGA2(space, budget, SearchConfig(), costs)
  wheel = searcher.roulette_cost
  assert not wheel.table.any()
  rng = np.random.default_rng(0)
  arch = np.array([0, 1], np.int32)
  children = [mutators.roulette(rng, arch, wheel, 0.0) for _ in range(2000)]
  places = np.bincount([c @ [3, 1] for c in children], minlength=6)
  # Layer 0 changes in half of them, layer 1 to either choice in a quarter.
  assert (
    stats.chisquare(
      places[[4, 0, 2]], np.array([0.5, 0.25, 0.25]) * 2000
    ).pvalue
    > 1e-3
  )
  without = NSGA2(space, Budget.parse("", {}, space), SearchConfig(), {})
  assert not without.roulette_cost.table.any()


def test_tournament_picks_the_best(build):
  # A tournament over (almost surely) everyone, and one-layer mutations.
  case = build(
    "nsga2",
    get_space("digits"),
    tournament=400,
    mutation_share=1.0,
    mutation_rate=0.0,
    mutators=(1, 0, 0),
  )
  state = run_search(case.searcher, case.objective, 3, case.searcher.init(0))
  best = state["archive"]["archs"][state["population"][0]]
  changed = (case.searcher.ask(state) != best).sum(1)
  # One layer each; one more where a child came up before.
  assert set(changed) <= {1, 2} and (changed == 1).sum() > 4


def test_controller_share_uses_the_policy(build):
  case = build(
    "nsga2", get_space("digits"), mutators=(0, 1, 0), mutation_share=1.0
  )
  searcher = case.searcher
  state = searcher.init(0)
  archs = searcher.ask(state)
  state = searcher.tell(state, archs, case.objective(archs))
  logits = np.zeros((8, 6))
  logits[:4, 3] = 50
  state["controller"]["arrays"][0] = logits.tolist()
  children = searcher.ask(state)
  assert (children[:, :4] == 3).all()
  assert (children[:, 4:].std(0) > 0).all()


def test_without_controller_nothing_is_learnt(build):
  case = build("nsga2", get_space("digits"), mutators=(0.85, 0, 0.15))
  state = run_search(case.searcher, case.objective, 3, case.searcher.init(0))
  assert state["controller"] is None
  json.dumps(state)


def test_controller_prefers_what_was_rewarded(build):
  case = build("nsga2", get_space("digits"), population=30, offspring=30)
  searcher = case.searcher
  state = run_search(searcher, case.objective, 15, searcher.init(0))
  archive = state["archive"]["metrics"]
  values = np.stack(
    [archive["accuracy"], -np.array(archive["macs"]), archive["params"]], 1
  )
  low, high = values.min(0), values.max(0)
  weights = np.array(searcher.config.objective_weights)

  def reward(archs):
    m = case.objective(archs)
    v = np.stack([m["accuracy"], -m["macs"], m["params"]], 1)
    return (((v - low) / (high - low)) @ weights).mean()

  space = searcher.space
  policy = controller.policy(state["controller"], space.n_choices)
  rng = np.random.default_rng(0)
  learnt = np.stack(
    [mutators.sample_policy(rng, None, policy) for _ in range(300)]
  )
  assert reward(learnt) > reward(space.sample(rng, 300)) + 0.03
