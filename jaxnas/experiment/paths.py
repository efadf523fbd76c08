"""Runs an experiment: config to stages in order, in one work directory.

Each stage resumes from its checkpoints, writes its own files, and reads those
of the stages before it, so stages can run in one process or in many.
"""

import csv
import dataclasses
import logging
import platform
import time
from pathlib import Path

import flax
import jax
import numpy as np

import jaxnas
from jaxnas.compilations import Compilations
from jaxnas.config import ExperimentConfig, fingerprint, to_json
from jaxnas.costs import format_count, supernet_params
from jaxnas.errors import UserError, unknown
from jaxnas.memory import keep_freed_memory
from jaxnas.methods import (
  answer,
  check_inherited,
  evidence,
  fitted_accuracies,
  fleet_batches,
  get_method,
  inherited,
  load_supernet,
  make_setup,
  ranking_archs,
  read_lookup,
  read_truth,
  search_archs,
  standalone_accuracies,
  supernet_batches,
  supernet_objective,
  train_supernet,
  train_winner,
  write_fairness,
  write_lookup,
)
from jaxnas.nets import PlainNetwork, export_network
from jaxnas.report import report as write_report
from jaxnas.scoring import (
  FleetEvaluator,
  check_score,
  compare_rankings,
  race_archs,
)
from jaxnas.search import (
  SegmentSearch,
  archive_archs,
  finalists,
  parse_objective,
  pick_equispaced,
  single_best,
)
from jaxnas.search import front as pareto_front
from jaxnas.training import PathSampler, paths_in_flight
from jaxnas.writer import read_json, write_csv, write_json

log = logging.getLogger("jaxnas")

# Of the front, by accuracy; among equals the lower loss wins, then the cheaper.
SELECTION = ("accuracy", "-loss", "-macs")


class Experiment:
  """One config in one work directory.

  Nothing is written before `train` begins, so that a value that is refused
  does not claim the directory.

  Args:
    config: the resolved config.
    workdir: made by `train` if missing.

  Raises:
    UserError: if the directory holds another config's run or another data
      set's, or for an illegal value of the config.
  """

  def __init__(self, config: ExperimentConfig, workdir: Path) -> None:
    keep_freed_memory()
    self.config, self.workdir = config, Path(workdir)
    self.method = get_method(config.method)
    self._claim()
    self.setup = make_setup(config, self.workdir)
    # Built once here so that a bad value fails before anything is written.
    supernet_batches(self.setup, self.sampler)
    paths_in_flight(config.train, self.sampler, self.setup.supernet)
    fleet_batches(self.setup, "retrain", config.retrain)
    known = {"accuracy", "loss", *self.setup.costs}
    for objective in self.method.searcher(self.setup).objectives:
      if (name := parse_objective(objective)[0]) not in known:
        raise unknown("metric in search.objectives", name, known)
    self._compiling = Compilations()
    self._check_images()

  @property
  def sampler(self) -> PathSampler:
    """Paths of a training step."""
    return self.method.sampler(self.setup)

  # Stages -----------------------------------------------------------------

  def train(self) -> dict:
    """Trains the supernet; warns if it learned nothing.

    Returns:
      What the stage found, for `--json`.
    """
    self._describe()
    sampler = self.sampler
    state, seconds = train_supernet(self.setup, sampler)
    write_fairness(self.setup, sampler, state)
    self._record("train", seconds)
    probes = [
      r["validation_accuracy"]
      for r in self.setup.journal.rows()
      if r["stage"] == "train" and "validation_accuracy" in r
    ]
    return {
      "stage": "train",
      "steps": int(state.step),
      "validation_accuracy": probes[-1] if probes else None,
    }

  def search(self) -> dict:
    """Searches with the trained supernet and picks the winner.

    Returns:
      The content of `search.json`.
    """
    setup = self.setup
    state = load_supernet(setup, self.sampler)
    objective = supernet_objective(setup, state.variables)
    self._alarm(objective)
    searcher = self.method.searcher(setup)
    found, seconds = search_archs(setup, searcher, objective)
    archive = found["archive"]
    front = pareto_front(found, setup.space, searcher.objectives)
    rows = finalists(found, setup.space, searcher.objectives)
    metrics = archive["metrics"].items()
    winner = single_best(archive, SELECTION, setup.budget, rows)
    index = archive["archs"].index(winner.tolist())
    with open(self.workdir / "archs.csv", newline="") as file:
      table = list(csv.DictReader(file))
    shown = sorted(front.index.tolist())
    write_csv(self.workdir / "pareto.csv", [table[i] for i in shown])
    picked = pick_equispaced(front, setup.config.search.front)
    result = {
      "arch": setup.space.to_string(winner),
      "choices": setup.space.choice_names(winner),
      "evaluated": len(archive_archs(found, setup.space)),
      **{name: values[index] for name, values in metrics},
      "bn_mode": setup.config.score.bn_mode,
      "front": [
        {
          "arch": setup.space.to_string(archive["archs"][i]),
          **{
            name: archive["metrics"][name][i]
            for name in ("accuracy", "macs", "params")
          },
        }
        for i in picked.index
      ],
    }
    for row in (result, *result["front"]):
      row["macs"], row["params"] = int(row["macs"]), int(row["params"])
    cut = inherited(setup, state.variables, winner)
    check_inherited(setup, cut, winner, result["accuracy"])
    start = time.monotonic()
    if isinstance(searcher, SegmentSearch):
      write_lookup(self.workdir, searcher, found)
      rng = np.random.default_rng(setup.seed("evidence"))
      ranking = self.config.ranking
      write_json(
        self.workdir / "predictors.json",
        {
          "segments": evidence(
            searcher, found, rng, ranking.bootstrap, ranking.confidence
          ),
          "predictor": self.config.search.predictor.kind,
          "confidence": ranking.confidence,
        },
      )
    write_json(self.workdir / "search.json", result)
    self._record("search", seconds + time.monotonic() - start)
    return {"stage": "search", **result}

  def look_up(self, budgets: list[str]) -> dict:
    """Answers budgets from what a search with a predictor left behind.

    Searches first if that has not been done; otherwise the supernet is not
    touched.

    Args:
      budgets: such as `macs<=60M,params<=5M`.

    Returns:
      The answers, under `answers`; `lookup.json` keeps those of earlier calls
      as well.
    """
    if not (self.workdir / "search.json").is_file():
      self.search()
    setup = self.setup
    answers = answer(
      read_lookup(self.workdir), budgets, setup.parse_budget,
      setup.space.to_string,
    )  # fmt: skip
    path = self.workdir / "lookup.json"
    before = read_json(path)["answers"] if path.is_file() else []
    kept = [row for row in before if row["budget"] not in budgets]
    write_json(path, {"answers": kept + answers})
    return {"stage": "search", "answers": answers}

  def rank(self, truth: Path | None = None) -> dict:
    """Compares supernet and stand-alone accuracies.

    Args:
      truth: CSV with columns `arch` and `standalone_accuracy` (or
        `accuracy`); None trains `ranking.n_archs` networks from scratch.

    Returns:
      The content of `ranking.json`.
    """
    setup, config = self.setup, self.config.ranking
    if truth:
      archs, accuracy = read_truth(truth, setup.space)
    elif not config.n_archs:
      raise UserError(
        "ranking.n_archs is 0; set it to at least 3, or give --truth FILE."
      )
    state = load_supernet(setup, self.sampler)
    start = time.monotonic()
    scorer = setup.scorer()
    selection = config.selection
    if truth:
      selection = f"given in {Path(truth).name}"
    else:
      archs = ranking_archs(setup, scorer, state.variables)
    spent = time.monotonic() - start
    if not truth:
      accuracy, seconds = standalone_accuracies(setup, archs)
      spent += seconds
    start = time.monotonic()
    supernet = scorer(state.variables, archs)["accuracy"]
    costs = {name: table(archs) for name, table in setup.costs.items()}
    ranking = {
      "selection": selection,
      "bn_mode": scorer.bn_mode,
      **compare_rankings(
        supernet, accuracy, costs, config.top_k,
        np.random.default_rng(setup.seed("bootstrap")),
        config.bootstrap, config.confidence, fitted_accuracies(setup, archs),
      ),
      "archs": [
        {
          "arch": setup.space.to_string(arch),
          "supernet_accuracy": float(supernet[i]),
          "standalone_accuracy": float(accuracy[i]),
          **{name: int(values[i]) for name, values in costs.items()},
        }
        for i, arch in enumerate(archs)
      ],
    }  # fmt: skip
    write_json(self.workdir / "ranking.json", ranking)
    self._record("rank", spent + time.monotonic() - start)
    return {"stage": "rank", **ranking}

  def retrain(self) -> dict:
    """Trains the winner as a plain network and reads the test split once.

    Returns:
      The content of `retrain.json`.
    """
    setup = self.setup
    winner = self._winner()
    text = setup.space.to_string(winner)
    path = self.workdir / "retrain.json"
    fleet, state, seconds = train_winner(setup, self.sampler, winner)
    if path.is_file() and (done := read_json(path))["arch"] == text:
      self._record("retrain", seconds)  # the test split is read once only
      return {"stage": "retrain", **done}
    accuracy = {}
    for name, split in (
      ("standalone", setup.data.validation),
      ("test", setup.data.test),
    ):
      judge = FleetEvaluator(
        fleet, setup.data, split, self.config.score.batch_size, setup.placement
      )
      accuracy[f"{name}_accuracy"] = float(
        judge(state.variables)["accuracy"][0]
      )
    origin = "inherited" if self.config.retrain.inherit else "scratch"
    result = {"arch": text, "retrained_from": origin, **accuracy}
    write_json(path, result)
    self._record("retrain", seconds)
    return {"stage": "retrain", **result}

  def export(self, weights: str = "retrained") -> dict:
    """Writes the winner as files and checks them in a fresh process.

    Args:
      weights: `retrained`, into `export/`; or `inherited`, the supernet's with
        batch norm recalibrated, into `export_inherited/`. The latter must
        score what the search saw.

    Returns:
      Folder and largest difference of a logit.
    """
    start = time.monotonic()
    setup = self.setup
    winner = self._winner()
    if weights == "inherited":
      state = load_supernet(setup, self.sampler)
      variables = inherited(setup, state.variables, winner)
      searched = read_json(self.workdir / "search.json")["accuracy"]
      check_inherited(setup, variables, winner, searched)
    elif not (self.workdir / "retrain.json").is_file():
      raise self._missing("retrained network", "retrain")
    else:
      # Its checkpoint, or the rest of the same training if that is damaged.
      fleet, state, _ = train_winner(setup, self.sampler, winner)
      variables = jax.device_get(fleet.unstack(state.variables, 0))
    arch = tuple(winner.tolist())
    folder = "export" if weights == "retrained" else "export_inherited"
    gap = export_network(
      self.workdir / folder, PlainNetwork(setup.space, arch, self.config.net),
      variables, setup.data.mean, setup.data.std, setup.data.class_names,
      setup.data.validation.images[:16],
    )  # fmt: skip
    self._record("export", time.monotonic() - start)
    return {
      "stage": "export",
      "folder": str(self.workdir / folder),
      "largest_difference": gap,
    }

  def report(self) -> dict:
    """Writes `report.html`.

    Returns:
      Its path.
    """
    return {"stage": "report", "path": str(write_report(self.workdir))}

  def score(self, archs: np.ndarray, race: float | None = None) -> dict:
    """Supernet metrics and costs of given archs.

    Args:
      archs: `int32[n, L]`.
      race: error probability of a race, 0 for none; default `score.race`.

    Returns:
      `bn_mode`, `images` and one row per arch. With a race also what it cost,
      under `race`; survivors then come first, the most accurate at the top,
      and archs that were dropped have no metrics, which nothing could be
      compared with, but the number of images that they saw.
    """
    setup = self.setup
    if race is None:
      race = self.config.score.race
    check_score(
      dataclasses.replace(self.config.score, race=race), self.config.net
    )
    if race:
      return self._race(archs, race)
    state = load_supernet(setup, self.sampler)
    metrics = supernet_objective(setup, state.variables)(archs)
    return {
      "bn_mode": self.config.score.bn_mode,
      "images": len(setup.data.validation),
      "archs": [
        {
          "arch": setup.space.to_string(arch),
          **{name: values[i].item() for name, values in metrics.items()},
        }
        for i, arch in enumerate(archs)
      ],
    }

  def run(self) -> dict:
    """All stages in order.

    Returns:
      The content of `result.json`.
    """
    self.train()
    self.search()
    if self.config.ranking.n_archs:
      self.rank()
    self.retrain()
    self.export()
    self.report()
    return read_json(self.workdir / "result.json")

  # Inside -------------------------------------------------------------------

  def _race(self, archs: np.ndarray, error: float) -> dict:
    setup, scorer = self.setup, self.setup.scorer()
    state = load_supernet(setup, self.sampler)
    names = [setup.space.to_string(arch) for arch in archs]
    # The promise is for archs that were chosen before the order: what one race
    # has shown must not decide who takes part in the next with the same order.
    found, metrics = race_archs(
      scorer, state.variables, archs, error,
      order_seed=setup.seed(" ".join(["race", *sorted(set(names))])),
    )  # fmt: skip
    distinct = found.plain_evaluations // scorer.n_images
    if distinct > 1 and len(found.rungs) == 1:
      log.warning(
        "a race begins with one batch of images, and score.batch_size=%d holds"
        " all %d: nothing was saved.",
        self.config.score.batch_size, scorer.n_images,
      )  # fmt: skip
    costs = {name: table(archs) for name, table in setup.costs.items()}
    best = np.lexsort((metrics["loss"], -metrics["accuracy"], -found.images))
    return {
      "bn_mode": scorer.bn_mode,
      "images": scorer.n_images,
      "race": {
        "archs": distinct,
        "error": error,
        "rungs": list(found.rungs),
        "remaining": list(found.remaining),
        "evaluations": found.evaluations,
        "plain_evaluations": found.plain_evaluations,
        "saved": 1 - found.evaluations / found.plain_evaluations,
      },
      "archs": [
        {
          "arch": names[i],
          "status": "survived" if found.alive[i] else "dropped",
          "images": int(found.images[i]),
          **{
            name: values[i].item() if found.alive[i] else None
            for name, values in metrics.items()
          },
          **{name: values[i].item() for name, values in costs.items()},
        }
        for i in best
      ],
    }

  def _claim(self) -> None:
    """Refuses another config's directory."""
    path = self.workdir / "config.json"
    mine = to_json(self.config)
    if path.is_file():
      theirs = read_json(path)
      if theirs != mine:
        changed = ", ".join(_differences(theirs, mine))
        raise UserError(
          f"work directory {self.workdir} belongs to another config (it differs"
          f" in {changed}); use another --workdir."
        )
    elif self.workdir.exists() and not self.workdir.is_dir():
      raise UserError(f"work directory {self.workdir} is a file.")

  def _check_images(self) -> None:
    """Refuses images other than those that the directory was begun with."""
    path, data = self.workdir / "manifest.json", self.setup.data
    if not path.is_file():
      return
    before = read_json(path)["data"]["fingerprint"]
    if before != data.fingerprint:
      raise UserError(
        f"the images of {data.source} are not those that {self.workdir} was"
        f" begun with (fingerprint {data.fingerprint}, then {before}); use"
        " another --workdir."
      )

  def _describe(self) -> None:
    """Writes what is known before the first step; the config claims."""
    setup, data = self.setup, self.setup.data
    try:
      self.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"work directory {self.workdir} cannot be made: {error.strerror}."
      ) from error
    device = jax.devices()[0]
    manifest = {
      "jaxnas": jaxnas.__version__,
      "python": platform.python_version(),
      "jax": jax.__version__,
      "flax": flax.__version__,
      "device": device.device_kind,
      "n_devices": jax.device_count(),
      "platform": device.platform,
      "seed": self.config.seed,
      "data": {
        "source": data.source,
        "fingerprint": data.fingerprint,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "n_classes": data.n_classes,
        "class_names": list(data.class_names),
      },
      "config_fingerprint": fingerprint(self.config),
    }
    path = self.workdir / "manifest.json"
    if path.is_file():  # it tells what began the training, not who looked last
      begun = read_json(path)
      changed = [
        f"{k} {begun[k]}, now {manifest[k]}"
        for k in ("jaxnas", "jax", "flax", "device", "n_devices")
        if begun[k] != manifest[k]
      ]
      if changed:
        log.warning(
          "this run was begun with %s: results may differ from those of an"
          " undisturbed run.", "; ".join(changed),
        )  # fmt: skip
    else:
      write_json(path, manifest)
    write_json(self.workdir / "space.json", setup.space.to_json())
    write_json(self.workdir / "config.json", to_json(self.config))
    log.info(
      "%s on %s: space %s (%.3g archs, supernet %s parameters), %d / %d / %d"
      " images, %d x %s, budget %s",
      self.method.name, data.source, setup.space.name, setup.space.size,
      format_count(supernet_params(setup.space)), len(data.train),
      len(data.validation), len(data.test), jax.device_count(),
      device.device_kind, str(setup.budget) or "none",
    )  # fmt: skip

  def _alarm(self, objective) -> None:
    """Calls out a supernet that is no better than guessing."""
    rng = np.random.default_rng(0)
    # Untrained archs differ by chance; a few draws, some of them the same,
    # have a mean too far from that of all.
    probes = self.setup.budget.draw(rng, 32)
    mean = float(objective(probes)["accuracy"].mean())
    labels = self.setup.data.validation.labels
    chance = float(np.bincount(labels).max() / len(labels))
    noise = 3 * np.sqrt(chance * (1 - chance) / len(labels))
    # Untrained networks differ from guessing by more than sampling noise: they
    # prefer some classes, and these may be frequent among their images.
    margin = max(noise, 0.5 * chance * (1 - chance))
    if mean <= chance + margin:
      log.warning(
        "the supernet is at chance level: %d random archs have a mean accuracy"
        " of %.3f, guessing the largest class %.3f. A search cannot tell archs"
        " apart; train longer or lower the learning rate.", len(probes), mean,
        chance,
      )  # fmt: skip

  def _winner(self) -> np.ndarray:
    path = self.workdir / "search.json"
    if not path.is_file():
      raise self._missing("finished search", "search")
    return self.setup.space.from_string(read_json(path)["arch"])

  def _missing(self, what: str, verb: str) -> UserError:
    return UserError(
      f"{self.workdir} holds no {what}; run `python -m jaxnas {verb}` with the"
      " same config and --workdir first."
    )

  def _record(self, stage: str, seconds: float) -> None:
    """Notes a stage's time and rewrites `result.json`."""
    path = self.workdir / "seconds.json"
    times = read_json(path) if path.is_file() else {}
    times[stage] = round(seconds, 3)
    times["compile"] = round(
      times.get("compile", 0) + self._compiling.take(), 3
    )
    write_json(path, times)
    if (self.workdir / "search.json").is_file():
      self._write_result(times)

  def _write_result(self, times: dict[str, float]) -> None:
    found = read_json(self.workdir / "search.json")
    path = self.workdir / "retrain.json"
    trained = read_json(path) if path.is_file() else {}
    if trained.get("arch") != found["arch"]:
      trained = {}
    write_json(
      self.workdir / "result.json",
      {
        "method": self.method.name,
        "space": self.setup.space.name,
        "arch": found["arch"],
        "choices": found["choices"],
        "metrics": {
          "supernet_accuracy": found["accuracy"],
          "standalone_accuracy": trained.get("standalone_accuracy"),
          "test_accuracy": trained.get("test_accuracy"),
          "macs": found["macs"],
          "params": found["params"],
        },
        "budget": self.config.budget,
        "bn_mode": found["bn_mode"],
        "evaluated": found["evaluated"],
        "retrained_from": trained.get("retrained_from"),
        "selected_from": "validation",
        "test_reads": 1 if trained else 0,
        "front": found["front"],
        "seed": self.config.seed,
        "seconds": times,
      },
    )


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
  """Dotted names of the fields in which two configs differ, with values."""
  out = []
  for key in sorted({*old, *new}):
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      out += _differences(a, b, f"{prefix}{key}.")
    elif a != b:
      out.append(f"{prefix}{key}: {a!r} there, {b!r} here")
  return out
