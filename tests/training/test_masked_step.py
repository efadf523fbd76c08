"""The masked training step against a plain reference, and what it promises."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import masked_plain
import numpy as np
import optax
import pytest
from graphs import GRAPHS, SPACES
from tiny import close, make_feed, same, shaken

from jaxnas.config import (
  AugmentConfig,
  MasksConfig,
  NetConfig,
  OptimizerConfig,
  TrainConfig,
)  # fmt: skip
from jaxnas.nets import CompactNetwork, MaskedSupernet, compact, drop_rates
from jaxnas.sharding import make_placement
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import IMAGES, Concat, Conv, Pool, Relu
from jaxnas.training import (
  Feed,
  init_state,
  make_masked_step,
  make_network_step,
  make_optimizer,
  node_names,
)  # fmt: skip

HERE = Path(__file__).parent
KEY = jax.random.key(7)
BATCH, N_STEPS = 6, 10
SMOOTHING = 0.1
TRAIN = TrainConfig(
  label_smoothing=SMOOTHING, optimizer=OptimizerConfig(weight_decay=0.0)
)
# Small N, so that the regulariser weighs as much as the cross-entropy.
MASKS = MasksConfig(
  length_scale=3.0, examples=200.0, initial_rate=0.3, tau=2 / 3,
  target="channels", target_share=0.2, target_weight=3.0,
)  # fmt: skip
FIXED = dataclasses.replace(MASKS, rates="fixed")


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
  """Compiling is nearly all of the time here, so without optimisations."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


BREAKABLE = ("stem", "cell.b_norm", "drop", "last", "classifier")
RATE = 0.05


def recorder():
  """Gradient descent that remembers the gradient, and breaks on demand.

  With `broken` i in its state it moves group i of `BREAKABLE` to infinity.
  """

  def init(params):
    return {"gradient": jax.tree.map(jnp.zeros_like, params), "broken": -1}

  def update(grads, state, params):
    moved = jax.tree.map(lambda g: -RATE * g, grads)
    for i, name in enumerate(BREAKABLE):
      if name in moved:
        moved[name] = jax.tree.map(
          lambda u, i=i: jnp.where(state["broken"] == i, jnp.inf, u),
          moved[name],
        )
    return moved, {**state, "gradient": grads}

  return optax.GradientTransformation(init, update)


@functools.cache
def start(name):
  supernet = MaskedSupernet(SPACES[name], NetConfig(bn_momentum=0.8))
  return supernet, shaken(supernet.init(jax.random.key(0), 0.3))


def state_of(name, step=0, broken=-1):
  state = init_state(jax.tree.map(jnp.array, start(name)[1]), recorder())
  opt_state = {**state.opt_state, "broken": jnp.int32(broken)}
  state = state.replace(step=jnp.int32(step), opt_state=opt_state)
  return make_placement().put(state)


def rows(seed=0):
  return np.random.default_rng(seed).integers(0, 48, BATCH).astype(np.int32)


@functools.cache
def compiled(name, masks=MASKS):
  feed = make_feed(size=GRAPHS[name].image_size)
  return make_masked_step(
    start(name)[0], recorder(), TRAIN, masks, N_STEPS, feed
  )


def run(name, masks=MASKS, steps=1, key=KEY, at=0):
  state = state_of(name, at)
  for i in range(steps):
    state, metrics = compiled(name, masks)(state, key, rows(i))
  return jax.device_get((state, metrics))


# A plain reference -----------------------------------------------------------


def reference(name, masks, at):
  """Gradient, terms and statistics of one step, written out anew."""
  supernet, variables = start(name)
  graph, space = GRAPHS[name], SPACES[name]
  feed, index = make_feed(size=graph.image_size), rows()
  x = np.asarray(feed.images)[index] / np.float32(255)
  x, y = (x - feed.mean) / feed.std, np.asarray(feed.labels)[index]
  keys = jax.random.split(jax.random.fold_in(KEY, at), 3)

  def keep_of(logits):
    shape = (BATCH, space.n_layers)
    p = jnp.concatenate([
      jnp.full(g.channels, jax.nn.sigmoid(l))
      for g, l in zip(space.groups, logits, strict=True)
    ])  # fmt: skip
    if masks.rates == "fixed":
      return (jax.random.uniform(keys[2], shape) >= p).astype(jnp.float32)
    r1, r2 = jax.random.uniform(keys[2], (2, *shape))
    bend = jnp.log(p / (1 - p)) + jnp.log(-jnp.log(r1)) - jnp.log(-jnp.log(r2))
    return 1 - 1 / (1 + jnp.exp(-bend / masks.tau))

  def entropy_loss(logits):
    target = jax.nn.one_hot(y, graph.n_classes) * (1 - SMOOTHING)
    target += SMOOTHING / graph.n_classes
    return -(target * jax.nn.log_softmax(logits)).sum(-1).mean()

  def loss_of(params):
    logits = params["drop"]["logits"]
    if masks.rates == "fixed":
      logits = jax.lax.stop_gradient(logits)
    own = {"params": params, "batch_stats": variables["batch_stats"]}
    values, stats = masked_plain.plain(
      graph, own, x, keep_of(logits), (keys[1], at / N_STEPS)
    )
    out = values[graph.output]
    data = entropy_loss(out)
    kl = 0.0
    for g, l in zip(space.groups, logits, strict=True):
      tree, p = params[g.node], jax.nn.sigmoid(l)
      w = tree["linear"] if "linear" in tree else tree["kernel"]
      norm = (w[..., g.first : g.first + g.channels, :] ** 2).sum()
      kl += masks.length_scale / masks.examples * (1 - p) * norm
      bracket = p * jnp.log(p) + (1 - p) * jnp.log(1 - p)
      kl += g.channels / masks.examples * bracket
    total = data + kl
    if graph.auxiliary:
      total += 0.4 * entropy_loss(values[graph.auxiliary])
    kept = [
      (g.channels, g.channels * (1 - jax.nn.sigmoid(l)))
      for g, l in zip(space.groups, logits, strict=True)
      if not g.node.startswith("aux")
    ]
    share = sum(k for _, k in kept) / sum(n for n, _ in kept)
    total += masks.target_weight * jnp.maximum(0, share - masks.target_share)
    hits = (out.argmax(-1) == y).mean()
    return total, (data, kl, hits, stats)

  return jax.jit(jax.grad(loss_of, has_aux=True))(variables["params"])


CASES = [
  ("shake", MASKS, 0), ("cell", MASKS, 4), ("dense", MASKS, 0),
  ("dense", FIXED, 9),
]  # fmt: skip


@pytest.mark.parametrize(("name", "masks", "at"), CASES)
def test_the_gradient_is_that_of_the_plain_loss(name, masks, at):
  state, metrics = run(name, masks, at=at)
  grads, (data, kl, hits, stats) = reference(name, masks, at)
  scale = float(optax.tree.norm(grads))
  close(state.opt_state["gradient"], grads, 2e-3, 1e-5 * scale)
  assert float(metrics["loss"]) == pytest.approx(float(data), rel=1e-4)
  assert float(metrics["regulariser"]) == pytest.approx(float(kl), rel=1e-4)
  assert float(metrics["accuracy"]) == pytest.approx(float(hits))
  assert float(metrics["grad_norm"]) == pytest.approx(scale, rel=1e-3)
  old = start(name)[1]["batch_stats"]
  blended = jax.tree.map(lambda o, s: 0.8 * o + 0.2 * s, old, stats)
  close(state.batch_stats, blended, 1e-3, 1e-4)
  assert int(state.step) == at + 1
  assert metrics["finite"].all()
  logits = np.asarray(grads["drop"]["logits"])
  if masks.rates == "fixed":
    assert (logits == 0).all()
  else:
    assert (np.abs(logits) > 1e-3 * np.abs(logits).max()).mean() > 0.5


# What changes ----------------------------------------------------------------


def mean_rate(logits):
  return (1 / (1 + np.exp(-np.float64(logits)))).mean()


@pytest.mark.parametrize("masks", [MASKS, FIXED], ids=["learned", "fixed"])
def test_weights_move_and_rates_only_if_they_are_learned(masks):
  state, metrics = run("dense", masks, steps=3)
  before = start("dense")[1]["params"]
  for name in before:
    for a, b in zip(
      jax.tree.leaves(before[name]), jax.tree.leaves(state.params[name]),
      strict=True,
    ):  # fmt: skip
      if name == "drop" and masks is FIXED:
        np.testing.assert_array_equal(a, b)
      else:
        assert (a != b).any(), name
  logits = state.params["drop"]["logits"]
  assert metrics["mean_rate"] == pytest.approx(mean_rate(logits), rel=1e-5)


def test_rates_wait_and_then_move_faster():
  masks = dataclasses.replace(MASKS, rate_speed=8.0, rate_delay=1.5)
  train = dataclasses.replace(TRAIN, batch_size=12)  # four steps an epoch
  step = make_masked_step(
    start("dense")[0], recorder(), train, masks, N_STEPS, make_feed(size=5)
  )
  for at in (0, 5, 6, 9):
    before = state_of("dense", at)
    logits = np.array(before.params["drop"]["logits"])
    weights = np.array(before.params["stem"]["kernel"])
    state, _ = step(before, KEY, rows())
    gradient = state.opt_state["gradient"]
    # Not even the optimiser sees a gradient before.
    assert (np.abs(gradient["drop"]["logits"]) > 0).all() == (at >= 6)
    np.testing.assert_allclose(
      state.params["drop"]["logits"],
      logits - 8.0 * RATE * gradient["drop"]["logits"],
      rtol=1e-5,
    )
    np.testing.assert_allclose(
      state.params["stem"]["kernel"],
      weights - RATE * gradient["stem"]["kernel"],
      rtol=1e-4,
      atol=1e-6,
    )


def test_augmentation_clipping_and_the_default_n():
  bound = 0.05
  optimizer = OptimizerConfig(weight_decay=0.0, clip_norm=bound)
  step = make_masked_step(
    start("dense")[0], recorder(),
    dataclasses.replace(TRAIN, optimizer=optimizer),
    dataclasses.replace(MASKS, examples=0.0), N_STEPS,
    make_feed(size=5, augment=AugmentConfig(shift=2)),
  )  # fmt: skip
  state, metrics = step(state_of("dense"), KEY, rows())
  assert metrics["grad_norm"] > 2 * bound
  norm = optax.tree.norm(state.opt_state["gradient"])
  assert float(norm) == pytest.approx(bound, rel=1e-4)
  plain = run("dense")[1]
  assert float(metrics["loss"]) != float(plain["loss"])
  # N is ten times the 48 images where it is not given, as 200 above.
  ratio = float(metrics["regulariser"]) / float(plain["regulariser"])
  assert ratio == pytest.approx(200 / 480, rel=1e-5)


def test_keys_and_steps_decide_alone():
  first, again = run("dense", steps=2), run("dense", steps=2)
  assert same(first, again)
  other = run("dense", steps=2, key=jax.random.key(8))
  assert not same(first[0].params, other[0].params)
  losses = [float(run("dense", at=at)[1]["loss"]) for at in (0, 1)]
  assert losses[0] != losses[1]


def test_the_state_is_donated():
  state = state_of("dense")
  new, _ = compiled("dense")(state, KEY, rows())
  for leaf in jax.tree.leaves((state.params, state.batch_stats)):
    assert leaf.is_deleted()
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


# Finite ----------------------------------------------------------------------


def first_bad(name, metrics):
  names = node_names(start(name)[0])
  flags = np.asarray(metrics["finite"])
  assert len(flags) == len(names)
  return names[int(np.argmin(flags))] if not flags.all() else None


def test_names_of_flags():
  names = node_names(start("cell")[0])
  graph = GRAPHS["cell"]
  assert sorted(names) == sorted([n.name for n in graph.nodes] + ["drop"])
  assert names[-1] == graph.output


@pytest.mark.parametrize(
  ("node", "leaf", "blamed"),
  [
    ("stem", "kernel", "stem_norm"),  # the first norm that sees it
    ("stem_norm", "scale", "cell.point_norm"),
    ("cell.c", "kernel", "cell.c_norm"),
    ("last", "kernel", "last_norm"),
    ("last_norm", "bias", "classifier"),
    ("classifier", "linear", "classifier"),
  ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_forwards_is_found_where_it_begins(
  node, leaf, blamed, value
):
  state = state_of("cell")
  weights = jnp.full_like(state.params[node][leaf], value)
  params = {**state.params, node: {**state.params[node], leaf: weights}}
  _, metrics = compiled("cell")(state.replace(params=params), KEY, rows())
  assert first_bad("cell", metrics) == blamed


@pytest.mark.parametrize("broken", range(len(BREAKABLE)))
def test_an_update_that_overflows_is_found_where_it_does(broken):
  _, metrics = compiled("cell")(state_of("cell", broken=broken), KEY, rows())
  assert first_bad("cell", metrics) == BREAKABLE[broken]
  flags = np.asarray(metrics["finite"])
  assert flags.sum() == len(flags) - 1


# Planted channels ------------------------------------------------------------


def planted():
  """Two groups of one convolution: pixel (0, 0) tells the class, (1, 1) not."""
  d = Draft()
  pixels = [
    d.add(f"pixel{i}", Pool("mean", 1, 2, offset=i), IMAGES) for i in (0, 1)
  ]
  x = d.add("join", Concat(), *pixels)
  x = d.add("conv", Conv(8, gate="sources"), x)
  d.classify(d.add("relu", Relu(), x), "none")
  space = d.space("planted", 2, 4, 3)
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 2000).astype(np.int32)
  means = 60 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
  pixels = rng.normal(128, 50, (2000, 2, 2, 3))
  pixels[:, 0, 0] = 128 + means[labels] + rng.normal(0, 40, (2000, 3))
  placement = make_placement()
  feed = Feed(
    placement.put(pixels.clip(0, 255).astype(np.uint8)), placement.put(labels),
    np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), AugmentConfig(),
    placement,
  )  # fmt: skip
  return space, feed


def test_a_planted_noise_group_is_dropped_and_a_useful_one_kept():
  space, feed = planted()
  assert [g.channels for g in space.groups] == [3, 3]
  supernet = MaskedSupernet(space)
  masks = MasksConfig(length_scale=1.0, examples=100.0)  # l2 / N = 0.01
  optimizer = OptimizerConfig(weight_decay=0.0, nesterov=True, clip_norm=5.0)
  train = TrainConfig(label_smoothing=0.0, optimizer=optimizer)
  n_steps = 400
  tx = make_optimizer(optimizer, optax.cosine_decay_schedule(0.3, n_steps))
  step = make_masked_step(supernet, tx, train, masks, n_steps, feed)
  for seed in range(3):
    state = init_state(supernet.init(jax.random.key(seed)), tx)
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
      index = rng.integers(0, 2000, 128).astype(np.int32)
      state, metrics = step(state, jax.random.key(seed), index)
    useful, noise = drop_rates(state.variables)
    # Hardly more than its entropy is left of the noise, whose optimum is 1/2.
    assert 0.45 <= noise < 0.65
    assert useful < 0.1
    squares = np.square(state.params["conv"]["kernel"]).sum(-1)
    assert squares[3:].sum() < 0.05 * squares[:3].sum()
    assert metrics["accuracy"] > 0.8


# A plain network -------------------------------------------------------------


def test_the_step_of_a_plain_network():
  name = "dense"
  graph, space, (_, variables) = GRAPHS[name], SPACES[name], start(name)
  full = np.ones(space.n_layers, np.int32)
  network = CompactNetwork(graph, tuple(full.tolist()), NetConfig())
  own = compact(space, full, jax.device_get(variables))
  names = [*(n.name for n in graph.nodes)]
  feed, index = make_feed(size=graph.image_size), rows()
  tx = recorder()
  state = init_state(jax.tree.map(jnp.array, own), tx)
  step = make_network_step(network, tx, SMOOTHING, 0.5, 0.8, names, 9, feed)
  new, metrics = step(state, KEY, index)

  x = np.asarray(feed.images)[index] / np.float32(255)
  x, y = (x - feed.mean) / feed.std, np.asarray(feed.labels)[index]

  def loss_of(params):
    values, stats = masked_plain.plain(graph, {"params": params}, x)
    target = jax.nn.one_hot(y, 4) * (1 - SMOOTHING) + SMOOTHING / 4
    logp = jax.nn.log_softmax(values[graph.output])
    return -(target * logp).sum(-1).mean(), stats

  params = {k: v for k, v in variables["params"].items() if k != "drop"}
  run = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
  (loss, stats), grads = run(params)
  norm = float(optax.tree.norm(grads))
  assert norm > 0.5
  clipped = jax.tree.map(lambda g: g * 0.5 / norm, grads)
  close(new.opt_state["gradient"], clipped, 2e-3, 1e-5)
  assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-4)
  assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-3)
  blended = jax.tree.map(
    lambda o, s: 0.8 * o + 0.2 * s, variables["batch_stats"], stats
  )
  close(new.batch_stats, blended, 1e-3, 1e-4)
  assert metrics["finite"].shape == (len(names),)
  assert metrics["finite"].all()


# Devices ---------------------------------------------------------------------


def main() -> None:
  """Runs in the child: prints one JSON object of differences."""
  from jaxnas.config import MeshConfig
  from jaxnas.sharding import Placement

  mesh = jax.make_mesh(
    (1, 1), ("data", "path"), devices=jax.devices()[:1],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )  # fmt: skip
  placements = {
    "one": Placement(mesh), "data8": make_placement(MeshConfig(data=8)),
  }  # fmt: skip
  out = {"devices": jax.device_count()}
  optimizer = OptimizerConfig(weight_decay=0.0, clip_norm=1.0)
  tx = make_optimizer(optimizer, lambda _: 0.1)
  train = TrainConfig(optimizer=optimizer)
  for name in ("cell",):
    ends = {}
    for where, placement in placements.items():
      feed = make_feed(placement=placement)
      step = make_masked_step(start(name)[0], tx, train, MASKS, N_STEPS, feed)
      state = placement.put(init_state(start(name)[1], tx))
      for i in range(2):
        index = np.random.default_rng(i).integers(0, 48, 16, np.int32)
        state, metrics = step(state, KEY, index)
      assert all(a.sharding.is_fully_replicated for a in jax.tree.leaves(state))
      ends[where] = jax.device_get((state, metrics))
    pairs = zip(
      jax.tree.leaves(ends["one"]), jax.tree.leaves(ends["data8"]), strict=True
    )
    out[name] = max(
      float(np.abs(np.float64(a) - np.float64(b)).max()) for a, b in pairs
    )
  print(json.dumps(out))


def test_eight_devices_equal_one():
  roots = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    # Compiling is nearly all of the time, so without LLVM's optimisations.
    # Compiling is most of the time, so without LLVM's optimisations.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0",
    "PYTHONPATH": os.pathsep.join(roots),
  }
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c",
     "import test_masked_step; test_masked_step.main()"],
    env=env, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found.pop("devices") == 8
  # Only the order of float32 sums over the batch depends on the devices.
  assert all(value < 1e-4 for value in found.values()), found
