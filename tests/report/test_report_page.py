"""The page against the files it was made from."""

import csv
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import report_workdir

from jaxnas.costs import format_count
from jaxnas.errors import UserError
from jaxnas.report import report

VOID = {"meta", "br", "img", "link", "input", "hr"}
SECTION_OF = {
  "metrics.jsonl": ("training", "progress"),
  "fairness.json": ("fairness",),
  "result.json": ("architecture", "cost"),
}


class Balance(html.parser.HTMLParser):
  """Collects tags that are not closed, ids, links and visible text."""

  def __init__(self):
    super().__init__()
    self.open, self.ids, self.urls, self.text = [], [], [], []
    self.tags = set()

  def handle_starttag(self, tag, attrs):
    if tag not in VOID:
      self.open.append(tag)
    self._look(tag, attrs)

  def handle_startendtag(self, tag, attrs):
    self._look(tag, attrs)

  def _look(self, tag, attrs):
    self.tags.add(tag)
    for key, value in attrs:
      if key == "id":
        self.ids.append(value)
      if key in ("src", "href", "xlink:href", "action", "data"):
        self.urls.append(value)

  def handle_endtag(self, tag):
    assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
    self.open.pop()

  def handle_data(self, data):
    if self.open and self.open[-1] != "style":
      self.text.append(data)


def parse(page: str) -> Balance:
  parser = Balance()
  parser.feed(page)
  parser.close()
  assert parser.open == []
  return parser


def words(page: str) -> str:
  return " ".join(" ".join(parse(page).text).split())


def edit(folder, name, **fields):
  path = folder / name
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  return report_workdir.write(tmp_path_factory.mktemp("run") / "digits")


@pytest.fixture
def folder(original, tmp_path):
  return shutil.copytree(original, tmp_path / "copy")


def read(folder) -> str:
  path = report(folder)
  assert path == folder / "report.html"
  return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("space, budget", [
  ("digits", "macs<=400k"), ("fairnas", "macs<=400M"),
])  # fmt: skip
def test_page_is_well_formed_and_loads_nothing(tmp_path, space, budget):
  page = read(report_workdir.write(tmp_path, space, budget, n=60))
  parser = parse(page)
  assert len(parser.ids) == len(set(parser.ids))
  assert all(u.startswith("#") for u in parser.urls)
  assert {u[1:] for u in parser.urls} <= set(parser.ids)
  for name in re.findall(r"url\((.*?)\)", page):
    assert name.startswith("#") and name[1:] in parser.ids
  assert "script" not in parser.tags and "link" not in parser.tags
  assert "@import" not in page
  # Namespaces are names, not addresses that a browser opens.
  rest = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
  assert "http" not in rest
  svgs = re.findall(r"<svg.*?</svg>", page, flags=re.S)
  assert len(svgs) == 11
  for svg in svgs:
    assert ET.fromstring(svg).get("viewBox")
  # A placeholder colour that was missed would be nearly black.
  assert "#0101" not in page


def test_every_number_equals_its_source(folder):
  text = words(read(folder))
  result = json.loads((folder / "result.json").read_text())
  metrics = result["metrics"]
  for key in ("supernet", "standalone", "test"):
    assert f"{100 * metrics[key + '_accuracy']:.2f}%" in text
  for key in ("macs", "params"):
    assert f"{metrics[key]:,}" in text
    assert format_count(metrics[key]) in text
  share = 100 * metrics["macs"] / 400_000
  assert f"{share:.1f}% of the budget 400k" in text
  assert result["arch"] in text
  with (folder / "archs.csv").open() as file:
    archs = list(csv.DictReader(file))
  with (folder / "pareto.csv").open() as file:
    front = list(csv.DictReader(file))
  assert f"{len(archs)} evaluated archs and {len(front)} on the front" in text
  inside = sum(float(a["macs"]) <= 400_000 for a in archs)
  assert f"Of {inside} evaluated archs that keep the budget, none" in text
  kept = [f for f in front if float(f["macs"]) <= 400_000]
  kept.sort(key=lambda f: -float(f["accuracy"]))
  for f in kept[:12]:
    row = (
      f"{f['arch']}.{{0,4}} {100 * float(f['accuracy']):.2f}%"
      f" {format_count(float(f['macs']))} {format_count(float(f['params']))}"
    )
    assert re.search(row, text), row
  for value in ("0.712 [0.551, 0.834]", "τ-a 0.709", "276 pairs of 24 archs",
                "ρ 0.871 [0.702, 0.943]", "Top-5 overlap 0.600 [0.200, 1.000]",
                "0.35 points", "exactly 1,080 updates", "1,149", "360",
                "9f3c0a1b2c4d", "0.12.8", "1 min 34 s", "37.3 s"):  # fmt: skip
    assert value in text, value


def test_sections_follow_the_files(folder):
  whole = set(parse(read(folder)).ids)
  for name, sections in SECTION_OF.items():
    moved = folder.parent / name
    shutil.move(folder / name, moved)
    page = read(folder)
    ids = set(parse(page).ids)
    for section in sections:
      assert section in whole and section not in ids
    assert f"Not in this directory: {name}." in words(page)
    shutil.move(moved, folder / name)
  (folder / "ranking.json").unlink()
  assert "Unknown for this run" in read(folder)
  (folder / "archs.csv").unlink()
  (folder / "pareto.csv").unlink()
  # The front is also in result.json.
  assert "chosen" in parse(read(folder)).ids
  (folder / "space.json").unlink()
  page = read(folder)
  assert "No drawing" in page and "of the budget" not in page


def test_config_alone_is_a_page_and_without_it_an_error(folder):
  for path in folder.iterdir():
    if path.name != "config.json":
      path.unlink()
  page = read(folder)
  assert "no result yet" in page
  assert "chosen" not in parse(page).ids
  (folder / "config.json").unlink()
  with pytest.raises(UserError, match="jaxnas run CONFIG --workdir DIR"):
    report(folder)


def test_special_characters_are_escaped(folder):
  evil = "</title><script>alert('$x & \"y\"')</script>"
  manifest = json.loads((folder / "manifest.json").read_text())
  manifest["device"] = evil
  manifest["data"] |= {"source": evil, "class_names": [evil, "a&b"]}
  (folder / "manifest.json").write_text(json.dumps(manifest))
  edit(folder, "result.json", method=evil, seconds={evil: 1.0, "$a$": 2.0})
  fairness = {"sampler": evil, "counts": [[1, 2], [3]], "steps": 6}
  (folder / "fairness.json").write_text(json.dumps(fairness))
  edit(folder, "ranking.json", selection=evil, bn_mode=evil,
       baselines={evil: {"value": 0.1, "low": 0, "high": 0.2}})  # fmt: skip
  page = read(folder)
  assert "script" not in parse(page).tags
  for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
    ET.fromstring(svg)
  assert "a&amp;b" in page


def test_same_files_give_the_same_bytes(original, folder):
  here = report(folder).read_bytes()
  code = (
    "import sys; from pathlib import Path; from jaxnas.report import report;"
    "report(Path(sys.argv[1]))"
  )
  env = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
  subprocess.run([sys.executable, "-c", code, original], env=env, check=True)
  assert (original / "report.html").read_bytes() == here
  assert not list(folder.glob(".*"))


def test_a_failure_leaves_the_old_page(folder):
  before = report(folder).read_bytes()
  (folder / "result.json").write_text("{")
  with pytest.raises(UserError, match="result.json is not valid JSON"):
    report(folder)
  assert (folder / "report.html").read_bytes() == before


def test_half_written_rows_are_left_out(folder):
  before = read(folder)
  with (folder / "metrics.jsonl").open("a") as file:
    file.write('{"stage": "train", "st')
  with (folder / "archs.csv").open("a") as file:
    file.write('"2023555')
  assert read(folder) == before
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  (folder / "metrics.jsonl").write_text("\n".join(["{oops", *lines[:3]]))
  with pytest.raises(UserError, match="line 1"):
    report(folder)


def test_repeated_steps_of_a_resumed_run_count_once(folder):
  before = read(folder)
  path = folder / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  wrong = json.loads(lines[3]) | {"loss": 99.0}
  path.write_text("".join([json.dumps(wrong) + "\n", *lines]))
  assert read(folder) == before


def test_missing_column_and_bad_cell_name_the_place(folder):
  (folder / "archs.csv").write_text("arch,accuracy\n0,1\n")
  with pytest.raises(UserError, match="archs.csv has no column 'macs'"):
    report(folder)
  (folder / "archs.csv").write_text("arch,accuracy,macs,params\n0,x,1,1\n")
  with pytest.raises(UserError, match="row 1"):
    report(folder)


def test_the_test_split_statement_follows_the_record(folder):
  once = "Selection used the validation split only; the test split was read"
  assert once in words(read(folder))
  edit(folder, "result.json", test_reads=3)
  text = words(read(folder))
  assert once not in text and "read 3 times" in text
  edit(folder, "result.json", test_reads=1, selected_from="test")
  text = words(read(folder))
  assert once not in text and "Selection used the test split" in text
  edit(folder, "result.json", test_reads=None, selected_from=None)
  assert "does not record" in words(read(folder))


def test_disagreeing_files_are_called_out(folder):
  result = json.loads((folder / "result.json").read_text())
  right = result["metrics"]["macs"]
  edit(folder, "result.json", metrics=result["metrics"] | {"macs": 12345})
  text = words(read(folder))
  assert "states 12,345 macs, but this arch adds up to" in text
  assert f"{right:,} in space.json" in text
  edit(folder, "result.json", budget="macs<=120k", metrics=result["metrics"])
  assert "above the budget 120k" in words(read(folder))
  edit(folder, "fairness.json", counts=[[5, 6]] * 8)
  assert "claims strict fairness, but its counts differ" in read(folder)


def test_unequal_counts_are_shown_cell_by_cell(folder):
  counts = [[1000 + 10 * y + c for c in range(6)] for y in range(8)]
  edit(folder, "fairness.json", counts=counts, strictly_fair=False)
  page = read(folder)
  svg = re.search(r'<svg[^>]*aria-label="Updates.*?</svg>', page, re.S)[0]
  assert all(f">{v:,}<" in svg for row in counts for v in row)
  assert "had 1,000 to 1,075 updates" in words(page)


def test_a_chance_level_supernet_is_called_out(folder):
  row = {"stage": "train", "step": 9, "epoch": 1.0}
  for value, said in ((0.11, True), (0.5, False)):
    row["validation_accuracy"] = value
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert ("apart from chance (10.00%)" in words(read(folder))) == said


def test_empty_and_unknown_values_are_no_error(folder):
  metrics = dict.fromkeys(
    ("supernet_accuracy", "standalone_accuracy", "test_accuracy", "macs")
  )
  edit(folder, "result.json", metrics=metrics, seconds={}, budget="")
  edit(folder, "config.json", budget="")
  edit(folder, "ranking.json", kendall_tau_b={"value": None, "low": None,
       "high": None}, archs=[], baselines={})  # fmt: skip
  text = words(read(folder))
  assert "not read yet" in text and not re.search(r"\bnan\b", text, re.I)


def test_latency_budgets_and_large_clouds(tmp_path):
  folder = report_workdir.write(tmp_path, n=60)
  rows = ["arch,accuracy,macs,params"]
  rows += [f"{i:08o},{0.5 + i % 997 / 2000},{i % 1009},9" for i in range(9000)]
  (folder / "archs.csv").write_text("\n".join(rows).replace("o", "") + "\n")
  edit(folder, "result.json", budget="macs<=400k,latency.pixel<=80ms")
  page = read(folder)
  assert "9,000 evaluated archs" in page
  assert len(page) < 2_000_000
