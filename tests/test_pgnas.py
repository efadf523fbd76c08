"""The method pgnas in a tiny experiment: files, resuming, budgets, honesty."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxnas.config import load_config, override
from jaxnas.costs.masks import mask_costs
from jaxnas.errors import UserError
from jaxnas.experiment import make_experiment
from jaxnas.methods import load_masked
from jaxnas.methods import masked as masked_module
from jaxnas.nets import drop_rates, load_network
from jaxnas.nets.export import flatten
from jaxnas.search import PosteriorSampler

pytestmark = pytest.mark.usefixtures("compiled_once")

SETTINGS = [
  'space.options={"width": 6, "blocks": 1}', "data.limit=320",
  "train.epochs=20", "train.batch_size=16", "train.checkpoint_every=5",
  "train.evaluate_every=10", "train.log_every=20",
  "masks.initial_rate=0.3", "masks.length_scale=2", "masks.candidates=12",
  "masks.rate_delay=2", "masks.rate_speed=3",
  "masks.batch=5", "score.bn_mode=recalibrate", "score.calibration_images=64",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(repo):
  base = load_config(f"{repo / 'configs' / 'digits_pgnas.py'}:quicktest")
  return override(base, SETTINGS)


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


def read(workdir, name):
  return json.loads((workdir / name).read_text())


def outcome(workdir):
  """All that must not depend on how often a run was interrupted."""
  result = read(workdir, "result.json")
  del result["seconds"]
  names = (
    "config.json", "metrics.jsonl", "posterior.json", "retrain.json",
    "search.json", "selection.json", "space.json", "export/weights.npz",
  )  # fmt: skip
  files = {name: (workdir / name).read_bytes() for name in names}
  with open(workdir / "archs.csv", newline="") as file:
    rows = [{**row, "seconds": None} for row in csv.DictReader(file)]
  return result, files, rows


def test_the_result_describes_the_compact_network(config, finished):
  result = read(finished, "result.json")
  space = make_experiment(config, finished).setup.space
  arch = space.from_string(result["arch"])
  costs = mask_costs(space, arch[None])
  assert result["metrics"]["macs"] == costs["macs"][0]
  assert result["metrics"]["params"] == costs["params"][0]
  with np.load(finished / "export" / "weights.npz") as weights:
    stored = sum(
      weights[k].size for k in weights.files if k.startswith("params/")
    )
  assert stored == result["metrics"]["params"]
  full = mask_costs(space, np.ones_like(arch)[None])
  assert costs["params"][0] < full["params"][0]
  assert result["kept_channels"] == pytest.approx(arch.mean())
  assert result["retrained_from"] == "not retrained"
  assert result["metrics"]["standalone_accuracy"] is None
  assert result["test_reads"] == 1
  assert result["selected_from"] == "validation"


def test_the_exported_network_predicts_as_the_masked_one(config, finished):
  e = make_experiment(config, finished)
  setup = e.setup
  arch = setup.space.from_string(read(finished, "result.json")["arch"])
  network, variables, info = load_network(finished / "export")
  x = setup.data.test.images / np.float32(255)
  x = ((x - setup.data.mean) / setup.data.std).astype(np.float32)
  ours = network.apply(variables, x)
  calibration = setup.data.train.images[:64] / np.float32(255)
  calibration = (calibration - setup.data.mean) / setup.data.std
  state = load_masked(setup).variables
  keep = arch.astype(np.float32)
  _, stats = setup.supernet.apply(state, calibration, keep, False)
  masked = {**state, "batch_stats": {**state["batch_stats"], **stats}}
  theirs, _ = setup.supernet.apply(masked, x, keep, True)
  np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
  assert info["arch"] == read(finished, "result.json")["arch"]
  accuracy = (np.asarray(ours).argmax(-1) == setup.data.test.labels).mean()
  assert accuracy > 0.3  # far from guessing, or the rest would show little
  assert read(finished, "retrain.json")["test_accuracy"] == pytest.approx(
    accuracy, abs=1.5 / len(x)
  )


def test_the_winner_is_the_best_candidate(finished):
  with open(finished / "archs.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  best = min(
    rows,
    key=lambda r: (-float(r["accuracy"]), float(r["loss"]), int(r["macs"])),
  )
  found = read(finished, "search.json")
  assert (best["arch"], int(best["candidate"])) == (
    found["arch"], found["candidate"],
  )  # fmt: skip
  numbers = [int(r["candidate"]) for r in rows]
  assert numbers == sorted(set(numbers))
  assert set(numbers) <= set(range(-1, 12))
  assert found["evaluated"] == len(rows)


def test_learned_rates_reach_the_files(config, finished):
  rates = drop_rates(load_masked(make_experiment(config, finished).setup)
                     .variables)  # fmt: skip
  groups = read(finished, "posterior.json")["groups"]
  np.testing.assert_allclose([g["rate"] for g in groups], rates)
  assert not np.allclose(rates, config.masks.initial_rate, atol=0.01)
  histograms = [
    json.loads(line)["rate_histogram"]
    for line in (finished / "metrics.jsonl").read_text().splitlines()
    if "rate_histogram" in line
  ]
  assert len(histograms) == 2  # epochs 10 and 20
  assert all(sum(h) == len(groups) for h in histograms)


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_selection_that_was_killed_goes_on(
  config, finished, tmp_path, monkeypatch, stop_after
):
  workdir = tmp_path / "killed"
  shutil.copytree(
    finished, workdir, ignore=shutil.ignore_patterns("search*", "retrain*")
  )
  for name in ("archs.csv", "pareto.csv", "selection.json", "result.json"):
    (workdir / name).unlink()
  tell, told = PosteriorSampler.tell, []

  def dies(self, *args):
    if len(told) == stop_after:
      raise KeyboardInterrupt
    told.append(1)
    return tell(self, *args)

  monkeypatch.setattr(PosteriorSampler, "tell", dies)
  with pytest.raises(KeyboardInterrupt):
    make_experiment(config, workdir).search()
  monkeypatch.undo()
  make_experiment(config, workdir).run()
  assert outcome(workdir) == outcome(finished)


def test_a_training_that_was_killed_goes_on(
  config, finished, tmp_path, monkeypatch
):
  make, calls = masked_module.make_masked_step, []

  def mortal(*args):
    step = make(*args)

    def dies(*arguments):
      if len(calls) == 250:
        raise KeyboardInterrupt
      calls.append(1)
      return step(*arguments)

    return dies

  monkeypatch.setattr(masked_module, "make_masked_step", mortal)
  with pytest.raises(KeyboardInterrupt):
    make_experiment(config, tmp_path / "killed").train()
  monkeypatch.undo()
  make_experiment(config, tmp_path / "killed").run()
  assert outcome(tmp_path / "killed") == outcome(finished)


def test_the_test_split_is_read_once(config, copy, monkeypatch):
  def never(*_):
    raise AssertionError("the test split was read again")

  monkeypatch.setattr("jaxnas.methods.networks.NetworkEvaluator", never)
  out = make_experiment(config, copy).retrain()
  assert out["test_accuracy"] == read(copy, "retrain.json")["test_accuracy"]


def moved(finished, workdir):
  """A directory with a trained supernet that no config has claimed."""
  source = finished / "checkpoints" / "train"
  shutil.copytree(source, workdir / "checkpoints" / "train")
  return workdir


def test_a_budget_is_kept_or_refused_with_the_nearest(
  config, finished, tmp_path
):
  sizes = []
  with open(finished / "archs.csv", newline="") as file:
    sizes = sorted(int(r["macs"]) for r in csv.DictReader(file))
  limit = sizes[len(sizes) // 2]
  bound = dataclasses.replace(config, budget=f"macs<={limit}")
  found = make_experiment(bound, moved(finished, tmp_path / "a")).search()
  assert found["macs"] <= limit
  assert found["over_budget"] > 0
  assert found["evaluated"] == sum(s <= limit for s in sizes)
  tight = dataclasses.replace(config, budget=f"macs<={sizes[0] - 1}")
  with pytest.raises(UserError, match=f"smallest have {sizes[0]:,} macs"):
    make_experiment(tight, moved(finished, tmp_path / "b")).search()
  with pytest.raises(UserError, match="has 10 params"):  # the classifier's bias
    bare = dataclasses.replace(config, budget="params<=9")
    make_experiment(bare, tmp_path / "c")


def test_halving_scores_survivors_on_all_images(config, finished, tmp_path):
  halving = override(
    config, ["masks.halving=2", "score.batch_size=60", "masks.candidates=9"]
  )
  e = make_experiment(halving, moved(finished, tmp_path / "w"))
  found = e.search()
  with open(tmp_path / "w" / "archs.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  n = len(e.setup.data.validation)
  images = [int(float(r["images"])) for r in rows]
  assert max(images) == n > min(images) == 60
  assert found["images"] == n
  survivors = [r for r in rows if r["accuracy"] not in ("", "nan")]
  assert 1 <= len(survivors) < len(rows)
  plain = e.score(np.array([e.setup.space.from_string(found["arch"])]))
  assert found["accuracy"] == pytest.approx(
    plain["archs"][0]["accuracy"], abs=1.5 / n
  )


@pytest.mark.parametrize("inherit", ["true", "false"])
def test_retraining_changes_the_weights_and_is_said(
  config, finished, tmp_path, inherit
):
  tuning = override(
    config,
    ["retrain.epochs=2", f"retrain.inherit={inherit}",
     "retrain.optimizer.warmup_epochs=0", "retrain.batch_size=32",
     "retrain.checkpoint_every=1"],
  )  # fmt: skip
  workdir = moved(finished, tmp_path / "w")
  shutil.copy(finished / "search.json", workdir)
  e = make_experiment(tuning, workdir)
  out = e.retrain()
  said = "inherited" if inherit == "true" else "scratch"
  assert out["retrained_from"] == said
  assert 0 <= out["standalone_accuracy"] <= 1
  e.export()
  _, ours, _ = load_network(workdir / "export")
  _, theirs, _ = load_network(finished / "export")
  ours, theirs = flatten(ours), flatten(theirs)
  assert {k: v.shape for k, v in ours.items()} == {
    k: v.shape for k, v in theirs.items()
  }
  assert any(not np.allclose(ours[k], theirs[k]) for k in ours)


def test_fixed_rates_stay(config, tmp_path):
  fixed = override(config, ["masks.rates=fixed", "masks.initial_rate=0.4",
                            "train.epochs=1"])  # fmt: skip
  e = make_experiment(fixed, tmp_path / "w")
  e.train()
  rates = drop_rates(load_masked(e.setup).variables)
  np.testing.assert_allclose(rates, 0.4, rtol=1e-6)


@pytest.mark.parametrize("verb", ["rank"])
def test_what_masks_cannot_do_is_said(config, copy, verb):
  with pytest.raises(UserError, match="no stage rank"):
    getattr(make_experiment(config, copy), verb)()


def test_a_chain_space_is_refused(config, tmp_path):
  chain = override(config, ["space.name=digits", "space.options={}"])
  with pytest.raises(UserError, match="searches a masked network"):
    make_experiment(chain, tmp_path / "w")
