"""The Gaussian process behind a link, beside slow plain references."""

import numpy as np
import pytest
from scipy import optimize

from jaxnas.predictors import gp
from jaxnas.predictors.features import one_hot

N_CHOICES = np.array([3, 2, 4, 3])
NODE = np.repeat(np.arange(4), N_CHOICES)


def problem(n=30, seed=0):
  rng = np.random.default_rng(seed)
  archs = rng.integers(0, N_CHOICES, (n, 4))
  weights = rng.uniform(0.5, 2, n)
  x = one_hot(N_CHOICES, archs)
  return gp.Problem(x, NODE, rng.normal(size=n), weights), archs


def slow_kernel(k, first, second):
  out = np.zeros((len(first), len(second)))
  for i, a in enumerate(first):
    for j, b in enumerate(second):
      equal = a == b
      out[i, j] = (
        1
        + k.additive * equal.mean()
        + k.interaction * np.exp(-k.lengths[~equal].sum())
      )
  return out


@pytest.mark.parametrize("curvature", [0.0, 1e-5, 0.4, -0.4])
def test_link_and_its_derivatives(curvature):
  f = np.linspace(-3, 3, 25)
  g, slope = gp.link(curvature, f)
  near, far = (gp.link(curvature, f + d)[0] for d in (1e-6, -1e-6))
  np.testing.assert_allclose(slope, (near - far) / 2e-6, rtol=1e-4, atol=1e-6)
  above, below = (gp.link(curvature + d, f)[0] for d in (1e-4, -1e-4))
  np.testing.assert_allclose(
    gp._link_by_c(curvature, f), (above - below) / 2e-4, rtol=1e-3, atol=1e-3
  )
  assert (np.diff(g) > 0).all()


@pytest.mark.parametrize("curvature", [0.3, -0.4, 1e-5])
def test_gradient_of_the_evidence(curvature):
  p, _ = problem()
  rng = np.random.default_rng(1)
  v, f = 0.5 * rng.normal(size=9), rng.normal(size=30)
  v[4] = curvature
  _, gradient = p.evidence(v, f)
  slow = optimize.approx_fprime(v, lambda v: p.evidence(v, f)[0], 1e-6)
  np.testing.assert_allclose(gradient, slow, atol=1e-3)


def test_mode_is_the_most_probable_function():
  p, _ = problem()
  k = gp.Constants(1.0, 0.5, np.full(4, 0.3), 0.1, 0.5)
  prior = p.kernel(k)
  dual = p.mode(k, np.zeros(30))

  def cost(dual):
    f = prior @ dual
    g, _ = gp.link(0.5, f)
    return (p.weights * (p.y - g) ** 2).sum() / 2 / 0.1 + f @ dual / 2

  rng = np.random.default_rng(0)
  for _ in range(20):
    assert cost(dual + 0.05 * rng.normal(size=30)) > cost(dual)


def test_posterior_equals_a_slow_reference():
  p, archs = problem()
  y = 70 + 3 * p.y
  fitted = gp.Process().fit(N_CHOICES, archs, y, 0, p.weights**-0.5)
  k = fitted.constants
  every = np.indices(N_CHOICES).reshape(4, -1).T
  prior = slow_kernel(k, archs, archs)
  cross = slow_kernel(k, every, archs)
  weights = p.weights / p.weights.mean()
  f = np.zeros(30)
  targets = (y - y.mean()) / y.std()
  for _ in range(200):  # undamped Gauss-Newton, halved for safety
    g, slope = gp.link(k.curvature, f)
    noise = np.diag(k.noise / weights / slope**2)
    z = f + (targets - g) / slope
    f = (f + prior @ np.linalg.solve(prior + noise, z)) / 2
  g, slope = gp.link(k.curvature, f)
  covariance = prior + np.diag(k.noise / weights / slope**2)
  latent = cross @ np.linalg.solve(covariance, f + (targets - g) / slope)
  before = 1 + k.additive + k.interaction
  variance = before - np.einsum(
    "ij,ij->i", cross, np.linalg.solve(covariance, cross.T).T
  )
  value, slope = gp.link(k.curvature, latent)
  mean, spread = fitted.predict(every)
  np.testing.assert_allclose(mean, y.mean() + y.std() * value, atol=2e-3)
  np.testing.assert_allclose(
    spread, y.std() * slope * np.sqrt(variance), rtol=2e-2, atol=1e-2
  )


def test_spread_of_many_labels_is_bounded_from_above():
  p, archs = problem(200)
  k = gp.Constants(1.0, 0.5, np.full(4, 0.3), 0.5, 0.2)
  dual = p.mode(k, np.zeros(200))
  prior = p.kernel(k)
  rng = np.random.default_rng(0)
  _, slope = gp.link(k.curvature, prior @ dual)
  noise = np.diag(k.noise / p.weights / slope**2)
  exact = np.diag(prior @ np.linalg.solve(prior + noise, prior))
  told = ((prior @ gp._basis(p, k, dual, rng)) ** 2).sum(1)
  assert gp.RANK < 72  # the space has 72 archs, so the bound is a bound
  assert (told <= exact * (1 + 1e-9)).all()
  np.testing.assert_allclose(told, exact, rtol=0.1)
  del archs


def saturating(archs, seed=0):
  rng = np.random.default_rng(seed)
  gain = one_hot(N_CHOICES, archs) @ rng.uniform(0, 1.5, len(NODE))
  return 93 - 30 * np.exp(-gain)


def test_the_link_finds_a_ceiling_and_the_noise():
  rng = np.random.default_rng(0)
  every = np.indices(N_CHOICES).reshape(4, -1).T
  archs = every[rng.permutation(72)].repeat(3, 0)
  clean = saturating(archs)
  y = clean + 0.5 * rng.normal(size=len(archs))
  fitted = gp.Process().fit(N_CHOICES, archs, y, 0)
  assert fitted.info["curvature"] > 0.2
  assert 0.35 < fitted.info["noise"] < 0.65
  mean, spread = fitted.predict(every)
  error = mean - saturating(every)
  assert np.sqrt((error**2).mean()) < 0.35
  assert 0.3 < np.sqrt(((error / spread) ** 2).mean()) < 1.5


def test_minimised_labels_are_fitted_alike():
  rng = np.random.default_rng(1)
  archs = rng.integers(0, N_CHOICES, (150, 4))
  y = saturating(archs)
  up = gp.Process().fit(N_CHOICES, archs, y, 0).predict(archs)[0]
  down = gp.Process().fit(N_CHOICES, archs, -y, 0).predict(archs)[0]
  assert np.abs(up - y).max() < 0.2
  assert np.abs(up + down).max() < 0.2


def test_labels_that_are_all_equal_are_predicted():
  archs = np.random.default_rng(1).integers(0, N_CHOICES, (20, 4))
  mean, spread = (
    gp.Process().fit(N_CHOICES, archs, np.full(20, 7.0), 0).predict(archs)
  )
  np.testing.assert_allclose(mean, 7, atol=1e-6)
  assert np.isfinite(spread).all()
