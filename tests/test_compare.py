"""`compare`: arms that are alike, runs paid for once, honest statistics."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from jaxnas import cli
from jaxnas.compare import compare, load_arms, runs
from jaxnas.config import DivideConfig, load_config, override, to_json
from jaxnas.errors import RunError, UserError
from jaxnas.experiment import effort, make_experiment
from jaxnas.writer import read_json, write_json

SET = """
import dataclasses

from jaxnas.config import load_config, override


def get_configs():
  base = override(load_config("digits_fairnas:quicktest"), {settings!r})
  return {{
    name: dataclasses.replace(base, method=method)
    for name, method in {arms!r}.items()
  }}


def single():
  return get_configs()[{first!r}]


def numbers():
  return {{"a": 1}}


def bad_name():
  return {{"a/b": single()}}


def one():
  return {{"lonely": single()}}
"""


@pytest.fixture
def make_set(tmp_path):
  """Writes a file with a set of configs and returns its path."""

  def write(arms=None, settings=(), name="set.py"):
    arms = arms or {"fair": "fairnas", "single": "spos"}
    path = tmp_path / name
    text = SET.format(arms=arms, settings=[*settings], first=[*arms][0])
    path.write_text(text)
    return path

  return write


@pytest.fixture
def fails(capsys):
  """Runs a `compare` that must be refused; returns its sentence."""

  def run(*arguments):
    with pytest.raises(SystemExit) as caught:
      cli.main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == "" and "Traceback" not in err and err.count("\n") == 1, err
    return err

  return run


class Fake:
  """Stands for an experiment; accuracies come from the arm and the seed."""

  ran = []
  dies_at = None
  images = "0" * 16

  def __init__(self, config, workdir):
    self.config, self.workdir = config, workdir
    splits = {"train": range(9), "validation": range(4), "test": range(100)}
    data = SimpleNamespace(source="fake", fingerprint=Fake.images, **splits)
    self.setup = SimpleNamespace(data=data)

  def train(self):
    Fake.ran.append((self.workdir.parent.name, self.config.seed))
    if len(Fake.ran) == Fake.dies_at:
      raise KeyboardInterrupt
    self.workdir.mkdir(parents=True, exist_ok=True)

  def search(self):
    pass

  def retrain(self):
    worse = 0.01 * (self.config.method != "fairnas")
    seed = self.config.seed
    write_json(
      self.workdir / "result.json",
      {
        "method": self.config.method, "space": "digits", "arch": "0-1",
        "evaluated": 5,
        "metrics": {
          "test_accuracy": 0.9 - worse * (1 + seed) + 0.02 * seed,
          "standalone_accuracy": 0.95 if worse else None,
          "macs": 1000 + seed, "params": 50, "supernet_accuracy": 0.5,
        },
        "seconds": {"train": 2.0, "search": 1.0, "retrain": 4.0,
                    "compile": 0.5},
      },
    )  # fmt: skip


@pytest.fixture
def faked(monkeypatch):
  """Replaces experiments by fakes; lists the runs that were begun."""
  Fake.ran, Fake.dies_at, Fake.images = [], None, "0" * 16
  monkeypatch.setattr(runs, "make_experiment", Fake)
  monkeypatch.setattr(
    runs, "effort",
    lambda e: {"train": 300, "search": 100 if e.config.method == "spos" else 90,
               "retrain": 7},
  )  # fmt: skip
  return Fake.ran


def test_every_arm_runs_with_every_seed_seed_by_seed(faked, make_set, tmp_path):
  result = compare([str(make_set())], tmp_path / "w")
  assert faked == [(n, s) for s in (0, 1, 2) for n in ("fair", "single")]
  first, second = result["arms"]
  accuracy = np.array([0.9, 0.92, 0.94])
  assert first["test_accuracy"]["value"] == pytest.approx(accuracy.mean())
  bounds = stats.t.interval(0.95, 2, accuracy.mean(), stats.sem(accuracy))
  found = first["test_accuracy"]
  assert (found["low"], found["high"]) == pytest.approx(bounds)
  assert first["standalone_accuracy"] is None  # the winners were not retrained
  assert second["standalone_accuracy"]["value"] == pytest.approx(0.95)
  assert first["search_images"]["value"] == 390
  assert second["search_images"]["value"] == 400
  assert result["effort"]["images"]["ratio"] == pytest.approx(400 / 390)
  assert not result["warnings"]
  (pair,) = result["pairs"]
  assert pair["difference"]["value"] == pytest.approx(0.02)
  p = stats.ttest_1samp([0.01, 0.02, 0.03], 0).pvalue
  assert pair["p"] == pair["p_holm"] == pytest.approx(p)
  assert (pair["wins"], pair["losses"], pair["verdict"]) == (3, 0, "undecided")
  assert first["seeds"] == {"wins": 3, "ties": 0, "losses": 0}
  stored = read_json(tmp_path / "w" / "comparison.json")
  assert {**stored, "path": result["path"]} == json.loads(json.dumps(result))
  assert (tmp_path / "w" / "comparison.html").is_file()
  assert (tmp_path / "w" / "comparison.svg").is_file()


def test_a_kill_loses_the_run_it_hits_only(faked, make_set, tmp_path):
  path, workdir = str(make_set()), tmp_path / "w"
  whole = compare([path], tmp_path / "undisturbed")
  Fake.ran.clear()
  Fake.dies_at = 4
  with pytest.raises(KeyboardInterrupt):
    compare([path], workdir)
  assert not (workdir / "comparison.json").exists()
  Fake.ran.clear()
  Fake.dies_at = None
  result = compare([path], workdir)
  assert Fake.ran == [("single", 1), ("fair", 2), ("single", 2)]
  assert result | {"path": ""} == whole | {"path": ""}
  Fake.ran.clear()
  assert compare([path], workdir) == result and not Fake.ran
  # A further seed costs its own runs only.
  more = compare([path], workdir, seeds=[3, 0, 1, 2])
  assert Fake.ran == [("fair", 3), ("single", 3)]
  assert more["seeds"] == [0, 1, 2, 3]


def test_other_images_are_not_compared(faked, make_set, tmp_path):
  path, workdir = str(make_set()), tmp_path / "w"
  compare([path], workdir, seeds=[0])
  Fake.images = "1" * 16
  with pytest.raises(UserError, match="fair/seed-0 and fair/seed-1 .* images"):
    compare([path], workdir, seeds=[0, 1])


def test_a_refused_arm_claims_nothing(faked, make_set, tmp_path, monkeypatch):
  path, workdir = str(make_set()), tmp_path / "w"

  def refuse(config, folder):
    raise UserError("no such thing.")

  monkeypatch.setattr(runs, "make_experiment", refuse)
  with pytest.raises(UserError, match="arm 'fair', seed 0: no such thing"):
    compare([path], workdir)
  assert not workdir.exists()


def test_one_seed_has_means_but_no_intervals(faked, make_set, tmp_path, capsys):
  arguments = ["compare", str(make_set()), "--workdir", str(tmp_path / "w")]
  cli.main([*arguments, "--seeds", "1", "--json"])
  result = json.loads(capsys.readouterr().out)
  estimate = result["arms"][0]["test_accuracy"]
  assert estimate == {"value": pytest.approx(0.92), "low": None, "high": None}
  assert result["pairs"][0]["verdict"] == "undecided"
  assert result["pairs"][0]["p_holm"] is None
  assert "One seed" in result["warnings"][0]
  cli.main([*arguments, "--seeds", "1"])
  text = capsys.readouterr().out
  assert "0.9200" in text and "no pair can be told apart" in text
  assert "One seed" in text and "comparison.html" in text


def test_unequal_search_budgets_are_called_out(
  faked, make_set, tmp_path, monkeypatch
):
  spent = {"fairnas": 100, "spos": 100, "gcn": 125}
  monkeypatch.setattr(
    runs, "effort",
    lambda e: {"train": spent[e.config.method], "search": 0, "retrain": 1},
  )  # fmt: skip
  arms = {"a": "fairnas", "b": "spos", "c": "gcn"}
  result = compare([str(make_set(arms))], tmp_path / "w")
  (warning,) = result["warnings"]
  assert "not equal: c +25% off the median of 100 image" in warning
  assert result["effort"]["images"]["ratio"] == 1.25


def test_a_failed_run_is_named(faked, make_set, tmp_path, monkeypatch):
  def broken(self):
    raise RunError("stage train diverged.")

  monkeypatch.setattr(Fake, "search", broken)
  with pytest.raises(RunError, match="arm 'fair', seed 0: stage train div"):
    compare([str(make_set())], tmp_path / "w")


def test_an_illegal_arm_is_refused_before_anything_runs(make_set, fails):
  path = make_set({"fair": "fairnas", "wrong": "dartz"})
  workdir = path.with_name("w")
  assert "arm 'wrong', seed 0: unknown method 'dartz'" in fails(
    path, "--workdir", workdir
  )
  assert not (workdir / "fair").exists()


def test_arms_come_from_sets_and_single_configs(make_set):
  path = make_set()
  arms = load_arms([str(path), f"{path}:single", "digits_spos"], ["seed=5"])
  assert [(a.name, a.from_set) for a in arms] == [
    ("fair", True), ("single", True), ("set-single", False),
    ("digits_spos", False),
  ]  # fmt: skip
  assert all(arm.config.seed == 5 for arm in arms)
  assert arms[0].seeded(2) == override(arms[0].config, ["seed=2"])
  assert arms[3].config == override(load_config("digits_spos"), ["seed=5"])


@pytest.mark.parametrize(
  ("references", "message"),
  [
    (["{set}:one"], "two arms or more, and this has only 'lonely'"),
    (["{set}", "{set}"], "two arms are called 'fair'"),
    (["{set}:numbers"], "returns int, not ExperimentConfig"),
    (["{set}:bad_name"], "arm 'a/b' of"),
    (["{set}:nothing"], "unknown variant of"),
    (["digits_fairnass", "{set}"], "Did you mean 'digits_fairnas'?"),
    (["{set}", "--seeds"], "--seeds is empty"),
    (["{set}", "--seeds", "1", "2", "1"], "--seeds names 1 more than once"),
    (["{set}", "--seeds", "-1"], "seed is -1"),
    (["{set}", "--set", "train.epoch=3"], "Did you mean 'epochs'?"),
    (["{set}", "--table", "nothing.csv"], "nothing.csv"),
  ],
)
def test_refusals(make_set, fails, references, message):
  path = make_set()
  given = [r.format(set=path) for r in references]
  assert message in fails(*given, "--workdir", path.with_name("w"))
  assert not path.with_name("w").exists()


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ("data.limit=100", "differ in data.limit (0 and 100)"),
    ("data.split_seed=1", "differ in data.split_seed (0 and 1)"),
    ("data.augment.shift=0", "differ in data.augment.shift (1 and 0)"),
    ("retrain.epochs=3", "differ in retrain.epochs (2 and 3)"),
    ("retrain.optimizer.learning_rate=0.2", "retrain.optimizer.learning_rate"),
    ("net.bn_momentum=0.8", "differ in net.bn_momentum (0.9 and 0.8)"),
  ],
)
def test_arms_that_are_not_alike_are_refused(make_set, fails, setting, message):
  first = make_set({"fair": "fairnas"})
  other = make_set({"single": "spos"}, [setting], "other.py")
  workdir = first.with_name("w")
  found = fails(first, other, "--workdir", workdir)
  assert "arms 'fair' and 'single'" in found and message in found
  assert not workdir.exists()


def test_how_often_a_training_is_saved_may_differ(faked, make_set, tmp_path):
  first = make_set({"fair": "fairnas"})
  settings = ["retrain.checkpoint_every=2", "retrain.log_every=3",
              "train.epochs=3"]  # fmt: skip
  other = make_set({"single": "spos"}, settings, "other.py")
  assert compare([str(first), str(other)], tmp_path / "w")["arms"]


def test_another_comparisons_folder_is_refused(faked, make_set, fails):
  path = make_set()
  workdir = path.with_name("w")
  compare([str(path)], workdir, seeds=[0])
  begun = len(faked)
  found = fails(path, "--workdir", workdir, "--set", "train.epochs=9")
  assert "another comparison (arm 'fair' differs in train.epochs: 2" in found
  other = make_set({"fair": "fairnas", "third": "gcn"}, name="other.py")
  assert "its arms are fair, single" in fails(other, "--workdir", workdir)
  single = path.with_name("run")
  single.mkdir()
  write_json(single / "config.json", to_json(load_config("digits_spos")))
  assert "belongs to a single run" in fails(path, "--workdir", single)
  assert "cannot be made" in fails(path, "--workdir", path / "below")
  assert len(faked) == begun


# Tables -----------------------------------------------------------------------


ROWS = np.argwhere(np.ones((3, 3, 3, 2)))
WORTH = np.random.default_rng(0).normal(size=(4, 3))
OPTIONS = [
  "search.objectives=accuracy", "search.population=6", "search.offspring=3",
  "search.objective_weights=1.0", "search.tournament=3",
]  # fmt: skip


@pytest.fixture
def table(tmp_path):
  lines = [
    f"{''.join(map(str, r))},{0.8 + 0.01 * WORTH[range(4), r].sum():.6f}"
    f",{10 + r.sum()}"
    for r in ROWS
  ]
  path = tmp_path / "table.csv"
  path.write_text("\n".join(["arch,accuracy,macs", *lines]))
  return path


def table_set(make_set, rounds=4, **arms):
  """A set whose arms differ in their search."""
  files = []
  for name, algorithm in arms.items():
    settings = [*OPTIONS, f"search.algorithm={algorithm}", "budget=",
                f"search.generations={rounds}"]  # fmt: skip
    files.append(make_set({name: "fairnas"}, settings, f"{name}.py"))
  return [str(f) for f in files]


def test_searches_of_a_table_are_compared_at_equal_look_ups(
  make_set, table, tmp_path, monkeypatch
):
  files = table_set(make_set, draws="random", evolves="evolution")
  files += table_set(make_set, 1, brief="random")
  workdir = tmp_path / "w"
  result = compare(files, workdir, seeds=range(6), table=table)
  assert result["evaluations"] == 9  # of the brief one
  best = 0.8 + 0.01 * WORTH[range(4), WORTH.argmax(1)].sum()
  best = max(0.8 + 0.01 * WORTH[range(4), r].sum() for r in ROWS)
  for arm in result["arms"]:
    rows = [
      read_json(workdir / arm["name"] / f"seed-{s}" / "search.json")
      for s in range(6)
    ]
    ends = np.array([best - row["curve"][8] for row in rows])
    assert arm["regret"]["value"] == pytest.approx(ends.mean(), abs=1e-6)
    assert arm["curve"]["mean"][8] == arm["regret"]["value"]
    assert arm["median"] == pytest.approx(np.median(ends), abs=1e-6)
    low, median, high = (arm["curve"][k] for k in ("low", "median", "high"))
    assert (np.array(low) <= median).all() and (median <= np.array(high)).all()
  # All draw the same first archs.
  pair = result["pairs"][1]
  assert (pair["a"], pair["b"]) == ("draws", "brief")
  assert (pair["ties"], pair["verdict"]) == (6, "undecided")
  assert "brief -50% off the median of 18 look-ups" in result["warnings"][0]

  def no_search(*_):
    raise AssertionError("paid for twice")

  monkeypatch.setattr("jaxnas.compare.tables.search_table", no_search)
  assert compare(files, workdir, seeds=range(6), table=table) == result


def test_arms_of_a_set_that_no_table_fits_are_left_out(
  make_set, table, tmp_path, capsys
):
  arms = {"a": "fairnas", "b": "spos", "masks": "pgnas", "divides": "dcnas"}
  path = make_set(arms, [*OPTIONS, "budget=", "search.generations=1"])
  cli.main(
    ["compare", str(path), "--workdir", str(tmp_path / "w"), "--table",
     str(table), "--seeds", "0", "1"]
  )  # fmt: skip
  text = capsys.readouterr().out
  assert "masks is left out: method pgnas" in text
  assert "divides is left out: method dcnas" in text
  assert "after 9 look-ups" in text


def test_refusals_with_a_table(make_set, table, fails):
  workdir = table.with_name("w")
  path = make_set({"a": "fairnas", "b": "spos"}, [*OPTIONS, "budget="])
  given = ["--workdir", workdir, "--table", table]
  found = fails(path, "digits_pgnas", *given)
  assert "arm 'digits_pgnas': method pgnas searches no archs" in found
  other = make_set({"c": "spos"}, [*OPTIONS, "budget=macs<=14"], "other.py")
  assert "differ in budget ('' and 'macs<=14')" in fails(path, other, *given)
  lonely = make_set({"a": "fairnas", "b": "pgnas"}, OPTIONS, "lonely.py")
  assert "only 'a' that searches a table (b left out)" in fails(lonely, *given)
  assert not workdir.exists()


def test_dividing_a_table_needs_as_many_look_ups_as_the_others(
  make_set, table, tmp_path
):
  text = table.read_text().splitlines()
  rows = [text[0] + ",early"] + [f"{t},{t.split(',')[1]}" for t in text[1:]]
  table.write_text("\n".join(rows))
  settings = [*OPTIONS, "budget=", "divide.early=early", "divide.samples=6",
              "divide.clusters=3", "ranking.bootstrap=10"]  # fmt: skip
  files = table_set(make_set, 1, draws="random")
  files.append(str(make_set({"divides": "dcnas"}, settings, "dc.py")))
  result = compare(files, tmp_path / "w", seeds=[0, 1], table=table)
  assert result["evaluations"] == 9  # 6 early ones and 3 of clusters' best
  curve = result["arms"][1]["curve"]["mean"]
  assert np.isnan(curve[:6]).all() and np.isfinite(curve[6:]).all()
  again = compare(files, tmp_path / "w", seeds=[0, 1], table=table)
  assert again["arms"][1]["regret"] == result["arms"][1]["regret"]
  files[0] = table_set(make_set, 0, few="random")[0]
  with pytest.raises(UserError, match="'divides' knows no accuracy after 6"):
    compare(files, tmp_path / "v", seeds=[0], table=table)


# Image evaluations ------------------------------------------------------------

# scikit-learn's digits: 1,797 images in three splits.
TRAIN, VALIDATION, TEST = 1079, 359, 359


def begun(tmp_path, reference, settings, **files):
  """An experiment and the files that its stages would have left."""
  config = override(load_config(reference), settings)
  if config.method == "evolution":  # it reads little of what DC-NAS does
    divide = DivideConfig(epochs=config.divide.epochs)
    config = dataclasses.replace(config, divide=divide)
  e = make_experiment(config, tmp_path / "run")
  sizes = [len(getattr(e.setup.data, k))
           for k in ("train", "validation", "test")]  # fmt: skip
  assert sizes == [TRAIN, VALIDATION, TEST]
  e.workdir.mkdir()
  for name, value in files.items():
    if name == "archs":
      (e.workdir / "archs.csv").write_text("\n".join(value) + "\n")
    else:
      write_json(e.workdir / f"{name}.json", value)
  return effort.effort(e)


def test_effort_of_a_supernet_of_paths(tmp_path):
  settings = [
    "train.epochs=5", "train.batch_size=100", "train.evaluate_every=2",
    "train.evaluate_archs=4", "score.calibration_images=64",
    "retrain.epochs=3", "retrain.batch_size=50", "retrain.checkpoint_every=2",
  ]  # fmt: skip
  found = begun(
    tmp_path, "digits_fairnas:quicktest", settings, search={"evaluated": 21}
  )
  # 10 steps an epoch of 6 fair paths; validations after 2, 4 and 5 epochs.
  assert found["train"] == 3 * 5 * 10 * 100 * 6 + 3 * 4 * (VALIDATION + 64)
  assert found["search"] == 21 * (VALIDATION + 64)
  # Validations after 2 and 3 epochs, then the judgement.
  trained = 3 * 3 * 21 * 50
  assert found["retrain"] == trained + 2 * VALIDATION + VALIDATION + TEST


@pytest.mark.parametrize(
  ("sampler", "paths"), [("spos", 1), ("uniform-k", 6), ("ef-k", 1)]
)
def test_effort_counts_the_paths_of_a_step(tmp_path, sampler, paths):
  settings = [
    "train.epochs=1", "train.batch_size=100", "train.evaluate_archs=0",
    f"train.sampler={sampler}", "score.bn_mode=running",
  ]  # fmt: skip
  found = begun(
    tmp_path, "digits_spos:quicktest", settings, search={"evaluated": 2}
  )
  assert found["train"] == 3 * 10 * 100 * paths
  assert found["search"] == 2 * VALIDATION


def test_effort_of_masks(tmp_path):
  settings = [
    "train.epochs=2", "train.batch_size=100", "train.evaluate_every=0",
  ]  # fmt: skip
  found = begun(
    tmp_path, "digits_pgnas:quicktest", settings, search={"evaluated": 17}
  )
  # Running statistics; 3 masks and the threshold's validated at the end.
  assert found["train"] == 3 * 2 * 10 * 100 + 4 * VALIDATION
  assert found["search"] == 17 * VALIDATION
  assert found["retrain"] == VALIDATION + TEST


def test_effort_of_successive_halving(tmp_path):
  settings = ["masks.halving=2", "score.bn_mode=recalibrate",
              "score.calibration_images=64"]  # fmt: skip
  archs = ["arch,images", "x0,32", "x1,32.0", "x2,64", "x3,288"]
  found = begun(
    tmp_path, "digits_pgnas:quicktest", settings, search={"evaluated": 4},
    archs=archs,
  )  # fmt: skip
  # Rungs of 32, 64 and 288 images; each calibrates those that take part.
  assert found["search"] == 32 + 32 + 64 + 288 + (1 + 1 + 2 + 3) * 64


def test_effort_of_blocks(tmp_path):
  settings = [
    "train.epochs=2", "train.batch_size=100", "train.evaluate_archs=3",
    "train.evaluate_every=1", "score.calibration_images=64",
  ]  # fmt: skip
  # Two searches share what they found.
  archs = ["arch,guidance", "a,0.0", "b,0.0", "a,0.3", "c,0.3"]
  found = begun(tmp_path, "digits_irlas:quicktest", settings, archs=archs)
  assert found["train"] == 3 * 2 * 10 * 100 + 2 * 3 * (VALIDATION + 64)
  assert found["search"] == 3 * (VALIDATION + 64)


def test_effort_of_a_differentiable_search(tmp_path):
  settings = [
    "search.algorithm=differentiable", "blocks.rounds=5", "blocks.per_round=4",
    "train.batch_size=100", "score.calibration_images=64",
    "blocks.compare=0,1",
  ]  # fmt: skip
  found = begun(
    tmp_path, "digits_irlas:quicktest", settings, archs=["arch", "a", "b"]
  )
  # Two batches a step, three lambdas, and the blocks decoded.
  assert found["search"] == 3 * 2 * 100 * 5 * 4 * 3 + 2 * (VALIDATION + 64)


@pytest.mark.parametrize("given", ["children", "block", "table"])
def test_effort_of_blocks_without_an_interpreter(tmp_path, given):
  settings = {
    "children": ["blocks.evaluation=children", "blocks.child.epochs=2",
                 "blocks.child.batch_size=100",
                 "blocks.child.optimizer.drop_epochs=1"],
    "block": ["blocks.block=conv3@0-conv3@1", "blocks.compare="],
    "table": ["blocks.evaluation=table", f"blocks.table={tmp_path}/t.csv"],
  }[given]  # fmt: skip
  (tmp_path / "t.csv").write_text(
    "arch,accuracy\nconv3@0,0.5\nconv1@0,0.6\nconv5@0,0.7\n"
  )
  found = begun(
    tmp_path, "digits_irlas:quicktest", settings, archs=["arch", "a", "b", "b"]
  )
  assert found["train"] == 0
  children = 2 * (3 * 2 * 10 * 100 + VALIDATION)
  assert found["search"] == (children if given == "children" else 0)


def test_effort_of_short_trainings(tmp_path):
  settings = ["method=evolution", "divide.epochs=2", "retrain.batch_size=100"]
  base = "digits_dcnas:quicktest"
  found = begun(tmp_path, base, settings, search={"evaluated": 9})
  assert found["train"] == 0
  assert found["search"] == 9 * (3 * 2 * 10 * 100 + VALIDATION)


def test_effort_of_dividing_is_what_it_says_it_cost(tmp_path):
  cost = [{"images": 1000}, {"images": 200}, {"images": 30}]
  found = begun(tmp_path, "digits_dcnas:quicktest", [], clusters={"cost": cost})
  assert (found["train"], found["search"]) == (1000, 230)


# For real ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_two_methods_for_real(make_set, tmp_path):
  space = tmp_path / "space.py"
  space.write_text(
    "from jaxnas.spaces import Conv, Layer, Space\n\n\n"
    "def get_space():\n"
    "  choices = (Conv(1), Conv(3))\n"
    "  return Space(name='mini', image_size=8, image_channels=1, n_classes=10,"
    " stem=(Layer((Conv(3),), 4, 2),), layers=(Layer(choices, 6),))\n"
  )
  settings = [
    f"space.name={space}", "budget=", "data.limit=200", "train.epochs=1",
    "score.calibration_images=64", "search.population=2",
    "search.generations=0", "retrain.epochs=1",
    "train.evaluate_archs=0",
  ]  # fmt: skip
  path = make_set(settings=settings)
  workdir = tmp_path / "w"
  result = compare([str(path)], workdir, seeds=[0])
  fair, single = result["arms"]
  for arm in (fair, single):
    for run in arm["runs"]:
      folder = workdir / arm["name"] / f"seed-{run['seed']}"
      found = read_json(folder / "result.json")
      assert run["test_accuracy"] == found["metrics"]["test_accuracy"]
      assert found["test_reads"] == 1
      assert not (folder / "ranking.json").exists()
      assert not (folder / "export").exists()
    assert arm["images"]["retrain"] == 3 * 3 * 64 + 2 * VALIDATION + TEST
  # Strict fairness takes both choices of a layer in each step.
  trained = [arm["images"]["train"] for arm in (fair, single)]
  assert trained[0] - trained[1] == 3 * 6 * 32
  # A finished run is an ordinary one.
  e = make_experiment(
    load_arms([str(path)])[0].seeded(0), workdir / "fair/seed-0"
  )
  assert e.retrain()["test_accuracy"] == fair["runs"][0]["test_accuracy"]
  assert result["data"] == {
    "source": "digits", "fingerprint": e.setup.data.fingerprint,
    "train": 200, "validation": VALIDATION, "test": TEST,
  }  # fmt: skip
  # Two processes find what one does, in the order of the arms.
  apart = compare([str(path)], tmp_path / "apart", seeds=[0], jobs=2)
  for arm, other in zip(result["arms"], apart["arms"], strict=True):
    (run,), (same,) = arm["runs"], other["runs"]
    assert {**run, "seconds": 0} == {**same, "seconds": 0}


def test_jobs_are_one_or_more_and_not_for_tables(make_set, tmp_path):
  path = str(make_set())
  with pytest.raises(UserError, match="--jobs is 0; legal: 1 or more"):
    compare([path], tmp_path / "w", jobs=0)
  with pytest.raises(UserError, match="--jobs is 2; legal: 1 with a table"):
    compare([path], tmp_path / "w", table=tmp_path / "t.csv", jobs=2)


def test_a_refusal_names_its_arm_and_seed(make_set, tmp_path):
  path = make_set(settings=["search.population=0"])
  with pytest.raises(UserError, match="arm 'fair', seed 0: search.population"):
    compare([str(path)], tmp_path / "w")
