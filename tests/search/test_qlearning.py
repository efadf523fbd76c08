"""Q-learning of blocks: the schedule, what it learns from, and guidance."""

import copy
import json
import zlib

import numpy as np
import pytest

from jaxnas.config import BlocksConfig
from jaxnas.errors import UserError
from jaxnas.search.block_search import BlockReward
from jaxnas.search.features import FeatureMap
from jaxnas.search.qlearning import SCHEDULE, BlockQLearning, epsilons
from jaxnas.search.qtable import QTable
from jaxnas.spaces import expert, get_space, nsc


class Free:
  """No bound at all."""

  limits = ()

  def allows(self, archs):
    return np.ones(len(archs), bool)


class Short(Free):
  """At most two layers."""

  def allows(self, archs):
    return np.count_nonzero(archs[:, ::3], axis=1) <= 2


def accuracy(codes) -> float:
  """Convolutions help, leaves do not, and a hash adds what nothing explains."""
  good = sum((0.02, 0.04, 0.05)[c.op - 1] for c in codes if c.op in nsc.CONVS)
  noise = zlib.crc32(str(codes).encode()) / 2**32
  return 0.6 + good - 0.02 * len(nsc.leaves(codes)) + 0.03 * noise


def table_of(space, archs) -> dict:
  return {"accuracy": [accuracy(space.codes(arch)) for arch in archs]}


def run(searcher, seed, metrics=table_of, rounds=None) -> dict:
  state = searcher.init(seed)
  for _ in range(rounds or searcher.rounds):
    archs = searcher.ask(state)
    state = searcher.tell(state, archs, metrics(searcher.space, archs))
  return state


def test_the_schedule_is_blockqnns():
  values = epsilons(178)
  assert len(values) == sum(SCHEDULE) == 178
  ends = [95, 102, 109, 116, 126, 136, 146, 156, 166, 178]
  levels, counts = np.unique(-values, return_counts=True)
  np.testing.assert_allclose(-levels, np.arange(10, 0, -1) / 10, atol=1e-15)
  assert np.cumsum(counts).tolist() == ends


@pytest.mark.parametrize("rounds", [1, 3, 9, 10, 11, 20, 60, 100, 177, 500])
def test_scaled_schedules(rounds):
  values = epsilons(rounds)
  assert len(values) == rounds and (np.diff(values) <= 0).all()
  assert values[0] == 1.0
  counts = np.array([(values == (10 - k) / 10).sum() for k in range(10)])
  assert counts.sum() == rounds
  shares = np.array(SCHEDULE) / 178 * rounds
  if rounds >= 10:
    assert counts.min() >= 1
  if rounds >= 26 or rounds < 10:  # all shares are above 1, or none is forced
    assert (np.abs(counts - shares) < 1).all()
  assert epsilons(356).tolist() == np.repeat(epsilons(178), 2).tolist()


def test_a_round_by_hand():
  """One block a round, one update: all of BlockQNN's arithmetic at once."""
  space = get_space("blocks-digits", max_layers=3)
  searcher = BlockQLearning(space, Free(), rounds=5, per_round=1, replay=1)
  state = searcher.init(4)
  archs = searcher.ask(state)
  told = searcher.tell(state, archs, {"accuracy": [0.9]})
  drawn = told["memory"]["blocks"][0]
  assert told["memory"]["rewards"] == [0.9]
  arch = np.array(drawn + [0] * (9 - len(drawn)), np.int32)
  np.testing.assert_array_equal(space.canonical(arch[None]), archs)
  table = QTable(3)
  table.replay(space.codes(arch), 0.9, True, 0.01, 1.0)
  assert told["q"] == table.to_json()


def test_repeated_blocks_are_learned_from_and_not_evaluated():
  space = get_space("blocks-digits", max_layers=1)  # 8 blocks, 6 canonical
  searcher = BlockQLearning(space, Free(), rounds=4, per_round=20)
  state = searcher.init(0)
  archs = searcher.ask(state)
  assert len(archs) <= 6
  state = run(searcher, 0)
  assert len(state["archive"]["archs"]) == 6
  assert searcher.ask(state).shape == (0, 3)
  rewards, blocks = state["memory"]["rewards"], state["memory"]["blocks"]
  assert len(rewards) == len(blocks) == 80
  assert [4, 0, 0] in blocks and [6, 0, 0] in blocks, "as drawn"
  known = {
    tuple(arch): value
    for arch, value in zip(
      state["archive"]["archs"],
      state["archive"]["metrics"]["accuracy"],
      strict=True,
    )
  }
  for block, reward in zip(blocks, rewards, strict=True):
    form = space.canonical(np.array([block], np.int32))[0]
    assert reward == known[tuple(form.tolist())]
  ended = searcher.tell(state, searcher.ask(state), {})
  assert ended["round"] == 5 and ended["archive"] == state["archive"]
  assert len(ended["memory"]["rewards"]) == 100 and ended["q"] != state["q"]


def test_what_is_over_budget_or_failed_counts_as_the_worst():
  space = get_space("blocks-digits", max_layers=4)

  def half(space, archs):
    values = np.array(table_of(space, archs)["accuracy"])
    values[archs[:, 0] == 1] = np.nan
    values[archs[:, 0] == 3] = -np.inf
    return {"accuracy": values}

  searcher = BlockQLearning(space, Short(), rounds=6, per_round=12)
  state = run(searcher, 2, half)
  values = np.array(state["archive"]["metrics"]["accuracy"])
  assert np.isnan(values).any() and np.isneginf(values).any()
  assert Short().allows(np.array(state["archive"]["archs"])).all()
  memory = state["memory"]
  assert np.isfinite(memory["rewards"]).all()
  over = [r for b, r in zip(*memory.values(), strict=True) if len(b) > 6]
  failed = [r for b, r in zip(*memory.values(), strict=True) if b[0] in (1, 3)]
  finite = values[np.isfinite(values)]
  assert len(over) > 6 and failed
  # The worst so far falls from round to round, and is a real reward.
  assert set(over) | set(failed) <= set(finite) and over[-1] == finite.min()


def test_only_failures_teach_nothing():
  space = get_space("blocks-digits", max_layers=3)
  searcher = BlockQLearning(space, Free(), rounds=3, per_round=5)
  broken = lambda space, archs: {"accuracy": np.full(len(archs), np.nan)}
  state = run(searcher, 0, broken)
  assert state["memory"]["rewards"] == [] and state["q"]["rows"] == []


def test_blocks_told_without_being_asked_are_learned_from():
  space = get_space("blocks-digits", max_layers=3)
  searcher = BlockQLearning(space, Free(), rounds=3, per_round=2)
  state = searcher.init(0)
  known = space.from_codes(expert("resnet-basic"))
  told = searcher.tell(state, known[None], {"accuracy": [0.95]})
  # What was drawn and not evaluated has no reward to be learned from.
  assert told["memory"] == {"blocks": [known.tolist()], "rewards": [0.95]}
  table = QTable.from_json(told["q"], 3)
  assert table.value(1, 0, 1) != 0.5


def test_ask_takes_a_size_and_changes_nothing():
  space = get_space("blocks-digits")
  searcher = BlockQLearning(space, Free(), rounds=9, per_round=8)
  state = run(searcher, 1, rounds=2)
  before = copy.deepcopy(state)
  every, few = searcher.ask(state), searcher.ask(state, 3)
  assert len(few) == 3 and (few == every[:3]).all()
  assert len(searcher.ask(state, 20)) > len(every)
  searcher.tell(state, every, table_of(space, every))
  assert state == before


def test_lambda_zero_is_blockqnn_bit_for_bit():
  space = get_space("blocks-digits", max_layers=4)

  def mirrored(space, archs):
    noise = np.sin(np.arange(len(archs)) + 1e3 * archs.sum())
    return {**table_of(space, archs), "mirror": noise}

  searcher = BlockQLearning(space, Free(), rounds=12, per_round=16)
  plain, mirror = run(searcher, 7), run(searcher, 7, mirrored)
  del mirror["archive"]["metrics"]["mirror"]
  assert json.dumps(plain) == json.dumps(mirror)
  config = BlocksConfig(rounds=12, per_round=16, guidance=5.0)
  built = BlockQLearning.from_config(config, 0.0, space, Free())
  assert built.reward == BlockReward()
  assert json.dumps(run(built, 7)) == json.dumps(plain)
  guided = BlockQLearning.from_config(config, 0.3, space, Free())
  state = run(guided, 7, mirrored)
  assert state["memory"]["rewards"] != plain["memory"]["rewards"]


def test_guidance_leads_to_the_expert():
  space = get_space("blocks-digits", max_layers=5)
  goal = expert("resnet-bottleneck")
  features, known = FeatureMap(), {}
  pool = space.sample(np.random.default_rng(0), 200)
  random = features.counts_of(space, pool, 1.0)
  weights = features.counts(goal) - random.mean(0)
  low, high = (random @ weights).min(), features.counts(goal) @ weights

  def mirror(arch):
    if (key := arch.tobytes()) not in known:
      counts = features.counts(space.codes(arch))
      known[key] = (counts @ weights - low) / (high - low)
    return known[key]

  def metrics(space, archs):
    mirrors = [mirror(arch) for arch in archs]
    return {**table_of(space, archs), "mirror": mirrors}

  means, distances = [], []
  for guidance in (0.0, 0.3, 1.0, 3.0):
    mean, distance = [], []
    for seed in range(2):
      # BlockQNN's constants need thousands of blocks to show anything.
      searcher = BlockQLearning(
        space,
        Free(),
        BlockReward(guidance),
        rounds=30,
        per_round=16,
        replay=192,
        learning_rate=0.3,
      )
      archive = run(searcher, seed, metrics)["archive"]
      late = len(archive["archs"]) // 3
      mean.append(np.mean(archive["metrics"]["mirror"][-late:]))
      codes = [space.codes(np.array(a)) for a in archive["archs"][-late:]]
      distance.append(np.mean([nsc.edit_distance(c, goal) for c in codes]))
    means.append(np.mean(mean))
    distances.append(np.mean(distance))
  assert (np.diff(means) > 0).all(), means
  assert (np.diff(distances) < 0).all(), distances


@pytest.mark.parametrize(
  ("field", "name", "value"),
  [
    ("rounds", "blocks.rounds", 0),
    ("per_round", "blocks.per_round", 0),
    ("replay", "blocks.replay", -1),
    ("learning_rate", "blocks.learning_rate", 1.5),
    ("discount", "blocks.discount", -0.1),
  ],
)
def test_constants_are_checked(field, name, value):
  space = get_space("blocks-digits")
  with pytest.raises(UserError, match=f"^{name} is {value}; it must"):
    BlockQLearning(space, Free(), **{field: value})
