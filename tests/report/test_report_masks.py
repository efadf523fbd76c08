"""The page of a masked network against the files it was made from."""

import csv
import json
import math
import re
import shutil
import xml.etree.ElementTree as ET

import jax.numpy as jnp
import mask_workdir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from test_report_page import edit, parse, read, words

from jaxnas.config import ExperimentConfig, MasksConfig, SpaceConfig, override
from jaxnas.costs import format_count
from jaxnas.costs.masks import mask_costs, mask_layer_rows
from jaxnas.report.mask_drawing import MOST, Part, Row, draw_kept, gather
from jaxnas.report.masks import resting_rate
from jaxnas.report.selected import gain_claim
from jaxnas.report.statements import Estimate
from jaxnas.training import check_masks
from jaxnas.training.variational import regulariser

SVG = "{http://www.w3.org/2000/svg}"
SMALL = {"width": 4, "blocks": 1}
# One drop rate of each kind: kept, undecided, coin flips, dropped.
RATES = np.array([0.01, 0.2, 0.45, 0.48, 0.02, 0.9, 0.999, 0.03])


@pytest.fixture(scope="module")
def space():
  return mask_workdir.space_of("supnet-small", **SMALL)


@pytest.fixture(scope="module")
def original(space, tmp_path_factory):
  folder = tmp_path_factory.mktemp("masks") / "run"
  return mask_workdir.write(folder, space, RATES, options=SMALL)


@pytest.fixture
def folder(original, tmp_path):
  return shutil.copytree(original, tmp_path / "copy")


def load(folder, name):
  return json.loads((folder / name).read_text())


def archs_of(folder):
  with (folder / "archs.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def check_page(page):
  parser = parse(page)
  assert len(parser.ids) == len(set(parser.ids))
  assert {u[1:] for u in parser.urls} <= set(parser.ids)
  assert "script" not in parser.tags and "#0101" not in page
  assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
  for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
    assert ET.fromstring(svg).get("aria-label")
  assert not re.search(r"\bnan\b", words(page), re.I)
  return set(parser.ids)


def test_sections_follow_the_files(folder):
  ids = check_page(read(folder))
  whole = {"chosen", "kept", "training", "rates", "selection", "trust"}
  assert whole <= ids and not {"architecture", "fairness"} & ids
  (folder / "posterior.json").unlink()
  ids = check_page(read(folder))
  assert "kept" not in ids and "rates" in ids  # histograms are in the log
  text = words(read(folder))
  assert "Not in this directory: posterior.json." in text
  (folder / "metrics.jsonl").unlink()
  assert "rates" not in check_page(read(folder))
  (folder / "selection.json").unlink()
  text = words(read(folder))
  assert "standard deviation" in text and "interval 0" not in text
  (folder / "archs.csv").unlink()
  assert "selection" not in check_page(read(folder))
  (folder / "space.json").unlink()
  check_page(read(folder))
  for path in folder.iterdir():
    if path.name != "config.json":
      path.unlink()
  assert "no result yet" in words(read(folder))
  assert "fairness.json" not in words(read(folder))


def test_without_a_winner_there_are_rates_only(folder):
  value = load(folder, "posterior.json")
  for row in value["groups"]:
    del row["kept"]
  edit(folder, "posterior.json", **value)
  for name in ("result.json", "archs.csv", "pareto.csv", "selection.json",
               "search.json"):  # fmt: skip
    (folder / name).unlink()
  ids = check_page(read(folder))
  assert "rates" in ids and not {"kept", "selection", "chosen"} & ids


def test_the_headline_says_what_was_trained(folder):
  text = words(read(folder))
  result = load(folder, "result.json")
  assert "not trained: the winner keeps the supernet's weights" in text
  assert f"{100 * result['metrics']['supernet_accuracy']:.2f}%" in text
  assert "94.17%" in text and "read once, at the end" in text
  for origin, said in (
    ("inherited", "trained on from inherited"), ("scratch", "from scratch"),
    (None, "not trained yet"),
  ):  # fmt: skip
    edit(folder, "result.json", retrained_from=origin)
    assert said in words(read(folder))


def test_sizes_are_counted_anew(folder, space):
  result = load(folder, "result.json")
  metrics = result["metrics"]
  assert "adds up to" not in words(read(folder))
  edit(folder, "result.json", metrics=metrics | {"macs": 12345})
  said = f"12,345 macs, but this arch adds up to {metrics['macs']:,}"
  assert said in words(read(folder))
  budget = f"macs<={metrics['macs'] - 1}"
  edit(folder, "result.json", metrics=metrics, budget=budget)
  assert "above the budget" in words(read(folder))


def test_kept_channels_are_those_of_the_winner(folder, space):
  page = read(folder)
  text = words(page)
  groups = load(folder, "posterior.json")["groups"]
  result = load(folder, "result.json")
  kept, total = (sum(g[k] for g in groups) for k in ("kept", "channels"))
  arch = space.from_string(result["arch"])
  assert kept == arch.sum() and total == len(arch)
  assert f"keeps {kept} of {total} gated input channels" in text
  gone = [g["node"] for g in groups if not g["kept"]]
  assert gone and f"Removed: {', '.join(gone)}." in text
  full = mask_costs(space, np.ones((1, len(arch)), np.int32))
  for key, what in (("macs", "multiply-adds"), ("params", "parameters")):
    now, before = result["metrics"][key], int(full[key][0])
    assert f"{format_count(now)} of {format_count(before)} {what}" in text
  svg = re.search(r'<svg[^>]*aria-label="Channels.*?</svg>', page, re.S)[0]
  rows = [g for g in ET.fromstring(svg).iter(SVG + "g")]
  assert len(rows) == len(groups)
  costs = {r["node"]: r for r in mask_layer_rows(space, arch)}
  for row, g in zip(rows, groups, strict=True):
    texts = [t.text for t in row.iter(SVG + "text")]
    assert f"{g['kept']}/{g['channels']}" in texts
    assert f"{g['rate']:.2f}" in texts
    assert ("removed" in texts) == (g["kept"] == 0)
    assert format_count(costs[g["node"]]["macs"]) in texts
    assert row.find(SVG + "title").text.startswith(g["node"])


def test_rates_are_explained_by_the_numbers(folder, space):
  text = words(read(folder))
  channels = np.array([g.channels for g in space.groups])
  assert (
    "Final rates of the 8 groups: 3 below 0.1, 1 from 0.1 to 0.4, 2 from 0.4"
    " to 0.5 and 2 above 0.5."
  ) in text
  assert f"The 2 groups just under 0.5 ({channels[2:4].sum()} channels)" in text
  assert "coin flip" in text and "drops the 2 above 0.5" in text
  differ = (2 * channels * RATES * (1 - RATES)).sum()
  assert f"in {differ:.1f} of {channels.sum()} channels" in text
  assert f"from 0.1 to {RATES.mean():.3f}" in text


@pytest.mark.parametrize("rates, said", [
  (np.full(8, 0.01), "No group lies just under 0.5"),
  (np.full(8, 1e-6), "almost one network"),
  (np.full(8, 0.3), "the threshold mask is the full network"),
])  # fmt: skip
def test_rates_without_a_pile(space, tmp_path, rates, said):
  text = words(read(mask_workdir.write(tmp_path, space, rates, options=SMALL)))
  assert said in text and "coin flip" not in text


def test_a_dead_network_is_called_out(space, tmp_path):
  said = "the logits are constants"
  folder = mask_workdir.write(
    tmp_path, space, np.full(8, 1 - 1e-9), options=SMALL
  )
  assert load(folder, "result.json")["metrics"]["macs"] == 0
  assert said in words(read(folder))
  edit(folder, "result.json", metrics={"macs": 5})
  assert said not in words(read(folder))


def test_fixed_rates_are_called_a_baseline(space, tmp_path):
  folder = mask_workdir.write(
    tmp_path, space, np.full(8, 0.1), options=SMALL, rates="fixed"
  )
  text = words(read(folder))
  assert "fixed at 0.1" in text and "baseline" in text


@pytest.mark.parametrize("fields", [
  {}, {"entropy": "printed"}, {"prior_drop": 0.2}, {"half": True},
  {"entropy": "printed", "prior_drop": 0.3},
  {"entropy": "printed", "prior_drop": 0.9},
])  # fmt: skip
def test_the_resting_rate_minimises_the_regulariser(fields):
  config = MasksConfig(**fields)

  def loss(logit):
    value = jnp.array([logit], jnp.float32)
    return float(regulariser(value, jnp.zeros(1), np.array([64]), config, 1.0))

  found = optimize.minimize_scalar(loss, bounds=(-8, 12), method="bounded").x
  rate = 1 / (1 + math.exp(-found))
  assert resting_rate(config) == pytest.approx(rate, abs=0.01)


def test_something_else_may_move_a_rate():
  for fields in ({"target": "macs"}, {"rates": "fixed"}, {"entropy_weight": 0}):
    assert resting_rate(MasksConfig(**fields)) is None


FINITE = st.floats(-0.1, 0.1)


@given(st.tuples(FINITE, FINITE, FINITE).map(sorted), st.integers(1, 5000))
def test_a_gain_is_claimed_only_where_its_interval_excludes_zero(bounds, n):
  low, value, high = bounds
  text = gain_claim(Estimate(value, low, high), n, "95%")
  assert ("nothing is claimed" in text) == (low <= 0 <= high)
  assert ("worth it" in text) == (low > 0)
  assert ("did harm" in text) == (high < 0)
  assert f"{n:,} candidates" in text


def test_an_unknown_gain_claims_nothing():
  text = gain_claim(Estimate.from_json(None), 9, "95%")
  assert "nothing is claimed" in text


@pytest.mark.parametrize("skill, said", [
  (0.0, "nothing is claimed"), (0.04, "Selection was worth it"),
])  # fmt: skip
def test_selection_says_what_the_file_says(space, tmp_path, skill, said):
  folder = mask_workdir.write(
    tmp_path, space, RATES, options=SMALL, n=60, skill=skill
  )
  text = words(read(folder))
  found = load(folder, "selection.json")
  gain = found["gain"]
  assert (gain["low"] > 0) == (skill > 0) and said in text
  points = [f"{100 * gain[k]:.2f}".replace("-", "−") for k in ("low", "high")]
  assert f"interval {points[0]} points to {points[1]} points" in text
  last = found["curve"][-1]
  for key in ("best", "held_out"):
    assert f"{100 * last[key]:.2f}%" in text
  which = "less" if found["std"] < found["noise"] else "more"
  assert f"That is {which} than the standard error" in text
  assert f"{100 * found['noise']:.2f} points" in text
  assert f"scores {100 * found['threshold']['accuracy']:.2f}% at" in text
  assert "Of 60 draws, 60 were scored." in text
  edit(folder, "search.json", over_budget=3)
  edit(folder, "config.json", masks=load(folder, "config.json")["masks"]
       | {"candidates": 70})  # fmt: skip
  text = words(read(folder))
  assert "3 exceeded the budget and 7 had been drawn before" in text


def test_halving_states_its_cost_and_claims_no_gain(space, tmp_path):
  folder = mask_workdir.write(tmp_path, space, RATES, options=SMALL, halving=4)
  page = read(folder)
  check_page(page)
  text = words(page)
  rows = archs_of(folder)
  spent = sum(int(r["images"]) for r in rows)
  whole = len(rows) * mask_workdir.VALIDATION
  assert f"scored {spent:,} images instead of {whole:,}" in text
  assert "21 of 41 candidates saw all 360" in text
  assert "nothing is claimed" in text and "Selection was worth it:" not in text
  assert "was dropped by halving after 90 images" in text
  assert "Of 21 evaluated archs that were scored on all images" in text


def test_a_winning_threshold_mask_is_named(folder):
  rows = archs_of(folder)
  groups = load(folder, "posterior.json")
  edit(folder, "posterior.json", **groups)
  edit(folder, "result.json", arch=rows[0]["arch"], candidate=-1,
       metrics=load(folder, "result.json")["metrics"] | {
         "macs": int(rows[0]["macs"]), "params": int(rows[0]["params"])
       })  # fmt: skip
  text = words(read(folder))
  assert "and is the winner" in text and "threshold mask" in text


def test_commands_are_legal_for_masks(folder):
  text = words(read(folder))
  assert "jaxnas rank" not in text and "ranking.n_archs" not in text
  base = ExperimentConfig(method="pgnas", space=SpaceConfig("supnet-small"))
  commands = re.findall(r"<pre>(python.*?)</pre>", read(folder))
  assert len(commands) >= 6
  for command in commands:
    fields = re.findall(r"--set (\S+)", command)
    check_masks(override(base, fields).masks)
  assert any("--set" in c for c in commands)


def test_dense_links_and_long_masks(tmp_path):
  space = mask_workdir.space_of("supnet-d121", image_size=32)
  assert len(space.groups) == 638 and space.n_layers > 20_000
  rng = np.random.default_rng(1)
  kinds = [0.001, 0.05, 0.45, 0.7, 0.9999]
  rates = rng.choice(kinds, 638, p=[0.7, 0.1, 0.1, 0.05, 0.05])
  folder = mask_workdir.write(tmp_path, space, rates, "supnet-d121", n=6)
  page = read(folder)
  assert "kept" in check_page(page) and len(page) < 900_000
  text = words(page)
  winner = load(folder, "result.json")["arch"]
  assert len(winner) > 5000
  short = f"{winner[:11]}…{winner[-6:]}"
  head, _, rest = text.partition("the whole mask")
  assert short in head and winner not in head and winner in rest
  assert winner not in rest.partition(winner)[2]  # in full once only
  number = load(folder, "result.json")["candidate"]
  assert f"candidate {number}" in text or number == -1
  svg = re.search(r'<svg[^>]*aria-label="Channels.*?</svg>', page, re.S)[0]
  rows = list(ET.fromstring(svg).iter(SVG + "g"))
  assert 0 < len(rows) <= MOST
  titles = [g.find(SVG + "title").text for g in rows]
  assert titles[0].startswith("block0.layer0: keeps")
  found = [re.search(r"keeps ([\d,]+) of ([\d,]+) .* ([\d,]+) of ([\d,]+)", t)
           for t in titles]  # fmt: skip
  sums = [sum(int(f[i].replace(",", "")) for f in found) for i in range(1, 5)]
  groups = load(folder, "posterior.json")["groups"]
  gone = sum(not g["kept"] for g in groups)
  kept = sum(g["kept"] for g in groups)
  assert sums == [kept, space.n_layers, gone, 638]


def part(kernel=3, channels=8, kept=4):
  return Part(kernel, channels, kept, kept, 4.0, 1, int(not kept))


NAMES = st.lists(
  st.sampled_from("abc").flatmap(
    lambda s: st.integers(0, 9).map(lambda b: f"{s}.block{b}.conv")
  ),
  min_size=1, max_size=60, unique=True,
)  # fmt: skip


@given(NAMES, st.integers(1, 40))
def test_joined_rows_lose_nothing(names, most):
  rows = [Row(f"{name}{i % 3}", (part(1 + 2 * (i % 3)),), float(i))
          for i, name in enumerate(sorted(names))]  # fmt: skip
  found = gather(rows, most)
  assert len(found) <= max(most, 3)
  assert sum(r.macs for r in found) == sum(r.macs for r in rows)
  totals = [sum(vars(r.total)[k] for r in rows)
            for k in ("channels", "kept", "groups")]  # fmt: skip
  assert totals == [sum(vars(r.total)[k] for r in found)
                    for k in ("channels", "kept", "groups")]  # fmt: skip
  if len(rows) <= most:
    assert found == rows
  assert all(
    [p.kernel for p in r.parts] == sorted({p.kernel for p in r.parts})
    for r in found
  )


def test_everything_is_inside_and_no_texts_touch():
  rows = [
    Row("a.very.long.prefix.of.names.and_a_long_name", (
      Part(1, 99_999, 99_999, 10, 50_000.0, 140, 4),
      Part(3, 99_999, 0, 0, 50_000.0, 164, 164),
      Part(9, 99_999, 0, 0, 50_000.0, 64, 64),
    ), 123.4e6),
    Row("stage2.block10.conv11", (part(),), 388.1e6),
    Row("classifier", (part(1, 2048, 1024),), 1024.0),
    Row("stage2.gone", (part(5, 32, 0),), 0.0),
  ]  # fmt: skip
  root = ET.fromstring(draw_kept(rows))
  _, _, width, height = map(float, root.get("viewBox").split())
  lines = {}
  for t in root.iter(SVG + "text"):
    # 0.62 em a character is wider than the usual fonts.
    size, x = float(t.get("font-size")), float(t.get("x"))
    length = 0.62 * size * len(t.text)
    start = x - length * {"start": 0, "end": 1}[t.get("text-anchor")]
    assert start >= -1 and start + length <= width + 1, t.text
    assert size <= float(t.get("y")) <= height
    lines.setdefault(t.get("y"), []).append((start, start + length, t.text))
  for line in lines.values():
    line.sort()
    for left, right in zip(line, line[1:], strict=False):
      assert left[1] <= right[0] + 1, (left, right)
  for r in root.iter(SVG + "rect"):
    x, w = float(r.get("x")), float(r.get("width"))
    assert x >= 0 and w >= 0 and x + w <= width


def test_same_files_give_the_same_bytes(original, folder):
  assert read(original) == read(folder)
