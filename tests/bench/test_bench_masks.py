"""The benchmark of masks on a tiny network: structure, and that arms agree."""

import dataclasses
import json

import numpy as np
import pytest
from test_bench import is_arm, is_spread

from jaxnas import printing
from jaxnas.bench import masks
from jaxnas.bench.masks import PUBLISHED, bench_masks, read_rates
from jaxnas.bench.options import MaskOptions
from jaxnas.errors import UserError
from jaxnas.scoring import MaskScorer, masked
from jaxnas.spaces import get_space
from jaxnas.writer import to_json

TINY = {"width": 2, "blocks": 1}
OPTIONS = MaskOptions(
  options=json.dumps(TINY), n=7, rates="0.4", calibration_images=5,
  validation_images=8, batch_size=4, chunks=(2,), sample=3, repeats=2,
)  # fmt: skip
SPACE = get_space("supnet-small", **TINY)


def test_masks():
  result = bench_masks(OPTIONS)
  assert (result["bench"], result["space"]) == ("masks", "supnet-small")
  assert result["groups"] == len(SPACE.groups)
  assert result["channels"] == SPACE.n_layers
  assert 0.3 < result["kept_channels"] < 0.9
  scores = result["scores"]
  assert (scores["compared"], scores["arms"]) == (3, 4)
  assert scores["largest_loss_difference"] < 1e-5
  assert scores["unequal_predictions"] == 0
  assert scores["agree"]
  assert result["serial"]["timed"] == 3
  for arm in ("serial", "together"):
    assert is_arm(result[arm])
    assert result[arm]["setup"]["compilations"] >= 1
    rate = 7 / result[arm]["seconds"]["median"]
    assert result[arm]["masks_per_second"] == pytest.approx(rate)
  assert is_spread(result["ratio"])
  assert result["total_ratio"] > 0
  assert result["compilations_second_set"] == 0
  serial, pairs, looped, default = result["forms"]
  # So few images that the default form takes whole batches as well.
  assert (serial["vectorised"], serial["looped"], serial["tile"]) == (1, 1, 4)
  assert (pairs["vectorised"], pairs["looped"], pairs["tile"]) == (2, 1, 4)
  assert (looped["looped"], looped["role"]) == (default["looped"], "")
  assert result["beginnings"]["work_ratio"] > 1  # the stem has no gate
  assert default["role"] == "default"
  assert default["ratio"] == result["ratio"]
  assert to_json(result)
  text = printing.text("bench", result)
  for part in ("3 masks of 4 arms compared", "vectorised", "default", "ratio"):
    assert part in text
  assert "DISAGREE" not in text


def test_the_faster_serial_loop_is_compared_with(monkeypatch):
  monkeypatch.setattr(masked, "CACHE_BYTES", 1)  # two images at once

  def interleave(arms, repeats):
    times = {
      "serial": 4.0, "serial, tiled": 3.0, "looped": 2.0, "together": 1.0,
    }  # fmt: skip
    return {name: [times[name]] * repeats for name in arms}

  monkeypatch.setattr(masks, "interleave", interleave)
  result = bench_masks(dataclasses.replace(OPTIONS, n=3, chunks=()))
  whole, tiled, _, default = result["forms"]
  assert [row["tile"] for row in result["forms"]] == [4, 2, 2, 2]
  assert [row["role"] for row in result["forms"]] == [
    "", "serial", "", "default",
  ]  # fmt: skip
  assert whole["ratio"]["median"] == 0.75
  assert tiled["ratio"]["median"] == 1
  assert default["ratio"]["median"] == result["ratio"]["median"] == 3


def test_the_sample_is_scaled_to_all_masks(monkeypatch):
  def interleave(arms, repeats):
    times = {"serial": [3.0, 6.0, 9.0], "together": [2.0, 2.0, 2.0]}
    return {name: times.get(name, [1.5, 1.5, 1.5]) for name in arms}

  monkeypatch.setattr(masks, "interleave", interleave)
  result = bench_masks(dataclasses.replace(OPTIONS, n=6))
  assert result["serial"]["seconds"]["median"] == 12
  assert result["together"]["seconds"]["median"] == 2
  assert result["ratio"] == {"median": 6.0, "min": 3.0, "max": 9.0}
  assert result["forms"][1]["seconds"]["median"] == 3
  assert result["forms"][1]["ratio"]["median"] == 4


@pytest.mark.parametrize("bn_mode", ["recalibrate", "batch"])
def test_other_batch_norm_modes(bn_mode):
  options = dataclasses.replace(OPTIONS, bn_mode=bn_mode, chunks=(), repeats=1)
  result = bench_masks(options)
  assert result["scores"]["agree"]
  assert len(result["forms"]) == 3


@pytest.mark.parametrize("planted", [0.5, np.nan])
def test_arms_that_disagree_are_called_out(planted, monkeypatch, caplog):
  right = MaskScorer.__call__

  def wrong(self, variables, archs, per_example=False):
    out = right(self, variables, archs, per_example)
    if len(archs) == 7:
      out["loss"] = out["loss"] + planted
      out["correct"] = ~out["correct"]
    return out

  monkeypatch.setattr(MaskScorer, "__call__", wrong)
  options = dataclasses.replace(OPTIONS, chunks=(), repeats=1)
  with caplog.at_level("WARNING", "jaxnas"):
    result = bench_masks(options)
  assert not result["scores"]["agree"]
  assert result["scores"]["unequal_predictions"] == 3 * 8
  assert "disagree" in caplog.text
  assert "DISAGREE" in printing.text("bench", result)


def test_masks_are_drawn_from_the_rates_and_seeded():
  workload = masks.make_mask_workload(OPTIONS)
  assert np.array_equal(workload.masks(400), workload.masks(400))
  assert not np.array_equal(workload.masks(400), workload.masks(400, 1))
  assert workload.masks(400).mean() == pytest.approx(0.6, abs=0.02)


def test_published_rates_have_the_published_histogram():
  assert sum(count for *_, count in PUBLISHED) == 638
  space = get_space("supnet-d121")
  rates = read_rates("published", space, 3)
  assert len(rates) == len(space.groups) == 638
  assert np.array_equal(rates, read_rates("published", space, 3))
  assert rates.max() <= 0.788
  for low, high, count in PUBLISHED:
    inside = ((rates >= low) & (rates < high)).sum()
    assert inside == pytest.approx(count, abs=4 * np.sqrt(count) + 1)


def test_rates_of_a_run(tmp_path):
  rows = [
    {"node": g.node, "channels": g.channels, "rate": 0.01 * i}
    for i, g in enumerate(SPACE.groups)
  ]
  path = tmp_path / "posterior.json"
  path.write_text(json.dumps({"groups": rows}))
  rates = read_rates(str(path), SPACE, 0)
  np.testing.assert_allclose(rates, 0.01 * np.arange(len(SPACE.groups)))
  with pytest.raises(UserError, match="other groups than 'supnet-small'"):
    read_rates(str(path), get_space("supnet-small"), 0)
  for content in ("{}", "no JSON", '{"groups": [1]}'):
    path.write_text(content)
    with pytest.raises(UserError, match=r"no posterior\.json"):
      read_rates(str(path), SPACE, 0)


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"n": 0}, "--n is 0"),
    ({"chunks": (4, 0)}, "--chunks is 0"),
    ({"seed": -1}, "--seed is -1"),
    ({"rates": "1.5"}, "between 0 and 1"),
    ({"rates": "nan"}, "between 0 and 1"),
    ({"rates": "often"}, "'often' is no number"),
    ({"space": "digits", "options": "{}"}, "chain of layers"),
    ({"space": "supnet-smal"}, "Did you mean 'supnet-small'"),
    ({"options": "[]"}, "JSON object"),
    ({"max_live_bytes": 1}, "max_live_bytes is 1"),
  ],
)
def test_masks_refuse(change, part):
  with pytest.raises(UserError, match=part):
    bench_masks(dataclasses.replace(OPTIONS, **change))
