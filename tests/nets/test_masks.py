"""Masked networks: relaxed masks, every operation, and the plain network."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import masked_plain
import numpy as np
import pytest
from graphs import GRAPHS, SPACES, evaluate
from scipy import stats
from tiny import close, images, same, shaken

from jaxnas.config import NetConfig
from jaxnas.nets import MaskedNetwork, MaskedSupernet, Noise, drop_rates
from jaxnas.nets.graphs import pool
from jaxnas.nets.kernels import dilated_conv
from jaxnas.nets.masks import group_squares
from jaxnas.nets.relaxation import STRETCH, relaxed_drop, relaxed_keep
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import (
  IMAGES,
  Add,
  Conv,
  DropPath,
  GlobalPool,
  Graph,
  Linear,
  Pool,
  Shake,
)

NAMES = sorted(GRAPHS)
BATCH = 5
NOISE = Noise(jax.random.key(11), jnp.float32(0.6))


def logit(p):
  return np.log(p / (1 - p))


def binomial(n, p):
  """Share that n trials leave with a probability below 1e-6."""
  low, high = stats.binom.interval(1 - 1e-6, n, p)
  return low / n, high / n


@functools.cache
def setting(name):
  """Supernet, variables and images of a graph of `graphs`."""
  supernet = MaskedSupernet(SPACES[name])
  variables = shaken(supernet.init(jax.random.key(0)))
  return supernet, variables, images(BATCH, size=GRAPHS[name].image_size)


@pytest.fixture
def compile_fast():
  """Compiling is nearly all of the time where rounding does not matter."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def program(name, stored, noisy):
  supernet = setting(name)[0]
  noise = NOISE if noisy else None

  def run(variables, x, keep):
    return supernet.apply(variables, x, keep, stored, noise)

  return jax.jit(run)


# Relaxed masks ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("p", "r1", "r2", "tau", "expected"),
  [
    (0.3, 0.2, 0.7, 0.2, 0.96434597),
    (0.3, 0.2, 0.7, 2 / 3, 0.72894496),
    (0.1, 0.5, 0.5, 0.2, 1.6934801e-5),
  ],
)
def test_golden_relaxed_drops(p, r1, r2, tau, expected):
  found = relaxed_drop(jnp.float32(logit(p)), *map(jnp.float32, (r1, r2)), tau)
  assert float(found) == pytest.approx(expected, rel=1e-5)
  assert float(
    relaxed_keep(jnp.float32(logit(p)), jnp.float32(r1), jnp.float32(r2), tau)
  ) == pytest.approx(1 - expected, rel=1e-5)


@pytest.mark.parametrize("tau", [0.2, 2 / 3, 1.0])
@pytest.mark.parametrize("p", [0.003, 0.1, 0.3, 0.5, 0.9])
def test_half_is_exceeded_with_the_rate_at_every_temperature(p, tau):
  n = 400_000
  r1, r2 = jax.random.uniform(jax.random.key(3), (2, n))
  drop = relaxed_drop(jnp.float32(logit(p)), r1, r2, tau)
  low, high = binomial(n, p)
  assert low <= float((drop > 0.5).mean()) <= high


@pytest.mark.parametrize(("tau", "mean"), [(0.2, 0.305), (2 / 3, 0.339)])
def test_golden_bias_of_the_soft_mean(tau, mean):
  r1, r2 = jax.random.uniform(jax.random.key(5), (2, 1_000_000))
  drop = relaxed_drop(jnp.float32(logit(0.3)), r1, r2, tau)
  assert float(drop.mean()) == pytest.approx(mean, abs=1.5e-3)


@pytest.mark.parametrize(
  "relaxation", ["concrete", "straight-through", "hard-concrete"]
)
def test_draws_are_finite_with_finite_gradients_at_all_ends(relaxation):
  logits = jnp.array([-1e4, -40.0, 0.0, 40.0, 1e4], jnp.float32)
  ends = jnp.array([0.0, 0.5, 1 - 2**-23], jnp.float32)
  r1, r2 = (r[..., None] for r in jnp.meshgrid(ends, ends))
  keep = relaxed_keep(logits, r1, r2, 0.2, relaxation)
  slope = jax.grad(lambda l: relaxed_keep(l, r1, r2, 0.2, relaxation).sum())
  assert np.isfinite(keep).all()
  assert np.isfinite(slope(logits)).all()
  assert ((keep >= 0) & (keep <= 1)).all()
  assert (keep[..., 0] == 1).all()
  assert (keep[..., -1] == 0).all()


def draws(n, logits, relaxation="concrete", tau=0.2):
  supernet, variables, _ = setting("dense")
  rates = {"logits": jnp.asarray(logits, jnp.float32)}
  own = {"params": {**variables["params"], "drop": rates}}
  return np.asarray(
    supernet.draw_keep(own, jax.random.key(9), n, tau, relaxation)
  )


def test_each_channel_of_each_image_is_drawn_alone_at_its_group_rate():
  space = SPACES["dense"]
  n, p = 4000, np.linspace(0.05, 0.95, len(space.groups))
  dropped = draws(n, logit(p)) < 0.5
  assert dropped.shape == (n, space.n_layers)
  for l, found in enumerate(dropped.mean(0)):
    low, high = binomial(n, p[space.group_of[l]])
    assert low <= found <= high, l
  unit = dropped - dropped.mean(0)
  unit /= unit.std(0)
  bound = 5 / np.sqrt(n)
  across = unit.T @ unit / n - np.eye(space.n_layers)
  assert np.abs(across).max() < bound
  for lag in (1, 2):  # and one image tells nothing about the next
    assert np.abs(unit[lag:].T @ unit[:-lag] / n).max() < bound


def test_straight_through_rounds_and_keeps_the_gradient():
  space = SPACES["dense"]
  logits = logit(np.linspace(0.1, 0.9, len(space.groups)))
  soft, hard = draws(200, logits), draws(200, logits, "straight-through")
  np.testing.assert_array_equal(hard, soft > 0.5)
  assert set(np.unique(hard)) == {0.0, 1.0}

  weights = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
  r1, r2 = jax.random.uniform(jax.random.key(1), (2, 1000))

  def total(l, relaxation):
    return (weights * relaxed_keep(l, r1, r2, 0.5, relaxation)).sum()

  l = jnp.linspace(-3, 3, 1000)
  slopes = [
    jax.grad(total)(l, r) for r in ("straight-through", "concrete")
  ]  # fmt: skip
  np.testing.assert_array_equal(*slopes)
  assert (slopes[0] != 0).mean() > 0.9


def test_hard_concrete_stretches_and_clips():
  groups = len(SPACES["dense"].groups)
  soft = draws(200, np.zeros(groups), tau=2 / 3)
  hard = draws(200, np.zeros(groups), "hard-concrete", tau=2 / 3)
  low, high = STRETCH
  expected = np.clip(soft * (high - low) + low, 0, 1)
  np.testing.assert_allclose(hard, expected, atol=1e-6)
  for end in (0, 1):  # P(keep < 1/12) = sigmoid(tau logit(1/12)) = 0.168
    share = binomial(hard.size, 1 / (1 + 11 ** (2 / 3)))
    assert share[0] <= (hard == end).mean() <= share[1]
  # What is clipped learns nothing, the rest faster than a concrete one.
  r1, r2 = jax.random.uniform(jax.random.key(1), (2, 1000))
  slope = {
    r: jax.grad(lambda l, r=r: relaxed_keep(l, r1, r2, 0.5, r).sum())(
      jnp.zeros(1000)
    )
    for r in ("concrete", "hard-concrete")
  }
  keep = relaxed_keep(jnp.zeros(1000), r1, r2, 0.5)
  inside = (keep > 1 / 12) & (keep < 11 / 12)
  np.testing.assert_allclose(
    slope["hard-concrete"], inside * slope["concrete"] * (high - low), rtol=1e-5
  )


# The plain network -----------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "noisy"),
  [*((name, False) for name in NAMES), ("shake", True), ("cell", True)],
)
def test_rates_of_zero_and_masks_of_ones_are_the_plain_network(name, noisy):
  supernet, variables, x = setting(name)
  space = SPACES[name]
  run = program(name, not noisy, noisy)
  expected = run(variables, x, None)
  masks = {"ones": np.ones((BATCH, space.n_layers), np.float32)}
  for low in (-40.0, -60.0, -1e4):
    for tau in (0.2, 2 / 3, 1.0):
      rates = {"logits": np.full(len(space.groups), low, np.float32)}
      own = {"params": {**variables["params"], "drop": rates}}
      masks[low, tau] = supernet.draw_keep(own, jax.random.key(2), BATCH, tau)
  for case, keep in masks.items():
    np.testing.assert_array_equal(keep, 1.0, err_msg=str(case))
  assert same(run(variables, x, masks[-40.0, 0.2]), expected)
  if not noisy:
    assert same(run(variables, x, masks["ones"][0]), expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_mask_is_that_of_each_image(name, compile_fast):
  _, variables, x = setting(name)
  rng = np.random.default_rng(0)
  rows = rng.random((BATCH, SPACES[name].n_layers)).astype(np.float32)
  run = program(name, True, False)
  equal = np.broadcast_to(rows[0], rows.shape)
  shared, one_each = run(variables, x, rows[0]), run(variables, x, equal)
  close(shared, one_each, 1e-6, 1e-6)
  # Different rows: each image sees its own and no other.
  together = run(variables, x, rows)[0]
  alone = [run(variables, x, row)[0][i] for i, row in enumerate(rows)]
  close(together, np.stack(alone), 1e-6, 1e-6)
  assert np.abs(together - one_each[0])[1:].max() > 1e-3


def test_masks_are_data_under_vmap(compile_fast):
  name = "cell"
  supernet, variables, x = setting(name)
  rows = np.random.default_rng(0).integers(0, 2, (3, SPACES[name].n_layers))
  rows = rows.astype(np.float32)

  def one(keep):
    return supernet.apply(variables, x, keep, False)

  logits, measured = jax.jit(jax.vmap(one))(rows)
  for i, row in enumerate(rows):
    y, own = program(name, False, False)(variables, x, row)
    close(logits[i], y, 1e-4, 1e-5)
    close(jax.tree.map(lambda a, i=i: a[i], measured), own, 1e-4, 1e-5)


# The whole network against slow references -----------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_by_definition(name, compile_fast):
  graph, (_, variables, x) = GRAPHS[name], setting(name)
  rows = np.random.default_rng(1).random((BATCH, SPACES[name].n_layers))
  rows = rows.astype(np.float32)
  run = program(name, True, False)
  slow = jax.jit(functools.partial(evaluate, graph))
  expected = slow(variables, x, rows[0])[graph.output]
  close(run(variables, x, rows[0])[0], expected, 1e-4, 1e-4)
  # With a mask of its own for each image.
  slow = jax.jit(
    lambda v, x, k: masked_plain.plain(graph, v, x, k, stored=True)
  )
  logits, measured = run(variables, x, rows)
  close(logits, slow(variables, x, rows)[0][graph.output], 1e-4, 1e-4)
  assert measured == {}


@pytest.mark.parametrize("name", ["shake", "cell", "constants"])
def test_training_by_definition(name, compile_fast):
  graph, (_, variables, x) = GRAPHS[name], setting(name)
  rows = np.random.default_rng(1).random((BATCH, SPACES[name].n_layers))
  rows = rows.astype(np.float32)
  noise = (NOISE.key, NOISE.progress)
  slow = jax.jit(lambda v, x, k: masked_plain.plain(graph, v, x, k, noise))
  values, stats_of = slow(variables, x, rows)
  logits, measured = program(name, False, True)(variables, x, rows)
  expected = values[graph.output]
  if graph.auxiliary:
    expected = (expected, values[graph.auxiliary])
  close(logits, expected, 1e-3, 1e-4)
  close(measured, stats_of, 1e-3, 1e-4)


def test_shapes_of_graph_and_network_agree():
  for name in NAMES:
    graph, (_, variables, x) = GRAPHS[name], setting(name)
    values, _ = jax.eval_shape(
      functools.partial(masked_plain.plain, graph), variables, x
    )
    for node, value in values.items():
      shape = graph.shapes[node]
      assert value.shape[-1] == shape.channels
      assert np.prod(value.shape[1:-1]) == shape.size**2


def test_the_auxiliary_classifier_is_in_training_only(compile_fast):
  graph, (_, variables, x) = GRAPHS["cell"], setting("cell")
  assert "aux" in variables["params"]
  lean = {
    **variables,
    "params": {
      k: v for k, v in variables["params"].items() if not k.startswith("aux")
    },
  }
  keep = np.full(SPACES["cell"].n_layers, 0.5, np.float32)
  y, _ = program("cell", True, False)(lean, x, keep)
  assert y.shape == (BATCH, graph.n_classes)
  pair, _ = program("cell", False, True)(variables, x, keep)
  assert [p.shape for p in pair] == [y.shape] * 2
  # A graph without one gives plain logits in training too.
  other, variables, x = setting("shake")
  keep = np.ones((BATCH, other.space.n_layers), np.float32)
  logits, _ = program("shake", False, True)(variables, x, keep)
  assert logits.shape == y.shape


def test_bfloat16_is_close_and_has_float32_logits_and_statistics(
  compile_fast,
):
  supernet, variables, x = setting("shake")
  low = MaskedSupernet(supernet.space, NetConfig(precision="bfloat16"))
  keep = np.random.default_rng(0).random((BATCH, supernet.space.n_layers))
  keep = keep.astype(np.float32)
  y, measured = jax.jit(
    lambda v, x, k: low.apply(v, x, k, False, NOISE)
  )(variables, x, keep)  # fmt: skip
  for leaf in jax.tree.leaves((y, measured)):
    assert leaf.dtype == np.float32
  expected, _ = program("shake", False, True)(variables, x, keep)
  # The shares are drawn in bfloat16 too, so noise makes logits differ; their
  # scale cannot.
  assert 0.5 < float(jnp.linalg.norm(y) / jnp.linalg.norm(expected)) < 2
  calm = jax.jit(lambda v, x, k: low.apply(v, x, k, True)[0])
  expected, _ = program("shake", True, False)(variables, x, keep)
  error = jnp.abs(calm(variables, x, keep) - expected).max()
  assert error < 0.05 * jnp.abs(expected).max()


# Operations ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize(
  ("kernel", "stride", "offset"),
  [(1, 1, 0), (1, 2, 0), (1, 2, 1), (2, 2, 0), (3, 1, 0), (3, 2, 0), (3, 1, 1),
   (5, 1, 0), (5, 2, 1)],
)  # fmt: skip
def test_pools(kind, kernel, stride, offset):
  op = Pool(kind, kernel, stride, offset)
  for size in (5, 6):
    # All negative: padding with zeros would win every maximum.
    x = -np.abs(images(2, size=size)) - 0.1
    expected = pool_by_loops(x, op)
    np.testing.assert_allclose(pool(x, op), expected, rtol=1e-5)
    stacked = pool(np.stack([x, 2 * x]), op)
    np.testing.assert_allclose(stacked[1], 2 * expected, rtol=1e-5)
    close(masked_plain.pool(x, op), np.float32(expected))


def pool_by_loops(x, op):
  b, size, _, c = x.shape
  moved = np.zeros_like(x)
  for i, j in np.ndindex(size - op.offset, size - op.offset):
    moved[:, i, j] = x[:, i + op.offset, j + op.offset]
  out = size // 2 if op.kernel == 2 else -(-size // op.stride)
  y = np.zeros((b, out, out, c))
  pad = (op.kernel - 1) // 2
  for i, j in np.ndindex(out, out):
    seen = [
      moved[:, r, s]
      for r in range(i * op.stride - pad, i * op.stride - pad + op.kernel)
      for s in range(j * op.stride - pad, j * op.stride - pad + op.kernel)
      if 0 <= r < size and 0 <= s < size
    ]
    y[:, i, j] = {"mean": np.mean, "max": np.max}[op.kind](seen, 0)
  return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (3, 2), (5, 2), (3, 3)])
def test_convolutions_with_holes(k, dilation, stride):
  rng = np.random.default_rng(0)
  x = images(2, size=7)
  kernel = rng.standard_normal((k, k, 3, 2)).astype(np.float32)
  out, pad = -(-7 // stride), dilation * (k // 2)
  expected = np.zeros((2, out, out, 2))
  for i, j, p, q in np.ndindex(out, out, k, k):
    r, s = i * stride + p * dilation - pad, j * stride + q * dilation - pad
    if 0 <= r < 7 and 0 <= s < 7:
      expected[:, i, j] += x[:, r, s].astype(np.float64) @ kernel[p, q]
  found = dilated_conv(x, kernel, stride, dilation)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  close(masked_plain.conv(x, kernel, stride, dilation), np.float32(expected))
  stacked = dilated_conv(np.stack([x, -x]), kernel, stride, dilation)
  np.testing.assert_allclose(stacked[1], -expected, rtol=1e-4, atol=1e-5)


def read_out(draft, x, size=2, channels=1):
  """A network whose logits are the means of a node's channels."""
  y = draft.add("pool", GlobalPool(), x)
  draft.add("classifier", Linear("none"), y)
  graph = Graph("probe", size, channels, channels, tuple(draft.nodes))
  linear = {"linear": jnp.eye(channels), "bias": jnp.zeros(channels)}
  return MaskedNetwork(graph), {"classifier": linear}


def test_shake_weights_values_and_gradients_by_two_shares():
  n = 4000
  d = Draft()
  branches = [d.add(b, Conv(1, gate="none"), IMAGES) for b in "ab"]
  network, params = read_out(d, d.add("shake", Shake(), *branches))
  x = np.ones((n, 2, 2, 1), np.float32)
  kernels = {"a": {"kernel": jnp.ones((1, 1))}, "b": {"kernel": jnp.eye(1) * 3}}
  forward, backward = (
    np.ravel(s) for s in masked_plain.shares(
      jax.random.fold_in(NOISE.key, 2), n
    )
  )  # fmt: skip

  def run(kernels, x, noise=NOISE):
    return network.apply({"params": params | kernels}, x, noise=noise)[:, 0]

  y = np.asarray(jax.jit(run)(kernels, x))
  np.testing.assert_allclose(y, forward + 3 * (1 - forward), atol=1e-5)
  slopes = jax.jit(jax.jacobian(run))(kernels, x[:50])
  head = [
    np.ravel(s)
    for s in masked_plain.shares(jax.random.fold_in(NOISE.key, 2), 50)
  ]
  np.testing.assert_allclose(slopes["a"]["kernel"][:, 0, 0], head[1], atol=1e-5)
  np.testing.assert_allclose(
    slopes["b"]["kernel"][:, 0, 0], 1 - head[1], atol=1e-5
  )
  assert np.abs(head[0] - head[1]).min() > 0
  # P(u1 / (u1 + u2) <= s) = s / (2 (1 - s)) up to 1/2, then by symmetry; the
  # two shares are independent.
  assert abs(np.corrcoef(forward, backward)[0, 1]) < 5 / np.sqrt(n)
  cdf = lambda s: np.where(
    s < 0.5, s / (2 * (1 - s)), 1 - (1 - s) / (2 * np.maximum(s, 1e-9))
  )
  for share in ((3 - y) / 2, backward):
    assert stats.kstest(share, cdf).pvalue > 1e-3
  np.testing.assert_array_equal(jax.jit(run)(kernels, x, None), 2.0)


def test_drop_path_keeps_the_expectation_and_grows():
  n = 20_000
  d = Draft()
  network, params = read_out(d, d.add("path", DropPath(0.4), IMAGES))
  x = np.ones((n, 2, 2, 1), np.float32)

  @jax.jit
  def run(progress):
    noise = dataclasses.replace(NOISE, progress=progress)
    return network.apply({"params": params}, x, noise=noise)[:, 0]

  for progress, rate in ((0.0, 0.0), (0.5, 0.2), (1.0, 0.4)):
    y = np.asarray(run(jnp.float32(progress)))
    low, high = binomial(n, rate) if rate else (0, 0)
    assert low <= (y == 0).mean() <= high
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)
    assert y.mean() == pytest.approx(1, abs=6 * np.sqrt(rate / n))
  evaluated = network.apply({"params": params}, x)
  np.testing.assert_array_equal(evaluated, 1.0)


def test_noise_of_two_nodes_is_independent():
  n = 4000
  d = Draft()
  paths = [d.add(f"path{i}", DropPath(0.5), IMAGES) for i in range(2)]
  network, params = read_out(d, d.add("add", Add(), *paths))
  noise = dataclasses.replace(NOISE, progress=jnp.float32(1.0))
  x = np.ones((n, 2, 2, 1), np.float32)
  y = network.apply({"params": params}, x, noise=noise)[:, 0]
  for value, p in ((0, 0.25), (2, 0.5), (4, 0.25)):
    low, high = binomial(n, p)
    assert low <= float((y == value).mean()) <= high


# Variables -------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_fresh_variables(rate):
  supernet = MaskedSupernet(SPACES["cell"])
  variables = supernet.init(jax.random.key(4), rate)
  groups = len(SPACES["cell"].groups)
  logits = variables["params"]["drop"]["logits"]
  assert (logits.shape, logits.dtype) == ((groups,), np.float32)
  np.testing.assert_allclose(drop_rates(variables), rate, rtol=1e-6)
  assert same(variables, supernet.init(jax.random.key(4), rate))
  other = supernet.init(jax.random.key(5), rate)
  assert not same(variables["params"]["stem"], other["params"]["stem"])
  for node in GRAPHS["cell"].nodes:
    has = set(variables["params"].get(node.name, {}))
    expected = {
      "Conv": {"kernel"}, "Depthwise": {"kernel"}, "Norm": {"scale", "bias"},
      "Linear": {"linear", "bias"},
    }.get(type(node.op).__name__, set())  # fmt: skip
    assert has == expected
    norm = type(node.op).__name__ == "Norm"
    assert (node.name in variables["batch_stats"]) == norm


def test_rates_are_read_in_double_precision():
  logits = np.float32([-40, -2.1972246, 0, 3, 100])
  found = drop_rates({"params": {"drop": {"logits": logits}}})
  assert found.dtype == np.float64
  expected = 1 / (1 + np.exp(-np.float64(logits)))
  np.testing.assert_allclose(found, expected, rtol=1e-15)
  assert 0 < found[0] < 1e-17


@pytest.mark.parametrize("name", NAMES)
def test_squares_of_groups_by_loops(name):
  graph, (_, variables, _) = GRAPHS[name], setting(name)
  found = group_squares(SPACES[name], variables["params"])
  expected = []
  for g in graph.groups:
    tree = variables["params"][g.node]
    weights = np.float64(tree["linear"] if "linear" in tree else tree["kernel"])
    part = weights[..., g.first : g.first + g.channels, :]
    assert part.size == g.kernel**2 * g.channels * g.features
    expected.append((part**2).sum())
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_running_statistics_move_one_step():
  supernet = MaskedSupernet(SPACES["cell"], NetConfig(bn_momentum=0.75))
  old = {"a": {"mean": jnp.array([1.0])}, "b": {"mean": jnp.array([2.0])}}
  new = supernet.blend_stats(old, {"a": {"mean": jnp.array([5.0])}})
  close(new, {"a": {"mean": jnp.array([2.0])}, "b": old["b"]})
