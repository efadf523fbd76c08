"""The method irlas in a tiny experiment: files, resuming, evaluations."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxnas.config import load_config, override
from jaxnas.costs.block_budget import block_costs
from jaxnas.errors import UserError
from jaxnas.experiment import make_experiment
from jaxnas.methods import BlockObjective, block_search, load_interpreter
from jaxnas.nets import GraphNetwork, load_network
from jaxnas.spaces import nsc

pytestmark = pytest.mark.usefixtures("compiled_once")

SETTINGS = [
  'space.options={"max_layers": 3, "stem": 4, "stages": [[4, 1], [6, 1]]}',
  "data.limit=320", "train.epochs=6", "train.batch_size=16",
  "train.checkpoint_every=2", "train.evaluate_every=3", "train.log_every=20",
  "score.calibration_images=64", "expert.samples=40", "expert.rounds=10",
  "expert.iterations=2", "blocks.rounds=12", "blocks.per_round=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(repo):
  base = load_config(f"{repo / 'configs' / 'digits_irlas.py'}:quicktest")
  return override(base, SETTINGS)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
  """The work directory of an undisturbed run; never written to again."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  make_experiment(config, workdir).run()
  return workdir


def read(workdir, name):
  return json.loads((workdir / name).read_text())


def rows_of(workdir):
  with open(workdir / "archs.csv", newline="") as file:
    return list(csv.DictReader(file))


def moved(finished, workdir):
  """A directory with a trained interpreter that no config has claimed."""
  source = finished / "checkpoints" / "train"
  shutil.copytree(source, workdir / "checkpoints" / "train")
  (workdir / "config.json").unlink(missing_ok=True)
  return workdir


def begun(config, workdir):
  """An experiment whose trained interpreter is there already."""
  e = make_experiment(config, workdir)
  e.train()
  return e


def outcome(workdir):
  """All that must not depend on how often a run was interrupted."""
  result = read(workdir, "result.json")
  del result["seconds"]
  names = (
    "archs.csv", "config.json", "guidance.json", "irl.json", "metrics.jsonl",
    "retrain.json", "search.json", "space.json", "export/weights.npz",
  )  # fmt: skip
  return result, {name: (workdir / name).read_bytes() for name in names}


def test_the_result_describes_the_exported_network(config, finished):
  result = read(finished, "result.json")
  space = make_experiment(config, finished).setup.space
  arch = space.from_string(result["arch"])
  costs = block_costs(space, arch)
  assert result["metrics"]["macs"] == costs["macs"][0]
  with np.load(finished / "export" / "weights.npz") as weights:
    stored = sum(
      weights[k].size for k in weights.files if k.startswith("params/")
    )
  assert stored == costs["params"][0] == result["metrics"]["params"]
  assert result["choices"] == [nsc.to_text(c) for c in space.codes(arch)]
  assert result["evaluation"] == "interpreter"
  assert result["test_reads"] == 1
  network, variables, info = load_network(finished / "export")
  assert isinstance(network, GraphNetwork)
  assert (info["arch"], info["space"]["name"]) == (result["arch"], space.name)
  setup = make_experiment(config, finished).setup
  x = setup.data.test.images / np.float32(255)
  x = ((x - setup.data.mean) / setup.data.std).astype(np.float32)
  hits = np.asarray(network.apply(variables, x)).argmax(-1)
  assert result["metrics"]["test_accuracy"] == pytest.approx(
    (hits == setup.data.test.labels).mean(), abs=1.5 / len(x)
  )


def test_the_winner_has_the_best_reward(config, finished):
  rows = [r for r in rows_of(finished) if r["guidance"] == "0.3"]
  reward = [float(r["accuracy"]) + 0.3 * float(r["mirror"]) for r in rows]
  found = read(finished, "search.json")
  assert rows[int(np.argmax(reward))]["arch"] == found["arch"]
  assert found["evaluated"] == len(rows)
  plain = [r for r in rows_of(finished) if r["guidance"] == "0.0"]
  best = max(plain, key=lambda r: float(r["accuracy"]))
  guidance = read(finished, "guidance.json")["rows"]
  assert [r["guidance"] for r in guidance] == [0.0, 0.3]
  assert guidance[0]["accuracy"] == float(best["accuracy"])
  assert [r["chosen"] for r in guidance] == [False, True]
  for row in guidance:
    assert row["low"] < row["accuracy"] < row["high"]
  top = found["top"]
  assert top[0]["arch"] == found["arch"]
  assert found["diversity"] > 0


def test_both_lambdas_explore_alike_while_epsilon_is_one(config, finished):
  space = make_experiment(config, finished).setup.space
  random = {
    g: [r["arch"] for r in rows_of(finished)
        if r["guidance"] == g and int(r["round"]) <= 3]
    for g in ("0.0", "0.3")
  }  # fmt: skip
  assert random["0.0"] == random["0.3"] != []
  archs = np.stack([space.from_string(t) for t in random["0.0"]])
  assert (space.canonical(archs) == archs).all()


def test_what_the_expert_taught_is_written_down(config, finished):
  found = read(finished, "irl.json")
  assert [e["name"] for e in found["experts"]] == ["resnet-basic"]
  assert found["experts"][0]["arch"] == "conv3@0-conv3@1-add@0+2"
  assert len(found["weights"]) == 21
  assert len(found["random_values"]) == config.expert.samples
  assert 0 <= found["share_below"] <= 1
  with_expert = read(finished, "guidance.json")["rows"][1]
  assert with_expert["mean_distance"] >= 0


def test_latencies_of_chosen_and_random_blocks(finished):
  found = read(finished, "latency.json")
  kinds = [b["kind"] for b in found["blocks"]]
  assert kinds == ["compared", "chosen", "random"]
  for block in found["blocks"]:
    for batch in ("1", "16"):
      times = block["times"][batch]
      assert 0 < times["low"] <= times["ms"] <= times["high"]


def test_inherited_weights_score_what_the_search_saw(
  config, finished, tmp_path
):
  workdir = shutil.copytree(finished, tmp_path / "copy")
  e = make_experiment(config, workdir)
  e.export("inherited")
  network, variables, _ = load_network(workdir / "export_inherited")
  x = e.setup.data.validation.images / np.float32(255)
  x = ((x - e.setup.data.mean) / e.setup.data.std).astype(np.float32)
  hits = np.asarray(network.apply(variables, x)).argmax(-1)
  accuracy = (hits == e.setup.data.validation.labels).mean()
  searched = read(workdir, "search.json")["accuracy"]
  assert accuracy == pytest.approx(searched, abs=2.5 / len(x))


def test_scores_are_those_of_the_search(config, finished):
  e = make_experiment(config, finished)
  rows = rows_of(finished)[:3]
  archs = np.stack([e.setup.space.from_string(r["arch"]) for r in rows])
  found = e.score(archs)["archs"]
  for row, again in zip(rows, found, strict=True):
    for name in ("accuracy", "mirror", "distance", "macs"):
      assert float(row[name]) == again[name]
  with pytest.raises(UserError, match="not for method irlas"):
    e.score(archs, 0.1)


class Killed(BaseException):
  """Ends a stage as a signal would."""


def test_killed_and_run_again_is_the_same(
  config, finished, tmp_path, monkeypatch
):
  monkeypatch.setattr(block_search, "SAVE_EVERY", 0.0)
  workdir = tmp_path / "run"
  for after in (5, 17):  # in the first and in the second search

    class Fragile(BlockObjective):
      calls = 0

      def __call__(self, archs, after=after):
        type(self).calls += 1
        if type(self).calls > after:
          raise Killed
        return super().__call__(archs)

    with monkeypatch.context() as patch:
      patch.setattr("jaxnas.experiment.blocks.BlockObjective", Fragile)
      with pytest.raises(Killed):
        make_experiment(config, workdir).run()
  make_experiment(config, workdir).run()
  assert outcome(workdir) == outcome(finished)


def test_children_are_trained_each_on_its_own(config, tmp_path, monkeypatch):
  children = override(
    config,
    ["blocks.evaluation=children", "blocks.rounds=3", "blocks.per_round=1",
     "blocks.child.epochs=1", "blocks.child.batch_size=32",
     "blocks.child.optimizer.schedule=cosine",
     "blocks.child.optimizer.drop_epochs=()",
     "blocks.child.optimizer.drop_factor=10",
     'space.options={"max_layers": 2, "stem": 4, "stages": [[4, 1]],'
     ' "output": "concat", "hidden": 6, "dropout": 0.2}',
     "blocks.latency_blocks=0", "blocks.compare=()"],
  )  # fmt: skip
  children = dataclasses.replace(children, train=type(config.train)())
  e = begun(children, tmp_path / "a")
  found = e.search()
  assert found["evaluation"] == "children"
  assert found["evaluated"] <= 3
  assert read(tmp_path / "a", "result.json")["metrics"][
    "supernet_accuracy"
  ] is None  # fmt: skip
  # A block's accuracy depends on nothing but the block.
  other = begun(
    override(children, ["blocks.guidance=0.7"]), tmp_path / "b"
  ).score(e.setup.space.from_string(found["arch"])[None])
  assert other["archs"][0]["accuracy"] == found["accuracy"]
  # A further process trains none of them again.
  (tmp_path / "a" / "search.json").unlink()
  shutil.rmtree(tmp_path / "a" / "checkpoints" / "search-0.3")
  monkeypatch.setattr("jaxnas.methods.children.child_accuracy", None)
  assert make_experiment(children, tmp_path / "a").search() == found
  with pytest.raises(UserError, match="no interpreter"):
    e.export("inherited")
  with pytest.raises(UserError, match="no interpreter"):
    e.rank()


def table_config(config, path):
  table = override(
    config,
    ["blocks.evaluation=table", f"blocks.table={path}", "blocks.rounds=20",
     "blocks.per_round=10", "blocks.guidance=0", "blocks.compare=()",
     'space.options={"max_layers": 2, "stem": 4, "stages": [[4, 1]]}',
     "blocks.latency_blocks=0"],
  )  # fmt: skip
  return dataclasses.replace(table, train=type(config.train)())


def test_a_table_takes_the_place_of_training(config, tmp_path):
  space = make_experiment(config, tmp_path / "x").setup.space.replace(
    max_layers=2
  )
  archs = np.unique(
    space.canonical(space.sample(np.random.default_rng(0), 2000)), axis=0
  )
  rng = np.random.default_rng(1)
  accuracy = rng.uniform(0.3, 0.9, len(archs))
  path = tmp_path / "table.csv"
  lines = [
    f"{space.to_string(a)},{v}" for a, v in zip(archs, accuracy, strict=True)
  ]
  path.write_text("\n".join(["arch,accuracy", *lines]))
  found = begun(table_config(config, path), tmp_path / "a").search()
  # Two hundred draws of 120 distinct blocks: the best is nearly sure.
  assert found["accuracy"] == max(accuracy)
  path.write_text("\n".join(["arch,accuracy", *lines[:3]]))
  few = begun(table_config(config, path), tmp_path / "b").search()
  assert few["accuracy"] in accuracy[:3]
  with pytest.raises(UserError, match="no truth file"):
    make_experiment(table_config(config, tmp_path / "no.csv"), tmp_path / "c")


def test_a_given_block_is_trained_without_a_search(config, repo, tmp_path):
  given = load_config(
    f"{repo / 'configs' / 'imagenet_irlas_mobile.py'}:quicktest"
  )
  given = override(
    given, ["space.name=blocks-digits", "space.image_size=8",
            'space.options={"stages": [[4, 1]], "stem": 4}',
            "blocks.block=resnet-basic", "data.limit=320"],
  )  # fmt: skip
  result = make_experiment(given, tmp_path / "w").run()
  assert result["arch"] == "conv3@0-conv3@1-add@0+2"
  assert result["metrics"]["supernet_accuracy"] is None
  assert result["evaluated"] == 0
  assert (tmp_path / "w" / "report.html").is_file()
  with pytest.raises(UserError, match="needs an evaluation"):
    make_experiment(given, tmp_path / "w").score(np.zeros((1, 3), np.int32))


def test_a_ranking_of_interpreter_and_stand_alone(config, finished, tmp_path):
  ranked = override(config, ["ranking.n_archs=3", "ranking.bootstrap=20"])
  workdir = moved(finished, tmp_path / "w")
  found = make_experiment(ranked, workdir).rank()
  assert len({r["arch"] for r in found["archs"]}) == 3
  assert -1 <= found["kendall_tau_b"]["value"] <= 1
  e = make_experiment(ranked, workdir)
  variables = load_interpreter(e.setup)
  archs = np.stack(
    [e.setup.space.from_string(r["arch"]) for r in found["archs"]]
  )
  again = e.setup.scorer()(variables, archs)["accuracy"]
  assert again.tolist() == [r["supernet_accuracy"] for r in found["archs"]]


def test_a_budget_bounds_every_block(config, finished, tmp_path):
  macs = sorted(int(r["macs"]) for r in rows_of(finished))
  limit = macs[len(macs) // 2]
  bound = dataclasses.replace(config, budget=f"macs<={limit}")
  workdir = moved(finished, tmp_path / "w")
  shutil.copytree(finished / "checkpoints" / "train",
                  tmp_path / "v" / "checkpoints" / "train")  # fmt: skip
  e = make_experiment(bound, workdir)
  e.train()
  e.search()
  assert all(int(r["macs"]) <= limit for r in rows_of(workdir))
  tight = dataclasses.replace(config, budget="params<=10")
  with pytest.raises(UserError, match="the smallest block of"):
    make_experiment(tight, tmp_path / "u")


@pytest.mark.parametrize(
  ("settings", "part"),
  [
    (["search.algorithm=nsga2"], "unknown search.algorithm"),
    (["search.population=5"], "search.population is 5"),
    (["blocks.table=x.csv"], "given exactly with"),
    (["blocks.guidance=-1"], "blocks.guidance is -1"),
    (["blocks.compare=0.3"], "differ from each other"),
    (["expert.blocks=resnet"], "unknown expert"),
    (["expert.blocks=()"], "expert.blocks is empty"),
    (["blocks.block=conv3@1"], "at layer 1 of a block"),
    (["blocks.child.epochs=0"], "blocks.child.epochs is 0"),
    (["blocks.child.inherit=true"], "leave it at its default"),
    (["blocks.child.optimizer.learning_rate=-1"], "blocks.child.optimizer"),
    (["blocks.compare=0.3000001"], "differ from each other"),
    (["expert.blocks=resnet-bottleneck,mobilenet-v2"], "the same structure"),
    (
      [
        "space.image_size=16",
        "space.name=irlas-mobile",
        "space.options={}",
        "blocks.evaluation=children",
      ],
      "nothing to search",
    ),
    (["masks.batch=7"], "masks.batch is 7"),
    (["train.sampler=fair"], "train.sampler is 'fair'"),
    (["retrain.epochs=0"], "retrain.inherit is false"),
    (["space.name=digits", "space.options={}"], "searches a block"),
    (["blocks.rounds=0"], "blocks.rounds"),
    (['space.options={"output": "concat"}'], "needs output='project'"),
    (["score.engine=routed"], "auto or serial"),
  ],
)
def test_wrong_values_are_explained(config, tmp_path, settings, part):
  with pytest.raises(UserError, match=part):
    make_experiment(override(config, settings), tmp_path / "w")
  assert not (tmp_path / "w").exists()


def test_other_methods_refuse_what_only_blocks_have(repo, tmp_path):
  other = load_config(f"{repo / 'configs' / 'digits_fairnas.py'}:quicktest")
  for text in ("blocks.rounds=3", "expert.offsets=2"):
    with pytest.raises(UserError, match="method fairnas does not use it"):
      make_experiment(override(other, [text]), tmp_path / "w")


def test_the_search_needs_a_begun_run(config, tmp_path):
  with pytest.raises(UserError, match="jaxnas train"):
    make_experiment(config, tmp_path / "w").search()
