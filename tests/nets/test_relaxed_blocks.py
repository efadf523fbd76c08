"""A relaxed block: each block at its corners, sums of blocks between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, shaken

from jaxnas.config import NetConfig
from jaxnas.nets import BlockSupernet, Noise
from jaxnas.nets.interpreter import NORM_ROW, batch_norm, branches
from jaxnas.nets.relaxed_blocks import relaxed_block, relaxed_logits
from jaxnas.search import relaxation
from jaxnas.spaces import get_space, nsc

T = 3


def make_space(convs="plain", **macro):
  fields = {"stem": 4, "stages": [[4, 1], [6, 1]], "hidden": 5, "dropout": 0.4}
  return get_space(
    "blocks-digits", max_layers=T, convs=convs, **{**fields, **macro}
  )


def images(n=6):
  return np.random.default_rng(7).standard_normal((n, 8, 8, 1), np.float32)


def certain(arch):
  """What a decided block is as a mixture."""
  op, first, second = np.asarray(arch).reshape(-1, 3).T
  return relaxation.mixture(
    {
      "op": jnp.eye(len(nsc.OPS))[op],
      "first": jnp.eye(T)[first],
      "second": jnp.eye(T)[second],
    }
  )


def undecided(seed=0, t=T):
  rng = np.random.default_rng(seed)
  alpha = {
    name: jnp.asarray(rng.standard_normal(a.shape), jnp.float32)
    for name, a in relaxation.initial_alpha(t, 0).items()
  }
  return relaxation.mixture(relaxation.probabilities(alpha))


@functools.cache
def made(convs):
  """Space, supernet, weights, and programs for any block and any mixture."""
  space = make_space(convs)
  net = BlockSupernet(space)
  variables = shaken(net.init(jax.random.key(0)))
  plain = jax.jit(lambda a: net.apply(variables, a, images(), False)[0])
  relaxed = jax.jit(
    lambda m: relaxed_logits(net, variables["params"], m, images())
  )
  return space, net, variables, plain, relaxed


@pytest.mark.parametrize("convs", ["plain", "separable"])
def test_thirty_decided_blocks_are_the_interpreters(convs):
  space, _, _, plain, relaxed = made(convs)
  archs = space.canonical(space.sample(np.random.default_rng(0), 30))
  ops = {op for a in archs for op, *_ in space.codes(a)}
  assert ops == set(range(1, 11)) - set(nsc.SAME_AS_IDENTITY)
  for arch in archs:
    close(relaxed(certain(arch)), plain(arch), 1e-5, 1e-5)


def test_the_order_of_two_inputs_does_not_count():
  space, _, _, plain, relaxed = made("plain")
  one = space.from_string("conv1@0-conv3@1-concat@2+0")
  expected = plain(space.canonical(one)[0])
  close(relaxed(certain(one)), expected, 1e-5, 1e-5)
  # The interpreter itself never meets the other order, which is another block.
  assert np.abs(plain(one) - expected).max() > 1e-3


def plainly(params, mix, x):
  """A relaxed block layer by layer, by the text of its definition."""
  table, maps, total = branches("separable"), [x], jnp.zeros_like(x)
  for i in range(len(mix["leaf"])):
    own = jax.tree.map(lambda a, i=i: a[i], params)
    read = lambda name, i=i: sum(
      mix[name][i, j] * h for j, h in enumerate(maps)
    )
    y = jnp.zeros_like(x)
    for op in range(1, len(nsc.OPS)):
      pair = op in nsc.TWO_INPUTS
      inputs = ("low", "high") if pair else ("first", "first")
      found = table[op](own, *map(read, inputs))
      if op in (*nsc.CONVS, nsc.CONCAT):
        norm = {n: a[NORM_ROW[op]] for n, a in own["norm"].items()}
        found = batch_norm(found, norm, None)[0]
      y = y + mix["op"][i, op] * found
    maps.append(y)
    total += mix["leaf"][i] * (jax.nn.relu(y) @ own["output"]["kernel"])
  return total


@pytest.mark.slow
def test_values_and_gradients_of_what_is_undecided():
  layers = made("separable")[2]["params"]["stage0.block0"]["layers"]
  params, mix = jax.tree.map(lambda a: a[:2], layers), undecided(t=2)
  x = np.random.default_rng(1).standard_normal((3, 5, 5, 4), np.float32)
  goal = np.random.default_rng(2).standard_normal(x.shape, np.float32)

  def slopes(run):
    value = lambda p, m, x: (run(p, m, x) * goal).sum()
    program = jax.jit(jax.value_and_grad(value, (0, 1, 2)))
    fast = {"xla_backend_optimization_level": 0}  # to compile
    return program.lower(params, mix, x).compile(fast)(params, mix, x)

  found = slopes(lambda *args: relaxed_block(*args, "separable"))
  expected = slopes(plainly)
  close(found[0], expected[0], 1e-4, 1e-4)
  close(found[1][0], expected[1][0], 1e-3, 2e-4)
  close(found[1][2], expected[1][2], 1e-3, 2e-4)
  for name, slope in expected[1][1].items():
    legal = np.asarray(mix[name]) > 0  # others are never asked for
    close(found[1][1][name][legal], slope[legal], 1e-3, 2e-4)
  # All weights learn, also those of layers that are unlikely.
  for path, slope in jax.tree_util.tree_leaves_with_path(found[1][0]):
    assert np.abs(slope).max() > 0, jax.tree_util.keystr(path)


def test_dropout_acts_in_training_only():
  space = make_space(stages=[[4, 1]])
  net = BlockSupernet(space)
  params = net.init(jax.random.key(0))["params"]
  run = jax.jit(
    lambda noise: relaxed_logits(net, params, undecided(), images(), noise)
  )
  one, two = (run(Noise(jax.random.key(s), jnp.zeros(()))) for s in (1, 2))
  assert np.abs(one - two).max() > 1e-3
  assert np.abs(one - run(None)).max() > 1e-3


@pytest.mark.parametrize(
  "config", [NetConfig(bn_affine=False), NetConfig(precision="bfloat16")]
)
def test_without_affine_norms_and_in_half_precision(config):
  space = make_space(hidden=0, dropout=0.0, stages=[[4, 1]])
  arch = space.from_string("conv3@0-concat@0+1")
  net = BlockSupernet(space, config)
  variables = shaken(net.init(jax.random.key(0)))
  found = jax.jit(
    lambda m: relaxed_logits(net, variables["params"], m, images())
  )(certain(arch))
  expected = net.apply(variables, arch, images(), False)[0]
  exact = config.precision == "float32"
  close(found, expected, *(2 * [1e-5] if exact else [0.1, 0.2]))
