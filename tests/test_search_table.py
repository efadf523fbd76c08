"""`search --table`: any searcher on a table of results."""

import json

import numpy as np
import pytest

from jaxnas import cli

ROWS = np.argwhere(np.ones((3, 3, 3, 2)))
WORTH = np.random.default_rng(0).normal(size=(4, 3))


def accuracy(row):
  return 0.8 + 0.01 * WORTH[np.arange(4), row].sum()


@pytest.fixture
def table(tmp_path):
  path = tmp_path / "table.csv"
  lines = [
    f"{''.join(map(str, r))},{accuracy(r):.6f},{10 + r.sum()}" for r in ROWS
  ]
  path.write_text("\n".join(["arch,accuracy,macs", *lines]))
  return path


def run(capsys, *arguments):
  try:
    cli.main(["search", *map(str, arguments)])
    status = 0
  except SystemExit as stop:
    status = stop.code
  return status, capsys.readouterr()


def test_a_table_needs_nothing_else(table, capsys, tmp_path):
  workdir = tmp_path / "run"
  status, out = run(capsys, "--table", table, "--workdir", workdir, "--json")
  assert status == 0
  found = json.loads(out.out)
  # 200 evaluations are more than there are rows.
  assert found["evaluated"] == found["of"] == len(ROWS)
  best = max(ROWS, key=accuracy)
  assert found["arch"] == "".join(map(str, best)) == found["best"]["arch"]
  assert found["regret"] == 0
  assert found["curve"] == sorted(found["curve"])
  assert len(found["curve"]) == len(ROWS)
  assert json.loads((workdir / "search.json").read_text()) == found
  status, out = run(capsys, "--table", table, "--workdir", workdir)
  assert status == 2 and "already holds a run" in out.err


@pytest.mark.parametrize(
  "algorithm", ["evolution", "nsga2", "random", "segments"]
)
def test_every_searcher_keeps_the_budget(table, capsys, algorithm):
  arguments = [
    "--table", table, "--budget", "macs<=14", "--json", "--seed", 3,
    "--set", f"search.algorithm={algorithm}", "--set", "search.population=6",
    "--set", "search.offspring=4", "--set", "search.generations=3",
    "--set", "search.objectives=accuracy,-macs",
    "--set", "search.objective_weights=0.5,0.5",
    "--set", "search.segments.samples=12",
    "--set", "search.segments.candidates=6",
    "--set", "search.predictor.kind=ridge",
  ]  # fmt: skip
  status, out = run(capsys, *arguments)
  assert status == 0, out.err
  found = json.loads(out.out)
  assert found["macs"] <= 14
  legal = [r for r in ROWS if 10 + r.sum() <= 14]
  assert found["of"] == len(legal)
  assert found["evaluated"] == 18 <= len(legal)
  best = max(accuracy(r) for r in legal)
  assert found["best"]["accuracy"] == pytest.approx(best, abs=1e-6)
  assert found["regret"] == pytest.approx(
    found["best"]["accuracy"] - found["accuracy"]
  )
  assert (
    run(capsys, *arguments)[1].out.split('"seconds"')[0]
    == (out.out.split('"seconds"')[0])
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--budget", "macs<=9"], "nearest reachable budget is macs<=10"),
    (["--budget", "macs<=12", "--budget", "macs<=13"], "one --budget"),
    (["--set", "search.objectives=top1"], "has no top1"),
    (["--set", "search.algorithm=nsga"], "search.algorithm"),
  ],
)
def test_mistakes_are_one_sentence(table, capsys, arguments, message):
  status, out = run(capsys, "--table", table, *arguments)
  assert status == 2 and message in out.err
  assert out.err.count("\n") == 1 and "Traceback" not in out.err


def test_a_file_that_is_no_table_is_refused(tmp_path, capsys):
  path = tmp_path / "notes.txt"
  path.write_text("hello")
  status, out = run(capsys, "--table", path)
  assert status == 2 and str(path) in out.err
  status, out = run(capsys, "--table", tmp_path / "absent.json")
  assert status == 2 and "absent.json" in out.err
