"""The method gcn in a tiny experiment: look-up, budgets, resuming, evidence."""

import csv
import json
import shutil

import numpy as np
import pytest

from jaxnas import cli
from jaxnas.config import load_config
from jaxnas.costs import Budget, cost_tables
from jaxnas.errors import UserError
from jaxnas.experiment import make_experiment
from jaxnas.methods import make_space, read_lookup
from jaxnas.report import report
from jaxnas.search import segments as segments_module

pytestmark = pytest.mark.usefixtures("compiled_once")

SPACE = """
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space


def get_space():
  choices = (Identity(), MBConv(1, 3), MBConv(2, 3))
  return Space(
    name="mini", image_size=8, image_channels=1, n_classes=10,
    stem=(Layer((Conv(3),), 4, 2),), layers=(Layer(choices, 4),) * 5,
  )
"""
CONFIG = """
from pathlib import Path

from jaxnas.config import load_config, override


def get_config():
  return override(load_config({base!r}), [
    "space.name=" + str(Path(__file__).with_name("space.py")),
    "data.limit=200", "train.epochs=1", "train.evaluate_archs=0",
    "score.calibration_images=64",
    "search.segments.first=3", "search.segments.later=3",
    "search.segments.samples=20", "search.segments.candidates=6",
    "search.segments.top_k=3", "search.segments.cost_bins=3",
    "search.segments.batch=5", "search.predictor.kind=ridge",
    "search.predictor.epochs=2", "search.predictor.ensemble=1",
    "search.predictor.width=4", "ranking.bootstrap=20",
  ])
"""
FILES = ("search.json", "lookup.npz", "predictors.json")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, repo):
  folder = tmp_path_factory.mktemp("project")
  (folder / "space.py").write_text(SPACE)
  base = f"{repo / 'configs' / 'digits_gcn.py'}:quicktest"
  (folder / "config.py").write_text(CONFIG.format(base=base))
  return folder / "config.py"


@pytest.fixture(scope="module")
def config(config_file):
  return load_config(str(config_file))


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("gcn") / "trained"
  make_experiment(config, workdir).train()
  return workdir


@pytest.fixture(scope="module")
def finished(config, trained):
  workdir = shutil.copytree(trained, trained.with_name("finished"))
  make_experiment(config, workdir).search()
  return workdir


@pytest.fixture
def copy(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "copy")


def archive(workdir):
  with open(workdir / "archs.csv", newline="") as file:
    return list(csv.DictReader(file))


def test_the_table_covers_the_last_segment_and_nothing_is_scored_twice(
  config, finished
):
  table = read_lookup(finished)
  assert table["archs"].shape == (3 * 3 * 3, 5)
  assert len(np.unique(table["archs"], axis=0)) == 27
  rows = [row["arch"] for row in archive(finished)]
  assert len(rows) == len(set(rows))
  space = make_space(config)
  found = json.loads((finished / "search.json").read_text())
  assert found["arch"] in rows
  known = {space.to_string(a) for a in table["archs"]}
  assert found["arch"] in known


def test_budgets_are_answered_as_by_brute_force(config, copy, monkeypatch):
  space = make_space(config)
  costs = cost_tables(space)
  table = read_lookup(copy)
  macs = costs["macs"](table["archs"])
  limits = [f"macs<={m}" for m in sorted(set(macs.tolist()))]
  # The supernet is not there any more.
  shutil.rmtree(copy / "checkpoints")
  monkeypatch.setattr(
    "jaxnas.scoring.scorer.Scorer.__call__",
    lambda *_: pytest.fail("a look-up scored"),
  )
  answers = make_experiment(config, copy).look_up(limits)["answers"]
  assert [a["budget"] for a in answers] == limits
  for row in answers:
    budget = Budget.parse(row["budget"], costs, space)
    arch = space.from_string(row["arch"])[None]
    assert budget.allows(arch)[0]
    assert row["macs"] == costs["macs"](arch)[0]
    best = table["predicted"][budget.allows(table["archs"])].max()
    assert row["predicted"] == pytest.approx(best)
  assert [a["predicted"] for a in answers] == sorted(
    a["predicted"] for a in answers
  )
  assert answers[0]["macs"] == macs.min()  # kept to the last multiply-add
  again = make_experiment(config, copy).look_up(limits[:1])["answers"]
  assert again == answers[:1]
  saved = json.loads((copy / "lookup.json").read_text())["answers"]
  assert sorted(a["budget"] for a in saved) == sorted(limits)


def test_a_budget_that_no_predicted_arch_keeps_names_the_nearest(config, copy):
  smallest = cost_tables(make_space(config))["macs"]
  kept = smallest(read_lookup(copy)["archs"]).min()
  if kept == smallest.smallest:
    pytest.skip("the table holds the smallest arch")
  with pytest.raises(UserError, match=f"macs<={kept:g}"):
    make_experiment(config, copy).look_up([f"macs<={kept - 1}"])


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_search_that_is_cut_ends_the_same(
  config, trained, finished, tmp_path, monkeypatch, stop_after
):
  workdir = shutil.copytree(trained, tmp_path / "cut")
  tell, told = segments_module.SegmentSearch.tell, 0

  def dies(self, *args):
    nonlocal told
    told += 1
    if told > stop_after:
      raise KeyboardInterrupt
    return tell(self, *args)

  monkeypatch.setattr(segments_module.SegmentSearch, "tell", dies)
  with pytest.raises(KeyboardInterrupt):
    make_experiment(config, workdir).search()
  monkeypatch.undo()
  make_experiment(config, workdir).search()
  for name in FILES:
    assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name


def test_every_predictor_is_judged_on_what_it_was_not_fitted_to(finished):
  found = json.loads((finished / "predictors.json").read_text())
  assert found["predictor"] == "ridge"
  bounds = [(s["start"], s["stop"]) for s in found["segments"]]
  assert bounds == [(0, 3), (3, 5)]
  for segment in found["segments"]:
    held = segment["held_out"]
    assert held["n"] == segment["labels"] // 5 == len(held["observed"])
    assert set(held["predictors"]) == {"ridge", "mlp", "gcn", "default"}
    for row in held["predictors"].values():
      assert len(row["predicted"]) == held["n"]


def test_rank_compares_fits_with_the_supernet(config, copy):
  space = make_space(config)
  archs = space.sample(np.random.default_rng(1), 30)
  archs = np.unique(archs, axis=0)
  truth = copy / "truth.csv"
  lines = [f"{space.to_string(a)},{0.5 + 0.01 * a.sum()}" for a in archs]
  truth.write_text("\n".join(["arch,accuracy", *lines]))
  ranking = make_experiment(config, copy).rank(truth)
  assert set(ranking["fits"]) == {"ridge", "mlp", "gcn", "default"}
  raw = ranking["kendall_tau_b"]["value"]
  for fit in ranking["fits"].values():
    # Networks that are trained this little may predict a constant.
    gain = pytest.approx(fit["value"] - raw, nan_ok=True)
    assert fit["gain"]["value"] == gain
  ridge = ranking["fits"]["ridge"]
  assert ridge["low"] <= ridge["value"] <= ridge["high"]
  page = report(copy).read_text()
  assert "Does the predictor see through the noise?" in page
  assert "minus raw" in page


def test_the_report_shows_predictors_and_answers(config, copy):
  page = report(copy).read_text()
  assert "No budget was looked up yet" in page
  largest = int(cost_tables(make_space(config))["macs"].largest)
  make_experiment(config, copy).look_up([f"macs<={largest}"])
  page = report(copy).read_text()
  assert f"macs&lt;={largest}" in page and 'id="lookup' in page
  assert 'id="fit-1-held_out' in page


# The command line -------------------------------------------------------------


def run_cli(arguments, capsys):
  try:
    cli.main([str(a) for a in arguments])
    status = 0
  except SystemExit as stop:
    status = stop.code
  return status, capsys.readouterr()


def test_several_budgets_on_the_command_line(config_file, copy, capsys):
  command = ["search", config_file, "--workdir", copy, "--json"]
  status, out = run_cli(
    [*command, "--budget", "macs<=9G", "--budget", "params<=9G"], capsys
  )
  assert status == 0
  answers = json.loads(out.out)["answers"]
  assert [a["budget"] for a in answers] == ["macs<=9G", "params<=9G"]
  status, out = run_cli([*command, "--budget", "mac<=9G"], capsys)
  assert status == 2 and "Did you mean 'macs'" in out.err


def test_other_methods_refuse_several_budgets(tmp_path, repo, capsys):
  status, out = run_cli(
    [
      "search", f"{repo}/configs/digits_fairnas.py", "--workdir", tmp_path,
      "--budget", "macs<=9G", "--budget", "macs<=8G",
    ],
    capsys,
  )  # fmt: skip
  assert status == 2 and "searches for one budget, not for 2" in out.err


def test_search_without_a_config_or_a_table_is_refused(capsys):
  status, out = run_cli(["search"], capsys)
  assert status == 2 and "--table PATH" in out.err
