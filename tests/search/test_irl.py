"""Learning a reward from experts: golden values, optimality, the guide."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxnas.config import ExpertConfig
from jaxnas.errors import UserError
from jaxnas.search import irl, irl_solvers
from jaxnas.search.features import FeatureMap
from jaxnas.spaces import expert, get_space

SPACE = get_space("blocks-digits", max_layers=8)
EXPERT = expert("resnext-2")
SOLVERS = ("projection", "max-margin", "max-entropy")
SETTINGS = ExpertConfig(iterations=3, rounds=20, samples=200)
seeds = st.integers(0, 10**6)


def points(seed, n, f=4, away=0.0):
  """An expert, and n others that lie `away` from it on the whole."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(1, f)) + away, rng.normal(size=(n, f))


def climb(space, reward, rounds, seed, samples):
  """A policy that draws at random and keeps the best tenth."""
  archs = space.sample(np.random.default_rng(seed), samples)
  values = reward([space.codes(arch) for arch in archs])
  return archs[np.argsort(-values)[: max(1, samples // 10)]]


# Margins ---------------------------------------------------------------------


def test_max_margin_golden():
  w, margin = irl.max_margin(np.array([[1.0, 0]]), np.array([[0.0, 1]]))
  np.testing.assert_allclose(w, np.array([1, -1]) / np.sqrt(2), atol=1e-12)
  assert margin == pytest.approx(np.sqrt(2), abs=1e-12)
  # The nearest point lies inside an edge, and on a third point's side of it.
  others = np.array([[-1.0, 3], [-1, -2], [-4, 0]])
  w, margin = irl.max_margin(np.zeros((1, 2)), others)
  np.testing.assert_allclose(w, [1, 0], atol=1e-12)
  assert margin == pytest.approx(1, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 12), away=st.sampled_from([0, 1.0, 3]))
def test_max_margin_is_optimal(seed, n, away):
  """w . delta is at least |p| for all deltas, p in their hull: the optimum."""
  mu, others = points(seed, n, away=away)
  w, margin = irl.max_margin(mu, others)
  deltas = mu - others
  if margin == 0:
    # Some mixture of the deltas is 0, so no direction separates.
    weights = np.vstack([deltas.T, np.ones(n)])
    found = optimize.linprog(
      np.zeros(n), A_eq=weights, b_eq=[0, 0, 0, 0, 1], bounds=(0, None)
    )
    assert found.success and not w.any()
    return
  assert np.linalg.norm(w) == pytest.approx(1, abs=1e-10)
  np.testing.assert_array_less(margin - 1e-8, deltas @ w)
  # The point of the hull is margin * w.
  weights = np.vstack([deltas.T, np.ones(n)])
  _, rest = optimize.nnls(weights, np.append(margin * w, 1))
  assert rest < 1e-8


def test_max_margin_of_several_experts_takes_all_pairs():
  mu, others = points(3, 5, away=4)
  second = mu + [[0.5, -1, 0, 0.2]]
  pairs = np.concatenate([mu - others, second - others])
  w, margin = irl.max_margin(np.concatenate([mu, second]), others)
  expected, least = irl.max_margin(np.zeros((1, 4)), -pairs)
  np.testing.assert_allclose(w, expected, atol=1e-10)
  assert margin == pytest.approx(least) and margin > 0


def test_max_margin_where_nothing_separates():
  for others in ([[-1.0], [2.0]], [[0.0], [3.0]], [[0.0]]):
    w, margin = irl.max_margin(np.zeros((1, 1)), np.array(others))
    assert margin == 0 and w.tolist() == [0]


def primal(w, deltas, slack):
  return w @ w / 2 + slack * np.maximum(0, 1 - deltas @ w).sum()


@settings(max_examples=20, deadline=None)
@given(
  seed=seeds,
  n=st.integers(1, 12),
  away=st.sampled_from([0, 2.0]),
  slack=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_soft_margin_is_optimal(seed, n, away, slack):
  """No direction, at its best length, has a lower objective."""
  mu, others = points(seed, n, away=away)
  deltas = mu - others
  w, margin = irl.soft_margin(mu, others, slack)
  assert np.linalg.norm(w) == pytest.approx(1)
  assert margin == pytest.approx((deltas @ w).min())

  def best(direction):
    # Convex in the length, with kinks where a constraint becomes active.
    scale = lambda k: primal(k * direction, deltas, slack)
    along = deltas @ direction
    kinks = 1 / along[along > 0]
    ends = np.sort(np.append(kinks, [0, 1e3]))
    found = [
      optimize.minimize_scalar(
        scale, bounds=(a, b), method="bounded", options={"xatol": 1e-12}
      ).fun
      for a, b in zip(ends, ends[1:], strict=False)
      if b - a > 1e-9
    ]
    return min([*found, *map(scale, ends)])

  least = best(w)
  rng = np.random.default_rng(seed)
  for size in (1e-3, 1e-2, 0.3, 3):
    for _ in range(5):
      other = w + size * rng.normal(size=len(w))
      assert best(other / np.linalg.norm(other)) >= least * (1 - 1e-9)


def test_soft_margin_becomes_the_hard_one():
  mu, others = points(1, 8, away=4)
  w, margin = irl.max_margin(mu, others)
  assert margin > 0.5
  soft, least = irl.soft_margin(mu, others, slack=1e4)
  np.testing.assert_allclose(soft, w, atol=1e-6)
  assert least == pytest.approx(margin, abs=1e-6)


def test_soft_margin_with_the_expert_inside_the_hull():
  others = np.array([[-1.0, 0], [2, 0.1], [0, -3]])
  w, margin = irl.soft_margin(np.zeros((1, 2)), others, slack=1)
  assert margin < 0 and np.linalg.norm(w) == pytest.approx(1)
  alike = irl.soft_margin(np.ones((1, 2)), np.ones((3, 2)), slack=1)
  assert alike[0].tolist() == [0, 0] and alike[1] == 0
  with pytest.raises(UserError, match="slack"):
    irl.soft_margin(np.zeros((1, 2)), others, slack=0)


# Projection ------------------------------------------------------------------


def test_projection_golden():
  bar, mu = np.array([0.0, 1]), np.array([1.0, 0])
  new = irl.project(bar, mu, np.zeros(2))
  np.testing.assert_allclose(new, [0, 0], atol=1e-12)
  assert np.linalg.norm(mu - bar) == pytest.approx(np.sqrt(2))
  assert np.linalg.norm(mu - new) == pytest.approx(1)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_projection_gap_never_grows(seed):
  mu, others = points(seed, 12)
  bar = others[0]
  for other in others[1:]:
    new = irl.project(bar, mu[0], other)
    gap = np.linalg.norm(mu[0] - new)
    # The nearest of the segment: no mixture of the two is nearer.
    for share in np.linspace(0, 1, 11):
      mixture = bar + share * (other - bar)
      assert gap <= np.linalg.norm(mu[0] - mixture) + 1e-12
    bar = new


def test_projection_onto_itself():
  bar, mu = np.array([0.3, 1]), np.array([1.0, 0])
  np.testing.assert_array_equal(irl.project(bar, mu, bar), bar)
  np.testing.assert_array_equal(irl.project(mu, mu, mu), mu)
  # What lies on the far side is not walked towards.
  np.testing.assert_array_equal(irl.project(bar, mu, 2 * bar - mu), bar)


# Maximum entropy -------------------------------------------------------------


def test_entropy_gradient():
  mu, pool = points(0, 20)
  w = np.random.default_rng(1).normal(size=4)
  _, gradient = irl_solvers.entropy_loss(w, mu, pool, 0.1)
  for k in range(4):
    step = np.eye(4)[k] * 1e-5
    up, down = (
      irl_solvers.entropy_loss(w + s, mu, pool, 0.1)[0] for s in (step, -step)
    )
    assert gradient[k] == pytest.approx((up - down) / 2e-5, rel=1e-6)


def test_entropy_loss_is_the_log_likelihood():
  _, pool = points(2, 9)
  mus, w = pool[:2] + 0.3, np.array([0.4, -1, 0.3, 2])
  values = np.exp(np.concatenate([pool, mus]) @ w)
  likelihood = np.log(values[-2:] / values.sum()).mean()
  loss, _ = irl_solvers.entropy_loss(w, mus, pool, 0.2)
  assert loss == pytest.approx(-likelihood + 0.1 * w @ w)


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_max_entropy_matches_feature_expectations(l2):
  _, pool = points(5, 60)
  mus = np.random.default_rng(6).normal(size=(3, 4)) * 0.3 + 0.4
  w = irl.max_entropy(mus, pool, l2)
  rows = np.concatenate([pool, mus])
  chances = np.exp(rows @ w)
  expected = chances @ rows / chances.sum()
  np.testing.assert_allclose(mus.mean(0) - expected, l2 * w, atol=1e-7)
  assert np.linalg.norm(w) > 0.1


@settings(max_examples=10, deadline=None)
@given(seed=seeds, shift=st.floats(-3, 3))
@example(seed=418880, shift=0.75)  # a solver that stopped too early
def test_a_constant_changes_no_weights(seed, shift):
  mu, others = points(seed, 8, away=2)
  for solve in (
    irl.max_margin,
    lambda a, b: irl.soft_margin(a, b, 1.0),
    lambda a, b: (irl.max_entropy(a, b, 0.1), 0),
    lambda a, b: (a[0] - irl.project(b[0], a[0], b[1]), 0),
  ):
    before, after = solve(mu, others), solve(mu + shift, others + shift)
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)
    assert after[1] == pytest.approx(before[1], abs=1e-5)


# The guide -------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["blocks-digits", "blocks-cifar"])
def test_expert_exceeds_random_blocks(solver, name):
  space = get_space(name, max_layers=8 if name == "blocks-digits" else 10)
  config = dataclasses.replace(SETTINGS, solver=solver, rounds=10)
  others = space.sample(np.random.default_rng(99), 400)
  for seed in range(5):
    guide, report = irl.learn_guide(space, [EXPERT], config, seed)
    assert report["share_below"] >= 0.95
    # Blocks that learning never saw.
    mine = guide(space, space.from_codes(EXPERT)[None])[0]
    assert (guide(space, others) < mine).mean() >= 0.95


@pytest.mark.parametrize("solver", SOLVERS)
def test_report_and_scaling(solver):
  config = dataclasses.replace(SETTINGS, solver=solver, samples=100)
  blocks = [EXPERT, expert("resnext-5")]
  guide, report = irl.learn_guide(SPACE, blocks, config, 3, learn=climb)
  assert json.loads(json.dumps(report)) == report
  values = report["random_values"] + report["expert_values"]
  assert len(report["random_values"]) == 100
  assert min(values) == pytest.approx(0) and max(values) == pytest.approx(1)
  lowest = min(report["expert_values"])
  assert report["share_below"] == np.mean(
    np.array(report["random_values"]) < lowest
  )
  arch = SPACE.from_codes(EXPERT)[None]
  assert guide(SPACE, arch)[0] == pytest.approx(report["expert_values"][0])
  assert [len(e["arch"]) for e in report["experts"]] == [8, 20]
  assert [w["name"] for w in report["weights"]] == list(guide.features.names)
  assert [w["value"] for w in report["weights"]] == list(guide.weights)
  rows = report["rows"]
  assert [row["iteration"] for row in rows] == list(range(len(rows)))
  assert len(rows) == (1 if solver == "max-entropy" else 3)
  gaps = [row["gap"] for row in rows]
  if solver == "projection":
    assert gaps == sorted(gaps, reverse=True)
  else:
    assert gaps == [None] * len(rows)
  again = irl.learn_guide(SPACE, blocks, config, 3, learn=climb)
  assert again == (guide, report)
  assert irl.learn_guide(SPACE, blocks, config, 4, learn=climb)[0] != guide


def test_guide_is_linear_and_survives_json():
  guide = irl.Guide(
    FeatureMap("topology", 3),
    tuple(np.random.default_rng(0).normal(size=21).tolist()),
    low=-0.5, high=1.5, discount=0.9,
  )  # fmt: skip
  again = irl.Guide.from_json(json.loads(json.dumps(guide.to_json())))
  assert again == guide
  archs = SPACE.sample(np.random.default_rng(1), 30)
  same = SPACE.canonical(archs)
  raw = guide.raw(SPACE, archs)
  counts = guide.features.counts_of(SPACE, same, 0.9)
  np.testing.assert_allclose(raw, counts @ guide.weights)
  np.testing.assert_allclose(guide(SPACE, archs), (raw + 0.5) / 2)
  np.testing.assert_array_equal(guide(SPACE, archs), guide(SPACE, same))


def test_policies_are_learned_on_the_reward_alone():
  seen = []

  def spy(space, reward, rounds, seed, samples):
    archs = climb(space, reward, rounds, seed, samples)
    seen.append((rounds, seed, samples, reward([EXPERT])[0]))
    return archs

  config = dataclasses.replace(SETTINGS, samples=50)
  _, report = irl.learn_guide(SPACE, [EXPERT], config, 0, learn=spy)
  assert [s[0] for s in seen] == [20] * 3 and [s[2] for s in seen] == [50] * 3
  assert len({s[1] for s in seen}) == 3
  # Rewards are scaled to 0..1; the first w points from random to expert.
  assert all(0 <= s[3] <= 1 for s in seen) and seen[0][3] > 0.5
  first = report["rows"][0]
  assert first["margin"] == pytest.approx(first["gap"])


def test_stops_when_margin_or_gap_is_small():
  for solver in ("projection", "max-margin"):
    config = dataclasses.replace(SETTINGS, solver=solver, epsilon=10.0)
    _, report = irl.learn_guide(SPACE, [EXPERT], config, 0, learn=climb)
    assert len(report["rows"]) == 1

  # A policy that is the expert leaves nothing to learn.
  def imitate(space, reward, rounds, seed, samples):
    return space.from_codes(EXPERT)[None]

  guide, report = irl.learn_guide(SPACE, [EXPERT], SETTINGS, 0, learn=imitate)
  assert len(report["rows"]) == 1 and np.isfinite(guide.weights).all()


def test_freezes_the_weights_that_rank_random_blocks_best():
  goal, pool = np.array([[1.0, 0]]), np.array([[0.0, 2], [0.5, -1], [2, -2]])
  good, better, worse = np.array([[1.0, 0], [0.6, 0.8], [-1, 0]])
  share = lambda w: (pool @ w < (goal @ w).min()).mean()
  assert share(good) == share(better) > share(worse)
  assert irl._freeze([good, better, worse], goal, pool) is better


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"solver": "projections"}, "Did you mean 'projection'"),
    ({"features": "onehott"}, "onehot"),
    ({"samples": 0}, "expert.samples"),
    ({"iterations": 0}, "expert.iterations"),
    ({"rounds": 0}, "expert.rounds"),
    ({"slack": 0.0}, "expert.slack"),
    ({"discount": 0.0}, "discount"),
  ],
)
def test_mistakes_in_the_config(change, message):
  config = dataclasses.replace(SETTINGS, **change)
  with pytest.raises(UserError, match=message):
    irl.learn_guide(SPACE, [EXPERT], config, 0, learn=climb)


@pytest.mark.parametrize("solver", SOLVERS)
def test_experts_like_random_blocks(solver):
  """All blocks of one layer have the same topology, up to its type."""
  space = get_space("blocks-digits", max_layers=1)
  config = dataclasses.replace(SETTINGS, solver=solver, samples=1)
  block = space.codes(space.sample(np.random.default_rng([0, 0]), 1)[0])
  with pytest.raises(UserError, match="random blocks"):
    irl.learn_guide(space, [block], config, 0, learn=climb)
  with pytest.raises(UserError, match="expert.blocks"):
    irl.learn_guide(space, [], config, 0, learn=climb)
