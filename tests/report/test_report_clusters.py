"""The page of a run with clusters, and of evolution, against its files."""

import csv
import json
import math
import shutil

import cluster_workdir
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_blocks import section
from test_report_masks import check_page
from test_report_page import edit, read, words

from jaxnas.costs import format_count
from jaxnas.report.cluster_plots import SHADES, shade_of
from jaxnas.report.cluster_worth import verdict
from jaxnas.report.statements import wilson

OF_CLUSTERS = {"divide", "conquer", "within", "spent", "sources"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  return cluster_workdir.write(tmp_path_factory.mktemp("clusters") / "run")


@pytest.fixture(scope="module")
def page(original):
  return read(original)


@pytest.fixture
def folder(original, tmp_path):
  return shutil.copytree(original, tmp_path / "copy")


def load(folder, name):
  return json.loads((folder / name).read_text())


def keep_only(folder, *names):
  """Removes other files; pages without their charts are made faster."""
  for path in folder.iterdir():
    if path.name not in ("config.json", "space.json", "manifest.json", *names):
      path.unlink()


def change_arch(folder, arch, **fields):
  rows = load(folder, "clusters.json")["archs"]
  next(r for r in rows if r["arch"] == arch).update(fields)
  edit(folder, "clusters.json", archs=rows)


def early_best(folder):
  rows = load(folder, "clusters.json")["archs"]
  return max(rows, key=lambda r: r["early"])


# Which sections --------------------------------------------------------------


def test_all_sections_of_clusters(page):
  ids = check_page(page)
  assert ids >= OF_CLUSTERS | {"chosen", "architecture", "trust", "glossary"}
  assert not {"fairness", "blocks", "kept"} & ids
  assert "Not in this directory" not in words(page)


def test_missing_files_leave_their_sections_out(folder):
  (folder / "ranking.json").unlink()
  page = read(folder)
  ids = check_page(page)
  assert "within" not in ids and "divide" in ids
  assert "ranking.n_archs=24" in section(page, "trust")
  (folder / "clusters.json").unlink()
  page = read(folder)
  assert OF_CLUSTERS & check_page(page) == {"sources"}
  assert "clusters.json" in section(page, "provenance")
  keep_only(folder)
  text = words(read(folder))
  assert "no result yet" in text and "fairness.json" not in text


def test_before_there_is_a_winner(folder):
  keep_only(folder, "clusters.json")
  value = load(folder, "clusters.json")
  del value["stability"], value["merge"], value["explained"], value["cost"]
  (folder / "clusters.json").write_text(json.dumps(value))
  page = read(folder)
  assert check_page(page) & OF_CLUSTERS == {"divide", "sources"}
  assert "The star" not in section(page, "divide")


def test_no_ranking_within_clusters_without_partition(folder):
  value = load(folder, "ranking.json")
  del value["partition"]
  (folder / "ranking.json").write_text(json.dumps(value))
  ids = check_page(read(folder))
  assert "within" not in ids and "trust" in ids


def test_failed_trainings_leave_gaps_and_no_nan(folder):
  rows = load(folder, "clusters.json")["archs"]
  lost = next(r for r in rows if not r["survivor"])
  change_arch(folder, lost["arch"], early=None)
  clusters = load(folder, "clusters.json")["clusters"]
  clusters[0].update(winner=None, early=None, longer=None, macs=None)
  edit(folder, "clusters.json", clusters=clusters)
  keep_only(folder, "clusters.json", "result.json", "search.json")
  page = read(folder)
  check_page(page)
  assert "None" not in section(page, "divide")


# What it says ----------------------------------------------------------------


def test_every_number_equals_its_source(page, original):
  found = load(original, "clusters.json")
  text = section(page, "divide")
  for row in found["clusters"]:
    for key in ("early", "longer"):
      assert f"{100 * row[key]:.2f}%" in text
    assert row["winner"] in text and format_count(row["macs"]) in text
  assert "k = 8 was given" in text and "18.30% lies between" in text
  assert "41% of variance" in text and "17% of variance" in text
  assert "0.710 [0.620, 0.800]" in text
  assert "random clusters it would be about 11%" in text  # 7 of 63
  text = section(page, "within")
  partition = load(original, "ranking.json")["partition"]
  inside = sum(math.comb(s, 2) for s in partition["sizes"])
  assert f"{inside} of 276 pairs of the 24 ranked archs" in text
  text = section(page, "spent")
  first, last = (row["images"] for row in found["cost"])
  assert f"took {100 * first / (first + last):.2f}% of" in text
  assert f"{100 * 61.5 / 101.75:.2f}% of the seconds" in text
  for row in found["cost"]:
    assert f"{row['images']:,}" in text and f"{row['networks']}" in text


def test_the_winner_is_placed_among_early_accuracies(page, original):
  arch = load(original, "result.json")["arch"]
  with open(original / "archs.csv", newline="") as file:
    rows = {r["arch"]: float(r["accuracy"]) for r in csv.DictReader(file)}
  above = sum(v > rows[arch] for v in rows.values())
  text = section(page, "conquer")
  assert f"number {above + 1} of 64 in early accuracy" in text
  assert f"{above} have a higher early accuracy" in section(page, "chosen")
  assert f"early accuracy {100 * rows[arch]:.2f}%" in words(page)


def test_plain_early_stopping_is_compared_by_intervals(page, folder):
  plain, winner = early_best(folder), load(folder, "search.json")
  n = cluster_workdir.VALIDATION
  text = section(page, "conquer")
  assert f"would have chosen {plain['arch']}" in text
  for value in (plain["longer"], winner["accuracy"]):
    low, high = wilson(value, n)
    assert f"{100 * value:.2f}% ({100 * low:.2f}% to {100 * high:.2f}%)" in text
  assert "no difference was shown" in text
  keep_only(folder, "clusters.json", "result.json", "search.json")
  change_arch(folder, plain["arch"], longer=0.5)
  text = section(read(folder), "conquer")
  assert "do not overlap: the winner is more accurate" in text
  change_arch(folder, plain["arch"], longer=None)  # halving dropped it
  assert "not trained longer, so" in section(read(folder), "conquer")
  change_arch(folder, winner["arch"], early=0.99)
  text = section(read(folder), "conquer")
  assert "the same arch: no gain was shown" in text
  # Of equals the first sampled counts, as inside a cluster.
  rows = load(folder, "clusters.json")["archs"]
  rows.sort(key=lambda r: r["arch"] == winner["arch"])
  rows[0]["early"] = 0.99
  edit(folder, "clusters.json", archs=rows)
  text = section(read(folder), "conquer")
  assert f"would have chosen {rows[0]['arch']}" in text
  assert "99.00%, the first of 2 equals" in text


def test_no_claim_without_a_number_of_images(folder):
  keep_only(folder, "clusters.json", "result.json", "search.json")
  (folder / "manifest.json").unlink()
  text = section(read(folder), "conquer")
  assert "no difference is claimed" in text
  assert "interval" not in text.replace("No intervals are known", "")


def test_warnings_only_where_they_are_due(page, folder):
  assert 'class="warning"' not in page
  keep_only(folder, "clusters.json")
  stability = {"adjusted_rand": {"value": 0.49, "low": 0.4, "high": 0.6}}
  edit(folder, "clusters.json", macs_explained=0.51, stability=stability)
  text = section(read(folder), "divide")
  assert "Clusters mostly encode multiply-adds" in text
  assert "Another seed of k-means would have divided otherwise" in text
  edit(folder, "clusters.json", partition="macs")  # by design, then
  assert "mostly encode" not in section(read(folder), "divide")


def test_silhouette_is_drawn_where_it_chose(page, tmp_path):
  assert 'aria-label="Mean silhouette' not in page
  folder = cluster_workdir.write(tmp_path / "run", clusters=0)
  keep_only(folder, "clusters.json")
  page = read(folder)
  assert 'aria-label="Mean silhouette' in page
  text = section(page, "divide")
  assert "k = 5 has the largest mean silhouette, 0.350, of k = 2 to 12" in text
  edit(folder, "clusters.json", k=4)
  assert "k = 4 has a mean silhouette, 0.330" in section(read(folder), "divide")


def test_both_readings_of_merge(page, tmp_path):
  text = section(page, "conquer")
  assert "a vote of the clusters' best in each layer, gives" in text
  folder = cluster_workdir.write(tmp_path / "run", merge="vote")
  merge = load(folder, "clusters.json")["merge"]
  keep_only(folder, "clusters.json", "result.json", "search.json")
  page = read(folder)
  check_page(page)
  text = section(page, "conquer")
  assert f"The winner, {merge['vote']}, is a vote" in text
  assert f"take the best, gives {merge['winner']}" in text
  assert "flatters" not in text and "is 93.33%" in text
  assert "there is no star" in section(page, "divide")
  # A vote above the budget does not win.
  for name in ("result.json", "search.json"):
    edit(folder, name, arch=merge["winner"])
  text = section(read(folder), "conquer")
  assert "is a vote:" not in text and f"gives {merge['vote']}" in text


@pytest.mark.parametrize("method, source, early", [
  ("dcnas", "short-training", True), ("dcnas", "shared-weights", False),
  ("evolution", "short-training", True),
])  # fmt: skip
def test_accuracies_are_never_mixed_up(tmp_path, method, source, early):
  divide = {"source": source} if method == "dcnas" else {}
  folder = cluster_workdir.write(tmp_path / "run", method, **divide)
  page = read(folder)
  ids = check_page(page)
  assert ("fairness" in ids) != early
  assert bool(OF_CLUSTERS & ids) == (method == "dcnas")
  parts = {"chosen", "conquer", "divide", "trust", "within", "progress"} & ids
  text = " ".join(section(page, name) for name in parts)
  assert ("early" in text.replace("Plain early stopping", "")
          .replace("early stopping's arch", "")) == early  # fmt: skip
  assert ("supernet" in text.lower()) != early
  assert ("there is no supernet" in section(page, "glossary")) == early
  assert ("none: the search had no supernet" in words(page)) == early
  assert "Not in this directory" not in words(page)


def test_evolution_promises_no_command_that_it_lacks(tmp_path):
  page = read(cluster_workdir.write(tmp_path / "run", "evolution"))
  assert "Unknown" in section(page, "trust")
  text = words(page)
  assert "ranking.n_archs=" not in text and "jaxnas rank" not in text
  assert "divide.clusters=" not in section(page, "own-data")


def test_what_is_whose(page, tmp_path):
  text = section(page, "sources")
  assert "five steps" in text and "jaxnas's design" in text
  assert "shared weights" not in text
  folder = cluster_workdir.write(tmp_path / "run", source="shared-weights")
  keep_only(folder, "clusters.json")
  assert "jaxnas's variant" in section(read(folder), "sources")


# Claims ----------------------------------------------------------------------


def partition(low, high, p):
  return {
    "n": 24, "random": {"p": p},
    "difference": {"value": None if low is None else (low + high) / 2,
                   "low": low, "high": high},
  }  # fmt: skip


@pytest.mark.parametrize("low, high, p, said", [
  (0.01, 0.2, 0.049, "Supported"),
  (0.01, 0.2, 0.05, "p = 0.050 against random parts"),
  (0.0, 0.2, 0.01, "does not exclude zero"),
  (-0.3, -0.1, 0.01, "the ranking is worse"),
  (0.01, 0.2, None, "random parts is missing"),
  (None, None, 0.01, "does not exclude zero"),
])  # fmt: skip
def test_the_claim_needs_both_the_interval_and_the_random_parts(
  low, high, p, said
):
  text = verdict(partition(low, high, p))
  assert said in text
  assert text.startswith("Not shown") != text.startswith("Supported")


@given(
  st.floats(-1, 1), st.floats(-1, 1), st.one_of(st.none(), st.floats(0, 1))
)
def test_supported_only_by_all_evidence(a, b, p):
  low, high = sorted((a, b))
  text = verdict(partition(low, high, p))
  supported = low > 0 and p is not None and p < 0.05
  assert text.startswith("Supported") == supported


def test_the_verdict_stands_on_the_page(page, folder):
  assert "Supported by these 24 archs" in section(page, "within")
  assert "nothing is claimed" in section(page, "within")  # alike in MACs
  keep_only(folder, "ranking.json")
  value = load(folder, "ranking.json")["partition"]
  value["random"]["p"] = 0.3
  value["macs"]["beyond"] = {"value": 0.4, "low": 0.1, "high": 0.6}
  edit(folder, "ranking.json", partition=value)
  text = section(read(folder), "within")
  assert "Not shown" in text and "clusters rank better" in text


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40))
def test_shades_rise_with_values(values):
  steps = shade_of(np.array(values, float))
  order = np.argsort(values)
  assert (np.diff(steps[order]) >= 0).all()
  assert steps.min() >= 0 and steps.max() < len(SHADES)
  if min(values) < max(values):
    assert steps.min() == 0 and steps.max() == len(SHADES) - 1
