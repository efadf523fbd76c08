"""Runs an experiment: config to stages in order, in one work directory.

Each stage resumes from its checkpoints, writes its own files, and reads those
of the stages before it, so stages can run in one process or in many.
"""

import csv
import dataclasses
import functools
import logging
import platform
import time
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np

import jaxnas
from jaxnas import arch as arch_lib
from jaxnas.config import ExperimentConfig, fingerprint, to_json
from jaxnas.costs import Budget, cost_tables, format_count, supernet_params
from jaxnas.data import load
from jaxnas.errors import RunError, UserError
from jaxnas.methods import (
  Setup,
  fleet_batches,
  get_method,
  load_supernet,
  search_archs,
  supernet_batches,
  supernet_objective,
  train_fleet,
  train_supernet,
  write_fairness,
)
from jaxnas.nets import PathSupernet, PlainNetwork, export_network, inherit
from jaxnas.report import report as write_report
from jaxnas.scoring import (
  FleetEvaluator,
  Images,
  calibration_split,
  check_score,
  compare_rankings,
  evenly_spaced,
  recalibrated,
)
from jaxnas.search import archive_archs, pick_equispaced, single_best
from jaxnas.search import front as pareto_front
from jaxnas.sharding import make_placement
from jaxnas.spaces import Space, get_space
from jaxnas.writer import Journal, read_json, write_csv, write_json

log = logging.getLogger("jaxnas")

# Among archs of equal accuracy the lower loss wins, then the cheaper one.
SELECTION = ("accuracy", "-loss", "-macs")


def make_space(config: ExperimentConfig) -> Space:
  """The space of a config, with its own classes and channels."""
  space = get_space(config.space.name, **config.space.options)
  if config.space.image_size:
    space = space.replace(image_size=config.space.image_size)
  return space


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
    self.config, self.workdir = config, Path(workdir)
    self.method = get_method(config.method)
    _check_values(config)
    started = self._claim()
    self.setup = self._build()
    self._seconds = _Compile()
    self._check_images()
    if started:
      self._describe()

  # Stages -----------------------------------------------------------------

  def train(self) -> dict:
    """Trains the supernet; warns if it learned nothing.

    Returns:
      What the stage found, for `--json`.
    """
    self._describe()
    sampler = self.method.sampler(self.setup)
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
    state = load_supernet(setup, self.method.sampler(setup))
    objective = supernet_objective(setup, state.variables)
    self._alarm(objective)
    searcher = self.method.searcher(setup)
    found, seconds = search_archs(setup, searcher, objective)
    archive = found["archive"]
    winner = single_best(archive, SELECTION, setup.budget)
    index = archive["archs"].index(winner.tolist())
    front = pareto_front(found, setup.space, searcher.objectives)
    with open(self.workdir / "archs.csv", newline="") as file:
      table = list(csv.DictReader(file))
    write_csv(
      self.workdir / "pareto.csv", [table[i] for i in sorted(front.index)]
    )
    picked = pick_equispaced(front, setup.config.search.front)
    result = {
      "arch": setup.space.to_string(winner),
      "choices": setup.space.choice_names(winner),
      "evaluated": len(archive_archs(found, setup.space)),
      **{name: values[index] for name, values in archive["metrics"].items()},
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
    self._check_inherited(state.variables, winner, result["accuracy"])
    write_json(self.workdir / "search.json", result)
    self._record("search", seconds)
    return {"stage": "search", **result}

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
    state = load_supernet(setup, self.method.sampler(setup))
    start = time.monotonic()
    scorer = setup.scorer()
    selection = config.selection
    if truth:
      selection = f"given in {Path(truth).name}"
    else:
      archs = self._ranking_archs(scorer, state.variables)
    spent = time.monotonic() - start
    if not truth:
      accuracy, seconds = self._standalone_accuracies(archs)
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
        config.bootstrap, config.confidence,
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
    fleet, state, seconds = self._train_winner(winner)
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
    result = {"arch": setup.space.to_string(winner), **accuracy}
    write_json(self.workdir / "retrain.json", result)
    self._record("retrain", seconds)
    return {"stage": "retrain", **result}

  def export(self) -> dict:
    """Writes `export/` and checks it in a fresh process.

    Returns:
      Folder and largest difference of a logit.
    """
    start = time.monotonic()
    setup = self.setup
    winner = self._winner()
    if not (self.workdir / "retrain.json").is_file():
      raise self._missing("retrained network", "retrain")
    # Its checkpoint, or the rest of the same training if that is damaged.
    fleet, state, _ = self._train_winner(winner)
    variables = jax.device_get(fleet.unstack(state.variables, 0))
    network = PlainNetwork(setup.space, fleet.archs[0], setup.config.net)
    gap = export_network(
      self.workdir / "export", network, variables, setup.data.mean,
      setup.data.std, setup.data.class_names, setup.data.validation.images[:16],
    )  # fmt: skip
    self._record("export", time.monotonic() - start)
    return {
      "stage": "export",
      "folder": str(self.workdir / "export"),
      "largest_difference": gap,
    }

  def report(self) -> dict:
    """Writes `report.html`.

    Returns:
      Its path.
    """
    return {"stage": "report", "path": str(write_report(self.workdir))}

  def score(self, archs: np.ndarray) -> dict:
    """Supernet metrics and costs of given archs.

    Args:
      archs: `int32[n, L]`.

    Returns:
      `bn_mode`, `images` and one row per arch.
    """
    setup = self.setup
    state = load_supernet(setup, self.method.sampler(setup))
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

  def _claim(self) -> bool:
    """Refuses another config's directory; says whether this one's is there."""
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
      return True
    if self.workdir.exists() and not self.workdir.is_dir():
      raise UserError(f"work directory {self.workdir} is a file.")
    return False

  def _build(self) -> Setup:
    config = self.config
    space = make_space(config)
    data = load(config.data, space.image_size)
    space = space.replace(
      n_classes=data.n_classes, image_channels=data.image_channels
    )
    costs = cost_tables(space)
    setup = Setup(
      config=config,
      workdir=self.workdir,
      space=space,
      data=data,
      costs=costs,
      budget=Budget.parse(config.budget, costs),
      placement=make_placement(config.mesh),
      supernet=PathSupernet(space, config.net),
      journal=Journal(self.workdir / "metrics.jsonl"),
    )
    # Built once here so that a bad value fails before anything is written.
    supernet_batches(setup, self.method.sampler(setup))
    fleet_batches(setup, "retrain", config.retrain)
    self.method.searcher(setup)
    check_score(config.score, config.net)
    return setup

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
    write_json(self.workdir / "manifest.json", manifest)
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
    probes = self.setup.budget.sample(rng, self.setup.space, 8)
    mean = float(objective(probes)["accuracy"].mean())
    labels = self.setup.data.validation.labels
    chance = float(np.bincount(labels).max() / len(labels))
    noise = 3 * np.sqrt(chance * (1 - chance) / len(labels))
    # Untrained networks differ from guessing by more than sampling noise: they
    # prefer some classes, and these may be frequent among their images.
    margin = max(noise, 0.5 * chance * (1 - chance))
    if mean <= chance + margin:
      log.warning(
        "the supernet is at chance level: 8 random archs have a mean accuracy"
        " of %.3f, guessing the largest class %.3f. A search cannot tell archs"
        " apart; train longer or lower the learning rate.", mean, chance,
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

  def _train_winner(self, winner: np.ndarray) -> tuple:
    """Trains the winner as a plain network, or loads it."""
    setup, config = self.setup, self.config.retrain
    initial = None
    if config.inherit:
      state = load_supernet(setup, self.method.sampler(setup))
      initial = [self._inherit(state.variables, winner)]
    dropout = config.dropout if config.dropout >= 0 else setup.space.dropout
    return train_fleet(setup, "retrain", winner[None], config, dropout, initial)

  def _inherit(self, variables: Any, arch: np.ndarray) -> Any:
    """Inherited weights of one arch, batch norm recalibrated."""
    setup = self.setup
    images = Images.of(
      calibration_split(setup.data, self.config.score), setup.data,
      self.config.score.batch_size, setup.placement,
    )  # fmt: skip
    fresh = jax.jit(lambda v, a, x: recalibrated(setup.supernet, v, a, x))(
      variables, arch, images.x
    )
    return jax.device_get(inherit(fresh, setup.space, arch))

  def _check_inherited(
    self, variables: Any, arch: np.ndarray, searched: float
  ) -> None:
    """The winner cut out of the supernet must score what the search saw."""
    if self.config.score.bn_mode != "recalibrate":
      return
    setup = self.setup
    own = self._inherit(variables, arch)
    network = PlainNetwork(setup.space, tuple(arch.tolist()), self.config.net)
    images = Images.of(
      setup.data.validation, setup.data, self.config.score.batch_size,
      setup.placement,
    )  # fmt: skip
    apply = jax.jit(network.apply)
    hits = sum(
      int(((np.argmax(apply(own, x), -1) == y) & m).sum())
      for x, y, m in zip(*jax.device_get(images.arrays), strict=True)
    )
    # Another compilation may round borderline images the other way.
    share = 0.001 if self.config.net.precision == "float32" else 0.01
    if abs(hits / images.n - searched) > max(2 / images.n, share) + 1e-9:
      raise RunError(
        f"the winner outside the supernet scores {hits / images.n:.4f}, in the"
        f" search {searched:.4f}; please report this"
      )

  def _ranking_archs(self, scorer, variables) -> np.ndarray:
    config, space = self.config.ranking, self.setup.space
    # The archs and their trainings are the same for all methods of one seed.
    rng = np.random.default_rng(self.setup.seed("ranking"))
    n = min(config.n_archs, space.size)
    if config.selection == "uniform":
      return distinct(rng, space, n)
    pool = distinct(rng, space, min(max(config.pool, n), space.size))
    return pool[evenly_spaced(scorer(variables, pool)["accuracy"], n)]

  def _standalone_accuracies(
    self, archs: np.ndarray
  ) -> tuple[np.ndarray, float]:
    setup, config = self.setup, self.config.ranking
    recipe = self.config.retrain
    if config.epochs:
      recipe = dataclasses.replace(recipe, epochs=config.epochs)
    accuracy, seconds = [], 0.0
    for i in range(0, len(archs), config.together):
      part = archs[i : i + config.together]
      # Without dropout, as in the paper's ranking trainings (authors, issue 3).
      fleet, state, spent = train_fleet(
        setup, f"rank-{i // config.together}", part, recipe, 0.0
      )
      judge = FleetEvaluator(
        fleet, setup.data, setup.data.validation, self.config.score.batch_size,
        setup.placement,
      )  # fmt: skip
      accuracy.append(judge(state.variables)["accuracy"])
      seconds += spent
    return np.concatenate(accuracy), seconds

  def _record(self, stage: str, seconds: float) -> None:
    """Notes a stage's time and rewrites `result.json`."""
    path = self.workdir / "seconds.json"
    times = read_json(path) if path.is_file() else {}
    times[stage] = round(seconds, 3)
    times["compile"] = round(times.get("compile", 0) + self._seconds.take(), 3)
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
        "selected_from": "validation",
        "test_reads": 1 if trained else 0,
        "front": found["front"],
        "seed": self.config.seed,
        "seconds": times,
      },
    )


class _Compile:
  """Seconds this process has spent compiling, told in portions."""

  _EVENT = "/jax/core/compile/backend_compile_duration"

  def __init__(self) -> None:
    self._total = 0.0
    jax.monitoring.register_event_duration_secs_listener(self._hear)

  def _hear(self, event: str, duration: float, **_: Any) -> None:
    if event == self._EVENT:
      self._total += duration

  def take(self) -> float:
    """Seconds since the last call."""
    seconds, self._total = self._total, 0.0
    return seconds


def distinct(rng: np.random.Generator, space: Space, n: int) -> np.ndarray:
  """Draws `n` different archs uniformly: `int32[n, L]`.

  Repeated draws are dropped, and a space too small for that to end soon is
  listed and shuffled.
  """
  if space.size <= 16 * n:
    grid = np.indices(tuple(space.n_choices)).reshape(space.n_layers, -1).T
    return rng.permutation(grid)[:n].astype(np.int32)
  archs = space.sample(rng, n)
  # At most 1/16 of the space is taken, so every pass fills most of the gaps.
  while len(archs := arch_lib.unique(archs)) < n:
    archs = np.concatenate([archs, space.sample(rng, n - len(archs))])
  return archs


def read_truth(path: Path, space: Space) -> tuple[np.ndarray, np.ndarray]:
  """Reads stand-alone accuracies.

  Args:
    path: CSV with columns `arch` and `standalone_accuracy` or `accuracy`.
    space: the space of the archs.

  Returns:
    Archs `int32[n, L]` and accuracies `float64[n]`.

  Raises:
    UserError: naming the row, for a file that does not fit.
  """
  if not Path(path).is_file():
    raise UserError(f"no truth file {str(path)!r}.")
  try:
    with open(path, newline="") as file:
      rows = list(csv.DictReader(file))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as CSV ({error}).") from error
  columns = set(rows[0]) if rows else set()
  value = next(
    (c for c in ("standalone_accuracy", "accuracy") if c in columns), None
  )
  if "arch" not in columns or value is None:
    raise UserError(
      f"{path} needs the columns arch and standalone_accuracy, and at least one"
      " row."
    )
  if len(rows) < 3:
    raise UserError(
      f"{path} has {len(rows)} rows; a rank correlation needs at least 3."
    )
  archs, accuracy = [], []
  for i, row in enumerate(rows, 2):
    try:
      archs.append(space.from_string(row["arch"]))
      accuracy.append(float(row[value]))
      if not np.isfinite(accuracy[-1]):
        raise ValueError(f"{value} is {row[value]}; legal: a number")
    except (UserError, TypeError, ValueError) as error:
      raise UserError(f"{path}, line {i}: {error}") from error
  return np.stack(archs), np.array(accuracy)


_AT_LEAST = {
  "seed": 0,
  "train.epochs": 1,
  "train.log_every": 1,
  "train.checkpoint_every": 1,
  "train.evaluate_every": 0,
  "train.evaluate_archs": 0,
  "search.generations": 0,
  "search.front": 1,
  "retrain.epochs": 1,
  "retrain.log_every": 1,
  "retrain.checkpoint_every": 1,
  "ranking.n_archs": 0,
  "ranking.pool": 0,
  "ranking.epochs": 0,
  "ranking.together": 1,
  "ranking.top_k": 1,
  "ranking.bootstrap": 1,
}


def _check_values(config: ExperimentConfig) -> None:
  """Refuses, before anything is written, numbers that no stage can use."""
  for path, least in _AT_LEAST.items():
    value = functools.reduce(getattr, path.split("."), config)
    if value < least:
      raise UserError(f"{path} is {value}; it must be at least {least}.")
  if config.ranking.n_archs in (1, 2):
    raise UserError(
      f"ranking.n_archs is {config.ranking.n_archs}; a rank correlation needs"
      " at least 3 networks (0 leaves the ranking out of `run`)."
    )
  if not 0 < config.ranking.confidence < 1:
    raise UserError(
      f"ranking.confidence is {config.ranking.confidence}; it must lie between"
      " 0 and 1."
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
