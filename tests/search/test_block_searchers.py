"""One contract for every searcher of blocks, and what is special to each."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.config import BlocksConfig, SearchConfig
from jaxnas.errors import UserError
from jaxnas.search.block_evolution import BlockEvolution, mutate, remove
from jaxnas.search.block_search import (
  TRIES,
  BlockReward,
  Drawn,
  draw_blocks,
  lessons,
)
from jaxnas.search.block_searchers import BLOCK_SEARCHERS, make_block_searcher
from jaxnas.spaces import get_space, nsc
from jaxnas.spaces.nsc import Code


class Sparse:
  """At most so many convolutions."""

  limits = (("convs", 2),)

  def __init__(self, most: int):
    self.most = most

  def allows(self, archs):
    return np.isin(archs[:, ::3], nsc.CONVS).sum(1) <= self.most


def build(algorithm, budget=None, max_layers=5, guidance=0.0, **fields):
  blocks = BlocksConfig(**{"rounds": 6, "per_round": 10} | fields)
  space = get_space("blocks-digits", max_layers=max_layers)
  search = SearchConfig(population=14, tournament=3)
  budget = budget or Sparse(2)
  return make_block_searcher(algorithm, search, blocks, guidance, space, budget)


def objective(searcher, archs, holes=False) -> dict:
  """Convolutions and sums help; leaves do not."""
  codes = [searcher.space.codes(arch) for arch in archs]
  values = [
    0.5 + sum((0.05, 0.1, 0.1, *[0] * 5, 0.05, 0)[c.op - 1] for c in block)
    - 0.04 * len(nsc.leaves(block)) for block in codes
  ]  # fmt: skip
  accuracy = np.array(values, float).reshape(len(archs))
  if holes:
    accuracy[archs.sum(1) % 3 == 0] = np.nan
  return {"accuracy": accuracy, "macs": np.full(len(archs), 1e6)}


def run(searcher, state, rounds, holes=False):
  while state["round"] < rounds:
    archs = searcher.ask(state)
    state = searcher.tell(state, archs, objective(searcher, archs, holes))
  return state


@pytest.fixture(params=sorted(BLOCK_SEARCHERS))
def algorithm(request) -> str:
  return request.param


def test_asks_are_canonical_new_and_pure(algorithm):
  searcher, seen = build(algorithm), set()
  state = searcher.init(3)
  for round_ in range(6):
    before = copy.deepcopy(state)
    archs = searcher.ask(state)
    first = algorithm == "evolution" and round_ == 0
    assert 0 < len(archs) <= (14 if first else 10)
    assert archs.dtype == np.int32
    np.testing.assert_array_equal(archs, searcher.space.canonical(archs))
    assert searcher.budget.allows(archs).all()
    rows = {tuple(row) for row in archs.tolist()}
    assert len(rows) == len(archs) and not rows & seen
    seen |= rows
    np.testing.assert_array_equal(archs, searcher.ask(state))
    # Two draws are the first two of a round; repeated ones are left out.
    few = searcher.ask(state, 2)
    assert len(few) <= 2
    np.testing.assert_array_equal(few, archs[: len(few)])
    metrics = objective(searcher, archs)
    told = searcher.tell(state, archs, metrics)
    assert state == before, "ask or tell changed its state"
    assert told["round"] == round_ + 1
    assert told == searcher.tell(state, archs, metrics)
    state = told
  assert {tuple(row) for row in state["archive"]["archs"]} == seen
  assert searcher.rounds == 6 and searcher.objectives == ("accuracy",)


@pytest.mark.parametrize("holes", [False, True])
def test_json_and_resuming_change_nothing(algorithm, holes):
  searcher = build(algorithm)
  texts = [json.dumps(searcher.init(1))]
  for rounds in range(1, 7):
    state = run(searcher, json.loads(texts[-1]), rounds, holes)
    texts.append(json.dumps(state))
  straight = run(searcher, searcher.init(1), 6, holes)
  assert json.dumps(straight) == texts[-1]
  other = run(searcher, searcher.init(2), 6, holes)
  assert other["archive"]["archs"] != straight["archive"]["archs"]


def test_a_tiny_space_is_exhausted_and_rounds_go_on(algorithm):
  # Eight blocks of one layer, of which six differ.
  searcher = build(algorithm, max_layers=1, rounds=15)
  state = run(searcher, searcher.init(0), 15)
  assert state["round"] == 15
  archs = np.array(state["archive"]["archs"])
  assert sorted(archs[:, 0].tolist()) == [1, 2, 3, 5, 7, 8]
  archs = searcher.ask(state)
  assert archs.shape == (0, 3)
  ended = searcher.tell(state, archs, {})
  assert ended["round"] == 16 and ended["archive"] == state["archive"]


def test_a_budget_that_nothing_keeps_ends(algorithm):
  searcher = build(algorithm, Sparse(-1))
  state = searcher.init(0)
  assert searcher.ask(state).shape == (0, 15)
  state = searcher.tell(state, searcher.ask(state), {})
  assert state["round"] == 1 and state["archive"]["archs"] == []
  assert searcher.ask(state).shape == (0, 15)


def test_blocks_that_were_not_asked_may_be_told(algorithm):
  searcher = build(algorithm)
  state = searcher.init(0)
  own = searcher.space.sample(np.random.default_rng(99), 4)
  state = searcher.tell(state, own, objective(searcher, own))
  assert state["archive"]["archs"] == own.tolist()
  state = run(searcher, state, 4)
  assert len(state["archive"]["archs"]) > 15
  with pytest.raises(UserError, match="told twice"):
    searcher.tell(state, own[:1], objective(searcher, own[:1]))


@pytest.mark.parametrize("learner", ["evolution", "qlearning", "reinforce"])
def test_learners_beat_random_blocks(learner):
  """Mean accuracy of the last third of what they evaluate."""
  means = {}
  for algorithm in ("random", learner):
    searcher = build(
      algorithm, Sparse(9), rounds=40, learning_rate=0.3, replay=128
    )
    late = []
    for seed in range(3):
      state = run(searcher, searcher.init(seed), 40)
      values = state["archive"]["metrics"]["accuracy"]
      late.append(np.mean(values[-len(values) // 3 :]))
    means[algorithm] = np.mean(late)
  assert means[learner] > means["random"] + 0.02, means


def test_names_and_constants_are_checked():
  with pytest.raises(UserError, match="unknown search algorithm of blocks"):
    build("nsga2")
  for algorithm in BLOCK_SEARCHERS:
    for field in ("rounds", "per_round"):
      with pytest.raises(UserError, match=f"^blocks.{field} is 0; it must be"):
        build(algorithm, **{field: 0})
    with pytest.raises(UserError, match="^blocks.guidance is -1; it must be"):
      build(algorithm, guidance=-1)
    with pytest.raises(UserError, match="^blocks.flops_penalty is nan"):
      build(algorithm, flops_penalty=float("nan"))
  with pytest.raises(UserError, match="blocks.policy_learning_rate is -1"):
    build("reinforce", policy_learning_rate=-1)


# Reward and lessons ----------------------------------------------------------


def test_reward_by_hand():
  metrics = {
    "accuracy": [0.9, np.nan, 0.8],
    "macs": [1e6, 1e6, 0.0],
    "density": [1.5, 1.5, 1.0],
    "mirror": [0.5, 0.5, np.inf],
  }
  reward = BlockReward(0.3, flops_penalty=1.0, density_penalty=8.0)
  value = 0.9 - 0.01 * np.log(1e6) - 0.08 * np.log(1.5) + 0.15
  got = reward(metrics)
  assert got[0] == pytest.approx(value, abs=1e-12) and np.isnan(got[1:]).all()
  only = {"accuracy": metrics["accuracy"]}
  np.testing.assert_array_equal(BlockReward()(only), metrics["accuracy"])
  assert metrics["accuracy"][0] == 0.9
  for factor, name in (
    ("guidance", "mirror"),
    ("flops_penalty", "macs"),
    ("density_penalty", "density"),
  ):
    with pytest.raises(UserError, match=f"in the reward of blocks '{name}'"):
      BlockReward(**{factor: 1.0})(only)


def test_lessons_by_hand():
  """Known, repeated, over budget, failed, not evaluated, told only."""
  searcher = build("random", Sparse(1), max_layers=2)
  read = lambda *texts: np.array(
    [searcher.space.from_string(text) for text in texts]
  )
  archive = read("max3@0", "identity@0", "avg3@0", "conv5@0")
  state = searcher.init(0)
  values = np.array([0.7, 0.6, np.nan, 0.9])
  state = searcher.tell(state, archive, {"accuracy": values})
  drawn = read("max1@0", "avg3@0", "conv1@0-conv1@1", "conv3@0", "max1@0")
  told = read("identity@0", "conv5@0")
  allowed = searcher.budget.allows(drawn)
  archs, rewards = lessons(state, searcher, Drawn(drawn, allowed), told)
  texts = [searcher.space.to_string(arch) for arch in archs]
  assert list(zip(texts, rewards.tolist(), strict=True)) == [
    ("max1@0", 0.6),
    ("avg3@0", 0.6),
    ("conv1@0-conv1@1", 0.6),
    ("max1@0", 0.6),
    ("conv5@0", 0.9),
  ]


def test_draws_are_prefixes_and_bounded():
  space, budget = get_space("blocks-digits"), Sparse(1)

  def draw(n, budget=budget):
    rng = np.random.default_rng(5)
    return draw_blocks(space, budget, lambda: space.sample(rng, 1)[0], n)

  many, few = draw(40), draw(7)
  assert many.allowed.sum() == 40 and few.allowed.sum() == 7
  assert not many.allowed.all()
  np.testing.assert_array_equal(few.archs, many.archs[: len(few.archs)])
  assert len(draw(5, Sparse(-1)).archs) == 5 * TRIES
  assert draw(0).archs.shape == (0, space.n_layers)


# Evolution -------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 10))
def test_every_child_is_legal_and_another_block(seed, max_layers):
  space = get_space("blocks-digits", max_layers=max_layers)
  rng = np.random.default_rng(seed)
  parent = space.codes(space.sample(rng, 1)[0])
  for _ in range(5):
    child = mutate(rng, parent, max_layers)
    both = np.stack([space.from_codes(parent), space.from_codes(child)])
    assert abs(len(parent) - len(child)) <= 1
    assert (np.diff(space.canonical(both), axis=0) != 0).any()
    if len(child) == len(parent):
      changed = [a != b for a, b in zip(child, parent, strict=True)]
      assert sum(changed) == 1
    elif len(child) > len(parent):
      assert child[:-1] == parent
    parent = child


def test_all_mutations_of_a_block_occur():
  rng, parent = np.random.default_rng(0), (Code(2, 0, 0),)
  children = {mutate(rng, parent, 2) for _ in range(3000)}
  changed = {(c,) for c in nsc.next_codes(1) if c != parent[0]}
  appended = {(*parent, c) for c in nsc.next_codes(2)[1:]}
  assert children == changed | appended


def test_removal_by_hand():
  conv = Code(2, 0, 0)
  block = (conv, Code(2, 1, 0), Code(9, 2, 0), Code(10, 3, 1), Code(9, 1, 2))
  # Readers of layer 2 read layer 1; add(1, 2) would read layer 1 twice.
  assert remove(block, 2) == (
    conv, Code(9, 1, 0), Code(10, 2, 1), Code(nsc.IDENTITY, 1, 0)
  )  # fmt: skip
  assert remove(block, 1) == (
    conv, Code(9, 1, 0), Code(10, 2, 0), Code(9, 0, 1)
  )  # fmt: skip
  assert remove(block, 5) == block[:4]


def test_the_oldest_block_dies_and_the_best_of_a_tournament_breeds():
  space = get_space("blocks-digits", max_layers=4)
  searcher = BlockEvolution(
    space, Sparse(9), per_round=30, population=2, tournament=30
  )
  state = searcher.init(0)
  old, bad, good = (
    space.from_string(text)
    for text in ("conv1@0-conv1@1-conv1@2", "avg3@0-avg3@0-avg3@0", "max3@0")
  )
  archs = np.stack([old, bad, good])
  metrics = {"accuracy": [0.99, np.nan, 0.5]}
  state = searcher.tell(state, archs, metrics)
  children = searcher.ask(state)
  # Within one mutation of max3@0, which neither of the others is.
  assert len(children) > 5 and all(
    len(codes := space.codes(c)) == 1 or codes[0] == space.codes(good)[0]
    for c in children
  )
