"""The contract of all predictors, and the default on known data."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.config import PredictorConfig
from jaxnas.errors import UserError
from jaxnas.predictors import (
  KINDS,
  compare_predictors,
  learning_curve,
  make_predictor,
  tau_b,
)
from jaxnas.predictors.base import in_chunks
from jaxnas.predictors.features import one_hot

N_CHOICES = np.array([4, 3, 2, 3])
EVERY = np.indices(N_CHOICES).reshape(4, -1).T
SMALL = PredictorConfig(
  ensemble=2, layers=2, width=16, epochs=40, learning_rate=1e-2, batch_size=32
)


def truth(archs, seed=0):
  shares = np.random.default_rng(seed).normal(size=N_CHOICES.sum())
  return 75 + one_hot(N_CHOICES, archs) @ shares


def small(kind, **changes):
  return make_predictor(dataclasses.replace(SMALL, kind=kind, **changes))


@pytest.fixture(scope="module", params=KINDS)
def fitted(request):
  rng = np.random.default_rng(0)
  archs = rng.integers(0, N_CHOICES, (120, 4))
  return small(request.param).fit(N_CHOICES, archs, truth(archs), 0)


def test_a_noise_free_additive_target_is_recovered(fitted):
  mean, spread = fitted.predict(EVERY)
  assert mean.dtype == spread.dtype == np.float64
  assert mean.shape == spread.shape == (72,)
  assert tau_b(mean, truth(EVERY)) > 0.9
  assert np.corrcoef(mean, truth(EVERY))[0, 1] > 0.98
  assert (spread >= 0).all()
  assert np.isfinite(spread).all()


def test_enumeration_equals_row_by_row(fitted):
  mean, spread = fitted.predict(EVERY)
  for i in (0, 17, 71):
    m, s = fitted.predict(EVERY[i : i + 1])
    assert m[0] == pytest.approx(mean[i], rel=1e-6)
    assert s[0] == pytest.approx(spread[i], abs=2e-3)
  assert fitted.predict(EVERY[:0])[0].shape == (0,)


def test_archs_that_do_not_exist_are_refused(fitted):
  with pytest.raises(UserError, match="'0300' has choice 3 at node 1"):
    fitted.predict(np.array([[0, 3, 0, 0]]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_everything(kind):
  rng = np.random.default_rng(0)
  archs = rng.integers(0, N_CHOICES, (40, 4))
  y = truth(archs) + 0.1 * rng.normal(size=40)
  a, b, c = (
    small(kind, epochs=5).fit(N_CHOICES, archs, y, s).predict(EVERY)
    for s in (0, 0, 1)
  )
  assert (a[0] == b[0]).all()
  assert (a[1] == b[1]).all()
  if kind in ("gcn", "mlp"):
    assert (a[0] != c[0]).any()


@pytest.mark.parametrize("loss", ["mse", "huber", "ranking"])
@pytest.mark.parametrize(
  "style", [{}, {"directed": True, "readout": "mean"}, {"shared_slots": True}]
)
def test_styles_and_losses_of_the_gcn(loss, style):
  rng = np.random.default_rng(0)
  archs = rng.integers(0, N_CHOICES, (120, 4))
  predictor = small("gcn", loss=loss, ensemble=1, **style)
  mean, _ = predictor.fit(N_CHOICES, archs, truth(archs), 0).predict(EVERY)
  # What a choice adds differs from node to node, which shared slots find late.
  assert tau_b(mean, truth(EVERY)) > (0.4 if "shared_slots" in style else 0.75)
  # Every loss answers in the unit of the labels.
  assert np.abs(mean - truth(EVERY)).mean() < 1.0


def test_an_unknown_kind_is_answered():
  with pytest.raises(UserError, match="Did you mean 'ridge'"):
    small("rigde")


def test_compared_predictors_equal_those_fitted_alone():
  archs = EVERY[::2]
  found = compare_predictors(
    N_CHOICES, archs, truth(archs), EVERY, SMALL, 3, ("ridge", "gcn")
  )
  assert list(found) == ["ridge", "gcn"]
  alone = small("gcn").fit(N_CHOICES, archs, truth(archs), 3)
  assert (found["gcn"] == alone.predict(EVERY)[0]).all()


def test_learning_curve_rises_and_judges_alike():
  rng = np.random.default_rng(0)
  archs = rng.integers(0, N_CHOICES, (200, 4))
  y = truth(archs) + 0.5 * rng.normal(size=200)
  rows = learning_curve(small("ridge"), N_CHOICES, archs, y, (160, 10, 40), 0)
  assert [r["n"] for r in rows] == [160, 10, 40]
  assert all(len(r["tau"]) == 3 for r in rows)
  by_size = {r["n"]: r["mean"] for r in rows}
  assert by_size[10] < by_size[40] < by_size[160]
  with pytest.raises(UserError, match="from 1 to 160 of the 200 labels"):
    learning_curve(small("ridge"), N_CHOICES, archs, y, (161,), 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 16))
def test_chunks_do_not_show(n, chunk):
  archs = np.arange(2 * n, dtype=np.int32).reshape(n, 2)
  seen = set()

  def run(rows):
    seen.add(len(rows))
    return rows.sum(1), rows[:, 0]

  total, first = in_chunks(run, archs, chunk)
  assert total.tolist() == archs.sum(1).tolist()
  assert first.tolist() == archs[:, 0].tolist()
  assert max(seen) <= max(chunk, 1)
  assert len(seen) == 1


def test_the_default_leans_on_additive_fits_as_noise_grows():
  rng = np.random.default_rng(0)
  archs = rng.integers(0, N_CHOICES, (200, 4))
  weights = [
    small("default")
    .fit(N_CHOICES, archs, truth(archs) + s * rng.normal(size=200), 0)
    .info["additive_weight"]
    for s in (0.0, 1.0, 4.0)
  ]
  assert weights[0] < 0.05 < weights[1] < weights[2] <= 1


def test_a_mixture_is_its_parts():
  archs = EVERY[::2]
  fitted = small("default").fit(N_CHOICES, archs, truth(archs) ** 2, 0)
  parts = [p.predict(EVERY) for p in fitted.parts]
  mean, spread = fitted.predict(EVERY)
  rng = np.random.default_rng(0)
  draws = np.concatenate(
    [
      m + s * rng.standard_normal((int(1e5 * w), 72))
      for w, (m, s) in zip(fitted.weights, parts, strict=True)
      if w > 1e-5
    ]
  )
  np.testing.assert_allclose(mean, draws.mean(0), atol=0.02 * draws.std())
  np.testing.assert_allclose(spread, draws.std(0), atol=0.02 * draws.std())
