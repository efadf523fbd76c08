"""The interpreter computes what each block's own network computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, shaken

from jaxnas.config import NetConfig
from jaxnas.errors import UserError
from jaxnas.nets import BlockSupernet, GraphNetwork, Noise, inherit_block
from jaxnas.spaces import block_graph, get_space, nsc

T = 6
STAGES = [[4, 1], [6, 1]]


def make_space(convs="plain", max_layers=T, **macro):
  fields = {"stem": 4, "stages": STAGES, "hidden": 5, "dropout": 0.4, **macro}
  return get_space(
    "blocks-digits", max_layers=max_layers, convs=convs, **fields
  )


def images(n=6):
  return np.random.default_rng(7).standard_normal((n, 8, 8, 1), np.float32)


def loss(logits):
  return jnp.square(logits - jnp.arange(10.0)).mean()


@functools.cache
def made(convs):
  """Space, supernet, variables, and programs for any block."""
  space = make_space(convs)
  net = BlockSupernet(space)
  variables = shaken(net.init(jax.random.key(0)))
  x = images()
  stored = jax.jit(lambda v, a: net.apply(v, a, x, True)[0])

  def loss_of(params, arch):
    own = {**variables, "params": params}
    logits, stats = net.apply(own, arch, x, False)
    return loss(logits), (logits, stats)

  gradient = jax.jit(jax.grad(loss_of, has_aux=True))
  return space, net, variables, stored, gradient


def plain(convs, arch):
  """A block's own network with the interpreter's weights."""
  space, _, variables, _, _ = made(convs)
  network = GraphNetwork(block_graph(space, arch))
  return network, inherit_block(space, arch, variables)


@pytest.mark.parametrize("convs", ["plain", "separable"])
def test_fifty_random_blocks_by_one_program(convs):
  space, _, variables, stored, _ = made(convs)
  archs = space.sample(np.random.default_rng(0), 50)
  assert {op for a in archs for op, *_ in space.codes(a)} == set(range(1, 11))
  for arch in archs:
    network, own = plain(convs, arch)
    expected = network.apply(own, images())
    close(stored(variables, arch), expected, rtol=1e-5, atol=1e-5)
  assert stored._cache_size() == 1


@pytest.mark.parametrize("convs", ["plain", "separable"])
def test_inherited_variables_fit_the_network(convs):
  space, _, variables, _, _ = made(convs)
  for arch in space.sample(np.random.default_rng(1), 10):
    network, own = plain(convs, arch)
    fresh = network.init_variables(jax.random.key(0))
    shapes = functools.partial(jax.tree.map, np.shape)
    assert shapes(own) == shapes(fresh)
  del variables


@pytest.mark.parametrize("convs", ["plain", "separable"])
def test_statistics_and_gradients_of_a_training_step(convs):
  space, _, variables, _, gradient = made(convs)
  for arch in space.sample(np.random.default_rng(2), 2):
    network, own = plain(convs, arch)

    def loss_of(params, network=network, own=own):
      logits, stats = network.apply(
        {**own, "params": params}, images(), False, mutable=["batch_stats"]
      )
      return loss(logits), (logits, stats["batch_stats"])

    expected, (logits, stats) = jax.grad(loss_of, has_aux=True)(own["params"])
    grads, (found, measured) = gradient(variables["params"], arch)
    close(found, logits, atol=1e-4)
    # Cutting a block out of gradients is linear, so it is their own.
    cut = inherit_block(space, arch, {"params": grads, "batch_stats": measured})
    close(cut["params"], dict(expected), rtol=1e-3, atol=2e-4)
    close(cut["batch_stats"], dict(stats), rtol=1e-4, atol=1e-4)
    total = sum(float(np.abs(g).sum()) for g in jax.tree.leaves(grads))
    used = sum(float(np.abs(g).sum()) for g in jax.tree.leaves(cut["params"]))
    assert total == pytest.approx(used, rel=1e-4)  # no other weight moves


def test_gradients_with_stored_statistics():
  space, net, variables, _, _ = made("plain")
  arch = space.from_string("conv3@0-max3@1-concat@0+2-conv5@3-add@1+4")
  network, own = plain("plain", arch)

  def inside(params):
    return loss(
      net.apply({**variables, "params": params}, arch, images(), True)[0]
    )

  def outside(params):
    return loss(network.apply({**own, "params": params}, images()))

  grads = jax.jit(jax.grad(inside))(variables["params"])
  cut = inherit_block(
    space, arch, {"params": grads, "batch_stats": variables["batch_stats"]}
  )
  close(cut["params"], jax.grad(outside)(own["params"]), rtol=1e-4, atol=1e-4)


def test_what_lies_behind_the_end_changes_nothing():
  space, _, variables, stored, _ = made("plain")
  short = make_space(max_layers=3)
  fewer = jax.tree_util.tree_map_with_path(
    lambda path, a: a[:3] if any(k.key == "layers" for k in path) else a,
    variables,
  )
  net = BlockSupernet(short)
  run = jax.jit(lambda a: net.apply(fewer, a, images(), True)[0])
  for arch in short.sample(np.random.default_rng(3), 10):
    padded = space.from_codes(short.codes(arch))
    close(stored(variables, padded), run(arch), 1e-5, 1e-5)


def swapped(codes, i):
  """Codes whose layers i and i + 1, which do not read each other, change."""
  new = {i: i + 1, i + 1: i}
  out = [
    nsc.Code(
      c.op, new.get(c.pred1, c.pred1),
      new.get(c.pred2, c.pred2) if c.op in nsc.TWO_INPUTS else 0,
    )
    for c in codes
  ]  # fmt: skip
  out[i - 1], out[i] = out[i], out[i - 1]
  return out


def test_renaming_independent_layers_changes_nothing():
  space, _, variables, stored, _ = made("plain")
  tried = 0
  for arch in space.sample(np.random.default_rng(4), 40):
    codes = space.codes(arch)
    free = [i for i in range(1, len(codes)) if i not in nsc.reads(codes[i])]
    for i in free[:1]:
      order = np.arange(T)
      order[[i - 1, i]] = i, i - 1
      renamed = jax.tree_util.tree_map_with_path(
        lambda path, a, order=order: (
          a[order] if any(k.key == "layers" for k in path) else a
        ),
        variables,
      )
      other = space.from_codes(swapped(codes, i))
      close(stored(renamed, other), stored(variables, arch), 1e-5, 1e-5)
      tried += 1
  assert tried > 20


def test_running_statistics_move_where_there_is_batch_norm():
  space, net, variables, _, gradient = made("plain")
  arch = space.from_string("conv3@0-max3@0-concat@1+2")
  _, (_, measured) = gradient(variables["params"], arch)
  old = variables["batch_stats"]
  new = net.blend_stats(old, measured, jnp.asarray(arch))
  m = net.net.bn_momentum
  expected = lambda o, s: m * o + (1 - m) * s
  close(new["stem0_norm"], jax.tree.map(expected, old["stem0_norm"],
        measured["stem0_norm"]))  # fmt: skip
  for cell in ("stage0.block0", "stage1.block0"):
    was, now = (s[cell]["layers"]["norm"]["mean"] for s in (old, new))
    seen = measured[cell]["layers"]["norm"]["mean"]
    for layer in (0, 2):
      close(now[layer], expected(was[layer], seen[layer]))
    np.testing.assert_array_equal(
      now[np.array([1, 3, 4, 5])], was[np.array([1, 3, 4, 5])]
    )


def test_dropout_acts_in_training_only():
  space, net, variables, stored, _ = made("plain")
  arch = space.from_string("conv1@0")
  draws = [
    net.apply(variables, arch, images(), True, Noise(jax.random.key(s), 0.5))[0]
    for s in (1, 2)
  ]
  assert np.abs(draws[0] - draws[1]).max() > 1e-3
  network, own = plain("plain", arch)
  noisy = network.apply(own, images(), True, Noise(jax.random.key(1), 0.5))
  assert np.abs(noisy - stored(variables, arch)).max() > 1e-3


def test_without_affine_norms_and_in_half_precision():
  space = make_space("plain", hidden=0, dropout=0.0)
  arch = space.from_string("conv3@0-concat@0+1")
  for net in (NetConfig(bn_affine=False), NetConfig(precision="bfloat16")):
    supernet = BlockSupernet(space, net)
    variables = shaken(supernet.init(jax.random.key(0)))
    network = GraphNetwork(block_graph(space, arch), net)
    own = inherit_block(space, arch, variables)
    y = supernet.apply(variables, arch, images(), True)[0]
    exact = net.precision == "float32"
    close(
      y, network.apply(own, images()), rtol=1e-5 if exact else 0.1,
      atol=1e-5 if exact else 0.2,
    )  # fmt: skip


def test_weights_are_drawn_by_the_rule_of_their_kind():
  space = make_space()
  net = BlockSupernet(space)
  one, two = net.init(jax.random.key(1)), net.init(jax.random.key(1))
  close(one, two, 0, 0)
  kernel = one["params"]["stage1.block0"]["layers"]["conv3"]["kernel"]
  assert kernel.shape == (T, 3, 3, 6, 6)
  assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 6)), rel=0.1)


@pytest.mark.parametrize(
  "space", [make_space(output="concat"), get_space("irlas-mobile")]
)
def test_other_macros_are_refused(space):
  with pytest.raises(UserError, match="needs output='project'"):
    BlockSupernet(space)
