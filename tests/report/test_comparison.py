"""The page and the chart of a comparison against the numbers behind them."""

import html
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from test_report_page import parse, words

from jaxnas.compare import Arm
from jaxnas.compare.summary import compare_regrets, compare_runs
from jaxnas.config import ExperimentConfig
from jaxnas.printing import text
from jaxnas.report import comparison_plots
from jaxnas.report.comparison import write_comparison

NAMES = ("random", "SPOS", "FairNAS", "a & b", "PGNAS", "IRLAS")


def run(i, seed, rng):
  """A row of `run_arms`; the arms get better by far more than seeds differ."""
  return {
    "seed": seed, "method": "spos", "space": "digits", "arch": f"{i}-0-1",
    "test_accuracy": 0.9 + 0.01 * i + 0.0005 * rng.standard_normal(),
    "standalone_accuracy": None if i == 4 else 0.95, "evaluated": 9,
    "macs": (3_000_000 if i > 3 else 500_000) + 1000 * seed, "params": 61_234,
    "images": {"train": 10_000 * i, "search": 5_000, "retrain": 7_000},
    "seconds": {"train": 2.0, "search": 61.5, "retrain": 9.0, "compile": 3.0},
    "data": {"source": "digits", "train": 1079, "validation": 359,
             "test": 359},
  }  # fmt: skip


def trained(seeds=5):
  rng = np.random.default_rng(0)
  rows = {
    name: [run(i, s, rng) for s in range(seeds)] for i, name in enumerate(NAMES)
  }
  arms = [Arm(name, ExperimentConfig(), True) for name in NAMES]
  return compare_runs(arms, range(seeds), rows) | {"left_out": []}


def searched(seeds=30):
  rng = np.random.default_rng(0)
  rows = {}
  for i, name in enumerate(NAMES):
    rows[name] = [
      {
        "table": "macro", "algorithm": "Evolution", "budget": "", "of": 3969,
        "seconds": 0.5, "best": {"accuracy": 0.9},
        "curve": np.maximum.accumulate(
          0.9 - rng.exponential(0.02 * (1 + i), 40)
        ).tolist(),
      }
      for _ in range(seeds)
    ]  # fmt: skip
  rows[NAMES[0]] = [
    row | {"curve": [*row["curve"][:20], *[0.9] * 20]} for row in rows[NAMES[0]]
  ]
  arms = [Arm(name, ExperimentConfig(), True) for name in NAMES]
  return compare_regrets(arms, range(seeds), rows) | {
    "left_out": [{"arm": "masks", "why": "method pgnas searches no archs"}]
  }


@pytest.fixture(params=[trained, searched], ids=["trained", "searched"])
def result(request):
  return request.param()


def test_the_page_is_whole_and_needs_nothing_else(result, tmp_path):
  path = write_comparison(tmp_path, result)
  page = path.read_text()
  found = parse(page)
  assert len(found.ids) == len(set(found.ids))
  assert all(url.startswith("#") for url in found.urls)
  assert {url[1:] for url in found.urls} <= set(found.ids)
  assert "script" not in found.tags
  assert "nan" not in words(page).lower()
  before = page
  assert write_comparison(tmp_path, result).read_text() == before


def test_the_chart_is_a_file_of_its_own(result, tmp_path):
  write_comparison(tmp_path, result)
  svg = (tmp_path / "comparison.svg").read_text()
  tree = ET.fromstring(svg)
  assert "var(--" not in svg and 'fill="#ffffff"' in svg
  assert not re.search(r"#01010\d", svg)  # no placeholder of a colour is left
  shown = " ".join("".join(e.itertext()) for e in tree.iter() if e.text)
  assert all(name in shown for name in NAMES)


def test_the_best_arm_leads_the_table(tmp_path):
  page = write_comparison(tmp_path, trained()).read_text()
  body = page[page.index('id="table"') : page.index("The figure</h2>")]
  cells = re.findall(r"<tr><td>(.*?)</td>", body)
  assert [html.unescape(c) for c in cells] == [*reversed(NAMES)]
  text = words(page)
  assert "61,234" in text and "1 min 04 s" in text
  # 6 arms: 50,000 + 5,000 images by 5,000.
  assert "is the smallest 11.00 times in image evaluations" in text
  assert "Search budgets are not equal" in text
  assert "one accuracy on 359 test images" in text


def test_what_is_better_is_claimed_with_its_test(tmp_path):
  result = trained()
  sure = [p for p in result["pairs"] if p["verdict"] != "undecided"]
  assert len(sure) == len(result["pairs"]) == 15
  text = words(write_comparison(tmp_path, result).read_text())
  assert text.count("▲") == text.count("▼") == 15 + 1  # and the legend
  pair = sure[0]
  mean = 100 * pair["difference"]["value"]
  assert f"random is worse than SPOS: −{-mean:.2f} points [" in text
  assert "0 / 0 / 5" in text and "5 / 0 / 0" in text


def test_nothing_is_claimed_of_one_seed(tmp_path):
  text = words(write_comparison(tmp_path, trained(1)).read_text())
  assert "nothing is claimed" in text and "One seed has no spread" in text
  assert text.count("▲") == 1
  searched_once = words(write_comparison(tmp_path, searched(1)).read_text())
  assert "nothing is claimed" in searched_once


def test_what_is_left_out_of_a_table_is_named(tmp_path):
  page = words(write_comparison(tmp_path, searched()).read_text())
  assert "masks is left out: method pgnas searches no archs" in page
  assert "40 look-ups" in page and "3,969" in page
  assert "100.00%" in page  # the share of seeds in which one found the best


def test_as_text(result, tmp_path):
  path = write_comparison(tmp_path, result)
  found = text("compare", {**result, "path": str(path)})
  lines = found.splitlines()
  for arm in result["arms"]:
    (line,) = [l for l in lines if l.lstrip().startswith(f"{arm['name']} ")]
    value = arm["regret" if "regret" in arm else "test_accuracy"]
    assert f"{value['value']:.4f}"[:5] in line
    assert "/".join(map(str, arm["tests"].values())) in line
  assert lines[-1] == f"read {path}"
  assert "Holm over 15 pairs" in found


@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_names_do_not_cover_each_other(spread, monkeypatch):
  result = trained()
  for i, arm in enumerate(result["arms"]):
    arm["test_accuracy"]["value"] = 0.95 + spread * 0.01 * i
    arm["macs"] = {"value": 5e5 + spread * 1e4 * i, "low": None, "high": None}
  boxes, real = [], comparison_plots._box

  def kept(*given):
    boxes.append(real(*given))
    return boxes[-1]

  monkeypatch.setattr(comparison_plots, "_box", kept)
  placed = []
  annotate = comparison_plots.matplotlib.axes.Axes.annotate

  def noted(self, *given, **more):
    placed.append(boxes[-1])  # the one that was taken
    return annotate(self, *given, **more)

  monkeypatch.setattr(comparison_plots.matplotlib.axes.Axes, "annotate", noted)
  comparison_plots.tradeoff(result["arms"])
  assert len(placed) == len(NAMES)
  for i, a in enumerate(placed):
    for b in placed[:i]:
      assert comparison_plots._overlap(a, b) == 0
