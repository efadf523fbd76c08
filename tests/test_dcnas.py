"""Whole runs of DC-NAS and of evolution: files, resume, claims, refusals."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxnas.config import ExperimentConfig, override
from jaxnas.errors import UserError
from jaxnas.experiment import make_experiment
from jaxnas.experiment.effort import effort
from jaxnas.methods import ShortTrainer, cohorts, represent, sample_archs
from jaxnas.scoring.partition_ranking import within_tau
from jaxnas.scoring.ranking import kendall_tau_b
from jaxnas.table_search import search_table

pytestmark = pytest.mark.usefixtures("compiled_once")

SPACE = """
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space


def get_space():
  choices = (Identity(), MBConv(2, 3), MBConv(1, 3))
  return Space(
    name="mini", image_size=8, image_channels=1, n_classes=10,
    stem=(Layer((Conv(3),), 4, 2),), layers=(Layer(choices, 6),) * 3,
  )
"""
COMMON = [
  "method=dcnas", "data.limit=200", "divide.samples=8", "divide.epochs=2",
  "divide.conquer_epochs=3", "divide.clusters=3", "divide.together=4",
  "retrain.epochs=3", "retrain.checkpoint_every=1", "retrain.batch_size=32",
  "retrain.optimizer.warmup_epochs=1", "ranking.n_archs=6",
  "ranking.bootstrap=50",
]  # fmt: skip
SHARED = [
  "divide.source=shared-weights", "divide.epochs=5", "divide.conquer_epochs=1",
  "train.epochs=2", "train.batch_size=32", "train.evaluate_archs=2",
  "train.optimizer.learning_rate=0.05", "train.checkpoint_every=1",
  "score.batch_size=64", "score.calibration_images=64",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  path = tmp_path_factory.mktemp("space") / "space.py"
  path.write_text(SPACE)
  return override(ExperimentConfig(), [f"space.name={path}", *COMMON])


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
  """The work directory of an undisturbed run; never written to again."""
  workdir = tmp_path_factory.mktemp("dcnas") / "run"
  make_experiment(config, workdir).run()
  return workdir


def read(path):
  return json.loads(path.read_text())


def outcome(workdir, *names):
  """What must not depend on how often a run was interrupted."""
  found = {name: read(workdir / name) for name in names}
  for row in found.get("clusters.json", {}).get("cost", ()):
    del row["seconds"]
  return found


# A run ----------------------------------------------------------------------


def test_a_run_leaves_its_files_and_a_result(finished):
  for name in ("clusters.json", "ranking.json", "export/weights.npz",
               "report.html", "archs.csv", "pareto.csv"):  # fmt: skip
    assert (finished / name).is_file(), name
  result = read(finished / "result.json")
  assert result["metrics"]["supernet_accuracy"] is None
  assert 0 < result["metrics"]["test_accuracy"] <= 1
  assert result["evaluated"] == 8
  assert result["retrained_from"] == "scratch"
  page = (finished / "report.html").read_text()
  assert 'id="divide"' in page
  assert 'id="conquer"' in page
  # No weights of candidates are left behind, but those of the winner are.
  kept = {p.name for p in (finished / "checkpoints").iterdir()}
  assert kept == {"retrain"}


def test_clusters_hold_what_was_compared(finished):
  found = read(finished / "clusters.json")
  rows = found["archs"]
  assert found["k"] == 3
  labels = [row["cluster"] for row in rows]
  assert sorted(set(labels)) == [0, 1, 2]
  for c in range(3):
    own = [row for row in rows if row["cluster"] == c]
    best = max(row["early"] for row in own)
    (survivor,) = [row for row in own if row["survivor"]]
    assert survivor["early"] == best
    assert found["clusters"][c]["winner"] == survivor["arch"]
    assert found["clusters"][c]["size"] == len(own)
  longer = {r["arch"]: r["longer"] for r in rows if r["survivor"]}
  assert all(r["longer"] is None for r in rows if not r["survivor"])
  search = read(finished / "search.json")
  assert search["accuracy"] == max(longer.values())
  assert longer[search["arch"]] == search["accuracy"]
  assert search["arch"] == found["merge"]["winner"]


def test_the_cost_counts_every_image(config, finished):
  first, second = read(finished / "clusters.json")["cost"]
  # 200 images are 6 batches of 32; a training image counts 3.
  assert first["images"] == 8 * (2 * 6 * 32 * 3 + 359)
  assert second["images"] == 3 * (3 * 6 * 32 * 3 + 359)
  found = effort(make_experiment(config, finished))
  assert found["train"] == first["images"]
  assert found["search"] == second["images"]


def test_the_claim_is_computed_from_the_rows(finished):
  ranking = read(finished / "ranking.json")
  rows, found = ranking["archs"], ranking["partition"]
  early = np.array([r["early_accuracy"] for r in rows])
  final = np.array([r["standalone_accuracy"] for r in rows])
  clusters = {r["arch"]: r["cluster"]
              for r in read(finished / "clusters.json")["archs"]}  # fmt: skip
  labels = np.array([clusters[r["arch"]] for r in rows])
  for name, value in (
    ("global", kendall_tau_b(early, final)),
    ("within", within_tau(labels, early, final)),
  ):
    mine = found[name]["value"]
    np.testing.assert_allclose(np.nan if mine is None else mine, value)
  assert found["n"] == len(rows) == 6


def test_a_killed_run_ends_the_same(config, finished, tmp_path, monkeypatch):
  """Stops after the first cohort, and within the second one's training."""
  workdir = tmp_path / "killed"
  saved, fit = [], cohorts.fit

  def dying(stage, step, *rest):
    def counted(*arguments):
      saved.append(stage)
      if len(set(saved)) == 2 and saved.count(stage) == 8:  # of 12 steps
        raise KeyboardInterrupt
      return step(*arguments)

    return fit(stage, counted, *rest)

  monkeypatch.setattr(cohorts, "fit", dying)
  with pytest.raises(KeyboardInterrupt):
    make_experiment(config, workdir).train()
  assert len(list((workdir / "early").glob("*.npz"))) == 1
  monkeypatch.setattr(cohorts, "fit", fit)
  again = make_experiment(config, workdir)
  again.train()
  again.search()
  names = ("clusters.json", "search.json")
  assert outcome(workdir, *names) == outcome(finished, *names)


def test_finished_trainings_are_not_repeated(config, finished, tmp_path):
  """`search` again reads every number; the weights are long gone."""
  copy = shutil.copytree(finished, tmp_path / "copy")
  before = (copy / "metrics.jsonl").read_bytes()
  (copy / "search.json").unlink()
  make_experiment(config, copy).search()
  assert (copy / "metrics.jsonl").read_bytes() == before
  names = ("clusters.json", "search.json")
  assert outcome(copy, *names) == outcome(finished, *names)


# One cluster, n clusters, both merges ----------------------------------------


@pytest.fixture
def variant(config, finished, tmp_path):
  """A search on the short trainings of `finished`, with other options."""

  def run(*changes):
    workdir = tmp_path / "variant"
    shutil.copytree(finished / "early", workdir / "early")
    experiment = make_experiment(override(config, list(changes)), workdir)
    experiment.train()
    return experiment.search(), read(workdir / "clusters.json")

  return run


def test_one_cluster_is_plain_early_stopping(variant, finished):
  found, clusters = variant("divide.clusters=1")
  rows = read(finished / "clusters.json")["archs"]
  # Equal accuracies are told apart by the loss, of which no row speaks.
  own = next(row for row in rows if row["arch"] == found["arch"])
  assert own["early"] == max(row["early"] for row in rows)
  assert [r["arch"] for r in clusters["archs"] if r["survivor"]] == [
    found["arch"]
  ]


def test_n_clusters_train_everything_longer(variant):
  found, clusters = variant("divide.clusters=8", "divide.conquer_epochs=2")
  rows = clusters["archs"]
  assert all(row["survivor"] for row in rows)
  assert found["accuracy"] == max(row["longer"] for row in rows)
  assert clusters["cost"][1]["networks"] == 8


def test_a_vote_wins_and_is_verified(variant):
  found, clusters = variant("divide.merge=vote")
  assert found["arch"] == clusters["merge"]["vote"]
  sampled = {row["arch"]: row for row in clusters["archs"]}
  own = sampled.get(found["arch"], {})
  if own.get("survivor"):
    assert found["accuracy"] == own["longer"]
  else:
    assert clusters["cost"][-1]["stage"] == "vote"
    assert 0 <= found["accuracy"] <= 1


def test_halving_trains_fewer_for_longer(variant):
  _, clusters = variant("divide.clusters=1", "divide.halving=2")
  stages = [(r["stage"], r["networks"], r["epochs"]) for r in clusters["cost"]]
  assert stages == [
    ("represent", 8, 2), ("halving-1", 4, 4), ("halving-2", 2, 8),
    ("conquer", 1, 3),
  ]  # fmt: skip


# Features --------------------------------------------------------------------


def test_a_network_does_not_depend_on_its_company(config, tmp_path):
  """Neither on how many are trained at once, nor on their order."""
  setup = make_experiment(config, tmp_path / "w").setup
  archs = sample_archs(setup)
  trainer = ShortTrainer(setup)
  four = trainer.train("a", archs[:4], 1).metrics
  two = trainer.train("a", archs[[3, 1]], 1)
  assert two.metrics["accuracy"].shape == (2,)
  assert len(jax.tree.leaves(two.state.params)[0]) == 4  # one program
  for name, values in two.metrics.items():
    np.testing.assert_array_equal(values, four[name][[3, 1]])
  other = ShortTrainer(
    make_experiment(
      override(config, ["divide.together=8"]), tmp_path / "other"
    ).setup
  )
  np.testing.assert_allclose(
    other.train("a", archs, 1).metrics["loss"][:4], four["loss"], rtol=1e-5
  )


def test_a_lost_middle_is_trained_again(config, tmp_path):
  """`before` is never taken from a later step, whatever has been kept."""
  setup = make_experiment(config, tmp_path / "w").setup
  archs, trainer = sample_archs(setup)[:2], ShortTrainer(setup)
  whole = trainer.train("a", archs, 2, first_epoch=1)
  name = next(
    p.name for p in (tmp_path / "w" / "checkpoints").iterdir()
    if p.name.endswith("-before")
  )  # fmt: skip
  shutil.rmtree(tmp_path / "w" / "checkpoints" / name)
  again = ShortTrainer(setup).train("a", archs, 2, first_epoch=1)
  for a, b in zip(
    jax.tree.leaves(whole.before), jax.tree.leaves(again.before), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_features_begin_at_the_first_epoch(config, tmp_path):
  """From the middle of a training on, a network changes less than in all."""
  more = ["divide.epochs=2", "divide.first_epoch=1", "divide.features=both"]
  late = make_experiment(override(config, more), tmp_path / "late")
  late.train()
  whole = make_experiment(
    override(config, ["divide.features=both"]), tmp_path / "whole"
  )
  whole.train()
  found = [
    {k: np.concatenate([np.load(path)[k]
                        for path in sorted((d / "early").iterdir())])
     for k in ("changes", "outputs", "accuracy")}
    for d in (tmp_path / "late", tmp_path / "whole")
  ]  # fmt: skip
  np.testing.assert_array_equal(found[0]["accuracy"], found[1]["accuracy"])
  assert found[0]["outputs"].shape == (8, 3, 4)
  present = found[1]["changes"] > 0
  assert (found[0]["changes"] < found[1]["changes"])[present].all()


@pytest.fixture(scope="module")
def shared(config, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("shared") / "run"
  changes = [*SHARED, "divide.features=both"]
  experiment = make_experiment(override(config, changes), workdir)
  experiment.train()
  experiment.search()
  return experiment


def test_shared_weights_judge_by_the_supernet(shared):
  rows = read(shared.workdir / "clusters.json")["archs"]
  found = shared.score(sample_archs(shared.setup))
  assert [r["early"] for r in rows] == [r["accuracy"] for r in found["archs"]]
  result = read(shared.workdir / "result.json")
  early = {r["arch"]: r["early"] for r in rows}
  assert result["metrics"]["supernet_accuracy"] == early[result["arch"]]
  fairness = read(shared.workdir / "fairness.json")
  assert fairness["strictly_fair"]


def test_shared_weights_export_what_the_supernet_saw(shared):
  """The search ends with a longer training, which is another accuracy."""
  found = shared.export("inherited")
  assert found["largest_difference"] < 1e-3


def test_features_of_shared_weights_are_reproducible(shared):
  one, two = (represent(shared.setup, None).features for _ in range(2))
  np.testing.assert_array_equal(one, two)
  assert np.isfinite(one).all()


# Evolution -------------------------------------------------------------------


def test_evolution_trains_each_candidate_once(config, tmp_path):
  changes = [
    "method=evolution", "search.population=4", "search.offspring=2",
    "search.generations=2", "search.objectives=('accuracy',)",
    "search.tournament=2", "divide.samples=64", "divide.clusters=8",
    "divide.conquer_epochs=20",
  ]  # fmt: skip
  experiment = make_experiment(override(config, changes), tmp_path / "w")
  experiment.train()
  found = experiment.search()
  assert found["evaluated"] == 8
  assert len(list((tmp_path / "w" / "child").iterdir())) == 3  # one a round
  archs = (tmp_path / "w" / "archs.csv").read_text().splitlines()[1:]
  assert len({line.split(",")[0] for line in archs}) == 8
  best = max(float(line.split(",")[2]) for line in archs)
  assert found["accuracy"] == best
  again = make_experiment(override(config, changes), tmp_path / "w").search()
  assert again["arch"] == found["arch"]
  scored = experiment.score(experiment.setup.space.validate([[0, 1, 2]]))
  assert 0 <= scored["archs"][0]["accuracy"] <= 1
  with pytest.raises(UserError, match="race"):
    experiment.score(np.zeros((1, 3), np.int32), race=0.1)
  with pytest.raises(UserError, match="no supernet"):
    experiment.export("inherited")


# Tables ----------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
  """Two groups; the early accuracy is fair inside each of them only."""
  rng = np.random.default_rng(0)
  lines = ["arch,accuracy,early,macs,feature.speed,feature.noise"]
  for i in range(6):
    for j in range(6):
      for k in range(2):  # the slow group has the better networks
        final = 0.5 + 0.02 * (i + j) + 0.05 * (k == 0)
        early = final - 0.3 * (k == 0)
        lines.append(
          f"{i}-{j}-{k},{final:.4f},{early:.4f},{10 + i + j},{k},"
          f"{0.01 * rng.standard_normal():.4f}"
        )
  path = tmp_path / "table.csv"
  path.write_text("\n".join(lines) + "\n")
  return path


def test_a_table_with_unfair_early_accuracies(table):
  config = override(ExperimentConfig(), [
    "method=dcnas", "search.objectives=('accuracy',)", "divide.early=early",
    "divide.samples=72", "divide.clusters=2", "divide.distance=euclidean",
    "divide.early_cost=0.25",
  ])  # fmt: skip
  found = search_table(config, table)
  assert found["regret"] == 0
  assert found["arch"] == "550"
  assert found["evaluated"] == 18 + 2
  assert len(found["curve"]) == 20
  assert np.isnan(found["curve"][:18]).all()
  partition = found["divide"]["partition"]
  assert partition["within"]["value"] == pytest.approx(1)
  assert partition["difference"]["low"] > 0
  plain = search_table(override(config, ["divide.clusters=1"]), table)
  assert plain["arch"] == "551"
  assert plain["regret"] == pytest.approx(0.05)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("divide.early=none", "early"),
    ("divide.early=-accuracy", "the objective itself"),
    ("divide.epochs=3", "trains nothing"),
    ("divide.early=accuracy", "the objective itself"),
    ("divide.early_cost=0", "above 0"),
    ("divide.halving=2", "two fidelities"),
  ],
)
def test_what_a_table_refuses(table, change, message):
  config = override(ExperimentConfig(), [
    "method=dcnas", "search.objectives=('accuracy',)", "divide.early=early",
    "divide.samples=20", change,
  ])  # fmt: skip
  with pytest.raises(UserError, match=message):
    search_table(config, table)


def test_a_table_of_errors(table):
  """What is to be small is written with a minus, early as final."""
  lines = table.read_text().splitlines()
  rows = [line.split(",") for line in lines[1:]]
  text = "\n".join(
    ["arch,error,early_error"]
    + [f"{a},{1 - float(f):.4f},{1 - float(e):.4f}" for a, f, e, *_ in rows]
  )
  path = table.with_name("errors.csv")
  path.write_text(text + "\n")
  config = override(ExperimentConfig(), [
    "method=dcnas", "search.objectives=('-error',)", "divide.clusters=1",
    "divide.early=-early_error", "divide.samples=72",
  ])  # fmt: skip
  found = search_table(config, path)
  assert found["arch"] == "551"
  assert found["divide"]["macs_explained"] is None
  assert "macs" not in found["divide"]["partition"]
  with pytest.raises(UserError, match="macs"):
    search_table(override(config, ["divide.partition=macs"]), path)


# Refusals --------------------------------------------------------------------


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("divide.halving=1", "divide.halving"),
    ("divide.clusters=9", "divide.clusters"),
    ("search.population=3", "search.population"),
    ("train.epochs=3", "train.epochs"),
    ("retrain.inherit=true", "retrain.inherit"),
    ("divide.early=accuracy", "divide.early"),
    ("divide.conquer_epochs=1", "divide.conquer_epochs"),
    ("ranking.selection=evenly-spaced", "ranking.selection"),
    ("ranking.together=3", "ranking.together"),
    ("budget=macs<=1", "macs"),
    ("method=fairnas", "divide.samples"),
    ("method=evolution", "divide.samples"),
  ],
)
def test_what_is_refused_before_anything_is_written(
  config, tmp_path, change, message
):
  with pytest.raises(UserError, match=message):
    make_experiment(override(config, [change]), tmp_path / "w")
  assert not (tmp_path / "w").exists()
