"""Notebooks on supernets of paths, on one tiny space that they all share."""

import json
import re

import numpy as np
import pytest
from notebooks import SUPERNET, TINY, Executed, execute

from jaxnas.spaces import get_space

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(repo, xla_cache, tmp_path_factory):
  """Executes a notebook by name."""

  def start(name: str, *smaller: str) -> Executed:
    path = repo / "colab" / f"{name}.ipynb"
    return execute(path, tmp_path_factory.mktemp(name), xla_cache, *smaller)

  return start


def test_every_notebook_is_small_clean_and_explained(repo):
  paths = sorted((repo / "colab").glob("*.ipynb"))
  assert [path.stem for path in paths] == [
    "dcnas", "fairnas", "gcn", "irlas", "own_dataset", "own_search_space",
    "pgnas", "quickstart", "ranking_study",
  ]  # fmt: skip
  readme = (repo / "README.md").read_text()
  for path in paths:
    notebook = json.loads(path.read_text())
    cells = notebook["cells"]
    kinds = [cell["cell_type"] for cell in cells]
    # A short text stands before every cell, and the ids do not change.
    assert kinds[:2] == ["markdown", "markdown"], path.stem
    assert all(
      kinds[i - 1] == "markdown" for i, k in enumerate(kinds) if k == "code"
    ), path.stem
    assert [c["id"] for c in cells] == [f"cell-{i}" for i in range(len(cells))]
    assert not any(c.get("outputs") for c in cells)
    assert all(len(c["source"]) <= 30 for c in cells)
    assert f"colab/{path.name}" in readme


def test_notebooks_claim_only_what_the_results_say(repo):
  """Figures with an interval are those of `docs/results.md`."""
  results = (repo / "docs" / "results.md").read_text()
  readme = (repo / "README.md").read_text()
  for path in (repo / "colab").glob("*.ipynb"):
    for cell in json.loads(path.read_text())["cells"]:
      if cell["cell_type"] == "markdown":
        text = "".join(cell["source"])
        for interval in re.findall(r"\[-?[\d.]+, -?[\d.]+\]", text):
          assert interval in results + readme, (path.stem, interval)


def test_quickstart(run):
  seen = run("quickstart", *TINY, *SUPERNET, "ranking.n_archs=4")
  result = seen.file("result.json")
  accuracy = result["metrics"]["test_accuracy"]
  assert seen.found(r"test accuracy ([\d.]+)") == (f"{accuracy:.4f}",)
  assert seen.found(r"(\d+) archs of (\d) layers") == ("81", "4")
  # The whole report is shown: the page with the ranking that was asked for.
  (page,) = seen.pictures("text/html")
  assert result["arch"] in page
  assert "Kendall" in page
  assert seen.file("ranking.json")["n"] == 4


def test_fairnas(run):
  seen = run("fairnas", *TINY, *SUPERNET)
  steps = 256 // 32
  assert np.array_equal(
    seen.file("fairness.json")["counts"], np.full((4, 3), steps)
  )
  assert seen.found(r"trained (\d+) to (\d+) times: strictly fair (\w+)") == (
    str(steps), str(steps), "True",
  )  # fmt: skip
  assert seen.found(r"chosen (\w+):") == (seen.file("result.json")["arch"],)
  assert seen.shown["image/png"] == 3  # counts, front, digits


def test_gcn(run):
  smaller = (
    "search.segments.first=2", "search.segments.later=3",
    "search.segments.samples=20", "search.segments.candidates=6",
    "search.segments.top_k=3", "search.segments.cost_bins=2",
    "search.predictor.epochs=2", "search.predictor.ensemble=1",
    "search.predictor.layers=1", "search.predictor.width=8",
  )  # fmt: skip
  seen = run("gcn", *TINY, *SUPERNET, *smaller)
  answers = seen.file("lookup.json")["answers"]
  limits = [int(row["budget"].removeprefix("macs<=")) for row in answers]
  assert len(set(limits)) == 5
  assert all(row["macs"] <= n for row, n in zip(answers, limits, strict=True))
  # A larger budget never gets a worse answer.
  assert limits == sorted(limits)
  predicted = [row["predicted"] for row in answers]
  assert predicted == sorted(predicted)
  for row in answers:
    assert re.search(rf"{row['budget']}\s+{row['arch']}\s", seen.text)
  # Nine sub-archs of two layers are too few, what follows is not.
  assert "layers 0 to 1: too few to hold out" in seen.text
  held = seen.file("predictors.json")["segments"][1]["held_out"]
  assert seen.found(r"layers 2 to 3: (\d+) held out") == (str(held["n"]),)
  for name, fit in held["predictors"].items():
    tau = fit["kendall_tau_b"]["value"]
    assert re.search(rf"  {name} +{tau:.3f} \[", seen.text)
  assert seen.shown["image/png"] == 2


def test_ranking_study(run):
  seen = run("ranking_study", *TINY, *SUPERNET, "ranking.n_archs=8")
  ranking = seen.file("ranking.json")
  tau = ranking["kendall_tau_b"]
  low, high = f"{tau['low']:.3f}", f"{tau['high']:.3f}"
  assert seen.found(r"tau-b (\S+), 95 % interval \[(\S+), (\S+)\]") == (
    f"{tau['value']:.3f}", low, high,
  )  # fmt: skip
  # The bootstrap by hand is the library's, with other random numbers.
  own = [float(v) for v in seen.found(r"own bootstrap: \[(\S+), (\S+)\]")]
  np.testing.assert_allclose(own, [tau["low"], tau["high"]], atol=0.25)
  lines = re.findall(r" (\d+) networks: (\S+) \[(\S+), (\S+)\]", seen.text)
  assert [line[0] for line in lines] == ["4", "8"]
  assert lines[-1][1] == f"{tau['value']:.3f}"
  for name in ("macs", "params"):
    gain = ranking["baselines"][name]["gain"]["value"]
    assert f"supernet less {name}: {gain:.3f} [" in seen.text
  (again,) = seen.found(r"measured again: (\S+)")
  assert 0 < float(again) < 1
  assert not (seen.workdir / "search.json").exists()


def test_own_dataset(run):
  seen = run("own_dataset", *TINY, *SUPERNET)
  assert len(list((seen.folder / "my_images").glob("*/*.png"))) == 1797
  names = "eight, five, four, nine, one, seven, six, three, two, zero"
  assert f"10 classes: {names}" in seen.text
  # From the folder and from the arrays: equally many images in each split.
  sizes = re.findall(r"(\w+) +(\d+) images of \(8, 8, 1\)", seen.text)
  assert dict(sizes) == {"train": "256", "validation": "359", "test": "359"}
  assert sizes[:3] == sizes[3:]
  assert seen.file("config.json")["data"]["source"] == "folder:my_images"
  # `predict.py` prints names, and so do the labels beside them.
  printed = re.findall(r"\['(.*)'\]", seen.text)
  assert len(printed) == 2
  for row in printed:
    assert len(words := row.split("', '")) == 5
    assert set(words) <= set(names.split(", "))
  assert seen.shown["image/png"] == 2


def test_own_search_space(run):
  seen = run("own_search_space", *TINY[1:], *SUPERNET)
  file = seen.folder / "my_space.py"
  assert len(file.read_text().splitlines()) < 60
  space = get_space(str(file))
  assert space.size == 81
  result = seen.file("result.json")
  assert result["space"] == "mine"
  limit = int(result["budget"].removeprefix("macs<="))
  assert result["metrics"]["macs"] <= limit
  # Of all archs within the budget so many score higher than the one found.
  best, found, better = seen.found(
    r"best within the budget (\S+), found (\S+): (\d+) archs score higher"
  )
  assert found == f"{result['metrics']['supernet_accuracy']:.4f}"
  assert (float(best) > float(found)) == (int(better) > 0)
  (kept,) = seen.found(r"(\d+) of 81 archs keep")
  assert int(better) < int(kept) < 81
  assert seen.shown["image/png"] == 3
