"""The additive fit: exact where costs add up, honest where they do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.costs import CostTable
from jaxnas.costs.additive import agreement, fit_additive, r_squared
from jaxnas.errors import UserError

N_CHOICES = np.array([3, 2, 4, 3, 1], np.int32)


def synthetic(seed: int, fixed: float = 7.0) -> CostTable:
  """A table whose cheapest choices cost 0, as a fit writes it."""
  rng = np.random.default_rng(seed)
  table = rng.uniform(0.1, 2.0, (5, 4))
  table[np.arange(4) >= N_CHOICES[:, None]] = 0
  for row, k in zip(table, N_CHOICES, strict=True):
    row[:k] -= row[:k].min()
  return CostTable("latency.x", fixed, table, N_CHOICES)


def draw(seed: int, n: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, N_CHOICES, (n, 5)).astype(np.int32)


@given(seed=st.integers(0, 99), unit=st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=15, deadline=None)
def test_a_table_is_recovered_in_any_unit(seed, unit):
  true = synthetic(seed)
  archs = draw(seed, 150)
  fit = fit_additive(
    archs, unit * true(archs), N_CHOICES, "latency.x", resamples=5
  )
  np.testing.assert_allclose(fit.table.table, unit * true.table, 0, 1e-6 * unit)
  assert fit.table.fixed == pytest.approx(unit * true.fixed, rel=1e-6)
  assert fit.table.name == "latency.x"
  assert fit.held_out["n"] == 150
  assert fit.held_out["r2"]["value"] == pytest.approx(1, abs=1e-9)
  assert fit.held_out["kendall_tau_b"]["value"] > 0.999
  assert fit.unseen == ()


def test_only_differences_can_be_known_and_rows_start_at_zero():
  true = synthetic(0)
  moved = CostTable("x", true.fixed - 6, true.table + 1.2, N_CHOICES)
  archs = draw(0, 200)
  fit = fit_additive(archs, moved(archs), N_CHOICES, "x", resamples=5)
  np.testing.assert_allclose(fit.table.table, true.table, atol=1e-6)
  assert fit.table.fixed == pytest.approx(true.fixed)
  for row, k in zip(fit.table.table, N_CHOICES, strict=True):
    assert row[:k].min() == 0
    assert (row[k:] == 0).all()
  assert fit.table.smallest == fit.table.fixed


def test_noise_lowers_the_held_out_figures_and_not_the_table():
  true, archs = synthetic(1), draw(1, 2000)
  signal = true(archs)
  rng = np.random.default_rng(2)
  noisy = signal + rng.normal(0, signal.std(), len(archs))
  fit = fit_additive(archs, noisy, N_CHOICES, "x")
  r2 = fit.held_out["r2"]
  # Half of the variance is noise; the table itself is far better than that.
  assert r2["low"] < 0.5 < r2["high"]
  assert r2["high"] - r2["low"] < 0.1
  assert r_squared(fit.table(archs), signal) > 0.98
  assert abs(fit.held_out["bias"]) < 0.05


def test_what_does_not_add_up_is_seen():
  archs = draw(3, 1000)
  values = 5 + (archs[:, 0] == 0) * 1.0 * (archs[:, 2] > 1)
  values += 0.0 + np.where((archs[:, 1] == 0) ^ (archs[:, 3] == 0), 2.0, 0.0)
  fit = fit_additive(archs, values, N_CHOICES, "x")
  assert fit.held_out["r2"]["high"] < 0.5


def test_pure_noise_is_shrunk_to_the_mean():
  archs = draw(4, 60)
  values = 10 + np.random.default_rng(0).normal(size=60)
  fit = fit_additive(archs, values, N_CHOICES, "x")
  assert fit.penalty > 1
  assert fit.held_out["r2"]["value"] < 0.2
  assert fit.table(archs).std() < 0.5 * values.std()


def test_repetitions_never_straddle_the_split():
  # One network in two copies, else every value is noise: a fit that saw the
  # copy could know it.
  archs = np.repeat(draw(5, 40), 2, axis=0)
  rng = np.random.default_rng(0)
  values = 10 + np.repeat(rng.normal(size=40), 2)
  fit = fit_additive(archs, values, N_CHOICES, "x", folds=10)
  np.testing.assert_array_equal(fit.predicted[::2], fit.predicted[1::2])


def test_a_choice_nobody_made_gets_the_mean_of_its_layer():
  true, archs = synthetic(6), draw(6, 300)
  archs = archs[archs[:, 2] != 3]
  fit = fit_additive(archs, true(archs), N_CHOICES, "x")
  assert fit.unseen == ((2, 3),)
  row = fit.table.table[2]
  assert row[3] == pytest.approx(row[:3].mean(), abs=1e-4)
  assert fit.held_out["r2"]["value"] > 0.999


def test_the_seed_decides():
  archs = draw(7, 50)
  values = archs.sum(1) + np.random.default_rng(0).normal(size=50)
  a, b, c = (
    fit_additive(archs, values, N_CHOICES, "x", seed=s) for s in (0, 0, 1)
  )
  assert a.held_out == b.held_out != c.held_out
  np.testing.assert_array_equal(a.predicted, b.predicted)
  np.testing.assert_array_equal(a.table.table, c.table.table)


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"archs": draw(0, 9)}, r"\[9, 5\] for 10 values"),
    ({"archs": draw(0, 10)[:, :4]}, r"legal: \[10, 5\]"),
    ({"archs": draw(0, 10) + 1}, "has index . at layer .; legal: 0.."),
    ({"values": np.array([1.0] * 9 + [np.nan])}, "network 9 is nan"),
    ({"folds": 1}, "1 folds"),
    ({"archs": np.zeros((10, 5), np.int32)}, "1 distinct networks"),
  ],
)
def test_what_cannot_be_fitted(change, part):
  legal = {
    "archs": draw(0, 10), "values": np.arange(10.0),
    "n_choices": N_CHOICES, "name": "latency.x",
  }  # fmt: skip
  with pytest.raises(UserError, match=part):
    fit_additive(**{**legal, **change})


def test_agreement_by_hand():
  measured = np.array([1.0, 2.0, 4.0, 5.0])
  predicted = np.array([1.1, 1.8, 5.0, 4.0])
  found = agreement(predicted, measured, np.random.default_rng(0))
  assert found["n"] == 4
  assert found["mean_relative_error"] == pytest.approx(
    (0.1 + 0.1 + 0.25 + 0.2) / 4
  )
  assert found["largest_relative_error"] == pytest.approx(0.25)
  assert found["bias"] == pytest.approx((0.1 - 0.1 + 0.25 - 0.2) / 4)
  assert found["r2"]["value"] == pytest.approx(1 - 2.05 / 10)
  assert found["kendall_tau_b"]["value"] == pytest.approx(4 / 6)
  assert found["spearman"]["value"] == pytest.approx(0.8)
  for key in ("r2", "kendall_tau_b", "spearman"):
    assert found[key]["low"] <= found[key]["value"] <= found[key]["high"]


def test_agreement_without_variation_is_nan():
  found = agreement(np.ones(3), np.ones(3), np.random.default_rng(0))
  assert np.isnan([found[k]["low"] for k in ("r2", "spearman")]).all()
  assert found["bias"] == 0


# R2 with one-hots on all 5,000 networks; devices that add up, that nearly do,
# and that report whole milliseconds.
@pytest.mark.parametrize(
  ("device", "low", "high"),
  [
    ("pixel3", 0.9995, 1.0),
    ("raspi4", 0.9995, 1.0),
    ("eyeriss", 0.9995, 1.0),
    ("fpga", 0.9995, 1.0),
    ("1080ti_1", 0.9, 0.9995),
    ("gold_6226", 0.9, 0.9995),
    ("samsung_s7", 0.2, 0.65),
  ],
)
def test_fbnet_devices(device, low, high, shared_data):
  path = shared_data("help-latency/fbnet_arch_latency.npz")
  with np.load(path, allow_pickle=False) as file:
    archs, values = file["arch"], file[f"lat_{device}"]
  fit = fit_additive(archs, values, np.full(22, 9), device, resamples=20)
  assert low <= fit.held_out["r2"]["value"] <= high
  assert (fit.table.table >= 0).all()
  assert fit.table.fixed > 0
