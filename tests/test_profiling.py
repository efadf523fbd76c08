"""Traces open, name layers and choices, and change nothing."""

import gzip
import json
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import PAIR, make_space, same, supernet_step

from jaxnas import cli, profiling
from jaxnas.config import OptimizerConfig, TrainConfig
from jaxnas.profiling import Watch, call_again, profiled, watch_rounds

SPACE = make_space(PAIR)
CONFIG = TrainConfig(sampler="fair", optimizer=OptimizerConfig(clip_norm=1.0))


def run(calls: int) -> tuple:
  """State after some steps of a stage that is watched, and its last metrics."""
  step, fresh = supernet_step(SPACE, CONFIG)
  state, watch = fresh(), Watch("train", calls)
  for i in range(calls):
    rows = np.arange(8, dtype=np.int32) + i
    state, metrics = watch(step, state, jax.random.key(0), rows)
  return jax.device_get((state, metrics))


def traces(folder) -> list:
  """Events of all Perfetto traces below a folder."""
  found = []
  for path in sorted(folder.glob("plugins/profile/*/perfetto_trace.json.gz")):
    with gzip.open(path) as file:
      content = json.load(file)
    assert "metadata" not in content
    found.append(content["traceEvents"])
  return found


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
  folder = tmp_path_factory.mktemp("profile")
  with profiled(folder):
    found = run(5)
    run(5)  # the same stage again: one trace is enough
  return folder, found


def test_a_trace_names_layers_and_choices(traced):
  folder, _ = traced
  (events,) = traces(folder / "train")
  assert list(folder.glob("train/plugins/profile/*/*.xplane.pb"))
  names = {
    e["args"]["op_name"] for e in events if "op_name" in e.get("args", {})
  }
  for choice in ("layer_00/Conv3", "layer_00/E2K3", "stem_0", "head_0"):
    for wrapped in ("jvp(forward)/", "transpose(jvp(forward))/"):
      assert any(wrapped + choice in name for name in names), (wrapped, choice)
  for part in ("classifier", "loss", "optimiser", "statistics", "finite"):
    assert any(part in name for name in names), part


def test_only_steady_steps_are_traced(traced):
  (events,) = traces(traced[0] / "train")
  steps = [e["args"]["step_num"] for e in events if e.get("name") == "train"]
  # Of five, the first compiles; the others leave room for no more.
  assert sorted(map(int, steps)) == [2, 3, 4, 5]


def test_a_trace_changes_nothing(traced):
  assert same(traced[1], run(5))


def test_scopes_are_names_only(monkeypatch):
  step, fresh = supernet_step(SPACE, CONFIG)
  arguments = fresh(), jax.random.key(0), np.arange(8, dtype=np.int32)
  named = step.lower(*arguments)
  scope = type(jax.named_scope("any"))
  monkeypatch.setattr(scope, "__enter__", lambda self: None)
  monkeypatch.setattr(scope, "__exit__", lambda self, *error: None)
  jax.clear_caches()  # or the trace with names is used again
  plain = step.lower(*arguments)
  assert "(forward)/layer_00/" in named.as_text(debug_info=True)
  assert "(forward)" not in plain.as_text(debug_info=True)
  assert named.as_text() == plain.as_text()


def test_late_steps_are_traced_and_the_log_says_where(
  tmp_path, caplog, monkeypatch
):
  calls = []
  monkeypatch.setattr(
    profiling._Profiler, "start", lambda self, *what: calls.append(what)
  )
  with caplog.at_level(logging.INFO, "jaxnas"), profiled(tmp_path):
    watch = Watch("train", 100)
    for i in range(20):
      assert watch(abs, -i) == i
      assert bool(calls) == (i >= 9)
    Watch("short", 1)
  assert calls == [("train", "calls 10 to 14", None)]
  assert "short takes one step only" in caplog.text


def test_a_long_call_is_cut_off(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(profiling, "SECONDS", 0.2)
  add = jax.jit(lambda x: x + 1)

  def long():
    x, end = jnp.zeros(()), time.monotonic() + 0.6
    while time.monotonic() < end:
      x = add(x)
      time.sleep(0.01)
    return True

  with caplog.at_level(logging.INFO, "jaxnas"), profiled(tmp_path):
    watch = watch_rounds("search", 2)
    assert watch(add, 1) == 2
    start = time.monotonic()
    assert watch(long) and time.monotonic() - start > 0.5
  (events,) = traces(tmp_path / "search")
  times = [e["ts"] for e in events if "add" in str(e.get("args"))]
  assert times and max(times) - min(times) < 0.5e6  # microseconds
  assert f"tensorboard --logdir {tmp_path}" in caplog.text


def test_a_call_is_repeated_only_to_be_traced(tmp_path):
  calls = []

  def score(x):
    calls.append(x)
    return len(calls)

  assert call_again("score", score, 5) == 1
  assert calls == [5]
  with profiled(tmp_path):
    assert call_again("score", score, 6) == 2
  assert calls == [5, 6, 6]
  assert len(traces(tmp_path / "score")) == 1


def test_an_error_ends_a_trace(tmp_path):
  def fail(i):
    if i == 2:
      raise ValueError
    return i

  with pytest.raises(ValueError), profiled(tmp_path):
    watch = Watch("train", 9)
    for i in range(9):
      watch(fail, i)
  with profiled(tmp_path):  # the profiler is free again
    assert call_again("score", abs, -1) == 1


def test_a_search_of_a_table_has_nothing_to_trace(tmp_path, capsys):
  with pytest.raises(SystemExit) as end:
    cli.main(["search", "--table", str(tmp_path / "t.csv"), "--profile"])
  assert end.value.code == 2
  assert "--profile goes with a search of a supernet" in capsys.readouterr().err
