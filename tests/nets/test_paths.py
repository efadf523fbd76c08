"""The supernet: its size, and its three ways to evaluate paths."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SIX, THREE, close, images, make_space, same, shaken

from jaxnas.config import NetConfig
from jaxnas.costs import cost_tables, supernet_params
from jaxnas.nets import (
  PathSupernet,
  PlainNetwork,
  blend_stats,
  group_names,
  inherit,
)  # fmt: skip
from jaxnas.nets.paths import permute
from jaxnas.spaces import (
  Conv,
  Identity,
  Layer,
  MBConv,
  Space,
  fairnas,
  get_space,
)  # fmt: skip

SPACE = make_space(THREE, THREE)
ARCHS = np.array(list(itertools.product(range(3), repeat=2)), np.int32)


def count(params) -> int:
  return sum(math.prod(a.shape) for a in jax.tree.leaves(params))


def plain_params(space, arch) -> int:
  size, channels = space.image_size, space.image_channels
  image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  module = PlainNetwork(space, tuple(int(c) for c in arch))
  return count(jax.eval_shape(module.init, jax.random.key(0), image)["params"])


# Parameters -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "params"),
  [("a", 4_651_352), ("b", 4_506_272), ("c", 4_397_864)],
)
def test_fairnas_models_have_the_published_parameters(name, params):
  space = fairnas()
  assert plain_params(space, space.from_string(f"fairnas-{name}")) == params


def test_fairnas_a_with_squeeze_excite_has_the_published_parameters():
  space = fairnas(se_ratio=1.0, act="swish")
  assert plain_params(space, space.from_string("fairnas-a")) == 7_103_512


def test_fairnas_supernet_parameters():
  shapes = PathSupernet(fairnas()).variable_shapes
  assert count(shapes["params"]) == 15_992_600
  assert supernet_params(fairnas()) == 15_992_600


@functools.cache
def shapes_of(name):
  return PathSupernet(get_space(name)).variable_shapes


@pytest.mark.parametrize("name", ["nasbench-macro", "digits"])
def test_network_has_the_parameters_of_the_cost_table(name):
  space = get_space(name)
  table = cost_tables(space)["params"]
  for arch in space.sample(np.random.default_rng(0), 3):
    assert plain_params(space, arch) == table(arch[None])[0]


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_cut_of_the_supernet_has_the_parameters_of_the_cost_table(data):
  name = data.draw(st.sampled_from(["nasbench-macro", "digits"]))
  space = get_space(name)
  arch = np.array(
    [data.draw(st.integers(0, int(n) - 1)) for n in space.n_choices]
  )
  cut = inherit(shapes_of(name), space, arch)
  assert count(cut["params"]) == cost_tables(space)["params"](arch[None])[0]


def test_groups_are_in_forward_order():
  assert group_names(SPACE) == [
    "stem_0", "layer_00", "layer_01", "head_0", "classifier",
  ]  # fmt: skip


def test_init_has_the_declared_shapes_and_follows_the_key():
  net = PathSupernet(SPACE)
  v = net.init(jax.random.key(3))
  as_shape = lambda a: (tuple(a.shape), a.dtype)
  assert jax.tree.map(as_shape, v) == jax.tree.map(
    as_shape, net.variable_shapes
  )
  assert same(v, net.init(jax.random.key(3)))
  other = net.init(jax.random.key(4))["params"]["stem_0"]["conv"]["kernel"]
  assert not np.array_equal(v["params"]["stem_0"]["conv"]["kernel"], other)


# Evaluation -----------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
  return PathSupernet(SPACE)


@pytest.fixture(scope="module")
def variables(net):
  return shaken(net.init(jax.random.key(0)))


@pytest.fixture(scope="module")
def apply_path(net):
  return jax.jit(net.apply_path, static_argnums=3)


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: f"{a[0]}{a[1]}")
def test_path_equals_the_plain_network(variables, apply_path, arch):
  x = images(4)
  module = PlainNetwork(SPACE, tuple(arch.tolist()))
  own = inherit(variables, SPACE, arch)
  logits, measured = apply_path(variables, arch, x, True)
  assert measured == {}
  close(logits, jax.jit(module.apply)(own, x))


def test_measured_statistics_equal_the_plain_networks(variables, apply_path):
  x, arch = images(4), np.array([1, 0])  # a block, then a true identity
  module = PlainNetwork(SPACE, (1, 0))
  own = inherit(variables, SPACE, arch)
  logits, measured = apply_path(variables, arch, x, False)
  expected, new = jax.jit(
    lambda v, x: module.apply(v, x, False, mutable=["batch_stats"])
  )(own, x)
  close(logits, expected)
  names = SPACE.choice_names(arch)
  on_path = {
    g: t if not g.startswith("layer") else t[names[int(g[-2:])]]
    for g, t in measured.items()
    if not g.startswith("layer") or names[int(g[-2:])] in t
  }
  close(on_path, new["batch_stats"])
  off = [
    s
    for g, t in measured.items()
    if g.startswith("layer")
    for name, own in t.items()
    if name != names[int(g[-2:])]
    for s in jax.tree.leaves(own)
  ]
  assert off
  assert all((s == 0).all() for s in off)


def test_one_program_serves_every_arch(net, variables):
  traces = []

  @jax.jit
  def run(v, arch, x):
    traces.append(1)
    return net.apply_path(v, arch, x, True)[0]

  logits = [run(variables, a, images(4)) for a in ARCHS]
  assert len(traces) == 1
  assert run._cache_size() == 1
  assert len({np.asarray(y).tobytes() for y in logits}) == len(ARCHS)


def place(space, stats, archs):
  """Sums or averages the statistics of single paths as a step expects them."""
  total = jax.tree.map(lambda *a: sum(a), *stats)
  return {
    g: t if g.startswith("layer") else jax.tree.map(lambda s: s / len(archs), t)
    for g, t in total.items()
  }


PERMUTED = np.array([[2, 0], [0, 1], [1, 2]], np.int32)


@pytest.mark.parametrize("shared", [True, False])
def test_routed_paths_equal_single_paths(net, variables, apply_path, shared):
  x = images(4) if shared else images(3, 4)
  logits, stats = jax.jit(net.apply_routed)(variables, PERMUTED, x)
  alone = [
    apply_path(variables, a, x if shared else x[i], False)
    for i, a in enumerate(PERMUTED)
  ]
  close(logits, np.stack([y for y, _ in alone]))
  close(stats, place(SPACE, [s for _, s in alone], PERMUTED))


@pytest.mark.parametrize("shared", [True, False])
def test_groups_equal_single_paths(net, variables, apply_path, shared):
  archs = PERMUTED[:2]
  x = images(4) if shared else images(2, 4)
  logits, stats = jax.jit(net.apply_group)(variables, archs, x)
  alone = [
    apply_path(variables, a, x if shared else x[i], False)
    for i, a in enumerate(archs)
  ]
  close(logits, np.stack([y for y, _ in alone]))
  close(stats, place(SPACE, [s for _, s in alone], archs))


def test_groups_of_two_and_three_of_six():
  space = make_space(SIX)
  net = PathSupernet(space)
  v = shaken(net.init(jax.random.key(0)))
  archs = np.array([[4], [1], [5]], np.int32)
  run, x = jax.jit(net.apply_group), images(4)
  three, _ = run(v, archs, x)
  two, _ = run(v, archs[1:], x)
  apply = jax.jit(net.apply_path, static_argnums=3)
  alone = np.stack([apply(v, a, x, False)[0] for a in archs])
  close(three, alone)
  close(two, alone[1:])


def test_only_the_paths_own_choices_get_a_gradient(net, variables):
  arch = np.array([2, 1])
  x = images(4)

  @jax.jit
  def gradient(params, arch):
    def loss(params):
      v = {**variables, "params": params}
      return jnp.square(net.apply_path(v, arch, x, False)[0]).sum()

    return jax.grad(loss)(params)

  grads = gradient(variables["params"], arch)
  names = SPACE.choice_names(arch)
  for group, tree in grads.items():
    if not group.startswith("layer"):
      assert all(np.any(g != 0) for g in jax.tree.leaves(tree)), group
      continue
    for name, own in tree.items():
      used = name == names[int(group[-2:])]
      leaves = jax.tree.leaves(own)
      assert any(np.any(g != 0) for g in leaves) == used, (group, name)


def test_gradient_of_permute_equals_that_of_a_gather():
  rng = np.random.default_rng(0)
  x, g = rng.standard_normal((2, 5, 3)).astype(np.float32)
  order = jnp.array([3, 0, 4, 1, 2])
  y, pull = jax.vjp(lambda a: permute(a, order), x)
  expected, plain = jax.vjp(lambda a: a[order], x)
  np.testing.assert_array_equal(y, expected)
  np.testing.assert_array_equal(pull(g)[0], plain(g)[0])


def test_unequal_layers_are_not_routable():
  assert PathSupernet(SPACE).is_routable(3)
  assert not PathSupernet(SPACE).is_routable(2)
  assert not PathSupernet(make_space(THREE, THREE[:2])).is_routable(3)


def test_bfloat16_is_close_and_gives_float32_logits(variables, apply_path):
  low = PathSupernet(SPACE, NetConfig(precision="bfloat16"))
  arch, x = np.array([1, 2]), images(4)
  logits, _ = jax.jit(low.apply_path, static_argnums=3)(variables, arch, x)
  expected, _ = apply_path(variables, arch, x, True)
  assert logits.dtype == jnp.float32
  assert not np.array_equal(logits, expected)
  scale = float(np.std(expected))
  np.testing.assert_allclose(logits, expected, atol=0.06 * scale)


# Running statistics ---------------------------------------------------------


def test_blending_moves_used_choices_once_and_no_others(net, variables):
  old = variables["batch_stats"]
  rng = np.random.default_rng(0)
  measured = jax.tree.map(lambda a: rng.random(a.shape).astype(np.float32), old)
  measured = {  # choices without batch norm measure nothing
    g: {n: t for n, t in tree.items() if t} for g, tree in measured.items()
  }
  counts = np.array([[0, 2, 1], [1, 0, 3]])
  new = blend_stats(old, measured, counts, SPACE, 0.9)
  close(
    new["stem_0"],
    jax.tree.map(lambda o, m: 0.9 * o + 0.1 * m, old["stem_0"],
                 measured["stem_0"]),
  )  # fmt: skip
  for l, names in enumerate(net.names):
    for c, name in enumerate(names):
      group, n = f"layer_{l:02d}", counts[l, c]
      before, after = old[group].get(name, {}), new[group].get(name, {})
      if n == 0:
        assert same(after, before)
      elif before:
        seen = measured[group][name]
        close(after, jax.tree.map(
          lambda o, m, n=n: 0.9 * o + 0.1 * m / n, before, seen
        ))  # fmt: skip


# Spaces at the edges --------------------------------------------------------


def test_a_space_without_stem_and_head():
  ops = (Identity(), MBConv(1, 3))
  space = Space(
    "bare", 4, 3, 2, (), (Layer(ops, 3), Layer((Conv(1), Identity()), 3))
  )
  net = PathSupernet(space)
  v = shaken(net.init(jax.random.key(0)))
  x = images(2, size=4)
  archs = np.array([[0, 1], [1, 0]], np.int32)  # the first has no weights
  logits, _ = jax.jit(net.apply_routed)(v, archs, x)
  for arch, row in zip(archs, logits, strict=True):
    module = PlainNetwork(space, tuple(arch.tolist()))
    close(row, module.apply(inherit(v, space, arch), x, False))
