"""What every experiment does: claim a directory, stages in order, a result."""

import abc
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxnas.compilations import Compilations
from jaxnas.config import ExperimentConfig, to_json
from jaxnas.errors import UserError
from jaxnas.experiment.claim import begin, check_claim, check_images
from jaxnas.hosts import once
from jaxnas.memory import keep_freed_memory
from jaxnas.methods import Setup, get_method, origin_of
from jaxnas.nets import Variables, export_network
from jaxnas.nets.export import Network
from jaxnas.report import report as write_report
from jaxnas.writer import (
  as_folder,
  is_file,
  read_json,
  through_disk,
  write_json,
)

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
    self.config, self.workdir = config, as_folder(workdir)
    self.method = get_method(config.method)
    check_claim(self.workdir, config)
    self.setup = self._make_setup()
    self._check()
    self._compiling = Compilations()
    check_images(self.workdir, self.setup.data)

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
  def _retrained(
    self, winner: np.ndarray
  ) -> tuple[Callable[[], dict[str, float]], float]:
    """Trains the winner, or loads that.

    Args:
      winner: `int32[L]`.

    Returns:
      A function that judges it, which reads the test split; and the seconds
      spent over all sessions.
    """

  @abc.abstractmethod
  def _delivered(self, winner: np.ndarray) -> tuple[Network, Variables]:
    """The winner's network as `retrain` left it, variables on the host."""

  @abc.abstractmethod
  def _inherited(self, winner: np.ndarray) -> tuple[Network, Variables]:
    """The same with the supernet's weights, checked against the search."""

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

  def retrain(self) -> dict:
    """Trains the winner as a network of its own; reads the test split once.

    Returns:
      The content of `retrain.json`.
    """
    winner = self._winner()
    text = self.setup.space.to_string(winner)
    path = self.workdir / "retrain.json"
    judge, seconds = self._retrained(winner)
    if is_file(path) and (done := read_json(path))["arch"] == text:
      self._record("retrain", seconds)  # the test split is read once only
      return {"stage": "retrain", **done}
    origin = origin_of(self.config.retrain)
    result = {"arch": text, "retrained_from": origin, **judge()}
    write_json(path, result)
    self._record("retrain", seconds)
    return {"stage": "retrain", **result}

  def export(self, weights: str = "retrained") -> dict:
    """Writes the winner as files and checks them in a fresh process.

    Args:
      weights: `retrained`, what `retrain` left, into `export/`; or `inherited`,
        the supernet's, into `export_inherited/`. The latter must score what the
        search saw.

    Returns:
      Folder and largest difference of a logit.
    """
    start, data = time.monotonic(), self.setup.data
    winner = self._winner()
    if weights == "inherited":
      network, variables = self._inherited(winner)
    elif not is_file(self.workdir / "retrain.json"):
      raise self._missing("retrained network", "retrain")
    else:
      # Its checkpoint, or the rest of the same training if that is damaged.
      network, variables = self._delivered(winner)
    folder = "export" if weights == "retrained" else "export_inherited"

    def write(place: Path) -> float:
      return export_network(
        place, network, variables, data.mean, data.std, data.class_names,
        data.validation.images[:16], self._origin(winner),
      )  # fmt: skip

    gap = once(lambda: through_disk(self.workdir / folder, write))
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

  def _describe(self) -> None:
    """Writes what is known before the first step; the config claims."""
    setup, data = self.setup, self.setup.data
    begin(self.workdir, self.config, data)
    write_json(self.workdir / "space.json", setup.space.to_json())
    write_json(self.workdir / "config.json", to_json(self.config))
    log.info(
      "%s on %s: %s, %d / %d / %d images, %d x %s, budget %s",
      self.method.name, data.source, self._about(), len(data.train),
      len(data.validation), len(data.test), jax.device_count(),
      jax.devices()[0].device_kind, str(setup.budget) or "none",
    )  # fmt: skip

  def _supernet_accuracy(self, searched: dict) -> float | None:
    """The winner's accuracy with inherited weights, if there are any.

    Args:
      searched: content of `search.json`.
    """
    return searched["accuracy"]

  def _origin(self, winner: np.ndarray) -> dict:
    """What `architecture.json` says beyond what the network itself knows."""
    return {}

  def _probes(self) -> dict:
    """The last validation of the supernet's training, {} without one."""
    rows = self.setup.journal.rows()
    probes = [
      r for r in rows if r["stage"] == "train" and "validation_accuracy" in r
    ]
    return probes[-1] if probes else {}

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
    if not is_file(path):
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
    times = read_json(path) if is_file(path) else {}
    times[stage] = round(seconds, 3)
    times["compile"] = round(
      times.get("compile", 0) + self._compiling.take(), 3
    )
    write_json(path, times)
    if is_file(self.workdir / "search.json"):
      self._write_result(times)

  def _write_result(self, times: dict[str, float]) -> None:
    found = read_json(self.workdir / "search.json")
    path = self.workdir / "retrain.json"
    trained = read_json(path) if is_file(path) else {}
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
