"""Blocks as probabilities: expectations, decoding, and the searcher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.config import BlocksConfig, ExpertConfig
from jaxnas.errors import UserError
from jaxnas.search import relaxation
from jaxnas.search.block_search import BlockReward
from jaxnas.search.features import FeatureMap
from jaxnas.search.irl import learn_guide
from jaxnas.search.relaxation import BlockRelaxation
from jaxnas.spaces import expert, get_space, nsc

T = 5
SPACE = get_space("blocks-digits", max_layers=T)


class Budget:
  """A bound on the number of layers."""

  def __init__(self, most=T, least=0):
    self.most, self.least = most, least

  def allows(self, archs):
    layers = (archs[:, ::3] != nsc.NONE).sum(1)
    return (layers <= self.most) & (layers >= self.least)


def certain(arch):
  """Probabilities 0 and 1 only, of one block."""
  op, first, second = np.asarray(arch).reshape(-1, 3).T
  one_hot = lambda values, n: jnp.eye(n)[values]
  t = len(op)
  return {
    "op": one_hot(op, len(nsc.OPS)),
    "first": one_hot(first, t),
    "second": one_hot(second, t),
  }


def random_alpha(seed, scale=2.0, t=T):
  rng = np.random.default_rng(seed)
  shapes = {"op": (t, len(nsc.OPS)), "first": (t, t), "second": (t, t)}
  return {
    name: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
    for name, shape in shapes.items()
  }


def chances_of(seed, **fields):
  return relaxation.probabilities(random_alpha(seed, **fields))


def blocks(n, seed=0):
  return SPACE.sample(np.random.default_rng(seed), n)


# Probabilities ---------------------------------------------------------------


def test_illegal_choices_have_no_probability_and_no_gradient():
  alpha = random_alpha(0)
  chances = relaxation.probabilities(alpha)
  for name, p in chances.items():
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    illegal = ~relaxation.legal(T)[name]
    assert (np.asarray(p)[illegal] == 0).all()
    assert (np.asarray(p)[~illegal] > 0).all()
  # 11 operations without the two that are the identity; 3 fewer at layer 1.
  assert relaxation.legal(T)["op"].sum(1).tolist() == [6, 9, 9, 9, 9]
  assert relaxation.legal(T)["first"].sum(1).tolist() == [1, 2, 3, 4, 5]
  weights = random_alpha(1)

  def value(alpha):
    p = relaxation.probabilities(alpha)
    return sum((p[name] * weights[name]).sum() for name in p)

  for name, g in jax.grad(value)(alpha).items():
    illegal = ~relaxation.legal(T)[name]
    assert np.isfinite(g).all()
    assert (np.asarray(g)[illegal] == 0).all()


def test_first_probabilities_are_nearly_uniform_and_follow_the_seed():
  one, two = (relaxation.initial_alpha(T, seed) for seed in (1, 2))
  chances = relaxation.probabilities(one)
  np.testing.assert_allclose(chances["op"][1].max(), 1 / 9, rtol=0.01)
  assert np.abs(one["op"] - two["op"]).max() > 1e-4
  again = relaxation.initial_alpha(T, 1)
  assert all((one[name] == again[name]).all() for name in one)


def test_pairs_by_enumeration():
  chances = chances_of(3)
  first, second = (np.asarray(chances[n], float) for n in ("first", "second"))
  expected = np.zeros((2, T, T))
  for i in range(T):
    legal = [(a, b) for a in range(i + 1) for b in range(i + 1) if a != b]
    mass = [first[i, a] * second[i, b] for a, b in legal]
    for (a, b), m in zip(legal, mass, strict=True):
      expected[0, i, min(a, b)] += m / sum(mass)
      expected[1, i, max(a, b)] += m / sum(mass)
  for found, wanted in zip(relaxation.pairs(chances), expected, strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_leaves_by_enumeration():
  """A layer's probability is the share of blocks in which it is a leaf."""
  chances, space = chances_of(4, t=3), SPACE.replace(max_layers=3)
  expected = np.zeros(3)
  for arch, weight in every_block(space, chances):
    expected[np.array(nsc.leaves(space.codes(arch))) - 1] += weight
  leaf = relaxation.mixture(chances)["leaf"]
  np.testing.assert_allclose(leaf, expected, atol=1e-5)


def test_leaves_of_certain_blocks():
  mixture = jax.jit(relaxation.mixture)
  for arch in blocks(40):
    leaf = mixture(certain(arch))["leaf"]
    expected = nsc.leaves(SPACE.codes(arch))
    assert (np.flatnonzero(leaf) + 1).tolist() == expected
    assert set(np.asarray(leaf).tolist()) <= {0.0, 1.0}


# Expected features -----------------------------------------------------------


@pytest.mark.parametrize("offsets", [1, 2, 4, 7])
def test_counts_of_certain_blocks(offsets):
  features = FeatureMap("onehot", offsets)
  count = jax.jit(lambda c: relaxation.expected_counts(features, c))
  for arch in blocks(60):
    form = SPACE.canonical(arch)[0]
    expected = features.counts(SPACE.codes(form))
    np.testing.assert_allclose(count(certain(form)), expected, atol=1e-6)
    # The order of two inputs does not count.
    if not np.isin(arch[::3], nsc.SAME_AS_IDENTITY).any():
      np.testing.assert_allclose(count(certain(arch)), expected, atol=1e-6)


def test_counts_are_those_of_drawn_blocks():
  """Sums of features and numbers of layers, each averaged over many blocks."""
  chances, features = chances_of(5, t=3), FeatureMap()
  space = SPACE.replace(max_layers=3)
  total, length = np.zeros(len(features.names)), 0.0
  for arch, weight in every_block(space, chances):
    codes = space.codes(arch)
    total += weight * features.of_layers(codes).sum(0)
    length += weight * len(codes)
  found = relaxation.expected_counts(features, chances)
  np.testing.assert_allclose(found, total / length, atol=1e-5)


def every_block(space, chances):
  """All blocks in canonical form and their probabilities, by enumeration."""
  p = {name: np.asarray(v, float) for name, v in chances.items()}
  last = space.max_layers

  def grow(codes, weight):
    i = len(codes)
    if i == last:
      yield codes, weight
      return
    apart = 1 - (p["first"][i] * p["second"][i]).sum()
    for code in nsc.next_codes(i + 1):
      share = p["op"][i, code.op]
      if code.op == nsc.NONE:
        yield codes, weight * share
        continue
      share *= p["first"][i, code.pred1]
      if code.op in nsc.TWO_INPUTS:
        share *= p["second"][i, code.pred2] / apart
      if share:
        yield from grow([*codes, code], weight * share)

  found = list(grow([], 1.0))
  assert sum(weight for _, weight in found) == pytest.approx(1, abs=1e-5)
  for codes, weight in found:
    yield space.canonical(space.from_codes(codes))[0], weight


def test_the_gradient_is_the_finite_difference():
  guide = learned_guide()
  value = lambda a: relaxation.expected_mirror(
    guide, relaxation.probabilities(a)
  )
  with jax.enable_x64():
    rng = np.random.default_rng(0)
    alpha = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), random_alpha(6))
    slope = jax.jit(jax.grad(value))(alpha)
    run = jax.jit(value)
    for _ in range(5):
      way = {n: jnp.asarray(rng.standard_normal(a.shape))
             for n, a in alpha.items()}  # fmt: skip
      ends = [
        float(run(jax.tree.map(lambda a, w, e=e: a + e * w, alpha, way)))
        for e in (-1e-5, 1e-5)
      ]
      expected = (ends[1] - ends[0]) / 2e-5
      found = sum(float((slope[n] * way[n]).sum()) for n in alpha)
      assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert max(float(np.abs(s).max()) for s in slope.values()) > 1e-2


def learned_guide(**fields):
  config = ExpertConfig(iterations=2, rounds=5, samples=50, **fields)
  return learn_guide(SPACE, [expert("resnet-basic")], config, 0)[0]


def test_f_of_certain_blocks_is_f():
  guide = learned_guide()
  archs = SPACE.canonical(blocks(30))
  found = [relaxation.expected_mirror(guide, certain(a)) for a in archs]
  np.testing.assert_allclose(found, guide(SPACE, archs), atol=1e-4)


def test_ascent_on_f_alone_finds_the_experts_kind_of_block():
  guide = learned_guide()
  value = lambda a: relaxation.expected_mirror(
    guide, relaxation.probabilities(a)
  )
  climb = jax.jit(lambda a: jax.tree.map(
    lambda x, g: x + 2.0 * g, a, jax.grad(value)(a)))  # fmt: skip
  alpha = relaxation.initial_alpha(T, 0)
  start = float(value(alpha))
  for _ in range(300):
    alpha = climb(alpha)
  arch = relaxation.decode(relaxation.probabilities(alpha))
  found = guide(SPACE, arch[None])[0]
  assert found > np.quantile(guide(SPACE, blocks(500)), 0.98)
  assert float(value(alpha)) > start + 0.3


@pytest.mark.parametrize(
  ("fields", "part"),
  [
    ({"features": "topology"}, "expert.features is 'topology'"),
    ({"features": "code"}, "expert.features is 'code'"),
    ({"discount": 0.9}, "expert.discount is 0.9"),
  ],
)
def test_other_features_are_refused(fields, part):
  with pytest.raises(UserError, match=part):
    relaxation.expected_mirror(learned_guide(**fields), chances_of(0))


# Decoding --------------------------------------------------------------------


def test_decoding_gives_back_what_is_certain():
  for arch in SPACE.canonical(blocks(60)):
    assert (relaxation.decode(certain(arch)) == arch).all()


def test_decoded_blocks_are_legal_and_canonical():
  seen = set()
  for seed in range(60):
    arch = relaxation.decode(chances_of(seed))
    assert arch.dtype == np.int32
    assert (SPACE.canonical(arch)[0] == arch).all()
    seen |= {code.op for code in SPACE.codes(arch)}
  assert seen == set(range(1, 11)) - set(nsc.SAME_AS_IDENTITY)


def test_pairs_are_decoded_by_their_joint_probability():
  chances = {
    name: np.array(p) for name, p in certain(
      SPACE.from_string("conv1@0-conv3@1-add@0+1")).items()
  }  # fmt: skip
  # Both inputs favour layer 2, so it is read once, with the next best beside.
  chances["first"][2] = [0.3, 0.2, 0.5, 0, 0]
  chances["second"][2] = [0.1, 0.15, 0.75, 0, 0]
  arch = relaxation.decode(chances)
  assert SPACE.to_string(arch) == "conv1@0-conv3@1-add@0+2"


def test_a_block_ends_at_the_first_end():
  chances = {n: np.array(p) for n, p in chances_of(7).items()}
  chances["op"][1:] = np.eye(11)[[nsc.ADD, nsc.NONE, 1, 1]]
  assert len(SPACE.codes(relaxation.decode(chances))) == 2


# The searcher ----------------------------------------------------------------


def test_a_decoded_block_is_asked_once():
  searcher = BlockRelaxation(SPACE, Budget())
  state, chances = searcher.init(0), chances_of(8)
  archs = searcher.ask(state, chances)
  assert (archs == relaxation.decode(chances)).all() and len(archs) == 1
  state = searcher.tell(state, archs, {"accuracy": np.array([np.nan])})
  assert searcher.ask(state, chances).shape == (0, 3 * T)
  state = searcher.tell(state, searcher.ask(state, chances), {})
  assert state["round"] == 2 and len(state["archive"]["archs"]) == 1


def test_a_block_over_budget_is_cut():
  text = "conv1@0-conv3@1-add@0+2-max3@1-conv5@3"
  chances = certain(SPACE.from_string(text))
  asked = lambda budget: [
    SPACE.to_string(a)
    for a in BlockRelaxation(SPACE, budget).ask({"archive": {
      "archs": [], "metrics": {}}}, chances)
  ]  # fmt: skip
  assert asked(Budget()) == [text]
  assert asked(Budget(3)) == ["conv1@0-conv3@1-add@0+2"]
  assert asked(Budget(0)) == []


@pytest.mark.parametrize(
  ("fields", "part"),
  [
    ({"rounds": 0}, "blocks.rounds"),
    ({"per_round": 0}, "blocks.per_round"),
    ({"policy_learning_rate": -1.0}, "policy_learning_rate is -1"),
    ({"flops_penalty": 1.0}, "blocks.flops_penalty is 1.0; with"),
    ({"density_penalty": 8.0}, "blocks.density_penalty is 8.0; with"),
  ],
)
def test_wrong_constants_are_explained(fields, part):
  with pytest.raises(UserError, match=part):
    BlockRelaxation.from_config(BlocksConfig(**fields), 0.3, SPACE, Budget())


def test_a_config_is_read():
  config = BlocksConfig(rounds=3, per_round=2, policy_learning_rate=0.1)
  searcher = BlockRelaxation.from_config(config, 0.7, SPACE, Budget())
  assert searcher.reward == BlockReward(guidance=0.7)
  found = (searcher.rounds, searcher.per_round, searcher.learning_rate)
  assert found == (3, 2, 0.1)
  assert searcher.random_rounds == 0
