"""Fleets of plain networks against the plain networks themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import THREE, close, images, make_feed, make_space, same, shaken

from jaxnas.config import OptimizerConfig, RetrainConfig
from jaxnas.nets import Fleet, PlainNetwork
from jaxnas.sharding import make_placement
from jaxnas.spaces import Identity, Layer, MBConv, Space
from jaxnas.training import init_state, make_fleet_step, make_optimizer

SPACE = make_space(THREE, THREE)
# Twins, shared choices in mixed order, a network alone in its choice.
ARCHS = ((1, 0), (0, 2), (1, 2), (1, 0))
FLEET = Fleet(SPACE, ARCHS)
KEYS = jax.random.split(jax.random.key(5), len(ARCHS))


@pytest.fixture(scope="module")
def own():
  """Variables of every network, none of them neutral."""
  fresh = FLEET.init(KEYS)
  return [shaken(FLEET.unstack(fresh, i), i) for i in range(FLEET.n)]


def on_plain(i):
  """Loss, logits, statistics and gradient of network i by itself."""
  module = PlainNetwork(SPACE, ARCHS[i])

  def loss(params, stats, x, y):
    v = {"params": params, "batch_stats": stats}
    logits, new = module.apply(v, x, False, mutable=["batch_stats"])
    rows = jax.nn.log_softmax(logits)
    value = -jnp.take_along_axis(rows, y[:, None], -1).mean()
    return value, (logits, new["batch_stats"])

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


PLAIN = [on_plain(0), on_plain(1), on_plain(2)]
PLAIN.append(PLAIN[0])  # the twin runs the same program


@pytest.mark.parametrize("stored", [True, False])
def test_fleet_equals_its_networks(own, stored):
  x = images(5)
  joint = FLEET.stack(own)
  logits, stats = jax.jit(FLEET.apply, static_argnums=2)(joint, x, stored)
  if stored:
    assert stats == {}
    for i, arch in enumerate(ARCHS):
      run = jax.jit(PlainNetwork(SPACE, arch).apply)
      close(logits[i], run(own[i], x))
    return
  new = {
    "params": joint["params"],
    "batch_stats": FLEET.blend_stats(joint["batch_stats"], stats, 0.9),
  }
  for i in range(FLEET.n):
    v, y = own[i], np.zeros(5, np.int32)
    (_, (expected, seen)), _ = PLAIN[i](v["params"], v["batch_stats"], x, y)
    close(logits[i], expected)
    moved = jax.tree.map(lambda o, m: 0.9 * o + 0.1 * m, v["batch_stats"], seen)
    close(FLEET.unstack(new, i)["batch_stats"], moved)


def test_stack_and_unstack_are_inverse(own):
  joint = FLEET.stack(own)
  for i, v in enumerate(own):
    assert same(FLEET.unstack(joint, i), v)
  assert same(FLEET.stack([FLEET.unstack(joint, i) for i in range(4)]), joint)


def test_weights_do_not_depend_on_the_fleet():
  fleet = FLEET.init(KEYS)
  alone = Fleet(SPACE, ARCHS[2:3]).init(KEYS[2:3])
  assert same(
    Fleet(SPACE, ARCHS[2:3]).unstack(alone, 0), FLEET.unstack(fleet, 2)
  )
  other = Fleet(SPACE, (ARCHS[3], ARCHS[1], ARCHS[2]))
  reordered = other.init(KEYS[jnp.array([3, 1, 2])])
  assert same(other.unstack(reordered, 0), FLEET.unstack(fleet, 3))
  # Twins with keys of their own differ.
  assert not same(FLEET.unstack(fleet, 0), FLEET.unstack(fleet, 3))


def test_owners_of_the_rows_of_a_leaf():
  joint = FLEET.init(KEYS)["params"]
  owners = FLEET.network_of(joint)
  for leaf, rows in zip(
    jax.tree.leaves(joint), jax.tree.leaves(owners), strict=True
  ):
    assert len(leaf) == len(rows)
  marked = jax.tree.map(lambda _, r: r, joint, owners)
  for i in range(FLEET.n):
    v = {"params": marked, "batch_stats": {}}
    rows = jax.tree.leaves(FLEET.unstack(v, i)["params"])
    assert {int(r) for r in rows} == {i}


def test_dropout_masks_are_each_networks_own(own):
  fleet = Fleet(SPACE, (ARCHS[0],) * 4)
  joint = fleet.stack([own[0]] * 4)
  x = images(5)
  run = jax.jit(fleet.apply, static_argnums=(2, 3))
  plain, _ = run(joint, x, True)
  close(plain, jnp.broadcast_to(plain[0], plain.shape))
  dropped, _ = run(joint, x, True, 0.5, jax.random.key(0))
  assert len({np.asarray(y).tobytes() for y in dropped}) == 4


def test_training_a_fleet_equals_training_its_networks(own):
  clip = 1.0  # between the networks' norms
  optimizer = OptimizerConfig(learning_rate=0.1, clip_norm=clip)
  config = RetrainConfig(label_smoothing=0.0, optimizer=optimizer)
  tx = make_optimizer(optimizer, lambda _: 0.1)
  feed = make_feed()
  step = make_fleet_step(FLEET, tx, config, 0.8, 0.0, feed)
  state = make_placement().put(init_state(FLEET.stack(own), tx))
  indices = [np.arange(8), np.arange(8, 16)]
  for rows in indices:
    state, metrics = step(state, jax.random.key(0), rows)
  assert int(state.step) == 2
  assert np.asarray(metrics["finite"]).all()

  norms = []
  for i in range(FLEET.n):
    params, stats = own[i]["params"], own[i]["batch_stats"]
    opt_state = tx.init(params)
    for rows in indices:
      x = (np.asarray(feed.images)[rows] / np.float32(255) - 0.5) / 0.25
      y = np.asarray(feed.labels)[rows]
      (loss, (logits, seen)), grads = PLAIN[i](params, stats, x, y)
      squares = sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
      norm = np.sqrt(squares)
      if norm > clip:
        grads = jax.tree.map(lambda g, n=norm: g * (clip / n), grads)
      updates, opt_state = tx.update(grads, opt_state, params)
      params = jax.tree.map(jnp.add, params, updates)
      stats = jax.tree.map(lambda o, m: 0.8 * o + 0.2 * m, stats, seen)
    norms.append(norm)
    assert float(metrics["loss"][i]) == pytest.approx(float(loss), rel=1e-4)
    hits = (np.argmax(logits, -1) == y).mean()
    assert float(metrics["accuracy"][i]) == pytest.approx(hits)
    got = FLEET.unstack(state.variables, i)
    # Two float32 steps; sums run in another order in a stack.
    close(got, {"params": params, "batch_stats": stats}, 1e-4, 1e-4)
  assert min(norms) < clip < max(norms)
  assert float(metrics["grad_norm"]) == pytest.approx(np.mean(norms), rel=1e-3)


def test_fleet_whose_first_block_has_no_weights():
  ops = (Identity(), MBConv(1, 3))
  space = Space("bare", 4, 3, 2, (), (Layer(ops, 3), Layer(ops, 3)))
  fleet = Fleet(space, ((0, 1), (0, 0), (1, 1)))
  joint = fleet.init(jax.random.split(jax.random.key(0), 3))
  x = images(2, size=4)
  logits, _ = fleet.apply(joint, x, False)
  for i, arch in enumerate(fleet.archs):
    module = PlainNetwork(space, arch)
    close(logits[i], module.apply(fleet.unstack(joint, i), x, False))
