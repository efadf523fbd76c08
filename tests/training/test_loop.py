"""The training loop: resume, rows, cadence, and the stop on NaN."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import SMALL, same, supernet_step

from jaxnas.checkpoint import Checkpoints
from jaxnas.config import TrainConfig
from jaxnas.data import Batches
from jaxnas.errors import RunError
from jaxnas.nets import group_names
from jaxnas.sharding import make_placement
from jaxnas.training import Schedule, fit, init_state
from jaxnas.writer import Journal

KEY = jax.random.key(1)
GROUPS = ["layer_00", "classifier"]
TX = optax.sgd(0.1, 0.9)
USUAL = Schedule(11, 2, 3, 4)


@jax.jit
def toy_step(state, key, indices):
  """A random walk that depends on key, step, batch and all of the state."""
  noise = jax.random.normal(jax.random.fold_in(key, state.step), (3,))
  grads = {"w": noise + indices.mean() * 0.01 + 0.1 * state.params["w"]}
  updates, opt_state = TX.update(grads, state.opt_state)
  new = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
    counts=state.counts + 1,
  )
  loss = jnp.square(new.params["w"]).sum()
  return new, {
    "loss": loss, "accuracy": loss / 2, "grad_norm": loss / 3,
    "finite": jnp.ones(2, bool),
  }  # fmt: skip


def toy_state():
  variables = {"params": {"w": jnp.ones(3)}, "batch_stats": {"m": jnp.ones(2)}}
  return init_state(variables, TX)


class Run:
  """A work directory in which `fit` is called again and again."""

  def __init__(self, folder, schedule=USUAL):
    folder.mkdir(parents=True, exist_ok=True)
    self.folder, self.schedule = folder, schedule
    self.evaluated = []

  def evaluate(self, state):
    self.evaluated.append(int(state.step))
    return {"validation": float(state.params["w"].sum())}

  def fit(self, step=toy_step, evaluate="own", state=None, groups=GROUPS):
    checkpoints = Checkpoints(self.folder / "checkpoints")
    try:
      return fit(
        "train", step, state or toy_state(), KEY, Batches(20, 4, seed=2),
        self.schedule, checkpoints, Journal(self.folder / "metrics.jsonl"),
        make_placement(), groups, lambda i: 0.5 / (1 + i),
        self.evaluate if evaluate == "own" else evaluate,
      )  # fmt: skip
    finally:
      checkpoints.close()

  @property
  def text(self):
    return (self.folder / "metrics.jsonl").read_text()

  @property
  def rows(self):
    return [json.loads(line) for line in self.text.splitlines()]

  @property
  def saved(self):
    return sorted(int(p.name) for p in (self.folder / "checkpoints").iterdir())


class Killed(Exception):
  pass


def dying_step(at):
  def step(state, key, indices):
    if int(state.step) == at:
      raise Killed
    return toy_step(state, key, indices)

  return step


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  run = Run(tmp_path_factory.mktemp("whole"))
  run.state, run.seconds = run.fit()
  return run


def test_rows_cadence_and_checkpoints(whole):
  log = [r for r in whole.rows if "loss" in r]
  assert [r["step"] for r in log] == [2, 4, 6, 8, 10, 11]
  assert [r["step"] for r in whole.rows if "validation" in r] == [4, 8, 11]
  assert whole.evaluated == [4, 8, 11]
  assert whole.saved == [9, 11]  # the last two of 3, 6, 9, 11
  assert {r["stage"] for r in whole.rows} == {"train"}
  assert log[0]["epoch"] == pytest.approx(2 / 5)
  assert log[0]["learning_rate"] == pytest.approx(0.5 / 2)
  assert int(whole.state.step) == 11
  assert whole.seconds > 0


def test_a_row_is_the_mean_of_its_steps(whole):
  state, losses = toy_state(), []
  batches = Batches(20, 4, seed=2)
  for i in range(2):
    state, metrics = toy_step(state, KEY, batches.indices(i))
    losses.append(float(metrics["loss"]))
  row = whole.rows[0]
  assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
  assert row["grad_norm"] == pytest.approx(np.mean(losses) / 3, rel=1e-6)


def test_without_an_interval_only_the_end_is_validated(tmp_path):
  run = Run(tmp_path, Schedule(5, 2, 10))
  run.fit()
  assert run.evaluated == [5]
  none = Run(tmp_path / "none", Schedule(5, 2, 10))
  none.fit(evaluate=None)
  assert all("loss" in r for r in none.rows)


@given(deaths=st.lists(st.integers(0, 10), min_size=1, max_size=3))
@settings(
  max_examples=6, deadline=None, derandomize=True,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_resume_after_death_anywhere_is_identical(
  tmp_path_factory, whole, deaths
):
  run = Run(tmp_path_factory.mktemp("killed"))
  for at in deaths:
    with pytest.raises(Killed):
      run.fit(dying_step(at))
      raise Killed  # the run had already got past that step
  state, _ = run.fit()
  assert same(jax.device_get(state), jax.device_get(whole.state))
  assert run.text == whole.text
  assert run.saved == whole.saved


@pytest.mark.parametrize("at", [4, 8, 11])
def test_resume_after_death_in_validation_is_identical(tmp_path, whole, at):
  run = Run(tmp_path)

  def evaluate(state):
    if int(state.step) == at:
      raise Killed
    return run.evaluate(state)

  with pytest.raises(Killed):
    run.fit(evaluate=evaluate)
  state, _ = run.fit()
  assert same(jax.device_get(state), jax.device_get(whole.state))
  assert run.text == whole.text


def test_a_finished_run_does_nothing_and_keeps_its_seconds(tmp_path):
  run = Run(tmp_path, Schedule(3, 1, 2))
  state, seconds = run.fit()
  again, kept = run.fit(dying_step(0))
  assert same(jax.device_get(again), jax.device_get(state))
  assert 0 < kept <= seconds
  assert len(run.rows) == 4


# NaN ------------------------------------------------------------------------


def test_nan_names_the_very_step_and_layer_between_log_rows(tmp_path):
  def step(state, key, indices):
    new, metrics = toy_step(state, key, indices)
    if int(new.step) in (5, 6):
      layer = 0 if int(new.step) == 6 else 1
      metrics["finite"] = metrics["finite"].at[layer].set(False)
    return new, metrics

  run = Run(tmp_path, Schedule(11, 100, 7, 0))
  with pytest.raises(RunError, match="step 5.*classifier.*none yet"):
    run.fit(step)
  assert run.saved == []
  early = Run(tmp_path / "early", Schedule(11, 100, 2, 0))
  with pytest.raises(RunError, match="step 5.*checkpoint: step 4"):
    early.fit(step)
  assert early.saved == [2, 4]


CONFIG = TrainConfig(sampler="fair")


def test_a_poisoned_weight_is_found_in_its_layer(tmp_path):
  step, fresh = supernet_step(SMALL, CONFIG)

  def poisoned(state, key, indices):
    if int(state.step) == 3:
      params = jax.tree.map(lambda a: a, state.params)
      block = params["layer_01"]["E1K3"]
      kernel = block["project"]["kernel"].at[0, 0].set(jnp.nan)
      block["project"] = {"kernel": kernel}
      state = state.replace(params=params)
    return step(state, key, indices)

  run = Run(tmp_path, Schedule(8, 2, 2))
  with pytest.raises(RunError, match="step 4: values in layer_01 .* step 2"):
    run.fit(poisoned, None, fresh(), group_names(SMALL))
  assert run.saved == [2]
  state, _ = run.fit(step, None, fresh(), group_names(SMALL))
  assert int(state.step) == 8


def test_an_update_that_overflows_is_never_saved(tmp_path):
  step, fresh = supernet_step(SMALL, CONFIG)

  def exploding(state, key, indices):
    opt_state = state.opt_state
    if int(state.step) == 3:
      opt_state = jax.tree.map(lambda v: jnp.full_like(v, jnp.inf), opt_state)
    return step(state.replace(opt_state=opt_state), key, indices)

  run = Run(tmp_path, Schedule(8, 1, 1))
  with pytest.raises(RunError, match="diverged at step 4.*checkpoint: step 3"):
    run.fit(exploding, None, fresh(), group_names(SMALL))
  assert run.saved == [2, 3]
