"""One contract for every registered searcher, on two spaces each."""

import copy
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, cost_tables
from jaxnas.errors import RunError, UserError
from jaxnas.search import (
  archive_archs,
  base,
  front,
  make_searcher,
  parse_objective,
  run_search,
  single_best,
)
from jaxnas.spaces import ListedSpace, get_space


def everything(space) -> np.ndarray:
  grids = np.meshgrid(*(np.arange(k) for k in space.n_choices), indexing="ij")
  return np.stack([g.reshape(-1) for g in grids], 1).astype(np.int32)


def test_asks_are_legal_new_and_pure(case):
  searcher = case.searcher
  state = searcher.init(3)
  seen = set()
  for round_ in range(6):
    before = copy.deepcopy(state)
    archs = searcher.ask(state)
    assert archs.dtype == np.int32
    assert len(archs) == (12 if round_ == 0 else 8)
    searcher.space.validate(archs)
    assert searcher.budget.allows(archs).all()
    rows = {tuple(row) for row in archs.tolist()}
    assert len(rows) == len(archs) and not rows & seen
    seen |= rows
    np.testing.assert_array_equal(archs, searcher.ask(state))
    metrics = case.objective(archs)
    told = searcher.tell(state, archs, metrics)
    assert state == before, "ask or tell changed its state"
    assert told["round"] == round_ + 1
    assert told == searcher.tell(state, archs, metrics)
    state = told
  assert {tuple(row) for row in state["archive"]["archs"]} == seen


@pytest.mark.parametrize("holes", [False, True])
def test_json_and_resuming_change_nothing(case, holes):
  case = dataclasses.replace(case, holes=holes)
  searcher, states = case.searcher, []
  final = run_search(
    searcher,
    case.objective,
    5,
    searcher.init(1),
    lambda state, archs, metrics: states.append(json.dumps(state)),
  )
  assert len(states) == 5 and states[-1] == json.dumps(final)
  for text in [json.dumps(searcher.init(1)), *states]:
    state = json.loads(text)
    assert json.dumps(state) == text
    again = run_search(searcher, case.objective, 5, state)
    assert json.dumps(again) == states[-1]
  other = run_search(searcher, case.objective, 5, searcher.init(2))
  assert other["archive"]["archs"] != final["archive"]["archs"]


def test_archive_keeps_every_metric(case):
  state = run_search(case.searcher, case.objective, 3, case.searcher.init(0))
  archs = archive_archs(state, case.searcher.space)
  assert archs.shape == (28, case.searcher.space.n_layers)
  for name, values in case.objective(archs).items():
    stored = state["archive"]["metrics"][name]
    assert all(type(v) is float for v in stored)
    np.testing.assert_array_equal(stored, values)


def test_nan_never_wins(case):
  case = dataclasses.replace(case, holes=True)
  searcher = case.searcher
  state = run_search(searcher, case.objective, 8, searcher.init(0))
  accuracy = np.array(state["archive"]["metrics"]["accuracy"])
  assert np.isnan(accuracy).any()
  best = single_best(state["archive"], ("accuracy",), searcher.budget)
  assert case.objective(best[None])["accuracy"] == np.nanmax(accuracy)
  points = front(state, searcher.space, ("accuracy", "-macs"))
  assert np.isfinite(points.values).all()
  if "population" in state:
    assert np.isfinite(accuracy[state["population"]]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_failures_do_not_stop_a_search(case, bad):
  searcher = case.searcher

  def objective(archs):
    broken = np.full(len(archs), bad)
    return case.objective(archs) | {"accuracy": broken}

  state = run_search(searcher, objective, 3, searcher.init(0))
  assert len(state["archive"]["archs"]) == 28
  with pytest.raises(RunError, match="finite accuracy"):
    single_best(state["archive"], ("accuracy",), searcher.budget)
  assert not len(front(state, searcher.space, ("accuracy",)).archs)


def test_tiny_space_is_exhausted(algorithm, build, chain):
  case = build(
    algorithm, chain(3, 2, 3), "macs<=40k", population=4, offspring=3
  )
  searcher = case.searcher
  legal = everything(searcher.space)
  legal = legal[searcher.budget.allows(legal)]
  assert 8 < len(legal) < 18
  state = run_search(searcher, case.objective, 99, searcher.init(0))
  assert sorted(state["archive"]["archs"]) == legal.tolist()
  assert state["round"] == 1 + -(-(len(legal) - 4) // 3)
  assert searcher.ask(state).shape == (0, 3)
  assert searcher.ask(state, 5).shape == (0, 3)


def test_nearly_unreachable_budget_ends(algorithm, build):
  # One feasible arch in a space too large to list.
  space = get_space("digits")
  budget = f"macs<={cost_tables(space)['macs'].smallest}"
  case = build(algorithm, space, budget, population=4)
  state = run_search(case.searcher, case.objective, 99, case.searcher.init(0))
  assert state["archive"]["archs"] == [[0] * 8]


@pytest.mark.parametrize("algorithm", ["evolution", "nsga2", "random"])
def test_listed_space_is_exhausted(algorithm):
  # Choice 2 of layer 0 is choice 0 under another name; costs are row by row.
  rows = everything(SimpleNamespace(n_choices=(2, 3, 4)))[::2]
  space = ListedSpace(
    "rows", (("a", "b", "a2"), tuple("cde"), tuple("fghi")), rows, (),
    lambda archs: archs % [2, 3, 4],
  )  # fmt: skip
  values = np.random.default_rng(0).permutation(len(rows)) * 1.0

  def latency(archs):
    return values[space.index(archs)]

  costs = {"latency.x": latency}
  budget = Budget.parse("latency.x<=8ms", costs, space)
  config = SearchConfig(
    algorithm=algorithm, population=3, offspring=2,
    objectives=("accuracy", "-latency.x"), objective_weights=(0.5, 0.5),
  )  # fmt: skip
  searcher = make_searcher(config, space, budget, costs)

  def objective(archs):
    return {"accuracy": archs.sum(1) * 1.0, "latency.x": latency(archs)}

  state = run_search(searcher, objective, 99, searcher.init(0))
  assert sorted(state["archive"]["archs"]) == rows[values <= 8].tolist()
  assert state["round"] == 4  # 3 + 2 + 2 + 2 archs


def test_space_of_one_arch(algorithm, build, chain):
  case = build(algorithm, chain(1, 1))
  state = run_search(case.searcher, case.objective, 9, case.searcher.init(0))
  assert state["archive"]["archs"] == [[0, 0]]


def test_reaches_the_optimum_region(algorithm, build, chain):
  # 250 of 1280 archs; the budget cuts off the unbounded optimum.
  case = build(
    algorithm,
    chain(4, 4, 4, 4, 5),
    "macs<=120k",
    population=25,
    offspring=25,
    objectives=("accuracy", "-macs"),
    objective_weights=(0.5, 0.5),
    tournament=3,
  )
  searcher = case.searcher
  legal = everything(searcher.space)
  legal = legal[searcher.budget.allows(legal)]
  truth = np.sort(case.objective(legal)["accuracy"])
  for seed in range(3):
    state = run_search(searcher, case.objective, 10, searcher.init(seed))
    assert len(state["archive"]["archs"]) == 250
    best = single_best(state["archive"], ("accuracy",), searcher.budget)
    reached = case.objective(best[None])["accuracy"][0]
    assert reached >= truth[-len(truth) // 50]


def test_number_of_rows(case):
  searcher = case.searcher
  state = searcher.init(0)
  assert len(searcher.ask(state, 5)) == 5
  assert len(searcher.ask(state, 0)) == 0
  archs = searcher.ask(state, 5)
  # Fewer, more, and other archs than asked may be told.
  state = searcher.tell(state, archs[:2], case.objective(archs[:2]))
  assert len(searcher.ask(state, 40)) == 40
  assert len(searcher.ask(state)) == 8


def test_told_nonsense_is_refused(case):
  searcher = case.searcher
  state = searcher.init(0)
  archs = searcher.ask(state)
  metrics = case.objective(archs)

  def refused(match, archs, metrics, state=state):
    with pytest.raises(UserError, match=match):
      searcher.tell(state, archs, metrics)

  missing = {k: v for k, v in metrics.items() if k != "accuracy"}
  refused("unknown metric in the objectives 'accuracy'", archs, missing)
  refused("shape", archs, metrics | {"macs": metrics["macs"][:3]})
  refused("shape", archs, metrics | {"macs": metrics["macs"][:, None]})
  refused("layer 0", archs + 9, metrics)
  twice = archs[[0, 0]]
  refused("told twice", twice, case.objective(twice))
  state = searcher.tell(state, archs, metrics)
  refused("told twice", archs, metrics, state)
  more = searcher.ask(state)
  refused("differ", more, case.objective(more) | {"loss": np.ones(8)}, state)


def test_objective_without_a_dict_is_refused(case):
  with pytest.raises(UserError, match="dict of metrics"):
    run_search(
      case.searcher, lambda archs: archs.sum(1), 2, case.searcher.init(0)
    )


@pytest.mark.parametrize(
  "fields",
  [
    {"population": 0},
    {"offspring": -1},
    {"objectives": ()},
    {"objectives": ("accuracy", "--macs", "params")},
  ],
)
def test_illegal_constants(algorithm, build, chain, fields):
  with pytest.raises(UserError):
    build(algorithm, chain(3, 2, 3), **fields)


def test_unknown_algorithm(chain):
  space = chain(2, 2)
  costs = cost_tables(space)
  config = SearchConfig(algorithm="nsga3")
  with pytest.raises(UserError, match="Did you mean 'nsga2'"):
    make_searcher(config, space, Budget.parse("", costs, space), costs)


def test_parse_objective():
  assert parse_objective("accuracy") == ("accuracy", 1)
  assert parse_objective("-latency.pixel") == ("latency.pixel", -1)
  for text in ("", "-", "--macs"):
    with pytest.raises(UserError):
      parse_objective(text)


def test_single_best_minimises_and_keeps_the_budget(chain):
  space = chain(3, 2, 3)
  costs = cost_tables(space)
  archs = everything(space)
  archive = {
    "archs": archs.tolist(),
    "metrics": {"loss": (-costs["macs"](archs)).tolist()},
  }
  budget = Budget.parse("macs<=29k", costs, space)
  macs = costs["macs"](archs)
  best = single_best(archive, ("-loss",), Budget.parse("", costs, space))
  assert costs["macs"](best[None]) == macs.max()
  best = single_best(archive, ("-loss",), budget)
  assert costs["macs"](best[None]) == macs[macs <= 29000].max()


def assert_bred_from(parent, children):
  """One layer each; one more where a child came up before."""
  changed = (children != parent).sum(1)
  assert len(children) == 8 and set(changed) <= {1, 2}
  assert (changed == 1).sum() > 4


def test_evolution_forgets_the_old(build):
  # A tournament over (almost surely) everyone alive, and one-layer mutations:
  # all children are neighbours of the best among the last `population`, or,
  # where that one came up before, neighbours of a neighbour.
  case = build(
    "evolution", get_space("digits"), tournament=400, mutation_rate=0.0
  )
  searcher = case.searcher
  state = searcher.init(0)
  archs = searcher.ask(state, 30)
  accuracy = np.linspace(1, 0, 30)  # the first, and oldest, is the best
  metrics = case.objective(archs) | {"accuracy": accuracy}
  state = searcher.tell(state, archs, metrics)
  assert_bred_from(archs[-12], searcher.ask(state))
  # An infinite value does not make a parent.
  accuracy[-12] = np.inf
  metrics = case.objective(archs) | {"accuracy": accuracy}
  state = searcher.tell(searcher.init(0), archs, metrics)
  assert_bred_from(archs[-11], searcher.ask(state))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_draws_are_unseen_feasible_and_complete(chain, data):
  sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
  space = chain(*sizes)
  costs = cost_tables(space)
  low, high = costs["macs"].smallest, costs["macs"].largest
  limit = low + data.draw(st.floats(0, 1)) * (high - low)
  budget = Budget((("macs", limit),), costs, space)
  legal = everything(space)
  legal = legal[budget.allows(legal)]
  seen = legal[: data.draw(st.integers(0, len(legal)))]
  n = data.draw(st.integers(0, 40))
  rng = np.random.default_rng(0)

  def propose():
    return space.sample(rng, 1)[0]

  for archs in (
    budget.draw(rng, n, seen),
    base.breed_unseen(rng, budget, seen, n, propose),
  ):
    assert archs.dtype == np.int32
    assert len(archs) == min(n, len(legal) - len(seen))
    rows = {tuple(row) for row in archs.tolist()}
    assert len(rows) == len(archs)
    assert rows <= {tuple(row) for row in legal[len(seen) :].tolist()}
