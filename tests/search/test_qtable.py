"""The Q table: against value iteration, a slow replay and its own JSON."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.errors import UserError
from jaxnas.search.policy import learn_policy
from jaxnas.search.qtable import QTable
from jaxnas.spaces import get_space, nsc
from jaxnas.spaces.nsc import Code

T = 3
CONV1, CONV3, ADD = Code(1, 0, 0), Code(2, 1, 0), Code(9, 0, 2)


def worth(index: int, state: int, action: int) -> float:
  """A reward that depends on the last state and decision only: an MDP."""
  return float(np.sin(7 * index + 3.1 * state + 1.7 * action)) + 1.2


def blocks() -> list[list[int]]:
  """Decisions of every block of at most three layers."""
  found = []
  sizes = [len(nsc.next_codes(i)) for i in (1, 2, 3)]
  for a, b in itertools.product(range(sizes[0]), range(sizes[1])):
    found += [[a, 0]] if b == 0 else [[a, b, c] for c in range(sizes[2])]
  return found


def to_codes(decisions: list[int]) -> list[Code]:
  codes = [nsc.next_codes(i)[a] for i, a in enumerate(decisions, 1)]
  return [code for code in codes if code != nsc.TERMINAL]


def value_iteration(gamma: float) -> dict[tuple[int, int, int], float]:
  """Plain sweeps over all states and actions until nothing changes."""
  q = {}
  for index in range(1, T + 1):
    before = len(nsc.next_codes(index - 1)) if index > 1 else 1
    # Behind a terminal code there is no state.
    for state in range(int(index > 2), before):
      for action in range(len(nsc.next_codes(index))):
        q[index, state, action] = 0.0
  while True:
    old = dict(q)
    for index, state, action in q:
      if index == T or (index > 1 and action == 0):
        q[index, state, action] = worth(index, state, action)
        continue
      following = range(len(nsc.next_codes(index + 1)))
      top = max(old[index + 1, action, a] for a in following)
      q[index, state, action] = gamma * top
    if q == old:
      return q


def last_step(decisions: list[int]) -> tuple[int, int, int]:
  m = len(decisions)
  return m, decisions[m - 2], decisions[-1]


def error(table: QTable, exact: dict) -> float:
  return max(abs(table.value(*key) - q) for key, q in exact.items())


@pytest.mark.parametrize("order", ["reverse", "forward"])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_replay_converges_to_value_iteration(order, gamma):
  exact = value_iteration(gamma)
  assert len(exact) == 8 + 8 * 21 + 20 * len(nsc.next_codes(3))
  # Low initial values: at alpha = 1 only what was met counts.
  table, sweeps = QTable(T, initial=-1.0), 0
  while error(table, exact) > 1e-12:
    for decisions in blocks():
      reward = worth(*last_step(decisions))
      table.replay(to_codes(decisions), reward, False, 1.0, gamma, order)
    sweeps += 1
    assert sweeps <= T


def test_reverse_order_needs_one_sweep_where_forward_needs_seven():
  """A memory of eight chains that share the start only, six layers each."""
  memory = [
    ([Code(op, 0, 0)] + [Code(op, i, 0) for i in range(1, 6)], op / 8)
    for op in range(1, 9)
  ]
  sweeps = {}
  for order in ("reverse", "forward"):
    table = QTable(10, initial=-1.0)
    sweeps[order] = 0
    while any(
      table.value(1, 0, table.actions(codes)[0]) != reward
      for codes, reward in memory
    ):
      for codes, reward in memory:
        table.replay(codes, reward, False, 1.0, 1.0, order)
      sweeps[order] += 1
      assert sweeps[order] < 10
  assert sweeps == {"reverse": 1, "forward": 7}


def test_small_steps_converge_to_value_iteration():
  exact, rng = value_iteration(1.0), np.random.default_rng(0)
  table, everything = QTable(T), blocks()
  for _ in range(5):
    for i in rng.permutation(len(everything)):
      reward = worth(*last_step(everything[i]))
      table.replay(to_codes(everything[i]), reward, False, 0.7, 1.0)
  assert error(table, exact) < 0.01
  codes = table.draw(rng, 0.0)
  assert worth(*last_step(table.actions(codes))) == pytest.approx(
    max(exact.values())
  )


def test_one_update_by_hand():
  table = QTable(6)
  table.update(1, 0, 2, reward=0.1, alpha=0.01, gamma=0.9, ended=False)
  expected = 0.99 * 0.5 + 0.01 * (0.1 + 0.9 * 0.5)
  assert table.value(1, 0, 2) == pytest.approx(expected, abs=1e-15)
  table.update(2, 2, 0, reward=1.0, alpha=0.5, gamma=0.9, ended=True)
  assert table.value(2, 2, 0) == 0.75
  assert table.value(2, 2, 1) == 0.5 and table.best(2, 2) == 0.75
  assert table.greedy(2, 2) == [0]


@pytest.mark.parametrize(
  ("max_layers", "targets"),
  # Three codes and the terminal are four decisions; full blocks have three.
  [(6, [0.2, 0.2, 0.2, 0.8]), (3, [0.8 / 3, 0.8 / 3, 0.8])],
)
def test_shaped_rewards_by_hand(max_layers, targets):
  table = QTable(max_layers)
  codes = [CONV1, CONV3, ADD]
  table.replay(codes, 0.8, True, 0.1, 1.0)
  actions = table.actions(codes)
  states = [0, *actions]
  following = 0.0
  for t in range(len(targets), 0, -1):
    value = 0.9 * 0.5 + 0.1 * (targets[t - 1] + following)
    got = table.value(t, states[t - 1], actions[t - 1])
    assert got == pytest.approx(value, abs=1e-15)
    following = max(value, 0.5)


def test_what_does_not_pay_is_left_for_the_untried():
  table = QTable(4)
  row = table.rows.setdefault((1, 0), {})
  for action in range(7):
    row[action] = 0.1 * action - 1
  assert table.best(1, 0) == 0.5 and table.greedy(1, 0) == [7]
  row[7] = -3.0
  assert table.best(1, 0) == pytest.approx(-0.4) and table.greedy(1, 0) == [6]
  row[2] = row[6]
  assert table.greedy(1, 0) == [2, 6]


def test_equal_values_are_drawn_alike_and_best_ones_are_legal():
  table, rng = QTable(4), np.random.default_rng(0)
  firsts = [table.draw(rng, 0.0)[0] for _ in range(4000)]
  counts = [firsts.count(code) for code in nsc.next_codes(1)]
  assert sum(counts) == 4000
  # Six standard deviations of a binomial of 4000 draws at 1/8.
  assert max(abs(c - 500) for c in counts) < 6 * np.sqrt(4000 * 7 / 64)
  for index in range(1, 5):
    numbers = table.greedy(index, 0)
    assert numbers == list(range(len(nsc.next_codes(index))))


def test_ends_at_the_terminal_code_or_behind_the_last_index():
  table = QTable(2)
  assert table.actions([CONV1]) == [0, 0]
  assert table.actions([CONV1, CONV3]) == [0, nsc.next_codes(2).index(CONV3)]
  table.replay([CONV1, CONV3], 2.0, False, 1.0, 1.0)
  table.replay([CONV1], 1.0, False, 1.0, 1.0)
  assert {index for index, _ in table.rows} == {1, 2}
  assert table.draw(np.random.default_rng(0), 0.0) == (CONV1, CONV3)


@pytest.mark.parametrize("bad", [CONV3, Code(0, 0, 0), Code(9, 0, 0)])
def test_illegal_codes_are_named(bad):
  with pytest.raises(UserError, match="at layer 1 of a block"):
    QTable(3).actions([bad])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.floats(0, 1))
def test_json_and_copies(seed, max_layers, epsilon):
  space = get_space("blocks-digits", max_layers=max_layers)
  rng, table = np.random.default_rng(seed), QTable(max_layers)
  for _ in range(8):
    codes = table.draw(rng, epsilon)
    assert space.codes(space.from_codes(codes)) == codes
    table.replay(codes, rng.normal(), True, 0.3, 1.0)
  text = json.dumps(table.to_json())
  again = QTable.from_json(json.loads(text), max_layers)
  assert again.rows == table.rows
  assert json.dumps(again.to_json()) == text
  value = json.loads(text)
  other = QTable.from_json(value, max_layers)
  other.replay(codes, 5.0, True, 0.3, 1.0)
  assert json.dumps(value) == text and json.dumps(table.to_json()) == text


def test_a_learned_policy_earns_more_than_random_blocks():
  space = get_space("blocks-cifar")
  calls = []

  def reward(blocks):
    calls.extend(blocks)
    # Of any scale: sums that read the layer before, per layer.
    return np.array(
      [
        -50 + 9 * sum(c.op == 9 and i - 1 in c[1:] for i, c in enumerate(b, 1))
        / len(b)
        for b in blocks
      ]
    )  # fmt: skip

  archs = learn_policy(space, reward, 60, 3, 200)
  assert archs.shape == (200, space.n_layers) and archs.dtype == np.int32
  assert len(calls) == len(set(calls)), "a block was judged twice"
  np.testing.assert_array_equal(archs, learn_policy(space, reward, 60, 3, 200))
  learned = reward([space.codes(a) for a in archs]) + 50
  random = space.sample(np.random.default_rng(0), 500)
  chance = reward([space.codes(a) for a in random]) + 50
  assert learned.mean() > 4 * chance.mean()
