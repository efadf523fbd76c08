"""Batch norm on parts of a batch, and batches in parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, close, make_feed, shaken

from jaxnas.config import ExperimentConfig, NetConfig, TrainConfig, override
from jaxnas.errors import UserError
from jaxnas.methods.checks import check_values
from jaxnas.nets import PathSupernet
from jaxnas.nets.layers import measure, measuring, moments
from jaxnas.training import (
  init_state,
  make_optimizer,
  make_sampler,
  make_supernet_step,
)
from jaxnas.training.accumulate import in_parts

X = np.random.default_rng(0).normal(size=(2, 12, 3, 3, 5)).astype(np.float32)


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_parts_are_measured_apart(parts):
  with measuring(parts=parts):
    used, kept = measure(jnp.asarray(X))
  assert measure(jnp.asarray(X))[0][0].shape == (
    2,
    1,
    1,
    1,
    5,
  )  # outside: whole
  rows = X.reshape(2, parts, -1, 3, 3, 5)
  mean, var = rows.mean((2, 3, 4)), rows.var((2, 3, 4))
  for found, want in zip(used, (mean, var), strict=True):
    by_image = np.repeat(want, 12 // parts, 1)[:, :, None, None]
    shown = np.broadcast_to(found, (2, 12, 1, 1, 5))
    np.testing.assert_allclose(shown, by_image, atol=1e-5)
  for found, want in zip(kept, (mean, var), strict=True):
    np.testing.assert_allclose(found, want.mean(1), atol=1e-5)


def test_padding_does_not_count_over_devices():
  mesh = jax.make_mesh(
    (1,), ("data",), devices=jax.devices()[:1],
    axis_types=(jax.sharding.AxisType.Auto,),
  )  # fmt: skip
  share = np.float32([0.1] * 10 + [0, 0])

  def device(x, weights):
    with measuring(axis="data", weights=weights):
      return moments(x)

  everywhere = jax.sharding.PartitionSpec()
  mean, var = jax.shard_map(
    device, mesh=mesh, in_specs=everywhere, out_specs=everywhere,
    check_vma=False,
  )(X, share)  # fmt: skip
  real = X[:, :10]
  np.testing.assert_allclose(mean, real.mean((1, 2, 3)), atol=1e-5)
  np.testing.assert_allclose(var, real.var((1, 2, 3)), atol=1e-5)


def test_parts_of_a_batch_are_averaged_with_keys_of_their_own():
  x = jnp.arange(24.0).reshape(2, 6, 2)
  y = jnp.arange(12).reshape(2, 6)
  key = jax.random.key(0)

  def found(x, y, keys):
    assert x.shape == (2, 2, 2)
    chance = jax.random.uniform(keys["noise"])
    return {"x": x.mean(), "y": y.mean(1), "chance": chance}

  out = in_parts(found, 3, x, y, {"noise": key})
  assert float(out["x"]) == x.mean()
  np.testing.assert_allclose(out["y"], y.mean(1))
  chances = [jax.random.uniform(jax.random.fold_in(key, i)) for i in range(3)]
  assert float(out["chance"]) == pytest.approx(float(np.mean(chances)))
  assert len({float(c) for c in chances}) == 3
  whole = in_parts(lambda *given: given, 1, x, y, key)
  assert whole[0] is x and whole[1] is y and whole[2] is key


def test_accumulated_parts_are_parts_of_batch_norm():
  """Both take the gradient of the same mean of losses, part by part."""
  order = np.random.default_rng(3).permutation(48)[:16].astype(np.int32)
  ends = []
  for parts, accumulate in ((2, 1), (1, 2)):
    config = TrainConfig(sampler="fair", accumulate=accumulate)
    tx = make_optimizer(config.optimizer, lambda _: 0.1)
    supernet = PathSupernet(SMALL, NetConfig(bn_parts=parts))
    feed = dataclasses.replace(make_feed(), bn_parts=parts)
    sampler = make_sampler(config, SMALL)
    step = make_supernet_step(supernet, sampler, tx, config, feed)
    variables = shaken(supernet.init(jax.random.key(0)))
    state = feed.placement.put(init_state(variables, tx, SMALL.n_choices))
    # Accumulation takes every other image, batch norm halves.
    taken = order if accumulate > 1 else order.reshape(-1, 2).T.reshape(-1)
    state, metrics = step(state, jax.random.key(1), taken)
    ends.append((state.params, state.batch_stats, metrics["loss"]))
  close(*ends)


@pytest.mark.parametrize(
  "settings",
  [["train.accumulate=3"], ["net.bn_parts=3"],
   ["retrain.accumulate=64", "net.bn_parts=4"]],
)  # fmt: skip
def test_parts_must_divide_a_batch(settings):
  with pytest.raises(UserError, match=r"batch_size is .* divisible by"):
    check_values(override(ExperimentConfig(), settings))


@pytest.mark.parametrize("name", ["train.accumulate", "net.bn_parts"])
def test_there_is_at_least_one_part(name):
  with pytest.raises(UserError, match=f"{name} is 0; it must be at least 1"):
    check_values(override(ExperimentConfig(), [f"{name}=0"]))
