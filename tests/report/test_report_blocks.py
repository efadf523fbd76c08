"""The page of a search for blocks against the files it was made from."""

import json
import math
import re
import shutil

import block_workdir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_masks import check_page
from test_report_page import edit, read, words

from jaxnas.costs import format_count
from jaxnas.report.block_drawing import canonical_block
from jaxnas.report.block_guidance import accuracy_claim, ratio, speed_claim
from jaxnas.report.statements import Estimate, wilson
from jaxnas.spaces import expert, nsc

OF_SEARCH = {"blocks", "best", "expert", "guidance", "latency", "progress"}
OF_PATHS_AND_MASKS = {"chosen", "architecture", "kept", "rates", "fairness"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  return block_workdir.write(tmp_path_factory.mktemp("blocks") / "run")


@pytest.fixture(scope="module")
def given_block(tmp_path_factory):
  return block_workdir.write_given(tmp_path_factory.mktemp("given") / "run")


@pytest.fixture(scope="module")
def page(original):
  return read(original)


@pytest.fixture
def folder(original, tmp_path):
  return shutil.copytree(original, tmp_path / "copy")


def keep_only(folder, *names):
  """Removes other files; pages without their charts are made faster."""
  for path in folder.iterdir():
    if path.name not in ("config.json", "space.json", "manifest.json", *names):
      path.unlink()


def load(folder, name):
  return json.loads((folder / name).read_text())


def section(page, name):
  """The visible words of one section."""
  found = re.search(rf'<section id="{name}">.*?</section>', page, flags=re.S)
  return words(found[0])


# Which sections --------------------------------------------------------------


def test_all_sections_of_a_search_and_none_of_other_runs(page):
  ids = check_page(page)
  assert {*OF_SEARCH, "training", "trust", "sources"} <= ids
  assert not OF_PATHS_AND_MASKS & ids


def test_missing_files_leave_their_sections_out(folder):
  sections = {
    "latency.json": "latency", "guidance.json": "guidance",
    "irl.json": "expert", "metrics.jsonl": "progress",
  }  # fmt: skip
  for name in sections:
    (folder / name).unlink()
  page = read(folder)
  assert not set(sections.values()) & check_page(page)
  assert {"blocks", "best"} <= check_page(page)
  for name in sections:
    assert name in section(page, "provenance")
  for name in ("archs.csv", "result.json", "search.json", "space.json"):
    (folder / name).unlink()
    ids = check_page(read(folder))
  assert not OF_SEARCH & ids
  for path in folder.iterdir():
    if path.name != "config.json":
      path.unlink()
  text = words(read(folder))
  assert "no result yet" in text
  assert "fairness.json" not in text and "posterior.json" not in text


def test_after_each_stage_there_is_a_page(folder):
  # Right after the experts were learned from: they are drawn, nothing is found.
  keep_only(folder, "irl.json")
  page = read(folder)
  assert {"blocks", "expert"} <= check_page(page)
  assert "has not ended yet" in section(page, "blocks")
  assert "The block found" not in section(page, "expert")


def test_a_given_block_needs_no_search(given_block):
  page = read(given_block)
  ids = check_page(page)
  assert "blocks" in ids and not (OF_SEARCH - {"blocks"}) & ids
  assert "trust" not in ids
  text = words(page)
  assert "the preset resnext-2" in text
  assert "The block was given, so nothing was selected" in text
  assert "Selection used" not in text
  assert "irl.json" not in text and "latency.json" not in text
  assert "Given block: 8 layers." in section(page, "blocks")
  assert "expert.blocks" not in section(page, "own-data")


def test_old_columns_and_keys_may_be_missing(folder):
  """Files of the least content that a section can be made of."""
  edit(folder, "irl.json", weights=[], rows=[])
  value = load(folder, "guidance.json")
  for row in value["rows"]:
    for key in ("low", "high", "mean_mirror", "mean_distance", "mirror"):
      del row[key]
  edit(folder, "guidance.json", **value)
  latency = load(folder, "latency.json")
  chosen = next(b for b in latency["blocks"] if b["kind"] == "chosen")
  del chosen["times"]["16"], latency["calls"]
  edit(folder, "latency.json", **latency)
  keep_only(folder, "irl.json", "guidance.json", "latency.json", "search.json")
  page = read(folder)
  check_page(page)
  assert "No intervals are known" in section(page, "guidance")
  text = section(page, "latency")
  assert "1 image a call" in text and "16 images a call" not in text


# What it says ----------------------------------------------------------------


def test_every_number_equals_its_source(page, original):
  search, irl = load(original, "search.json"), load(original, "irl.json")
  best = section(page, "best")
  for row in search["top"]:
    assert f"{100 * row['accuracy']:.2f}%" in best
    assert f"{row['mirror']:.3f}" in best
    assert format_count(row["macs"]) in best
  assert f"differ in {search['diversity']:.1f} layers" in best
  text = section(page, "expert")
  n = len(irl["random_values"])
  low, high = wilson(irl["share_below"], n)
  assert f"{100 * irl['share_below']:.2f}% of {n} random blocks" in text
  assert f"interval {100 * low:.2f}% to {100 * high:.2f}%" in text
  values = [(row["value"], row["name"]) for row in irl["weights"]]
  value, name = max(values)
  assert f"Most rewarded: {name} ({value:.3f})" in text
  value, name = min(values)
  assert f"most punished: {name} (−{-value:.3f})" in text
  text = section(page, "guidance")
  for row in load(original, "guidance.json")["rows"]:
    for key in ("accuracy", "low", "high"):
      assert f"{100 * row[key]:.2f}%" in text
    for key in ("mirror", "mean_mirror", "mean_distance"):
      assert f"{row[key]:.3f}" in text
  text = section(page, "latency")
  for block in load(original, "latency.json")["blocks"]:
    for time in block["times"].values():
      assert f"{time['ms']:.3g} [{time['low']:.3g}, {time['high']:.3g}]" in text


def test_the_standing_counts_only_blocks_of_the_same_lambda(page, original):
  lines = (original / "archs.csv").read_text().splitlines()
  head = [h.strip('"') for h in lines[0].split(",")]
  rows = [dict(zip(head, line.split(","), strict=True)) for line in lines[1:]]
  own = load(original, "search.json")["accuracy"]
  mine = {
    r["arch"]: float(r["accuracy"]) for r in rows
    if float(r["guidance"]) == 0.3
  }  # fmt: skip
  above = sum(v > own for v in mine.values())
  text = section(page, "best")
  assert f"Of the {len(mine)} blocks evaluated with its λ, {above} have" in text
  assert "accuracy + 0.3 F" in text


def test_distances_are_edit_distances_of_what_is_drawn(page, folder):
  arch = load(folder, "search.json")["arch"]
  away = nsc.edit_distance(canonical_block(arch), expert("resnext-2"))
  text = section(page, "blocks")
  assert f"The block found is {away} layers away from the expert" in text
  same = "-".join(map(nsc.to_text, expert("resnext-2")))
  edit(folder, "search.json", arch=same)
  keep_only(folder, "irl.json", "search.json")
  text = section(read(folder), "blocks")
  assert "found the very topology of resnext-2" in text


def test_an_expert_may_be_larger_than_the_space(tmp_path):
  folder = block_workdir.write(
    tmp_path / "run", max_layers=4, experts=("resnext-5", "resnet-basic"), n=12
  )
  keep_only(folder, "irl.json", "search.json", "result.json")
  page = read(folder)
  check_page(page)
  assert "Expert resnext-5: 20 layers" in section(page, "blocks")
  assert "the nearest expert" in section(page, "blocks")


def test_one_lambda_has_a_table_and_no_charts(tmp_path):
  folder = block_workdir.write(tmp_path / "run", (0.3,), n=12)
  page = read(folder)
  check_page(page)
  assert "there is no comparison" in section(page, "guidance")
  assert 'id="by-' not in page


@pytest.mark.parametrize("evaluation", ["interpreter", "children", "table"])
def test_three_accuracies_are_never_mixed_up(tmp_path, evaluation):
  folder = block_workdir.write(
    tmp_path / "run", evaluation=evaluation, n=12, max_layers=4
  )
  page = read(folder)
  ids = check_page(page)
  parts = ("best", "guidance", "latency", "progress")
  text = " ".join(section(page, name) for name in parts)
  supernet = evaluation == "interpreter"
  assert ("supernet accuracy" in text.lower()) == supernet
  assert ("ours, not what BlockQNN did" in section(page, "sources")) == supernet
  assert ("trust" in ids) == supernet
  assert ("accuracy after a short training" in text) == (
    evaluation == "children"
  )
  # Intervals need a number of images, which a table does not say.
  claimed = "No intervals are known" not in text
  assert claimed == (evaluation != "table")


def test_honesty_labels(page):
  text = section(page, "sources")
  assert "published network exact, IRL search reconstructed" in text
  assert "from independent sources, four constants recalled" in text
  assert "ours, not what BlockQNN did" in section(page, "training")
  assert "ours, not what BlockQNN did" in section(page, "glossary")


def test_progress_keeps_lambdas_apart_and_the_last_of_repeats(folder):
  path = folder / "metrics.jsonl"
  row = {"stage": "search", "round": 1, "guidance": 5.0, "evaluated": 0}
  first = row | {"best_accuracy": -math.inf}
  rows = [first, row | {"best_accuracy": 0.5}]
  path.write_text(
    path.read_text() + "".join(json.dumps(r) + "\n" for r in rows)
  )
  keep_only(folder, "metrics.jsonl")
  text = section(read(folder), "progress")
  for guidance in ("0", "0.3", "1", "5"):
    assert f"λ = {guidance} " in text + " "


def test_a_budget_is_compared_with_the_chosen_block(folder):
  macs = load(folder, "search.json")["macs"]
  keep_only(folder, "result.json")
  edit(folder, "result.json", budget=f"macs<={2 * macs}")
  assert "50.0% of the budget" in words(read(folder))
  edit(folder, "result.json", budget=f"macs<={macs - 1}")
  assert "above the budget" in words(read(folder))
  result = load(folder, "result.json")
  edit(folder, "result.json", metrics=result["metrics"] | {"macs": 1})
  assert "adds up to" in words(read(folder))


# Claims ----------------------------------------------------------------------

ONE = Estimate(1.0, 0.9, 1.1)


@pytest.mark.parametrize("others, said", [
  ([(2, 1.8, 2.2), (3, 2, 4)], "faster than each of the 2"),
  ([(0.5, 0.4, 0.6)], "slower than the random block"),
  ([(1.2, 1.1, 1.3)], "no difference was shown"),  # they touch
  ([(2, 1.8, 2.2), (1, 0.9, 1.1)], "faster than 1 of 2"),
  ([(2, 1.8, 2.2), (0.5, 0.4, 0.6)], "faster than 1 and slower than 1 of 2"),
  ([(2, 1.0, 2.2)], "no difference was shown"),
])  # fmt: skip
def test_faster_only_where_spreads_do_not_overlap(others, said):
  text = speed_claim(ONE, [Estimate(*o) for o in others])
  assert said in text
  overall = "faster than each" in text or "slower than the random" in text
  partly = "not shown to be faster" in text
  assert ("no difference" in text) + overall + partly == 1


def test_the_ratio_is_the_median_of_ratios():
  others = [Estimate(v, v, v) for v in (1.0, 2.0, 4.0)]
  text = speed_claim(ONE, others)
  assert "takes 0.50× the time" in text and "0.25× to 1.00×" in text


@given(
  st.tuples(*[st.floats(0.1, 10)] * 3).map(sorted),
  st.tuples(*[st.floats(0.1, 10)] * 3).map(sorted),
)
def test_a_ratio_excludes_one_exactly_if_spreads_do_not_overlap(a, b):
  first, second = (Estimate(v[1], v[0], v[2]) for v in (a, b))
  found = ratio(first, second)
  assert found.low <= found.value <= found.high
  # At a distance of rounding errors both are right.
  if abs(first.high - second.low) > 1e-9 < abs(first.low - second.high):
    differs = first.high < second.low or first.low > second.high
    assert differs == (found.high < 1 or found.low > 1)


@pytest.mark.parametrize("other, said", [
  ((0.8, 0.7, 0.85), "A is more accurate"),
  ((0.99, 0.97, 1.0), "B is more accurate"),
  ((0.88, 0.86, 0.9), "no difference was shown"),
  ((0.5, math.nan, math.nan), "no difference was shown"),
])  # fmt: skip
def test_more_accurate_only_where_intervals_do_not_overlap(other, said):
  text = accuracy_claim(Estimate(0.92, 0.9, 0.94), Estimate(*other), "A", "B")
  assert said in text and text.count("more accurate") == ("more" in said)


def test_random_blocks_of_other_accuracy_are_said_to_be_so(page, folder):
  value = load(folder, "latency.json")
  assert "not of equal accuracy" not in section(page, "latency")
  keep_only(folder, "latency.json")
  value["blocks"][-1]["accuracy"] = 0.3
  edit(folder, "latency.json", **value)
  assert "1 of 5 lie further away" in section(read(folder), "latency")
