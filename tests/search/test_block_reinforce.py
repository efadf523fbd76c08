"""REINFORCE over blocks: the policy, its gradients and its steps."""

import numpy as np
import optax
import pytest

from jaxnas.search import reinforce
from jaxnas.search.reinforce import BlockReinforce
from jaxnas.spaces import get_space, nsc


class Free:
  """No bound at all."""

  limits = ()

  def allows(self, archs):
    return np.ones(len(archs), bool)


def build(max_layers, **fields) -> BlockReinforce:
  space = get_space("blocks-digits", max_layers=max_layers)
  return BlockReinforce(space, Free(), **fields)


def logits_of(seed, t=4):
  return np.random.default_rng(seed).normal(size=(t, len(nsc.OPS) + 2 * t))


def test_probabilities_of_a_uniform_policy():
  searcher = build(4)
  op, pred1, pred2 = searcher.probabilities(searcher.init(0))
  assert op.shape == (4, 11) and pred1.shape == pred2.shape == (4, 4)
  np.testing.assert_allclose(op[0], [0, *[1 / 8] * 8, 0, 0], atol=1e-15)
  np.testing.assert_allclose(op[1:], 1 / 11, atol=1e-15)
  expected = np.tri(4) / np.arange(1, 5)[:, None]
  np.testing.assert_allclose(pred1, expected, atol=1e-15)
  np.testing.assert_allclose(pred2, expected, atol=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_all_blocks_sum_to_one(seed):
  space = get_space("blocks-digits", max_layers=2)
  logits = logits_of(seed, 2)
  total = 0.0
  for first in nsc.next_codes(1):
    for second in nsc.next_codes(2):
      codes = (first, second) if second.op else (first,)
      arch = space.from_codes(codes)
      total += np.exp(reinforce.log_probability(logits, arch))
  assert total == pytest.approx(1, abs=1e-12)


def test_draws_follow_the_policy():
  space = get_space("blocks-digits", max_layers=2)
  logits = logits_of(3, 2)
  state = BlockReinforce(space, Free()).init(0) | {"logits": logits.tolist()}
  policy = BlockReinforce(space, Free()).probabilities(state)
  rng, n = np.random.default_rng(0), 6000
  draws = [tuple(reinforce.draw_block(rng, *policy)) for _ in range(n)]
  common = sorted(set(draws), key=draws.count)[-10:]
  for arch in common:
    p = np.exp(reinforce.log_probability(logits, np.array(arch)))
    spread = np.sqrt(n * p * (1 - p))
    assert abs(draws.count(arch) - n * p) < 5 * spread


def finite_differences(function, logits, step=1e-6):
  result = np.zeros_like(logits)
  for place in np.ndindex(logits.shape):
    up, down = logits.copy(), logits.copy()
    up[place] += step
    down[place] -= step
    result[place] = (function(up) - function(down)) / (2 * step)
  return result


@pytest.mark.parametrize("seed", range(5))
def test_gradients_equal_finite_differences(seed):
  space, logits = get_space("blocks-digits", max_layers=4), logits_of(seed)
  for arch in space.sample(np.random.default_rng(seed), 4):
    expected = finite_differences(
      lambda x, arch=arch: reinforce.log_probability(x, arch), logits
    )
    got = reinforce.gradient(logits, arch)
    np.testing.assert_allclose(got, expected, atol=1e-8)
    assert np.abs(got).max() > 0.1
  expected = finite_differences(reinforce.entropy, logits)
  got = reinforce.entropy_gradient(logits)
  np.testing.assert_allclose(got, expected, atol=1e-8)


def test_entropy_is_largest_when_uniform():
  uniform = np.zeros((4, 19))
  value = reinforce.entropy(uniform)
  heads = [np.log(8), *[np.log(11)] * 3, *2 * [np.log(i) for i in range(1, 5)]]
  assert value == pytest.approx(np.mean(heads), abs=1e-12)
  assert np.abs(reinforce.entropy_gradient(uniform)).max() < 1e-15
  assert reinforce.entropy(logits_of(0)) < value


def test_adam_equals_optax():
  rng = np.random.default_rng(0)
  searcher = build(2)
  state = searcher.init(0)
  logits = np.array(state["logits"])
  plain = logits.astype(np.float32)
  optimizer = optax.adam(0.05, eps=reinforce.FLOOR)
  moments = optimizer.init(plain)
  for _ in range(5):
    gain = rng.normal(size=logits.shape) * 0.01
    step, moments = optimizer.update(np.float32(-gain), moments)
    plain = plain + np.asarray(step)
    state |= reinforce._adam(state, np.array(state["logits"]), gain, 0.05)
  np.testing.assert_allclose(state["logits"], plain, atol=1e-5)


def test_what_beats_the_baseline_becomes_likelier():
  searcher = build(3, per_round=20)
  state = searcher.init(0)
  archs = searcher.ask(state)
  accuracy = (archs[:, 0] == 2).astype(float)
  assert 0 < accuracy.sum() < len(archs)
  new = searcher.tell(state, archs, {"accuracy": accuracy})
  before, after = (searcher.probabilities(s)[0][0] for s in (state, new))
  assert after[2] > before[2] + 0.003 and np.argmax(after) == 2
  assert new["steps"] == 1 and new["baseline"] == pytest.approx(
    accuracy.mean(), abs=0.2
  )
