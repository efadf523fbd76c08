"""The regulariser against golden values, closed forms and enumeration."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import SPACES
from tiny import shaken

from jaxnas.config import MasksConfig, OptimizerConfig
from jaxnas.costs.masks import kept_weights
from jaxnas.errors import UserError
from jaxnas.nets import MaskedSupernet
from jaxnas.nets.masks import group_squares
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import IMAGES, Concat, Conv, Norm, Pool
from jaxnas.training import check_masks, make_optimizer
from jaxnas.training.variational import (
  group_sizes,
  regulariser,
  target_penalty,
)  # fmt: skip

N = 5e5
CODE = MasksConfig(length_scale=150.0)
HALF = dataclasses.replace(CODE, half=True)
PRINTED = dataclasses.replace(HALF, entropy="printed")


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def logit(p):
  return np.log(p / (1 - p))


def term(logits, squares, channels, config, examples=N):
  return regulariser(
    jnp.atleast_1d(jnp.float32(logits)), jnp.atleast_1d(jnp.float32(squares)),
    np.atleast_1d(np.float32(channels)), config, examples,
  )  # fmt: skip


slope = jax.grad(term)


# Golden values ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    (CODE, 3.9389379e-5),
    (PRINTED, 1.1026911e-5),
    (dataclasses.replace(CODE, entropy_weight=0.0), 8.1e-5),
    (dataclasses.replace(CODE, length_scale=0.0), -4.1610621e-5),
  ],
)
def test_golden_values(config, expected):
  found = float(term(logit(0.1), 0.3, 64, config))
  assert found == pytest.approx(expected, rel=2e-6)


def test_golden_gradient():
  found = float(slope(logit(0.1), 0.3, 64, CODE))
  assert found == pytest.approx(-3.3412027e-5, rel=2e-6)
  # Weights push the rate up, the entropy pulls it to 1/2 from both sides.
  no_entropy = dataclasses.replace(CODE, entropy_weight=0.0)
  no_weights = dataclasses.replace(CODE, length_scale=0.0)
  for p in (0.1, 0.9):
    assert slope(logit(p), 0.3, 64, no_entropy) < 0
    assert np.sign(slope(logit(p), 0.3, 64, no_weights)) == np.sign(p - 0.5)


def best(config, squares, channels):
  """Closed form of the rate that minimises the regulariser (ours)."""
  pull = config.length_scale * squares / (config.entropy_weight * channels)
  pull *= 0.5 if config.half else 1.0
  if config.weight_term == "constant":
    pull = 0.0
  u = config.prior_drop
  if config.entropy == "full":
    return sigmoid(pull + (logit(u) if u else 0.0))
  if u:  # log p + 1 = pull + logit(u)
    pull += logit(u)
  return min(1.0, np.exp(pull - 1))


def scaled(config, **fields):
  return dataclasses.replace(config, **fields)


OPTIMA = [
  (CODE, 0.3, 64, 0.66888029),
  (HALF, 0.3, 64, 0.58699643),
  (PRINTED, 0.3, 64, 0.52286211),
  (scaled(CODE, length_scale=100.0), 1.0, 128, 0.68594946),
  (scaled(HALF, length_scale=100.0), 1.0, 128, 0.59643315),
  (CODE, 0.0, 64, 0.5),
  (PRINTED, 0.0, 64, 0.36787944),
  # Not in the table: other weights of the entropy, priors, constant L2.
  (scaled(CODE, entropy_weight=4.0), 0.3, 64, None),
  (scaled(CODE, prior_drop=0.2), 0.3, 64, None),
  (scaled(CODE, prior_drop=0.9, entropy_weight=2.0), 0.3, 64, None),
  (scaled(PRINTED, prior_drop=0.3), 0.3, 64, None),
  (scaled(CODE, prior_drop=0.25), 0.0, 8, 0.25),
  (scaled(CODE, weight_term="constant"), 0.3, 64, 0.5),
  (scaled(CODE, weight_term="constant", prior_drop=0.3), 0.3, 64, 0.3),
]


@pytest.mark.parametrize(("config", "squares", "channels", "golden"), OPTIMA)
def test_descent_ends_at_the_closed_form(config, squares, channels, golden):
  expected = best(config, squares, channels)
  if golden is not None:
    assert expected == pytest.approx(golden, abs=5e-8)
  found = descend(config, squares, channels)
  assert found == pytest.approx(expected, abs=2e-5)
  assert slope(logit(expected), squares, channels, config) * N / channels == (
    pytest.approx(0, abs=1e-6)
  )


def descend(config, squares, channels, start=0.1, steps=400):
  """The optimiser of training, weights frozen."""
  rate = N / (channels * config.entropy_weight)
  optimizer = OptimizerConfig(weight_decay=0.0, momentum=0.5, nesterov=True)
  tx = make_optimizer(optimizer, lambda _: rate)

  x = {"drop": {"logits": jnp.float32(logit(start))}}

  def step(carry, _):
    tree, state = carry
    grads = {
      "drop": {
        "logits": slope(tree["drop"]["logits"], squares, channels, config)
      }
    }
    updates, state = tx.update(grads, state, tree)
    return (jax.tree.map(jnp.add, tree, updates), state), None

  (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=steps)
  return float(jax.nn.sigmoid(x["drop"]["logits"]))


def test_the_printed_form_drops_everything_above_a_norm():
  # l2 S / (2 c K) > 1: the closed form is 1 and descent never turns.
  squares = 2.5 * 2 * 64 / 150
  assert best(PRINTED, squares, 64) == 1.0
  for p in (0.01, 0.5, 0.99, 0.99999):
    assert slope(logit(p), squares, 64, PRINTED) < 0
  assert descend(PRINTED, squares, 64) > 0.99


# Form ------------------------------------------------------------------------


def test_groups_add_up_and_n_divides():
  rng = np.random.default_rng(0)
  logits, squares = rng.standard_normal(6), rng.random(6)
  channels = rng.integers(1, 20, 6)
  config = scaled(CODE, prior_drop=0.2, entropy_weight=0.7)
  p = sigmoid(logits)
  entropy = p * np.log(p) + (1 - p) * np.log(1 - p)
  prior = p * np.log(0.2) + (1 - p) * np.log(0.8)
  expected = (
    150 * (1 - p) * squares + 0.7 * channels * (entropy - prior)
  ).sum()  # fmt: skip
  for n in (100.0, 1e6):
    found = float(term(logits, squares, channels, config, n))
    assert found == pytest.approx(expected / n, rel=1e-5)


def test_with_a_prior_the_bracket_is_a_kl_divergence():
  config = scaled(CODE, prior_drop=0.2)
  assert float(term(logit(0.2), 0.0, 7, config, 1.0)) == pytest.approx(
    0, abs=1e-5
  )
  for p in (0.01, 0.19, 0.21, 0.9):
    assert term(logit(p), 0.0, 7, config, 1.0) > 0


@pytest.mark.parametrize("weight_term", ["coupled", "constant"])
def test_weights_are_pulled_by_what_is_kept(weight_term):
  space = SPACES["dense"]
  params = shaken(MaskedSupernet(space).init(jax.random.key(0)))["params"]
  channels = np.array([g.channels for g in space.groups])
  config = scaled(CODE, weight_term=weight_term)

  def total(params):
    squares = group_squares(space, params)
    return regulariser(params["drop"]["logits"], squares, channels, config, N)

  grads = jax.grad(total)(params)
  p = sigmoid(np.float64(params["drop"]["logits"]))
  for name, part in space.graph.gates.items():
    leaf = "linear" if "linear" in params[name] else "kernel"
    kept = (1 - p)[space.group_of[part]][:, None]
    if weight_term == "constant":
      kept = 1.0
    expected = 2 * 150 / N * kept * params[name][leaf]
    np.testing.assert_allclose(grads[name][leaf], expected, rtol=1e-4)
  # What is not gated is left alone: the stem, norms, the bias.
  for name in ("stem", "norm"):
    assert all((g == 0).all() for g in jax.tree.leaves(grads[name]))
  assert (grads["classifier"]["bias"] == 0).all()
  moved = np.abs(grads["drop"]["logits"]).min() > 0
  assert moved


@pytest.mark.parametrize("entropy", ["full", "printed"])
@pytest.mark.parametrize("prior", [0.0, 0.3])
def test_extreme_rates_have_finite_gradients(entropy, prior):
  config = scaled(CODE, entropy=entropy, prior_drop=prior)
  for x in (-1e4, -200.0, -40.0, 40.0, 200.0, 1e4):
    assert np.isfinite(float(term(x, 0.3, 64, config)))
    assert np.isfinite(float(slope(x, 0.3, 64, config)))


# Target ----------------------------------------------------------------------


def small():
  """Nine gated channels at two map sizes; everything is gated."""
  d = Draft()
  a = d.add("a", Conv(2, 3), IMAGES)
  b = d.add("b", Conv(1, gate="one"), IMAGES)
  x = d.add("join", Concat(), d.add("a_norm", Norm(), a), b)
  x = d.add("c", Conv(2, 3, gate="sources"), d.add("p", Pool("max", 3, 2), x))
  d.classify(x)
  return d.space("small", 4, 3, 2)


@pytest.mark.parametrize("kind", ["macs", "params", "channels"])
def test_expected_share_by_enumeration(kind):
  space = small()
  rng = np.random.default_rng(0)
  rates = rng.uniform(0.05, 0.95, len(space.groups))
  masks = np.array(list(itertools.product((0, 1), repeat=space.n_layers)))
  p = rates[space.group_of]
  chance = np.where(masks, 1 - p, p).prod(1)
  assert chance.sum() == pytest.approx(1)
  # Weights that read one channel, and positions that they are applied at.
  each = {
    "macs": dict(a=18 * 16, b=16, c=18 * 4, classifier=3),
    "params": dict(a=18, b=1, c=18, classifier=3),
    "channels": dict(a=1, b=1, c=1, classifier=1),
  }[kind]
  nodes = np.repeat(
    [g.node for g in space.groups], [g.channels for g in space.groups]
  )
  size = masks @ np.array([each[n] for n in nodes])
  expected = (chance * size).sum() / size.max()
  if kind == "params":
    assert (chance * kept_weights(space, masks)).sum() == (
      pytest.approx(expected)
    )
  logits = jnp.float32(logit(rates))
  for share in (0.05, 0.3, 0.95):
    config = MasksConfig(target=kind, target_share=share, target_weight=2.5)
    found = float(target_penalty(logits, space, config))
    assert found == pytest.approx(2.5 * max(0, expected - share), abs=1e-6)
  totals = [
    sum(size for size, g in zip(group_sizes(space, kind), space.groups,
                                strict=True) if g.node == node)
    for node in each
  ]  # fmt: skip
  counts = [int((nodes == node).sum()) for node in each]
  assert totals == [
    n * e for n, e in zip(counts, each.values(), strict=True)
  ]  # fmt: skip


def test_without_a_target_there_is_no_penalty():
  space = small()
  config = MasksConfig(target_share=0.01, target_weight=9.0)
  assert target_penalty(jnp.zeros(len(space.groups)), space, config) == 0


def test_the_auxiliary_classifier_has_no_size():
  space = SPACES["cell"]
  for kind in ("macs", "params", "channels"):
    for size, g in zip(group_sizes(space, kind), space.groups, strict=True):
      assert (size == 0) == g.node.startswith("aux")


@pytest.mark.parametrize("kind", ["macs", "params", "channels"])
def test_descent_comes_down_to_the_target(kind):
  space = SPACES["dense"]
  config = MasksConfig(target=kind, target_share=0.4, target_weight=1.0)
  sizes = group_sizes(space, kind)
  descent = jax.grad(target_penalty)

  def step(logits, _):
    return logits - 0.05 * descent(logits, space, config), None

  start = jnp.full(len(space.groups), -2.0)
  end, _ = jax.lax.scan(step, start, length=4000)
  share = (sigmoid(-np.float64(end)) * sizes).sum() / sizes.sum()
  assert share == pytest.approx(0.4, abs=0.002)
  assert (np.asarray(end) > -2).all()


# Values ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ("field", "values"),
  [
    ("length_scale", (-1.0, np.inf, np.nan)),
    ("examples", (-1.0, np.inf, np.nan)),
    ("entropy_weight", (-0.1, np.inf, np.nan)),
    ("target_weight", (-0.1, np.inf, np.nan)),
    ("rate_speed", (-0.1, np.inf, np.nan)),
    ("rate_delay", (-0.1, np.inf, np.nan)),
    ("candidates", (0, -3)),
    ("batch", (0, -3)),
    ("initial_rate", (0.0, 1.0, -0.1, np.nan)),
    ("prior_drop", (-0.1, 1.0, np.nan)),
    ("tau", (0.0, -1.0, np.inf, np.nan)),
    ("target_share", (0.0, 1.1, np.nan)),
    ("halving", (-1, 1)),
  ],
)
def test_values_out_of_range_are_refused(field, values):
  check_masks(MasksConfig())
  for value in values:
    with pytest.raises(UserError, match=f"^masks.{field} is .*\\.$"):
      check_masks(scaled(MasksConfig(), **{field: value}))


def test_the_ends_of_the_ranges_are_legal():
  check_masks(
    MasksConfig(
      length_scale=0.0, entropy_weight=0.0, target_weight=0.0, examples=0.0,
      candidates=1, batch=1, prior_drop=0.0, target_share=1.0, halving=2,
    )
  )  # fmt: skip
