"""The predictors on NAS-Bench-Macro, by the protocol of the spec (4.1, 4.3)."""

import json

import numpy as np
import pytest

from jaxnas.config import PredictorConfig
from jaxnas.predictors import (
  REFERENCE_GCN,
  compare_predictors,
  make_predictor,
  tau_b,
)


@pytest.fixture(scope="module")
def macro(shared_data):
  path = shared_data("nas-bench-macro/nas-bench-macro_cifar10.json")
  entries = json.loads(path.read_text())
  archs = np.array([[int(c) for c in key] for key in entries])
  return archs, np.array([e["mean_acc"] for e in entries.values()])


def noisy(macro, sigma, n, seed):
  """The spec's protocol: labels of n keys, all other keys to rank."""
  archs, accuracy = macro
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(archs))
  y = accuracy + sigma * rng.normal(size=len(archs))
  return archs, accuracy, y, order[:n], order[n:]


def test_harness_golden_values_g2(macro):
  raw, ridge = [], []
  for seed in range(3):
    archs, accuracy, y, fit, test = noisy(macro, 1.0, 2000, seed)
    raw.append(tau_b(y[test], accuracy[test]))
    predictor = make_predictor(PredictorConfig(kind="ridge"))
    found = predictor.fit([3] * 8, archs[fit], y[fit], seed)
    ridge.append(tau_b(found.predict(archs[test])[0], accuracy[test]))
  assert np.mean(raw) == pytest.approx(0.643, abs=0.01)
  assert np.mean(ridge) == pytest.approx(0.861, abs=0.01)


def test_the_default_is_never_below_ridge(macro):
  for sigma, n in ((2.0, 200), (1.0, 500), (0.0, 500)):
    archs, accuracy, y, fit, test = noisy(macro, sigma, n, 7)
    found = compare_predictors(
      [3] * 8, archs[fit], y[fit], archs[test], PredictorConfig(), 7,
      ("ridge", "default"),
    )  # fmt: skip
    ridge, default = (tau_b(found[k], accuracy[test]) for k in found)
    assert default > ridge - 0.01, (sigma, n)


@pytest.mark.slow
def test_the_reference_gcn_cleans_noise_g1(macro):
  gcn, raw = [], []
  for seed in range(3):
    archs, accuracy, y, fit, test = noisy(macro, 1.0, 2000, seed)
    fitted = make_predictor(REFERENCE_GCN).fit(
      [3] * 8, archs[fit], y[fit], seed
    )
    gcn.append(tau_b(fitted.predict(archs[test])[0], accuracy[test]))
    raw.append(tau_b(y[test], accuracy[test]))
  assert np.mean(gcn) >= 0.87
  assert np.mean(gcn) >= np.mean(raw) + 0.2


def test_the_default_is_above_089_at_sigma_1(macro):
  archs, accuracy, y, fit, test = noisy(macro, 1.0, 2000, 0)
  fitted = make_predictor(PredictorConfig()).fit([3] * 8, archs[fit], y[fit], 0)
  mean, spread = fitted.predict(archs[test])
  assert tau_b(mean, accuracy[test]) >= 0.89
  assert fitted.info["noise"] == pytest.approx(1.0, abs=0.1)
  # What it says about its own error is about right.
  z = (mean - accuracy[test]) / spread
  assert 0.5 < np.sqrt(np.mean(z**2)) < 2
