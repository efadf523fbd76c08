"""Schedules against closed forms, and which of their fields may be set."""

import dataclasses
import math

import numpy as np
import pytest

from jaxnas.config import ExperimentConfig, OptimizerConfig
from jaxnas.errors import UserError
from jaxnas.methods.checks import check_values
from jaxnas.training import make_schedule

SPE = 7  # steps per epoch


def values(config, n_steps):
  schedule = make_schedule(config, n_steps, SPE)
  return np.array([float(schedule(i)) for i in range(n_steps + 3)])


def cosine(t, length, high, low):
  return low + (high - low) * (1 + math.cos(math.pi * t / length)) / 2


def sgdr(step, high, low, first, growth):
  """Warm restarts (arXiv 1608.03983, eq. 5), lengths in steps."""
  length = first
  while step >= length:
    step, length = step - length, length * growth
  return cosine(step, length, high, low)


def test_cosine_by_definition():
  config = OptimizerConfig(learning_rate=0.3, final_learning_rate=0.02)
  found = values(config, 42)
  expected = [cosine(min(t, 42), 42, 0.3, 0.02) for t in range(45)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("growth", [1.0, 2.0, 3.0])
def test_restarts_by_definition(growth):
  config = OptimizerConfig(
    learning_rate=0.05, final_learning_rate=1e-4, schedule="restarts",
    restart_epochs=2.0, restart_growth=growth,
  )  # fmt: skip
  n = 20 * SPE
  found = values(config, n)[:n]
  expected = [sgdr(t, 0.05, 1e-4, 2 * SPE, growth) for t in range(n)]
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  # Restarts are at T0, T0 (1 + g), T0 (1 + g + g^2)... and nowhere else.
  starts = np.cumsum([0] + [2 * SPE * growth**i for i in range(12)])
  assert set(np.flatnonzero(np.diff(found) > 0) + 1) == {
    int(s) for s in starts if 0 < s < n
  }
  for s in starts[starts < n].astype(int):
    assert found[s] == pytest.approx(0.05)
    if s:
      assert found[s - 1] < 0.001
  # The end of the last cosine, and not a new one, follows the last step.
  assert starts[-1] > n


def test_the_papers_restarts():
  # T0 = 10, Tmul = 2: 10 + 20 + 40 + 80 + 160 + 320 = 630 epochs exactly.
  config = OptimizerConfig(
    learning_rate=0.05, final_learning_rate=1e-4, schedule="restarts"
  )
  schedule = make_schedule(config, 630 * SPE, SPE)
  for epoch in (0, 10, 30, 70, 150, 310):
    assert float(schedule(epoch * SPE)) == pytest.approx(0.05)
  for middle in (5, 20, 50, 110, 230, 470):
    assert float(schedule(middle * SPE)) == pytest.approx(0.02505, rel=1e-4)
  for end in (630 * SPE, 630 * SPE + 10):
    assert float(schedule(end)) == pytest.approx(1e-4, rel=1e-3)


def test_a_fractional_cycle_is_rounded_to_steps():
  config = OptimizerConfig(
    learning_rate=1.0, schedule="restarts", restart_epochs=0.5,
    restart_growth=1.5,
  )  # fmt: skip
  found = values(config, 30)
  # 3.5, 5.25, 7.875, 11.8125, 17.7 steps; half rounds to even.
  starts = np.flatnonzero(np.isclose(found[:30], 1.0))
  np.testing.assert_array_equal(starts, [0, 4, 9, 17, 29])


def test_restarts_after_a_warm_up():
  config = OptimizerConfig(
    learning_rate=0.4, schedule="restarts", restart_epochs=1.0,
    restart_growth=2.0, warmup_epochs=2.0,
  )  # fmt: skip
  n, warm = 9 * SPE, 2 * SPE
  found = values(config, n)[:n]
  np.testing.assert_allclose(
    found[:warm], 0.4 * np.arange(warm) / warm, rtol=1e-5
  )
  expected = [sgdr(t, 0.4, 0.0, SPE, 2) for t in range(n - warm)]
  np.testing.assert_allclose(found[warm:], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("warmup", [0.0, 2.0])
def test_drops(warmup):
  config = OptimizerConfig(
    learning_rate=0.1, schedule="drops", drop_epochs=(3.0, 5.5, 6.0),
    drop_factor=4.0, warmup_epochs=warmup,
  )  # fmt: skip
  n = 9 * SPE
  found = values(config, n)
  for t, value in enumerate(found):
    drops = sum(t >= b for b in (3 * SPE, round(5.5 * SPE), 6 * SPE))
    expected = 0.1 / 4.0**drops
    if t < warmup * SPE:
      expected = 0.1 * t / (warmup * SPE)
    assert value == pytest.approx(expected, rel=1e-5), t


def test_drops_without_any_are_constant():
  config = OptimizerConfig(learning_rate=0.1, schedule="drops")
  np.testing.assert_allclose(values(config, 10), 0.1, rtol=1e-6)


# Checks ----------------------------------------------------------------------

STAGES = ("train", "retrain")


def changed(stage, **fields):
  config = ExperimentConfig()
  part = getattr(config, stage)
  optimizer = dataclasses.replace(part.optimizer, **fields)
  part = dataclasses.replace(part, optimizer=optimizer)
  return dataclasses.replace(config, **{stage: part})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
  ("schedule", "field", "value"),
  [
    ("cosine", "restart_epochs", 3.0),
    ("cosine", "restart_growth", 3.0),
    ("cosine", "drop_epochs", (3.0,)),
    ("cosine", "drop_factor", 2.0),
    ("restarts", "drop_epochs", (3.0,)),
    ("restarts", "drop_factor", 2.0),
    ("drops", "final_learning_rate", 0.001),
    ("drops", "restart_epochs", 3.0),
    ("drops", "restart_growth", 3.0),
  ],
)
def test_fields_of_another_schedule_are_refused(stage, schedule, field, value):
  config = changed(stage, schedule=schedule, **{field: value})
  with pytest.raises(UserError) as error:
    check_values(config)
  text = str(error.value)
  assert text.startswith(f"{stage}.optimizer.{field} is ")
  assert repr(schedule) in text
  assert text.count("\n") == 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
  ("schedule", "fields"),
  [
    ("cosine", {"final_learning_rate": 0.001}),
    ("restarts", {"final_learning_rate": 1e-4, "restart_epochs": 0.5,
                  "restart_growth": 1.0}),
    ("drops", {"drop_epochs": (2.0, 2.5), "drop_factor": 1.0}),
    ("drops", {}),
    ("drops", {"final_learning_rate": 0.0}),
  ],
)  # fmt: skip
def test_fields_of_the_own_schedule_are_accepted(stage, schedule, fields):
  # Also the stage's own final rate beside `drops`: nobody has set it.
  check_values(changed(stage, schedule=schedule, **fields))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
  ("schedule", "field", "wrong"),
  [
    ("restarts", "restart_epochs", (0.0, -1.0, math.nan, math.inf)),
    ("restarts", "restart_growth", (0.99, math.nan, math.inf)),
    ("drops", "drop_factor", (0.5, 0.0, math.nan, math.inf)),
    ("drops", "drop_epochs", (
      (0.0,), (-1.0,), (3.0, 2.0), (2.0, 2.0), (math.nan,), (1.0, math.nan),
      (1.0, math.inf),
    )),
  ],
)  # fmt: skip
def test_constants_out_of_range_are_refused(stage, schedule, field, wrong):
  for value in wrong:
    config = changed(stage, schedule=schedule, **{field: value})
    with pytest.raises(UserError, match=f"^{stage}.optimizer.{field} "):
      check_values(config)
