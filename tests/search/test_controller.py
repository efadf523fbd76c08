import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.search import controller, mutators

SETTINGS = controller.PPO()
SIZES = np.array([4, 3, 6, 2, 6], np.int32)


def sample(rng, state, n, sizes=SIZES):
  policy = controller.policy(state, sizes)
  rows = [mutators.sample_policy(rng, None, policy) for _ in range(n)]
  return np.stack(rows)


def test_learns_a_planted_optimum():
  planted = np.array([3, 0, 4, 1, 2])
  for seed in range(3):
    rng = np.random.default_rng(seed)
    state = controller.init(SIZES)
    for _ in range(60):
      archs = sample(rng, state, 24)
      assert (archs < SIZES).all()
      rewards = (archs == planted).mean(1) + 0.1 * rng.normal(size=24)
      state = controller.update(state, SIZES, archs, rewards, SETTINGS)
    policy = controller.policy(state, SIZES)
    assert (policy.argmax(1) == planted).all()
    assert policy[np.arange(5), planted].min() > 0.7


def test_starts_uniform_over_legal_choices():
  policy = controller.policy(controller.init(SIZES), SIZES)
  for row, k in zip(policy, SIZES, strict=True):
    np.testing.assert_allclose(row[:k], 1 / k)
    np.testing.assert_array_equal(row[k:], 0)


def test_json_round_trip_is_exact():
  rng = np.random.default_rng(0)
  state = controller.init(SIZES)
  for n in (5, 8, 3):
    archs, rewards = sample(rng, state, n), rng.random(n)
    state = controller.update(state, SIZES, archs, rewards, SETTINGS)
    assert json.loads(json.dumps(state)) == state
  stored = np.array(state["arrays"][0])
  assert (stored == stored.astype(np.float32)).all()
  assert (stored[SIZES[:, None] <= np.arange(6)] == 0).all()


def log_softmax(logits, mask):
  rows = []
  for row, legal in zip(logits, mask, strict=True):
    total = np.log(np.exp(row[legal]).sum())
    rows.append(np.where(legal, row - total, -np.inf))
  return np.stack(rows)


def test_loss_equals_a_plain_reference():
  rng = np.random.default_rng(1)
  mask = np.arange(6) < SIZES[:, None]
  logits, old_logits = rng.normal(size=(2, 5, 6))
  archs = rng.integers(0, SIZES, (9, 5)).astype(np.int32)
  advantages = rng.normal(size=9)
  weights = np.full(9, 1 / 9)
  log_p, old = log_softmax(logits, mask), log_softmax(old_logits, mask)
  old_log_prob = np.array([sum(old[range(5), a]) for a in archs])
  total, clipped = 0.0, 0
  for a, adv, before in zip(archs, advantages, old_log_prob, strict=True):
    ratio = np.exp(sum(log_p[range(5), a]) - before)
    bounded = min(max(ratio, 0.8), 1.2)
    clipped += bounded * adv < ratio * adv
    total += min(ratio * adv, bounded * adv) / 9
  assert 0 < clipped < 9
  rows = [row[legal] for row, legal in zip(log_p, mask, strict=True)]
  entropy = np.mean([-sum(np.exp(row) * row) for row in rows])
  got = controller.ppo_loss(
    jnp.float32(logits), jnp.float32(old_log_prob), mask, archs,
    jnp.float32(advantages), jnp.float32(weights), 0.2, 0.02,
  )  # fmt: skip
  np.testing.assert_allclose(got, -total - 0.02 * entropy, rtol=1e-5)


def test_update_is_adam_on_the_loss_whatever_the_padding():
  settings = dataclasses.replace(SETTINGS, epochs=3)
  rng = np.random.default_rng(2)
  mask = np.arange(6) < SIZES[:, None]
  adam = optax.adam(settings.learning_rate, eps=1e-5)
  logits = jnp.zeros((5, 6))
  moments = adam.init(logits)
  state, baseline = controller.init(SIZES), None
  for n in (6, 40):  # padded to 32 and 64
    archs, rewards = sample(rng, state, n), rng.random(n)
    mean = rewards.mean()
    baseline = mean if baseline is None else baseline
    log_p = jax.nn.log_softmax(jnp.where(mask, logits, -jnp.inf))
    old = log_p[jnp.arange(5), archs].sum(1)
    for _ in range(3):
      gradient = jax.grad(controller.ppo_loss)(
        logits, old, mask, archs, jnp.float32(rewards - baseline),
        jnp.full(n, 1 / n), 0.2, 0.02,
      )  # fmt: skip
      step, moments = adam.update(gradient, moments)
      logits = optax.apply_updates(logits, step)
    baseline = 0.9 * baseline + 0.1 * mean
    state = controller.update(state, SIZES, archs, rewards, settings)
    np.testing.assert_allclose(state["arrays"][0], logits, atol=1e-5)
    np.testing.assert_allclose(state["baseline"], baseline)


def test_reckless_steps_stay_finite():
  settings = dataclasses.replace(SETTINGS, learning_rate=200.0)
  rng = np.random.default_rng(4)
  state = controller.init(SIZES)
  for _ in range(5):
    archs, rewards = sample(rng, state, 9), rng.normal(size=9)
    state = controller.update(state, SIZES, archs, rewards, settings)
    assert np.isfinite(state["arrays"][0]).all()


def test_nothing_told_changes_nothing():
  state = controller.init(SIZES)
  none = np.zeros((0, 5), np.int32)
  assert controller.update(state, SIZES, none, np.zeros(0), SETTINGS) is state


def test_a_choice_nobody_made_hardly_moves():
  state = controller.init(SIZES)
  archs = np.zeros((4, 5), np.int32)
  archs[2:] = 1
  rewards = np.array([0.3, 0.5, 0.7, 0.9])
  logits = np.array(
    controller.update(state, SIZES, archs, rewards, SETTINGS)["arrays"][0]
  )
  assert (logits[:, 1] > 0.1).all() and (logits[:, 0] < -0.1).all()
  one = controller.PPO(epochs=1)
  logits = np.array(
    controller.update(state, SIZES, archs, rewards, one)["arrays"][0]
  )
  assert np.abs(logits[:, 2:]).max() < 1e-3


def test_equal_rewards_keep_the_policy_uniform():
  rng = np.random.default_rng(3)
  state = controller.init(SIZES)
  archs = sample(rng, state, 16)
  state = controller.update(state, SIZES, archs, np.full(16, 0.5), SETTINGS)
  start = controller.policy(controller.init(SIZES), SIZES)
  np.testing.assert_allclose(controller.policy(state, SIZES), start, atol=1e-3)
