"""The benchmarks on a tiny space: their structure, and that arms agree."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bench_space import get_space as bench_space

from jaxnas import printing
from jaxnas.bench import kernels, score, train
from jaxnas.bench.options import KernelOptions, ScoreOptions, TrainOptions
from jaxnas.errors import UserError
from jaxnas.scoring import Scorer
from jaxnas.scoring.scorer import ENGINES
from jaxnas.writer import to_json

SPREAD = {"median", "min", "max"}


@pytest.fixture
def space_file(repo):
  return str(repo / "tests" / "bench" / "bench_space.py")


def is_spread(value):
  assert value.keys() == SPREAD
  assert 0 < value["min"] <= value["median"] <= value["max"]
  return True


def is_arm(arm):
  assert is_spread(arm["seconds"])
  assert arm["setup"]["seconds"] >= 0
  assert arm["peak"]["bytes"] >= 0
  assert arm["peak"]["of"]
  return True


def options_of(cls, space, **fields):
  return cls(space=space, repeats=2, **fields)


# Scoring ----------------------------------------------------------------------


@pytest.fixture
def score_options(space_file):
  return options_of(
    ScoreOptions, space_file, n=6, sets=("uniform", "offspring:4"),
    calibration_images=5, validation_images=7, batch_size=4, serial_sample=3,
  )  # fmt: skip


def test_score(score_options, monkeypatch):
  monkeypatch.setattr(score, "GROWTH", (2, 3))
  options = dataclasses.replace(score_options, growth=True)
  result = score.bench_score(options)
  assert result["bench"] == "score"
  assert result["space"] == "bench-tiny"
  assert result["seed"] == 0
  assert result["engine"] in ENGINES
  assert result["machine"]["jax"]
  assert [(r["set"], r["n"]) for r in result["sets"]] == [
    ("uniform", 6), ("offspring", 4),
  ]  # fmt: skip
  for row in result["sets"]:
    assert row["scores"]["compared"] == row["serial"]["timed"] == 3
    assert row["scores"]["unequal_accuracies"] == 0
    assert row["scores"]["largest_loss_difference"] < 1e-5
    assert row["scores"]["agree"]
    assert row["nodes"]["naive"] == row["n"] * 2
    assert 1 <= row["nodes"]["computed"] <= row["nodes"]["naive"]
    assert 1 <= row["distinct"] <= row["n"]
    assert row["compilations_second_set"] == 0
    assert is_spread(row["ratio"])
    for arm in ("serial", "engine"):
      assert is_arm(row[arm])
      assert row[arm]["total_seconds"] >= row[arm]["seconds"]["median"]
      rate = row["n"] / row[arm]["seconds"]["median"]
      assert row[arm]["candidates_per_second"] == pytest.approx(rate)
  first = result["sets"][0]
  assert first["serial"]["setup"]["compilations"] >= 1
  assert first["serial"]["largest_program"]["total"] > 0
  sizes = [(r["set"], r["n"]) for r in result["growth"]]
  assert sizes == [
    ("uniform", 2), ("uniform", 3), ("offspring", 2), ("offspring", 3),
  ]  # fmt: skip
  assert all(r["repeats"] == 2 for r in result["growth"])
  assert to_json(result)
  text = printing.text("bench", result)
  for part in ("bench-tiny", "offspring", "3 candidates compared", "ratio"):
    assert part in text
  assert "DISAGREE" not in text


def test_the_serial_arm_is_scaled_to_the_whole_set(score_options, monkeypatch):
  def interleave(arms, repeats):
    return {"serial": [1.0, 2.0, 6.0], "engine": [0.5, 0.5, 0.5]}

  monkeypatch.setattr(score, "interleave", interleave)
  options = dataclasses.replace(
    score_options, sets=("uniform",), serial_sample=2
  )
  (row,) = score.bench_score(options)["sets"]
  # A candidate that comes twice is scored once, in both arms.
  scale = row["distinct"] / 2
  assert row["serial"]["timed"] == 2 < row["distinct"] < row["n"] == 6
  assert row["serial"]["seconds"] == {
    "median": 2 * scale,
    "min": scale,
    "max": 6 * scale,
  }
  assert row["engine"]["seconds"]["median"] == 0.5
  assert row["ratio"]["median"] == pytest.approx(4 * scale)


def test_arms_that_disagree_are_called_out(score_options, monkeypatch, caplog):
  serial = Scorer.__call__

  def wrong(self, variables, archs, per_example=False):
    out = serial(self, variables, archs, per_example)
    if len(archs) == 6:
      out["loss"] = out["loss"] + 0.5
      out["accuracy"] = out["accuracy"] + 1
    return out

  monkeypatch.setattr(Scorer, "__call__", wrong)
  options = dataclasses.replace(score_options, sets=("uniform",))
  with caplog.at_level("WARNING", "jaxnas"):
    result = score.bench_score(options)
  (row,) = result["sets"]
  assert not row["scores"]["agree"]
  assert row["scores"]["largest_loss_difference"] == pytest.approx(0.5)
  assert row["scores"]["unequal_accuracies"] == 3
  assert "disagree" in caplog.text
  assert "DISAGREE" in printing.text("bench", result)


def test_nan_never_agrees():
  a, b = ({"loss": np.array([x]), "accuracy": np.ones(1)} for x in (1, np.nan))
  assert not score._difference(a, b, 1.0)["agree"]


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"sets": ("unifrom",)}, "Did you mean 'uniform'"),
    ({"sets": ("uniform:many",)}, "uniform:200"),
    ({"sets": ("uniform:0",)}, "1 or more"),
    ({"sets": ()}, "--sets is empty"),
    ({"n": 0}, "--n is 0"),
    ({"repeats": 0}, "--repeats is 0"),
    ({"max_live_bytes": 0}, "--max-live-bytes is 0"),
    ({"seed": -1}, "seed is -1"),
    ({"space": "digitz"}, "Did you mean 'digits'"),
  ],
)
def test_score_refuses(score_options, change, part):
  with pytest.raises(UserError, match=part):
    score.bench_score(dataclasses.replace(score_options, **change))


# Training ---------------------------------------------------------------------


def test_train(space_file):
  options = options_of(
    TrainOptions, space_file, batch_sizes=(4,), remat=True, steps=2
  )
  result = train.bench_train(options)
  assert result["bench"] == "train"
  assert result["paths"] == 2
  assert result["remat"] is True
  (row,) = result["batches"]
  assert row["batch_size"] == 4
  step = row["step"]
  assert step["agree"]
  for name in ("loss", "grad_norm"):
    assert step["routed"][name] == pytest.approx(step["serial"][name], 1e-5)
    assert step["routed"][name] > 0
  assert step["largest_weight_difference"] < 1e-5
  for arm in ("routed", "serial"):
    assert is_arm(row[arm])
    # Two paths of four images.
    rate = 8 / row[arm]["seconds"]["median"]
    assert row[arm]["images_per_second"] == pytest.approx(rate)
    assert row[arm]["largest_program"]["total"] > 0
  assert is_spread(row["ratio"])
  assert to_json(result)
  text = printing.text("bench", result)
  assert "2 paths, remat on" in text
  assert "DISAGREE" not in text


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"batch_sizes": ()}, "--batch-sizes is empty"),
    ({"batch_sizes": (4, 0)}, "--batch-sizes is 0"),
    ({"steps": 0}, "--steps is 0"),
    ({"space": "digitz"}, "Did you mean 'digits'"),
  ],
)
def test_train_refuses(space_file, change, part):
  fields = {"batch_sizes": (4,), "space": space_file, **change}
  with pytest.raises(UserError, match=part):
    train.bench_train(TrainOptions(**fields))


def test_train_needs_equal_numbers_of_choices(tmp_path, space_file):
  file = tmp_path / "unequal.py"
  text = Path(space_file).read_text()
  file.write_text(text.replace("unequal: bool = False", "unequal: bool = True"))
  with pytest.raises(UserError, match=r"\[2, 3\] choices"):
    train.bench_train(TrainOptions(space=str(file), batch_sizes=(4,)))


# Kernels ----------------------------------------------------------------------


def test_convolutions_of_a_space_are_counted():
  found = kernels.convolutions(bench_space(3))
  shapes = {
    (c.kind, c.size, c.channels, c.features, c.kernel, c.stride): uses
    for c, uses in found.items()
  }
  assert shapes == {
    ("dense", 6, 3, 4, 3, 1): 1,
    ("depthwise", 6, 4, 4, 3, 2): 1,
    ("depthwise", 6, 8, 8, 3, 2): 1,
    ("depthwise", 3, 6, 6, 3, 1): 2,
    ("depthwise", 3, 12, 12, 3, 1): 2,
  }


def test_kernels(space_file):
  options = options_of(KernelOptions, space_file, batch_size=2)
  result = kernels.bench_kernels(options)
  forms = {kind: list(f) for kind, f in kernels.FORMS.items()}
  assert len(result["rows"]) == 4 * len(forms["depthwise"]) + len(
    forms["dense"]
  )
  for row in result["rows"]:
    assert row["largest_difference"] < 1e-4
    for task in ("forward", "both"):
      assert is_spread(row[task])
      assert row[f"{task}_ratio"] > 0
    if row["form"] == kernels.BASELINE:
      assert row["both_ratio"] == 1
      assert row["largest_difference"] == 0
  for total in result["totals"]:
    own = [
      r for r in result["rows"]
      if (r["kind"], r["form"]) == (total["kind"], total["form"])
    ]  # fmt: skip
    taken = sum(r["uses"] * r["forward"]["median"] for r in own)
    assert total["forward"] == pytest.approx(taken)
  assert to_json(result)
  assert "all choices of all layers once" in printing.text("bench", result)


def test_a_wrong_kernel_form_shows(space_file, monkeypatch):
  forms, seen = kernels.FORMS["dense"], set()

  def wrong(x, kernel, stride):
    seen.update((x.dtype.name, kernel.dtype.name))
    return 2 * forms[kernels.BASELINE](x, kernel, stride)

  stem = kernels.Convolution("dense", 6, 3, 4, 3, 1)
  monkeypatch.setattr(kernels, "convolutions", lambda space: {stem: 1})
  monkeypatch.setitem(forms, "wrong", wrong)
  options = options_of(
    KernelOptions, space_file, batch_size=2, precision="bfloat16"
  )
  rows = kernels.bench_kernels(options)["rows"]
  (row,) = (r for r in rows if r["form"] == "wrong")
  assert row["largest_difference"] == pytest.approx(1, rel=1e-5)
  assert seen == {"bfloat16"}


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"batch_size": 0}, "--batch-size is 0"),
    ({"seed": -1}, "--seed is -1"),
    ({"space": "digitz"}, "Did you mean 'digits'"),
  ],
)
def test_kernels_refuse(change, part):
  with pytest.raises(UserError, match=part):
    kernels.bench_kernels(KernelOptions(**change))
