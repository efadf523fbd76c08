"""Whole runs of a tiny experiment: files, resume, refusals, honesty."""

import csv
import dataclasses
import json
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from jaxnas.config import load_config, override
from jaxnas.costs import cost_tables
from jaxnas.data.records import Records, Split
from jaxnas.data.sources import SOURCES, read_digits
from jaxnas.errors import RunError, UserError
from jaxnas.experiment import make_experiment
from jaxnas.methods import (
  inherited,
  load_supernet,
  make_space,
  read_truth,
  search_archs,
)
from jaxnas.nets import load_network

pytestmark = pytest.mark.usefixtures("compiled_once")

SPACE = """
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space


def get_space():
  choices = (Identity(), MBConv(2, 3), MBConv(3, 5))
  return Space(
    name="mini", image_size=8, image_channels=1, n_classes=10,
    stem=(Layer((Conv(3),), 4, 2),), layers=(Layer(choices, 6),) * 3,
  )
"""
CONFIG = """
from pathlib import Path

from jaxnas.config import load_config, override


def get_config():
  return override(load_config({base!r}), [
    "space.name=" + str(Path(__file__).with_name("space.py")),
    "budget=macs<=14k", "data.limit=200",
    "train.epochs=3", "train.checkpoint_every=1", "train.log_every=2",
    "score.calibration_images=64",
    "search.population=5", "search.generations=3",
    "ranking.n_archs=3", "ranking.together=2", "ranking.bootstrap=20",
    "retrain.epochs=3", "retrain.checkpoint_every=1", "retrain.log_every=2",
    "retrain.dropout=0.3",
  ])
"""
BUDGET = 14_000


@pytest.fixture(scope="module")
def project(tmp_path_factory, repo):
  """A folder with a config file and its space."""
  folder = tmp_path_factory.mktemp("project")
  (folder / "space.py").write_text(SPACE)
  base = f"{repo / 'configs' / 'digits_fairnas.py'}:quicktest"
  (folder / "config.py").write_text(CONFIG.format(base=base))
  return folder


@pytest.fixture(scope="module")
def config(project):
  return load_config(str(project / "config.py"))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
  """The work directory of an undisturbed run; never written to again."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  make_experiment(config, workdir).run()
  return workdir


@pytest.fixture
def copy(finished, tmp_path):
  """A work directory that may be spoilt."""
  return shutil.copytree(finished, tmp_path / "copy")


def outcome(workdir):
  """All that must not depend on how often a run was interrupted."""
  result = json.loads((workdir / "result.json").read_text())
  del result["seconds"]
  files = {
    name: (workdir / name).read_bytes()
    for name in (
      "config.json", "fairness.json", "metrics.jsonl", "ranking.json",
      "retrain.json", "search.json", "space.json", "export/weights.npz",
    )
  }  # fmt: skip
  tables = {}
  for name in ("archs.csv", "pareto.csv"):
    rows = table(workdir / name)
    for row in rows:
      del row["seconds"]
    tables[name] = rows
  return {"result": result, **files, **tables}


def table(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def assert_same(workdir, finished):
  here, there = outcome(workdir), outcome(finished)
  for name, value in there.items():
    assert here[name] == value, name


def damage_newest(stage_folder):
  """Flips one byte in the largest file of the newest checkpoint."""
  newest = max(
    (p for p in stage_folder.iterdir() if p.name.isdigit()),
    key=lambda p: int(p.name),
  )
  victim = max(
    (p for p in newest.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  raw = bytearray(victim.read_bytes())
  raw[len(raw) // 2] ^= 0xFF
  victim.write_bytes(raw)


# Files ----------------------------------------------------------------------


def test_every_file_is_there_with_its_keys(finished, config):
  names = {p.name for p in finished.iterdir()}
  assert names >= {
    "config.json", "manifest.json", "checkpoints", "metrics.jsonl",
    "archs.csv", "pareto.csv", "result.json", "export", "report.html",
  }  # fmt: skip
  result = json.loads((finished / "result.json").read_text())
  assert result.keys() >= {
    "method", "space", "arch", "metrics", "budget", "seconds", "seed",
  }  # fmt: skip
  assert set(result["metrics"]) == {
    "supernet_accuracy", "standalone_accuracy", "test_accuracy", "macs",
    "params",
  }  # fmt: skip
  assert result["seconds"].keys() >= {
    "train", "search", "rank", "retrain", "export", "compile",
  }  # fmt: skip
  assert result["method"] == "fairnas"
  assert result["space"] == "mini"
  assert result["budget"] == config.budget
  assert result["selected_from"] == "validation"
  assert result["test_reads"] == 1
  manifest = json.loads((finished / "manifest.json").read_text())
  assert manifest.keys() >= {"jaxnas", "jax", "device", "seed", "data"}
  data = manifest["data"]
  assert (data["train"], data["validation"], data["test"]) == (200, 359, 359)
  assert len(data["fingerprint"]) == 16


def test_the_report_is_self_contained_and_says_how_test_was_used(finished):
  page = (finished / "report.html").read_text()
  assert "http://" not in page.replace("http://www.w3.org", "")
  assert "once" in page
  assert json.loads((finished / "result.json").read_text())["arch"] in page


def test_archs_front_and_winner_keep_the_budget(finished, config):
  space = make_space(config).replace(n_classes=10)
  costs = cost_tables(space)
  rows = table(finished / "archs.csv")
  assert [*rows[0]][:2] == ["arch", "round"]
  archs = np.stack([space.from_string(r["arch"]) for r in rows])
  assert len({r["arch"] for r in rows}) == len(rows)
  for name in ("macs", "params"):
    assert [int(r[name]) for r in rows] == costs[name](archs).tolist()
  assert costs["macs"](archs).max() <= BUDGET
  assert costs["macs"].largest > BUDGET
  result = json.loads((finished / "result.json").read_text())
  assert result["evaluated"] == len(rows)
  best = max(float(r["accuracy"]) for r in rows)
  winner = next(r for r in rows if r["arch"] == result["arch"])
  assert float(winner["accuracy"]) == best
  assert result["metrics"]["supernet_accuracy"] == best
  assert result["metrics"]["macs"] == int(winner["macs"])
  front = {r["arch"] for r in table(finished / "pareto.csv")}
  assert result["arch"] in front
  rivals = [r for r in rows if r["arch"] in front
            and float(r["accuracy"]) == best]  # fmt: skip
  assert float(winner["loss"]) == min(float(r["loss"]) for r in rivals)
  assert front == {
    r["arch"] for r in rows
    if not any(
      float(o["accuracy"]) >= float(r["accuracy"])
      and int(o["macs"]) <= int(r["macs"])
      and int(o["params"]) >= int(r["params"])
      and o["arch"] != r["arch"]
      for o in rows
    )
  }  # fmt: skip


def test_training_was_strictly_fair(finished):
  fairness = json.loads((finished / "fairness.json").read_text())
  assert fairness["strictly_fair"]
  assert fairness["steps"] == 18
  assert fairness["counts"] == [[18] * 3] * 3


# The same bytes ---------------------------------------------------------------


def test_the_same_command_twice_gives_the_same_bytes(
  config, finished, tmp_path
):
  make_experiment(config, tmp_path / "again").run()
  assert_same(tmp_path / "again", finished)
  # Giving the command once more changes nothing either.
  make_experiment(config, tmp_path / "again").run()
  assert_same(tmp_path / "again", finished)


def test_stages_one_by_one_equal_run(config, finished, tmp_path):
  for verb in ("train", "search", "rank", "retrain", "export", "report"):
    out = getattr(make_experiment(config, tmp_path / "parts"), verb)()
    assert out["stage"] == verb
  assert_same(tmp_path / "parts", finished)
  assert (tmp_path / "parts" / "report.html").is_file()


@pytest.mark.parametrize("stage", ["train", "retrain"])
def test_a_damaged_newest_checkpoint_changes_nothing(
  stage, config, finished, tmp_path, caplog
):
  workdir = tmp_path / "damaged"
  first = make_experiment(config, workdir)
  first.train()
  if stage == "retrain":
    first.search()
    first.rank()
    first.retrain()
  damage_newest(workdir / "checkpoints" / stage)
  caplog.clear()
  if stage == "train":
    with pytest.raises(UserError, match="jaxnas train"):
      make_experiment(config, workdir).search()
    make_experiment(config, workdir).run()
  else:
    # Export alone: what is lost is trained again exactly as it was.
    make_experiment(config, workdir).export()
  assert any("damaged" in m for m in caplog.messages)
  assert_same(workdir, finished)
  assert list((workdir / "checkpoints").glob(f"{stage}-damaged-*"))


def run_until(args, ready, delay):
  """Starts a run and kills it `delay` seconds after `ready()` holds."""
  process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 120
  while not ready() and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.002)
  time.sleep(delay)
  process.send_signal(signal.SIGKILL)
  _, err = process.communicate()
  return process.returncode, err


def test_killed_again_and_again_it_ends_the_same(project, finished, tmp_path):
  workdir = tmp_path / "killed"
  args = [
    sys.executable, "-m", "jaxnas", "run", str(project / "config.py"),
    "--workdir", str(workdir),
  ]  # fmt: skip

  def wrote(stage):
    journal = workdir / "metrics.jsonl"
    text = f'"stage": "{stage}"'
    return lambda: journal.exists() and text in journal.read_text()

  def saved(stage):
    return lambda: any((workdir / "checkpoints" / stage).glob("[0-9]*"))

  # Moments nobody chose: what must hold does so for every one of them.
  chance = random.SystemRandom()
  moments = [
    (saved("train"), 0.1), (wrote("search"), 0.1), (saved("retrain"), 0.2),
  ]  # fmt: skip
  delays = []
  for ready, spread in moments:
    delays.append(chance.uniform(0, spread))
    status, err = run_until(args, ready, delays[-1])
    assert status == -signal.SIGKILL, err
  done = subprocess.run(args, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  try:
    assert_same(workdir, finished)
  except AssertionError as error:
    raise AssertionError(f"killed after {delays} s: {error}") from error


def test_a_kill_between_checkpoint_and_table_loses_no_arch(copy, config):
  whole = (copy / "archs.csv").read_bytes()
  lines = whole.splitlines(keepends=True)
  (copy / "archs.csv").write_bytes(b"".join(lines[:-3]))
  (copy / "search.json").unlink()
  make_experiment(config, copy).search()
  assert (copy / "archs.csv").read_bytes() == whole


# Refusals -----------------------------------------------------------------


def snapshot(folder):
  return {
    p.relative_to(folder): p.read_bytes()
    for p in folder.rglob("*") if p.is_file()
  }  # fmt: skip


def test_another_config_is_refused_and_the_field_named(copy, config):
  before = snapshot(copy)
  other = override(config, ["seed=7", "search.population=6"])
  with pytest.raises(UserError) as caught:
    make_experiment(other, copy)
  text = str(caught.value)
  assert "seed: 0 there, 7 here" in text
  assert "search.population: 5 there, 6 here" in text
  assert "data" not in text.split("differs in")[1]
  assert snapshot(copy) == before


def test_other_images_are_refused(copy, config, monkeypatch):
  def altered(argument, image_size):
    train = read_digits(argument, image_size).train
    images = train.images.copy()
    images[:, 0, 0] ^= 1
    names = tuple("0123456789")
    return Records(Split(images, train.labels), class_names=names)

  monkeypatch.setitem(SOURCES, "digits", altered)
  before = snapshot(copy)
  with pytest.raises(UserError, match="not those that .* begun with"):
    make_experiment(config, copy)
  assert snapshot(copy) == before


@pytest.mark.parametrize("verb", ["search", "rank", "retrain", "export"])
def test_a_stage_without_the_one_before_names_it_and_writes_nothing(
  verb, config, tmp_path
):
  needs = {"retrain": "search", "export": "search"}.get(verb, "train")
  with pytest.raises(UserError, match=f"python -m jaxnas {needs}"):
    getattr(make_experiment(config, tmp_path / "new"), verb)()
  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
  ("assignment", "message"),
  [
    ("seed=-1", "seed is -1"),
    ("train.epochs=0", "train.epochs is 0"),
    ("train.log_every=0", "train.log_every is 0"),
    ("train.batch_size=201", "batch_size"),
    ("retrain.batch_size=500", "batch_size"),
    ("retrain.checkpoint_every=0", "retrain.checkpoint_every is 0"),
    ("search.generations=-1", "search.generations is -1"),
    ("search.population=0", "search.population"),
    ("score.calibration_images=0", "score.calibration_images is 0"),
    ("ranking.n_archs=2", "at least 3 networks"),
    ("ranking.confidence=95", "between 0 and 1"),
    ("space.image_size=9", "image_size"),
    ("mesh.path=0", "mesh"),
    ("data.source=nowhere", "unknown data source"),
    ("method=fairnass", "Did you mean 'fairnas'"),
  ],
)
def test_bad_values_are_refused_before_anything_is_written(
  assignment, message, config, tmp_path
):
  with pytest.raises(UserError, match=message):
    make_experiment(override(config, [assignment]), tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_running_statistics_that_are_not_kept_are_refused(config, tmp_path):
  bad = override(config, ["score.bn_mode=running", "net.bn_track=false"])
  with pytest.raises(UserError, match=r"net\.bn_track"):
    make_experiment(bad, tmp_path / "w")


def test_a_work_directory_that_is_a_file(config, tmp_path):
  (tmp_path / "w").write_text("")
  with pytest.raises(UserError, match="is a file"):
    make_experiment(config, tmp_path / "w")


# Honesty ----------------------------------------------------------------------


def test_a_supernet_at_chance_level_is_called_out(config, tmp_path, caplog):
  dull = override(
    config,
    ["train.epochs=1", "train.optimizer.learning_rate=0", "ranking.n_archs=0"],
  )
  e = make_experiment(dull, tmp_path / "dull")
  e.train()
  assert not any("chance level" in m for m in caplog.messages)
  e.search()
  warned = [r for r in caplog.records if "chance level" in r.message]
  assert [r.levelno for r in warned] == [logging.WARNING]
  caplog.clear()
  e._alarm(lambda archs: {"accuracy": np.full(len(archs), 0.2)})
  assert not caplog.messages


@dataclasses.dataclass(frozen=True)
class Watched(Split):
  """A split that notes every look at its images."""

  looks: list = dataclasses.field(default_factory=list)

  def __getattribute__(self, name):
    if name == "images":
      object.__getattribute__(self, "looks").append(name)
    return object.__getattribute__(self, name)


def test_the_test_split_is_read_once_by_retrain_alone(config, tmp_path):
  e = make_experiment(config, tmp_path / "watched")
  data = e.setup.data
  test = Watched(data.test.images, data.test.labels)
  watched = dataclasses.replace(data, test=test)
  e.setup = dataclasses.replace(e.setup, data=watched)
  e.train()
  e.search()
  e.rank()
  assert not test.looks
  e.retrain()
  assert test.looks == ["images"]
  e.export()
  e.report()
  assert test.looks == ["images"]


def test_results_before_retraining_have_no_test_accuracy(copy, config):
  for name in ("retrain.json", "result.json"):
    (copy / name).unlink()
  make_experiment(config, copy).search()
  result = json.loads((copy / "result.json").read_text())
  assert result["metrics"]["test_accuracy"] is None
  assert result["metrics"]["standalone_accuracy"] is None
  assert result["test_reads"] == 0


def test_the_reloaded_export_scores_what_was_reported(finished, config):
  network, variables, info = load_network(finished / "export")
  result = json.loads((finished / "result.json").read_text())
  data = make_experiment(config, finished).setup.data
  assert info["arch"] == result["arch"]
  apply = jax.jit(network.apply)
  for name, split in (
    ("standalone_accuracy", data.validation), ("test_accuracy", data.test),
  ):  # fmt: skip
    x = (split.images / np.float32(255) - data.mean) / data.std
    hits = np.argmax(apply(variables, x), -1) == split.labels
    # One borderline image may be rounded the other way.
    assert abs(hits.mean() - result["metrics"][name]) <= 1.5 / len(split)


def test_score_agrees_with_the_search(finished, config):
  rows = table(finished / "archs.csv")
  e = make_experiment(config, finished)
  archs = np.stack([e.setup.space.from_string(r["arch"]) for r in rows])
  out = e.score(archs[::-1])
  assert out["bn_mode"] == "recalibrate"
  assert out["images"] == 359
  for row, scored in zip(rows[::-1], out["archs"], strict=True):
    assert scored["arch"] == row["arch"]
    assert scored["accuracy"] == float(row["accuracy"])
    assert scored["macs"] == int(row["macs"])


def test_a_wrong_winner_does_not_pass_unseen(copy, config, monkeypatch):
  e = make_experiment(config, copy)

  def wrong(*args):
    return jax.tree.map(lambda a: a * 0, inherited(*args))

  monkeypatch.setattr("jaxnas.experiment.paths.inherited", wrong)
  with pytest.raises(RunError, match="outside the supernet"):
    e.search()


def test_inherited_weights_export_and_score_as_searched(copy, config):
  e = make_experiment(config, copy)
  out = e.export("inherited")
  network, variables, info = load_network(Path(out["folder"]))
  split = e.setup.data.validation
  x = (split.images / 255 - info["mean"]) / info["std"]
  hits = np.argmax(network.apply(variables, x.astype(np.float32)), -1)
  searched = json.loads((copy / "search.json").read_text())["accuracy"]
  assert abs((hits == split.labels).mean() - searched) <= 2 / len(split)
  assert not out["folder"].endswith("export")


def test_retrain_again_does_not_read_the_test_split(copy, config, monkeypatch):
  def never(*args):
    raise AssertionError("a split was read again")

  before = json.loads((copy / "retrain.json").read_text())
  monkeypatch.setattr("jaxnas.experiment.paths.FleetEvaluator", never)
  out = make_experiment(config, copy).retrain()
  assert out == {"stage": "retrain", **before}


# Ranking ------------------------------------------------------------------


def test_ranking_file(finished, config):
  ranking = json.loads((finished / "ranking.json").read_text())
  assert ranking["n"] == 3
  assert ranking["pairs"] == 3
  assert ranking["selection"] == "uniform"
  assert ranking["bn_mode"] == "recalibrate"
  assert len({r["arch"] for r in ranking["archs"]}) == 3
  for row in ranking["archs"]:
    assert 0 <= row["standalone_accuracy"] <= 1
  e = make_experiment(config, finished)
  archs = np.stack(
    [e.setup.space.from_string(r["arch"]) for r in ranking["archs"]]
  )
  scored = [r["accuracy"] for r in e.score(archs)["archs"]]
  assert scored == [r["supernet_accuracy"] for r in ranking["archs"]]


def test_rank_against_given_accuracies(copy, config, tmp_path):
  truth = tmp_path / "truth.csv"
  archs = ["012", "120", "201", "222", "010"]
  accuracy = [0.5, 0.7, 0.6, 0.9, 0.4]
  rows = [f"{a},{v}\n" for a, v in zip(archs, accuracy, strict=True)]
  truth.write_text("arch,standalone_accuracy\n" + "".join(rows))
  out = make_experiment(config, copy).rank(truth)
  assert out["selection"] == "given in truth.csv"
  assert [r["arch"] for r in out["archs"]] == archs
  supernet = [r["supernet_accuracy"] for r in out["archs"]]
  want = stats.kendalltau(supernet, accuracy).statistic
  np.testing.assert_allclose(out["kendall_tau_b"]["value"], want)
  written = json.loads((copy / "ranking.json").read_text())
  assert {"stage": "rank", **written} == out


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "columns arch"),
    ("arch,accuracy\n012,0.5\n", "at least 3"),
    ("arch,score\n012,0.5\n120,0.4\n201,0.3\n", "columns arch"),
    ("arch,accuracy\n012,0.5\n129,0.4\n201,0.3\n", "line 3.*layer 2"),
    ("arch,accuracy\n012,0.5\n120,0.4\n201,high\n", "line 4.*high"),
    ("arch,accuracy\n012,0.5\n120,nan\n201,0.4\n", "line 3.*nan"),
  ],
)
def test_unusable_truth_files(text, message, config, tmp_path):
  space = make_space(config)
  path = tmp_path / "truth.csv"
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    read_truth(path, space)


def test_truth_files_that_are_none(config, tmp_path):
  space = make_space(config)
  with pytest.raises(UserError, match="no truth file"):
    read_truth(tmp_path / "none.csv", space)
  (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
  with pytest.raises(UserError, match="cannot be read as CSV"):
    read_truth(tmp_path / "bytes.csv", space)


def test_evenly_spaced_selection(config, finished, tmp_path, monkeypatch):
  even = override(
    config,
    ["ranking.selection=evenly-spaced", "ranking.pool=27", "ranking.n_archs=4"],
  )
  workdir = tmp_path / "even"
  shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
  e = make_experiment(even, workdir)
  seen = []

  def accuracies(setup, archs):
    seen.append(archs)
    return np.linspace(0.1, 0.4, len(archs)), 0.0

  monkeypatch.setattr(
    "jaxnas.experiment.paths.standalone_accuracies", accuracies
  )
  out = e.rank()
  assert out["selection"] == "evenly-spaced"
  assert out["n"] == 4
  grid = np.indices((3, 3, 3)).reshape(3, -1).T.astype(np.int32)
  every = np.array([r["accuracy"] for r in e.score(grid)["archs"]])
  picked = [r["supernet_accuracy"] for r in out["archs"]]
  assert picked == sorted(picked)
  assert picked[0] == every.min()
  assert picked[-1] == every.max()
  np.testing.assert_array_equal(
    seen[0], [[int(c) for c in r["arch"]] for r in out["archs"]]
  )


# Searches and methods -------------------------------------------------------


def test_a_search_that_sees_only_nan_says_so(config, tmp_path):
  e = make_experiment(config, tmp_path / "nan")
  e.workdir.mkdir()

  def objective(archs):
    bad = np.full(len(archs), np.nan)
    costs = {name: t(archs) for name, t in e.setup.costs.items()}
    return {"accuracy": bad, "loss": bad, **costs}

  searcher = e.method.searcher(e.setup)
  state, _ = search_archs(e.setup, searcher, objective)
  rows = e.setup.journal.rows()
  assert len(rows) == state["round"] > 0
  for line in (e.workdir / "metrics.jsonl").read_text().splitlines():
    row = json.loads(line, parse_constant=pytest.fail)
    assert row["best_accuracy"] is None
    assert row["hypervolume"] == 0


def test_spos_runs_every_stage(project, finished, tmp_path):
  spos = override(
    load_config(str(project / "config.py")),
    ["method=spos", "ranking.n_archs=0", "train.epochs=1", "retrain.epochs=1"],
  )
  result = make_experiment(spos, tmp_path / "spos").run()
  assert result["method"] == "spos"
  assert result["metrics"]["macs"] <= BUDGET
  assert result["metrics"]["test_accuracy"] is not None
  fairness = json.loads((tmp_path / "spos" / "fairness.json").read_text())
  assert not fairness["strictly_fair"]
  # One path a step, so every layer's counts sum to the steps.
  assert [sum(c) for c in fairness["counts"]] == [6] * 3
  assert not (tmp_path / "spos" / "ranking.json").exists()


def test_retraining_can_inherit_the_weights(copy, config):
  for name in ("retrain.json", "export", "config.json"):
    path = copy / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
  shutil.rmtree(copy / "checkpoints" / "retrain")
  warm = override(
    config,
    ["retrain.inherit=true", "retrain.epochs=1",
     "retrain.optimizer.learning_rate=0", "retrain.dropout=0"],
  )  # fmt: skip
  e = make_experiment(warm, copy)
  e.retrain()
  fresh = make_experiment(warm, copy)
  fresh.export()
  _, variables, info = load_network(copy / "export")
  arch = e.setup.space.from_string(info["arch"])
  state = load_supernet(e.setup, e.sampler)
  # Without a learning rate the weights stay those of the supernet.
  want = inherited(e.setup, state.variables, arch)["params"]
  jax.tree.map(np.testing.assert_array_equal, variables["params"], want)


# Values that no stage can use ---------------------------------------------


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("search.objectives=acc,-macs,params", "'acc'.*accuracy"),
    ("train.label_smoothing=-3", "train.label_smoothing is -3"),
    ("train.optimizer.learning_rate=-0.1", "learning_rate is -0.1"),
    ("retrain.optimizer.weight_decay=nan", "weight_decay is nan"),
    ("retrain.optimizer.momentum=1", "momentum is 1"),
    ("retrain.optimizer.warmup_epochs=500", "warmup_epochs is 500 of"),
    ("retrain.dropout=1", "retrain.dropout is 1"),
    ("net.bn_momentum=7", "net.bn_momentum is 7"),
    ("search.controller_learning_rate=-1", "controller_learning_rate is -1"),
    ("train.paths=3", "means nothing to sampler 'fair'"),
    ("train.paths_in_flight=2", "paths_in_flight=2 does not suit"),
  ],
)
def test_useless_values_are_refused_first(setting, message, config, tmp_path):
  with pytest.raises(UserError, match=message):
    make_experiment(override(config, [setting]), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_options_that_a_sampler_or_optimiser_ignores(config, tmp_path):
  for settings, message in (
    (["train.sampler=spos", "train.pad_unequal=true"], "pad_unequal"),
    (["train.optimizer.name=adamw", "train.optimizer.nesterov=true"], "sgd"),
  ):
    with pytest.raises(UserError, match=message):
      make_experiment(override(config, settings), tmp_path / "run")


def test_looking_at_a_run_leaves_its_manifest_alone(copy, config, caplog):
  path = copy / "manifest.json"
  manifest = json.loads(path.read_text()) | {"jax": "0.0.1"}
  path.write_text(json.dumps(manifest))
  e = make_experiment(config, copy)
  e.report()
  with caplog.at_level(logging.WARNING, "jaxnas"):
    e.train()
  assert "begun with jax 0.0.1, now" in caplog.text
  assert json.loads(path.read_text()) == manifest


def test_results_say_where_retraining_began(finished, config, copy):
  result = json.loads((finished / "result.json").read_text())
  assert result["retrained_from"] == "scratch"
  assert "trained from scratch" in (finished / "report.html").read_text()
  result["retrained_from"] = "inherited"
  (copy / "result.json").write_text(json.dumps(result))
  make_experiment(config, copy).report()
  text = (copy / "report.html").read_text()
  assert "trained on from inherited weights" in text
