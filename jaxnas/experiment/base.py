"""What every experiment does: claim a directory, stages in order, a result."""

import abc
import logging
import platform
from pathlib import Path

import flax
import jax
import numpy as np

import jaxnas
from jaxnas.compilations import Compilations
from jaxnas.config import ExperimentConfig, fingerprint, to_json
from jaxnas.errors import UserError
from jaxnas.memory import keep_freed_memory
from jaxnas.methods import Setup, get_method
from jaxnas.report import report as write_report
from jaxnas.writer import read_json, write_json

log = logging.getLogger("jaxnas")


class Experiment(abc.ABC):
  """One config in one work directory.

  Each stage resumes from its checkpoints, writes its own files, and reads those
  of the stages before it, so stages can run in one process or in many. Nothing
  is written before `train` begins, so that a value that is refused does not
  claim the directory.

  Attributes:
    config: the resolved config.
    workdir: made by `train` if missing.
    method: the config's.
    setup: everything that the config names.

  Raises:
    UserError: if the directory holds another config's run or another data
      set's, or for an illegal value of the config.
  """

  setup: Setup

  def __init__(self, config: ExperimentConfig, workdir: Path) -> None:
    keep_freed_memory()
    self.config, self.workdir = config, Path(workdir)
    self.method = get_method(config.method)
    self._claim()
    self.setup = self._make_setup()
    self._check()
    self._compiling = Compilations()
    self._check_images()

  # What a kind of experiment says of itself ---------------------------------

  @abc.abstractmethod
  def _make_setup(self) -> Setup:
    """Builds and checks everything that the config names."""

  @abc.abstractmethod
  def _check(self) -> None:
    """Refuses what only a stage would find out."""

  @abc.abstractmethod
  def _about(self) -> str:
    """The space in a few words, for the first line of a log."""

  @abc.abstractmethod
  def _found(self, searched: dict, trained: dict) -> dict:
    """What `result.json` says beyond the common fields.

    Args:
      searched: content of `search.json`.
      trained: of `retrain.json`, `{}` if absent or of another arch.
    """

  @abc.abstractmethod
  def train(self) -> dict:
    """Trains the supernet; returns what the stage found, for `--json`."""

  @abc.abstractmethod
  def search(self) -> dict:
    """Picks the winner; returns the content of `search.json`."""

  @abc.abstractmethod
  def retrain(self) -> dict:
    """Trains the winner and reads the test split once.

    Returns:
      The content of `retrain.json`.
    """

  @abc.abstractmethod
  def export(self, weights: str = "retrained") -> dict:
    """Writes the winner as files and checks them in a fresh process.

    Args:
      weights: `retrained`, into `export/`; or `inherited`, into
        `export_inherited/`.

    Returns:
      Folder and largest difference of a logit.
    """

  @abc.abstractmethod
  def score(self, archs: np.ndarray, race: float | None = None) -> dict:
    """Supernet metrics and costs of given archs.

    Args:
      archs: `int32[n, L]`.
      race: error probability of a race, 0 for none; default `score.race`.

    Returns:
      `bn_mode`, `images` and one row per arch.
    """

  @abc.abstractmethod
  def rank(self, truth: Path | None = None) -> dict:
    """Compares supernet and stand-alone accuracies.

    Args:
      truth: CSV with columns `arch` and `standalone_accuracy` (or
        `accuracy`); None trains networks from scratch.

    Returns:
      The content of `ranking.json`.
    """

  # Common stages --------------------------------------------------------------

  def look_up(self, budgets: list[str]) -> dict:
    """Answers budgets from what a search with a predictor left behind.

    Raises:
      UserError: if the method has no such search.
    """
    raise UserError(
      f"method {self.method.name} searches for one budget, not for"
      f" {len(budgets)}; several are looked up after a search with a predictor"
      " (method gcn, or search.algorithm=segments)."
    )

  def report(self) -> dict:
    """Writes `report.html`.

    Returns:
      Its path.
    """
    return {"stage": "report", "path": str(write_report(self.workdir))}

  def run(self) -> dict:
    """All stages in order.

    Returns:
      The content of `result.json`.
    """
    self.train()
    self.search()
    if self.ranks:
      self.rank()
    self.retrain()
    self.export()
    self.report()
    return read_json(self.workdir / "result.json")

  @property
  def ranks(self) -> bool:
    """Whether `run` ranks."""
    return bool(self.config.ranking.n_archs)

  # Inside -------------------------------------------------------------------

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
      "%s on %s: %s, %d / %d / %d images, %d x %s, budget %s",
      self.method.name, data.source, self._about(), len(data.train),
      len(data.validation), len(data.test), jax.device_count(),
      device.device_kind, str(setup.budget) or "none",
    )  # fmt: skip

  def _supernet_accuracy(self, searched: dict) -> float | None:
    """The winner's accuracy with inherited weights, if there are any.

    Args:
      searched: content of `search.json`.
    """
    return searched["accuracy"]

  def _warn_at_chance(self, mean: float, n: int) -> None:
    """Calls out a supernet that is no better than guessing.

    Args:
      mean: accuracy of the probes.
      n: number of probes.
    """
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
        " apart; train longer or lower the learning rate.", n, mean, chance,
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
        "metrics": {
          "supernet_accuracy": self._supernet_accuracy(found),
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
        **self._found(found, trained),
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
