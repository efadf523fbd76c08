"""Schedules and optimisers against hand computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.config import OptimizerConfig
from jaxnas.training import make_optimizer, make_schedule
from jaxnas.training.optimizers import decay_mask, freeze_unused

# Schedules ------------------------------------------------------------------


def test_schedule_warms_up_peaks_and_ends():
  config = OptimizerConfig(
    learning_rate=0.4, final_learning_rate=0.1, warmup_epochs=2
  )
  schedule = make_schedule(config, n_steps=50, steps_per_epoch=5)
  value = lambda i: float(schedule(i))
  assert value(0) == 0
  assert value(5) == pytest.approx(0.2)
  assert value(10) == pytest.approx(0.4)
  assert value(30) == pytest.approx(0.25)  # half of the cosine
  assert value(50) == pytest.approx(0.1)
  assert value(60) == pytest.approx(0.1)
  values = [value(i) for i in range(51)]
  assert np.argmax(values) == 10
  assert (np.diff(values[10:]) < 0).all()


def test_schedule_without_warm_up_starts_at_the_peak():
  config = OptimizerConfig(learning_rate=0.4)
  schedule = make_schedule(config, 20, 5)
  assert float(schedule(0)) == pytest.approx(0.4)
  assert float(schedule(20)) == pytest.approx(0, abs=1e-8)


def test_schedule_of_zero_and_of_warm_up_only():
  zero = make_schedule(OptimizerConfig(learning_rate=0.0), 10, 5)
  assert float(zero(0)) == float(zero(10)) == 0
  config = OptimizerConfig(learning_rate=1.0, warmup_epochs=4)
  ramp = make_schedule(config, 10, 5)  # 20 steps of warm-up, 10 in all
  assert float(ramp(9)) == pytest.approx(0.45)


# Optimisers -----------------------------------------------------------------

PARAMS = {
  "block": {
    "conv": {"kernel": jnp.array([1.0, -2.0])},
    "bn": {"scale": jnp.array([3.0]), "bias": jnp.array([4.0])},
  },
  "classifier": {"linear": jnp.array([0.5]), "bias": jnp.array([2.0])},
}
GRADS = [
  jax.tree.map(lambda p, s=s: s * jnp.ones_like(p), PARAMS)
  for s in (0.3, -0.7, 0.2)
]
DECAYED = {("block", "conv", "kernel"), ("classifier", "linear")}


def paths(tree):
  return {
    tuple(k.key for k in path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def three_steps(config, rates=(0.1, 0.2, 0.05)):
  tx = make_optimizer(config, lambda i: jnp.array(rates)[i])
  params, state = PARAMS, tx.init(PARAMS)
  for g in GRADS:
    updates, state = tx.update(g, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return paths(params)


def test_decay_mask_spares_batch_norm_and_biases():
  marked = {p for p, keep in paths(decay_mask(PARAMS)).items() if keep}
  assert marked == DECAYED


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_by_hand(decay_all, nesterov):
  config = OptimizerConfig(
    weight_decay=0.5, momentum=0.9, nesterov=nesterov, decay_all=decay_all
  )
  got = three_steps(config)
  for path, start in paths(PARAMS).items():
    wd = 0.5 if decay_all or path in DECAYED else 0.0
    w, v = np.float64(start), 0.0
    for g, rate in zip((0.3, -0.7, 0.2), (0.1, 0.2, 0.05), strict=True):
      d = g + wd * w  # L2 enters before the momentum
      v = 0.9 * v + d
      w = w - rate * (d + 0.9 * v if nesterov else v)
    np.testing.assert_allclose(got[path], w, rtol=1e-5, err_msg=str(path))


def test_adamw_decouples_its_decay():
  rate, wd = 0.1, 0.5
  config = OptimizerConfig(name="adamw", weight_decay=wd, momentum=0.8)
  got = three_steps(config, (rate,) * 3)
  for path, start in paths(PARAMS).items():
    w, m, v = np.float64(start), 0.0, 0.0
    for t, g in enumerate((0.3, -0.7, 0.2), 1):
      m, v = 0.8 * m + 0.2 * g, 0.999 * v + 0.001 * g * g
      unit = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
      w = w - rate * (unit + (wd * w if path in DECAYED else 0))
    np.testing.assert_allclose(got[path], w, rtol=1e-4, err_msg=str(path))


def test_rmsprop_by_hand():
  config = OptimizerConfig(name="rmsprop", weight_decay=0.5, momentum=0.9)
  got = three_steps(config)
  for path, start in paths(PARAMS).items():
    w, v, buffer = np.float64(start), 0.0, 0.0
    for g, rate in zip((0.3, -0.7, 0.2), (0.1, 0.2, 0.05), strict=True):
      d = g + (0.5 * w if path in DECAYED else 0)
      v = 0.9 * v + 0.1 * d * d
      buffer = 0.9 * buffer + rate * d / np.sqrt(v + 1e-8)
      w = w - buffer
    np.testing.assert_allclose(got[path], w, rtol=1e-4, err_msg=str(path))


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_unused_parameters_and_their_moments_are_frozen(name):
  tx = make_optimizer(OptimizerConfig(name=name, weight_decay=0.5), lambda _: 1)
  state = tx.init(PARAMS)
  _, state = tx.update(GRADS[0], state, PARAMS)  # moments are not zero now
  used = jax.tree.map(lambda _: jnp.array(True), PARAMS)
  used["block"] = jax.tree.map(lambda _: jnp.array(False), PARAMS["block"])
  frozen, frozen_state = freeze_unused(tx, used, GRADS[1], state, PARAMS)
  updates, free_state = tx.update(GRADS[1], state, PARAMS)
  free = jax.tree.map(jnp.add, PARAMS, updates)

  for tree, old, new in (
    (frozen, PARAMS, free), (frozen_state, state, free_state),
  ):  # fmt: skip
    for (path, got), before, after in zip(
      jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(old),
      jax.tree.leaves(new), strict=True,
    ):  # fmt: skip
      held = "'block'" in jax.tree_util.keystr(path)
      np.testing.assert_array_equal(got, before if held else after)
      assert not np.array_equal(before, after)
