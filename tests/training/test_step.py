"""The supernet's training step against a plain serial reference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import (
  SMALL,
  THREE,
  close,
  images,
  make_feed,
  make_space,
  same,
  shaken,
  supernet_step,
)  # fmt: skip

from jaxnas.config import AugmentConfig, NetConfig, OptimizerConfig, TrainConfig
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.sharding import make_placement
from jaxnas.spaces import Conv, Identity, MBConv
from jaxnas.training import (
  init_state,
  make_optimizer,
  make_sampler,
  make_supernet_step,
)  # fmt: skip

KEY = jax.random.key(7)
DEFAULT = NetConfig()
FOUR = (Identity(), Conv(1), Conv(3), MBConv(1, 3))
SPACE = make_space(FOUR, FOUR)
BATCH = 6

# Every option that changes the update is on in one of the two.
CONFIGS = {
  "shared": TrainConfig(
    sampler="fair", label_smoothing=0.1, loss_reduce="sum",
    optimizer=OptimizerConfig(weight_decay=0.05, clip_norm=2.0),
  ),
  "separate": TrainConfig(
    sampler="fair", label_smoothing=0.0, loss_reduce="mean", share_batch=False,
    optimizer=OptimizerConfig(
      weight_decay=0.05, decay_all=True, nesterov=True
    ),
  ),
}  # fmt: skip


def indices_of(config, step, paths=4):
  rng = np.random.default_rng([step, 3])
  shape = (BATCH,) if config.share_batch else (paths, BATCH)
  return rng.integers(0, 48, shape).astype(np.int32)


def archs_of(space, config, step):
  """The paths that a step draws; tested on their own in test_samplers."""
  path_key, _ = jax.random.split(KEY)
  return np.asarray(make_sampler(config, space).sample(path_key, step))


def run(space, config, n=2, net=DEFAULT):
  """State and metrics after n steps."""
  step, fresh = supernet_step(space, config, net)
  state = fresh()
  for i in range(n):
    state, metrics = step(state, KEY, indices_of(config, i))
  return jax.device_get((state, metrics))


@functools.cache
def single_path_gradient(space):
  """`(params, stats, arch, x, y, smoothing) -> loss, logits, stats, grads`."""
  net = PathSupernet(space)

  def loss(params, stats, arch, x, y, smoothing):
    v = {"params": params, "batch_stats": stats}
    logits, measured = net.apply_path(v, arch, x, False)
    log_p = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(log_p, y[:, None], -1).mean()
    value = -(1 - smoothing) * own - smoothing * log_p.mean()
    return value, (logits, measured)

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def reference(kind, n=2):
  """n steps as the paper writes them: K back-propagations, one update."""
  config = CONFIGS[kind]
  _, fresh = supernet_step(SPACE, config)
  state = jax.device_get(fresh())
  feed, gradient = make_feed(), single_path_gradient(SPACE)
  params, stats, opt = state.params, state.batch_stats, config.optimizer
  velocity = jax.tree.map(np.zeros_like, params)
  losses, norms = [], []
  for i in range(n):
    rows = indices_of(config, i)
    total, measured = jax.tree.map(np.zeros_like, params), []
    losses = []
    for k, arch in enumerate(archs_of(SPACE, config, i)):
      own = rows if config.share_batch else rows[k]
      x = (np.asarray(feed.images)[own] / np.float32(255) - 0.5) / 0.25
      y = np.asarray(feed.labels)[own]
      (loss, (_, seen)), grads = gradient(
        params, stats, arch, x, y, config.label_smoothing
      )
      weight = 1 if config.loss_reduce == "sum" else 1 / 4
      total = jax.tree.map(lambda a, g, w=weight: a + w * g, total, grads)
      measured.append(seen)
      losses.append(float(loss))
    norm = np.sqrt(sum((np.square(g)).sum() for g in jax.tree.leaves(total)))
    norms.append(norm)
    if opt.clip_norm and norm > opt.clip_norm:
      total = jax.tree.map(lambda g, s=opt.clip_norm / norm: g * s, total)

    def decayed(path, g, w):
      kept = opt.decay_all or path[-1].key in ("kernel", "linear")
      return g + opt.weight_decay * w if kept else g

    total = jax.tree_util.tree_map_with_path(decayed, total, params)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, total)
    push = velocity
    if opt.nesterov:
      push = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, total)
    params = jax.tree.map(lambda w, v: w - 0.1 * v, params, push)
    # Each choice is on one path: the sum over paths is that path's own.
    # The fixed layers are on all four, and take their mean once.
    joint = jax.tree.map(lambda *s: sum(s), *measured)
    new = dict(stats)
    for group, tree in joint.items():
      share = 1.0 if group.startswith("layer") else 0.25
      new[group] = {**stats[group], **jax.tree.map(
        lambda o, m, s=share: 0.9 * o + 0.1 * s * m,
        {name: stats[group][name] for name in tree}, tree,
      )}  # fmt: skip
    stats = new
  return params, stats, float(np.mean(losses)), norms


@pytest.mark.parametrize(
  ("kind", "flight"),
  [("shared", 0), ("shared", 1), ("shared", 2), ("separate", 0),
   ("separate", 2)],
)  # fmt: skip
def test_strictly_fair_step_equals_serial_back_propagation(kind, flight):
  config = dataclasses.replace(CONFIGS[kind], paths_in_flight=flight)
  state, metrics = run(SPACE, config)
  params, stats, loss, norms = reference(kind)
  # Only the order of float32 sums differs (relative 1e-6 an operation); batch
  # norm over 6 x 3 x 3 values and two steps enlarge that some tens of times.
  close(state.params, params, 2e-4, 5e-5)
  close(state.batch_stats, stats, 2e-4, 5e-5)
  assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
  assert float(metrics["grad_norm"]) == pytest.approx(norms[-1], rel=1e-3)
  if config.optimizer.clip_norm:
    assert min(norms) > config.optimizer.clip_norm
  assert int(state.step) == 2
  np.testing.assert_array_equal(state.counts, np.full((2, 4), 2))
  assert metrics["finite"].shape == (5,)
  assert metrics["finite"].all()


def test_fixed_layers_get_a_contribution_of_every_path():
  config = TrainConfig(sampler="fair", label_smoothing=0.0)
  _, fresh = supernet_step(SPACE, CONFIGS["shared"])
  state, gradient = jax.device_get(fresh()), single_path_gradient(SPACE)
  x, y = images(BATCH), np.arange(BATCH) % 4
  grads = [
    gradient(state.params, state.batch_stats, arch, x, y, 0.0)[1]
    for arch in archs_of(SPACE, config, 0)
  ]
  for group in state.params:
    leaves = [jax.tree.leaves(g[group]) for g in grads]
    touched = [[bool(np.any(a != 0)) for a in row] for row in leaves]
    times = np.sum(touched, 0)  # paths that reach each leaf
    assert (times == (1 if group.startswith("layer") else 4)).all(), group


def test_three_of_six_paths_in_flight_are_legal_and_five_are_not():
  ops = tuple(Conv(k) for k in (1, 3, 5, 7, 9, 11))
  space = make_space(ops)

  def build(flight, sampler="fair"):
    config = TrainConfig(sampler=sampler, paths_in_flight=flight)
    tx = make_optimizer(config.optimizer, lambda _: 0.1)
    return make_supernet_step(
      PathSupernet(space), make_sampler(config, space), tx, config, make_feed()
    )

  for flight in (0, 1, 2, 3, 6):
    build(flight)
  for flight, sampler in ((5, "fair"), (12, "fair"), (2, "uniform-k")):
    with pytest.raises(UserError, match="paths_in_flight.*legal values"):
      build(flight, sampler)


@pytest.mark.parametrize(("sampler", "paths"), [("spos", 0), ("uniform-k", 2)])
def test_unused_choices_stay_as_they_are_to_the_last_bit(sampler, paths):
  space = make_space(THREE[:2] + (Conv(1),), (Conv(1), Conv(3), Identity()))
  config = TrainConfig(sampler=sampler, paths=paths)
  step, fresh = supernet_step(space, config)
  state = jax.device_get(fresh())
  counts = np.zeros((2, 3), int)
  moved_all = 0
  for i in range(4):  # later steps have momentum everywhere
    used = archs_of(space, config, i)
    new, _ = step(jax.device_put(state), KEY, indices_of(config, i))
    new = jax.device_get(new)
    for l, column in enumerate(used.T):
      group = f"layer_{l:02d}"
      for c, op in enumerate(space.layers[l].choices):
        counts[l, c] += (column == c).sum()

        def own(s, g=group, name=op.name):
          trees = (s.params, s.batch_stats, momentum_of(s))
          return [t.get(g, {}).get(name, {}) for t in trees]

        if not jax.tree.leaves(own(state)):
          continue  # an identity has nothing to move
        assert same(own(state), own(new)) == (c not in column), (i, l, c)
        moved_all += c in column
    assert not same(state.params["stem_0"], new.params["stem_0"])
    state = new
  assert moved_all
  np.testing.assert_array_equal(state.counts, counts)


def momentum_of(state):
  """The momentum tree inside an SGD state."""
  like = jax.tree.structure(state.params)
  is_it = lambda node: jax.tree.structure(node) == like
  (found,) = [
    n for n in jax.tree.leaves(state.opt_state, is_leaf=is_it) if is_it(n)
  ]
  return found


def test_donation_does_not_reach_the_callers_arrays():
  net = PathSupernet(SMALL)
  config = TrainConfig(sampler="fair")
  step, fresh = supernet_step(SMALL, config)
  before = shaken(net.init(jax.random.key(0)))
  state = fresh()  # made of the same values, held as NumPy by supernet_step
  step(state, KEY, indices_of(config, 0))
  assert same(jax.device_get(fresh().params), before["params"])


# Options --------------------------------------------------------------------

PLAIN = TrainConfig(sampler="fair", optimizer=OptimizerConfig(clip_norm=1.0))


def test_remat_changes_nothing():
  state, _ = run(SMALL, PLAIN)
  again, _ = run(SMALL, PLAIN, net=NetConfig(remat=True))
  close(again.params, state.params, 1e-5, 1e-6)
  close(again.batch_stats, state.batch_stats, 1e-5, 1e-6)


def test_bfloat16_keeps_float32_state_and_is_close():
  start = jax.device_get(supernet_step(SMALL, PLAIN)[1]())
  state, metrics = run(SMALL, PLAIN, 1)
  low, low_metrics = run(SMALL, PLAIN, 1, NetConfig(precision="bfloat16"))
  for leaf in jax.tree.leaves((low.params, low.batch_stats, momentum_of(low))):
    assert leaf.dtype == np.float32
  assert not same(low.params, state.params)
  ratio = float(low_metrics["loss"]) / float(metrics["loss"])
  assert ratio == pytest.approx(1, abs=0.03)
  flat = lambda s: np.concatenate([
    (a - b).ravel() for a, b in zip(
      jax.tree.leaves(s.params), jax.tree.leaves(start.params), strict=True)
  ])  # fmt: skip
  a, b = flat(low), flat(state)
  cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  assert cosine > 0.98


def test_running_statistics_can_be_left_alone():
  start = jax.device_get(supernet_step(SMALL, PLAIN)[1]())
  net = NetConfig(bn_track=False)
  state, _ = run(SMALL, PLAIN, net=net)
  assert same(state.batch_stats, start.batch_stats)
  close(state.params, run(SMALL, PLAIN)[0].params, 1e-5, 1e-6)


def test_same_seed_gives_the_same_bytes_and_no_step_recompiles():
  config = TrainConfig(sampler="fair")
  step, fresh = supernet_step(SMALL, config)
  ends, compiled = [], []

  def listen(event, seconds, **_):
    if "backend_compile" in event:
      compiled.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.jit(lambda x: x * 3.25)(1.5)
  assert compiled  # the probe works
  for _ in range(2):
    state = fresh()
    for i in range(4):
      state, metrics = step(state, KEY, indices_of(config, i))
      if i == 0:
        compiled.clear()
    assert not compiled
    ends.append(jax.device_get((state, metrics)))
  jax.monitoring.clear_event_listeners()
  assert same(*ends)


def test_augmentation_differs_between_steps_and_paths():
  feed = make_feed(augment=AugmentConfig(flip=True, shift=2))
  arrays = (feed.images, feed.labels)
  rows = np.zeros((3, 8), np.int32)  # one image, many times
  x, y = feed.batch(arrays, rows, jax.random.key(0))
  assert x.shape == (3, 8, 6, 6, 3)
  assert y.shape == (3, 8)
  assert len(np.unique(np.asarray(x).reshape(24, -1), axis=0)) > 8
  again, _ = feed.batch(arrays, rows, jax.random.key(1))
  assert not np.array_equal(x, again)


def test_fewer_paths_in_flight_need_less_memory():
  ops = (MBConv(3, 3), MBConv(6, 3))
  space = make_space(ops, ops, features=8, image_size=16)
  net, feed = PathSupernet(space), make_feed(64, 16)

  def temporary_bytes(flight):
    config = TrainConfig(sampler="fair", paths_in_flight=flight)
    tx = make_optimizer(config.optimizer, lambda _: 0.1)
    sampler = make_sampler(config, space)
    step = make_supernet_step(net, sampler, tx, config, feed)
    variables = make_placement().put(net.init(jax.random.key(0)))
    state = init_state(variables, tx, space.n_choices)
    program = jax.jit(lambda s, i: step(s, KEY, i))
    compiled = program.lower(state, np.arange(64)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary_bytes(1) < 0.75 * temporary_bytes(2)
