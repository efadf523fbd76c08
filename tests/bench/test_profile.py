"""`profile` on a tiny space: its structure, its table, its corrections."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from bench_space import get_space as bench_space

from jaxnas.bench import latency
from jaxnas.bench.latency import Correction, Times, profile
from jaxnas.bench.options import ProfileOptions
from jaxnas.costs import Budget, CostTable
from jaxnas.costs.blocks import blocks
from jaxnas.costs.latency import read_latency
from jaxnas.errors import UserError
from jaxnas.spaces import Identity
from jaxnas.writer import to_json

STEPS = ["measured", "empty_call", "calibrated"]


@pytest.fixture(scope="module")
def space_file(repo):
  return str(repo / "tests" / "bench" / "bench_space.py")


@pytest.fixture(scope="module")
def result(space_file, tmp_path_factory):
  """One profile of a space of 2 x 3 networks, all of them held out."""
  out = tmp_path_factory.mktemp("profile") / "table.csv"
  patch = pytest.MonkeyPatch()
  patch.setattr(latency, "LEAST_SECONDS", 1e-4)
  options = ProfileOptions(
    space=space_file, out=str(out), options='{"unequal": true}', repeats=3,
    held_out=6, batch_size=2,
  )  # fmt: skip
  yield profile(options)
  patch.undo()


SPACE = bench_space(unequal=True)


def test_structure(result):
  assert result["bench"] == "profile"
  assert result["space"] == "bench-tiny"
  assert result["machine"]["jax"]
  # Stem, 2 + 3 choices, head, classifier and the rest; the empty call, as
  # many distinct blocks, and the networks.
  assert result["rows"] == 9
  assert result["programs"] == 1 + 8 + 6
  assert 0 < result["compile"]["seconds"] <= result["compile"]["setup_seconds"]
  assert result["measure_seconds"] > 0
  empty = result["empty_call"]
  assert 0 < empty["low_ms"] <= empty["ms"] <= empty["high_ms"]
  for kind in ("blocks", "networks"):
    spread = result["spread"][kind]
    assert 0 <= spread["median"] <= spread["largest"]
  assert to_json(result)


def test_held_out_networks(result):
  networks = result["held_out"]["networks"]
  assert len({n["arch"] for n in networks}) == 6
  assert [n["use"] for n in networks] == ["fit"] * 3 + ["judge"] * 3
  assert result["correction"]["networks"] == 3
  for n in networks:
    assert 0 < n["low_ms"] <= n["ms"] <= n["high_ms"]
    assert list(n["predicted_ms"]) == STEPS
  errors = result["held_out"]["errors"]
  assert list(errors) == STEPS
  judged = networks[3:]
  for step in STEPS:
    found = errors[step]
    assert found["n"] == 3
    relative = [n["predicted_ms"][step] / n["ms"] - 1 for n in judged]
    assert found["bias"] == pytest.approx(np.mean(relative))
    assert found["largest_relative_error"] == pytest.approx(
      np.abs(relative).max()
    )
    for key in ("r2", "kendall_tau_b", "spearman"):
      assert found[key].keys() == {"value", "low", "high"}


def test_the_table_reads_back_as_the_cost_that_was_judged(result, caplog):
  cost = read_latency(result["table"], SPACE, "latency.here")
  assert not caplog.records
  assert cost.table.dtype == np.float64
  for n in result["held_out"]["networks"]:
    arch = SPACE.from_string(n["arch"])
    assert cost(arch[None])[0] == n["predicted_ms"]["calibrated"]


def test_the_table_bounds_a_budget(result):
  cost = read_latency(result["table"], SPACE, "latency.here")
  limit = cost.smallest + 0.6 * (cost.largest - cost.smallest)
  text = f"latency.here<={limit:.9f}ms"
  budget = Budget.parse(text, {"latency.here": cost}, SPACE)
  archs = SPACE.sample(np.random.default_rng(0), 50)
  np.testing.assert_array_equal(budget.allows(archs), cost(archs) <= limit)
  assert budget.allows(archs).any()


def test_rows_are_the_corrected_measurements(result):
  text = Path(result["table"]).read_text().splitlines()
  names = text[0].split(",")
  assert names[:5] == ["part", "layer", "choice", "op", "ms"]
  rows = [dict(zip(names, t.split(","), strict=True)) for t in text[1:]]
  assert [r["part"] for r in rows[1:]].count("layer") == 5
  c = result["correction"]
  for r in rows[:-1]:
    ms = float(r["measured_ms"])
    assert float(r["low_ms"]) <= ms <= float(r["high_ms"])
    expected = c["scale"] * max(0, ms - c["empty_ms"])
    assert float(r["ms"]) == pytest.approx(expected, rel=1e-5)
    assert r["batch_size"] == "2"
  rest = c["scale"] * c["empty_ms"] + c["offset_ms"]
  assert rows[-1]["part"] == "rest"
  assert float(rows[-1]["ms"]) == pytest.approx(rest, rel=1e-5)


def test_without_networks_nothing_is_judged(space_file, tmp_path, monkeypatch):
  monkeypatch.setattr(latency, "LEAST_SECONDS", 1e-4)
  out = tmp_path / "t.yaml"
  found = profile(
    ProfileOptions(space=space_file, out=str(out), repeats=1, held_out=0)
  )
  assert found["held_out"] is None
  assert found["spread"]["networks"] is None
  assert found["correction"]["scale"] == 1
  cost = read_latency(out, bench_space(), "latency.x")
  assert cost.fixed >= found["empty_call"]["ms"]


# Corrections ------------------------------------------------------------------


def table(fixed: float = 2.0) -> CostTable:
  return CostTable("x", fixed, np.array([[0.0, 1], [0, 3]]), np.array([2, 2]))


ARCHS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)


def test_calibration_recovers_scale_and_offset():
  measured = 0.5 * table()(ARCHS) + 4
  c = latency._calibrate(table(), 0.25, ARCHS, measured)
  assert c.empty == 0.25
  assert c.scale == pytest.approx(0.5)
  assert c.offset == pytest.approx(4)
  assert c.block(2.25) == pytest.approx(1)
  assert c.block(0.2) == 0
  assert c.rest == pytest.approx(4.125)


@pytest.mark.parametrize("measured", [[9, 2, 8, 1.0], [0.1, 6, 0.1, 9]])
def test_calibration_never_turns_round_nor_below_nothing(measured):
  measured = np.array(measured)
  c = latency._calibrate(table(), 0.25, ARCHS, measured)
  assert c.offset == 0
  assert c.scale == pytest.approx(measured.mean() / table()(ARCHS).mean())


def test_times_of_rounds():
  t = Times.of([0.003, 0.001, 0.002, 0.004, 0.005])
  assert (t.ms, t.low_ms, t.high_ms) == (3, 2, 4)
  assert t.spread == pytest.approx(2 / 3)


def test_sums_of_exact_times_are_predicted_exactly():
  space = bench_space(unequal=True)
  own = blocks(space)
  times = {(b.op, b.shape): Times(1.0 + i, 1.0, 9.0) for i, b in enumerate(own)}
  steps = {"measured": Correction(), "empty_call": Correction(empty=0.5)}
  costs = latency._tables(steps, own, times, space)
  ms = {(b.part, b.layer, b.choice): times[b.op, b.shape].ms for b in own}
  fixed = sum(v for (part, *_), v in ms.items() if part != "layer")
  arch = [1, 2]
  total = fixed + ms["layer", 0, 1] + ms["layer", 1, 2]
  assert costs["measured"](np.array([arch]))[0] == pytest.approx(total)
  # Five blocks lose a call each and the network pays for one.
  assert costs["empty_call"](np.array([arch]))[0] == pytest.approx(total - 2)


def test_programs_are_timed_turn_about_in_changing_order(monkeypatch):
  monkeypatch.setattr(latency, "LEAST_SECONDS", 0)
  order = []
  programs = {k: lambda k=k: order.append(k) for k in "abcd"}
  seconds = latency.take_turns(programs, 4, np.random.default_rng(0))
  assert {k: len(v) for k, v in seconds.items()} == dict.fromkeys("abcd", 4)
  order = order[4:]  # after the look at how long a call takes
  assert order[::2] == order[1::2]  # each turn: one untimed call, one timed
  rounds = [order[i : i + 8 : 2] for i in range(0, 32, 8)]
  assert all(sorted(r) == list("abcd") for r in rounds)
  assert len({tuple(r) for r in rounds}) > 1


def test_held_out_archs_are_distinct_and_seeded():
  big = bench_space(12)
  a, b = (latency._held_out(big, np.random.default_rng(3), 9) for _ in "ab")
  np.testing.assert_array_equal(a, b)
  assert len(np.unique(a, axis=0)) == 9
  assert len(latency._held_out(big, np.random.default_rng(3), 0)) == 0
  tiny = latency._held_out(bench_space(1), np.random.default_rng(0), 9)
  assert len(tiny) <= 2


def test_weights_leave_nothing_for_the_compiler_to_drop():
  import jax.numpy as jnp

  from jaxnas.config import NetConfig
  from jaxnas.nets.mbconv import make_block

  b = next(b for b in blocks(SPACE) if b.part == "layer" and b.choice == 1)
  module = make_block(b.op, b.shape, NetConfig())
  x = jnp.zeros((1, b.shape.in_size, b.shape.in_size, b.shape.in_channels))
  found = latency._variables(module, x, (True,), np.random.default_rng(0))
  for bn in ("expand_bn", "depthwise_bn", "project_bn"):
    assert (found["params"][bn]["bias"] != 0).all()
    assert (found["batch_stats"][bn]["mean"] != 0).all()
    assert (found["batch_stats"][bn]["var"] >= 1).all()


def test_free_blocks_are_not_timed(tmp_path, monkeypatch):
  space = bench_space(2)
  last = dataclasses.replace(space.layers[-1], choices=(Identity(),))
  space = space.replace(layers=(space.layers[0], last))
  monkeypatch.setattr(latency, "chain_space", lambda *_, **__: space)
  monkeypatch.setattr(latency, "LEAST_SECONDS", 1e-4)
  out = tmp_path / "t.csv"
  found = profile(
    ProfileOptions(space="any", out=str(out), repeats=1, held_out=0)
  )
  # The empty call, the stem, two choices, the head, the classifier.
  assert found["programs"] == 6
  cost = read_latency(out, space, "x")
  assert cost.table[1, 0] == 0
  assert math.isfinite(cost.largest)


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"repeats": 0}, "--repeats is 0"),
    ({"batch_size": 0}, "--batch-size is 0"),
    ({"held_out": -1}, "--held-out is -1"),
    ({"out": "table.txt"}, "legal endings: .csv"),
    ({"out": "no/such/folder/t.csv"}, "no folder no"),
    ({"options": "[]"}, "JSON object"),
    ({"options": "{"}, "JSON object"),
    ({"space": "fairnaz"}, "Did you mean 'fairnas'"),
  ],
)
def test_what_is_refused(change, part, space_file, tmp_path):
  legal = {"space": space_file, "out": str(tmp_path / "t.csv")}
  with pytest.raises(UserError, match=part):
    profile(ProfileOptions(**{**legal, **change}))
