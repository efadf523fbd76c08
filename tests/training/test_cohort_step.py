"""Cohorts: equal to fleets, whatever the archs, by one compiled program."""

import functools

import jax
import numpy as np
import optax
import pytest
from tiny import close, make_feed, same, shaken

from jaxnas.compilations import Compilations
from jaxnas.config import AugmentConfig, OptimizerConfig, RetrainConfig
from jaxnas.nets import Fleet, PathSupernet, inherit
from jaxnas.sharding import make_placement
from jaxnas.spaces import Conv, Identity, Layer, Space
from jaxnas.training import init_state, make_fleet_step, make_optimizer
from jaxnas.training.cohort_step import cohort_state, make_cohort_step
from jaxnas.training.optimizers import decay_mask

# Little to compile: products, and one convolution.
SPACE = Space(
  "plain", 6, 3, 4, (Layer((Conv(1),), 4),),
  (Layer((Conv(3), Conv(1)), 6, 2), Layer((Identity(), Conv(1)), 6)), (),
)  # fmt: skip
NET = PathSupernet(SPACE)
ARCHS = np.array([[0, 0], [1, 1], [1, 0]], np.int32)
OTHER = np.array([[1, 1], [0, 0], [1, 0]], np.int32)
N = len(ARCHS)
KEY = jax.random.key(5)
ROWS = [np.arange(8) + 8 * i for i in range(3)]
FEED = make_feed(augment=AugmentConfig(flip=True))
KINDS = ("clipped-sgd", "adamw")


def setting(kind):
  """Config and optimiser by rate, each with what the other has not."""
  sgd = OptimizerConfig(weight_decay=0.05, clip_norm=0.3)
  if kind == "clipped-sgd":
    config = RetrainConfig(label_smoothing=0.1, optimizer=sgd)
    return config, lambda rate: make_optimizer(sgd, lambda _: rate)

  # Biases before a batch norm have no gradient but roundings; the usual eps of
  # adamw, 1e-8, would make whole steps of those.
  def adamw(rate):
    return optax.adamw(
      lambda _: rate, eps=1e-3, weight_decay=0.05, mask=decay_mask
    )

  return RetrainConfig(optimizer=OptimizerConfig(clip_norm=0.0)), adamw


@functools.cache
def maker_of(kind):
  config, tx = setting(kind)
  return make_cohort_step(NET, tx, config, FEED)


def steps_of(kind):
  rate = {"clipped-sgd": 0.05, "adamw": 0.02}[kind]
  rates = np.full(2 * len(ROWS), rate)
  return lambda archs, n=None: maker_of(kind)(archs, rates, n)


def drawn():
  """Variables of the networks, apart."""
  return [shaken(NET.init(jax.random.key(i)), i) for i in range(N)]


def cohort(kind, own=None):
  """Their state as a cohort."""
  joint = jax.tree.map(lambda *a: np.stack(a), *(own or drawn()))
  return make_placement().put(init_state(joint, setting(kind)[1](0.0)))


def train(step, state):
  """State, last metrics and all mean norms after some steps."""
  norms = []
  for rows in ROWS:
    state, metrics = step(state, KEY, rows)
    norms.append(float(metrics["grad_norm"]))
  return *jax.device_get((state, metrics)), norms


def one(tree, i):
  """Row `i` of every leaf."""
  return jax.tree.map(lambda a: a[i], tree)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cohort_trains_as_a_fleet_does(kind):
  config, tx = setting(kind)
  tx = tx({"clipped-sgd": 0.05, "adamw": 0.02}[kind])
  fleet = Fleet(SPACE, tuple(map(tuple, ARCHS.tolist())))
  own = [inherit(v, SPACE, a) for v, a in zip(drawn(), ARCHS, strict=True)]
  state = make_placement().put(init_state(fleet.stack(own), tx))
  step = make_fleet_step(fleet, tx, config, NET.net.bn_momentum, 0.0, FEED)
  expected, old, old_norms = train(step, state)
  state, metrics, norms = train(steps_of(kind)(ARCHS), cohort(kind))
  assert int(state.step) == len(ROWS)
  for name in ("loss", "accuracy"):
    assert metrics[name].shape == (N,)
    np.testing.assert_allclose(metrics[name], old[name], rtol=1e-5)
  np.testing.assert_allclose(norms, old_norms, rtol=1e-5)
  assert config.optimizer.clip_norm < min(norms)  # it is at work
  assert metrics["finite"].all()
  assert metrics["finite"].shape == old["finite"].shape
  for i, arch in enumerate(ARCHS):
    found = inherit(one(state.variables, i), SPACE, arch)
    close(found, fleet.unstack(expected.variables, i), 1e-5, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_off_a_path_does_not_move_by_a_bit(kind):
  def slots(state):
    """Trees of the optimiser that look like the parameters."""
    like = jax.tree.structure(state.params)
    is_slot = lambda node: jax.tree.structure(node) == like
    nodes = jax.tree.leaves(state.opt_state, is_leaf=is_slot)
    return [node for node in nodes if is_slot(node)]

  state, moved = cohort(kind), 0
  # Other archs first leave momentum in what the next ones do not use.
  for archs in (OTHER, ARCHS):
    before = jax.device_get(state)
    state, _, _ = train(steps_of(kind)(archs), make_placement().put(state))
    pairs = zip(
      (before.params, before.batch_stats, *slots(before)),
      (state.params, state.batch_stats, *slots(state)), strict=True,
    )  # fmt: skip
    for trees in pairs:
      for i, arch in enumerate(archs):
        assert not same(*(one(t["stem_0"], i) for t in trees))
        for l, names in enumerate(NET.names):
          for c, name in enumerate(names):
            a, b = (one(t[f"layer_{l:02d}"][name], i) for t in trees)
            if jax.tree.leaves(a):
              assert same(a, b) == (c != arch[l]), (i, l, c)
              moved += 1
  assert len(slots(state)) == (2 if kind == "adamw" else 1)
  assert moved


def test_another_set_of_archs_compiles_nothing():
  steps = steps_of("clipped-sgd")
  _, first, _ = train(steps(ARCHS), cohort("clipped-sgd"))
  state = cohort("clipped-sgd")
  with Compilations() as seen:
    jax.jit(lambda x: x * 1.5)(2.5)
    assert seen.count == 1  # the probe works
    _, other, _ = train(steps(OTHER), state)
  assert seen.count == 1
  assert (np.abs(first["loss"] - other["loss"])[:2] > 0.01).all()


def test_a_network_does_not_depend_on_its_company():
  steps = steps_of("clipped-sgd")
  whole, _, _ = train(steps(ARCHS), cohort("clipped-sgd"))
  turned = cohort("clipped-sgd", drawn()[::-1])
  turned, _, _ = train(steps(ARCHS[::-1]), turned)
  for i in range(N):
    assert same(one(turned.variables, N - 1 - i), one(whole.variables, i))


def test_a_diverged_network_is_found_and_leaves_others_alone():
  steps = steps_of("clipped-sgd")
  whole, _, _ = train(steps(ARCHS), cohort("clipped-sgd"))
  own = drawn()
  own[1]["params"]["layer_01"]["Conv1"]["conv"]["kernel"][:] = np.nan
  _, metrics = steps(ARCHS)(cohort("clipped-sgd", own), KEY, ROWS[0])
  assert np.argmin(metrics["finite"]) == 2  # after stem_0 and layer_00
  broken, metrics, _ = train(steps(ARCHS), cohort("clipped-sgd", own))
  np.testing.assert_array_equal(np.isnan(metrics["loss"]), [False, True, False])
  for i in (0, 2):
    assert same(one(broken.variables, i), one(whole.variables, i))


def test_fresh_networks_are_drawn_by_their_own_keys():
  keys = jax.random.split(KEY, 3)
  state = cohort_state(NET, keys, setting("adamw")[1](0.0))
  for i, key in enumerate(keys):
    assert same(one(state.variables, i), NET.init(key))
  assert int(state.step) == 0


def test_rates_and_the_number_of_networks_are_data():
  """Any length of training and any number of networks by one program."""
  make, two = maker_of("clipped-sgd"), cohort("clipped-sgd")
  step = make(ARCHS, np.array([0.05, 0.05, 0.2]), n=2)
  others = make(ARCHS, np.full(9, 0.05))
  before = jax.device_get(two)
  with Compilations() as seen:
    two, metrics, _ = train(step, two)
    all_three, whole, _ = train(others, cohort("clipped-sgd"))
  assert seen.count == 0
  np.testing.assert_array_equal(metrics["loss"][2], 0)
  assert same(one(two.variables, 2), one(before.variables, 2))
  # The last of three rates has not acted on a loss yet, but on the weights.
  np.testing.assert_array_equal(metrics["loss"][:2], whole["loss"][:2])
  assert not same(one(two.params, 0), one(all_three.params, 0))


def test_a_resumed_step_goes_on_with_the_rate_of_its_state():
  rates = np.array([0.05, 0.1, 0.2])
  whole, _, _ = train(
    maker_of("clipped-sgd")(ARCHS, rates), cohort("clipped-sgd")
  )
  first = maker_of("clipped-sgd")(ARCHS, rates)
  state, _ = first(cohort("clipped-sgd"), KEY, ROWS[0])
  second = maker_of("clipped-sgd")(ARCHS, rates)
  for rows in ROWS[1:]:
    state, _ = second(state, KEY, rows)
  assert same(jax.device_get(state.params), whole.params)
