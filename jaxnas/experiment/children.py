"""Experiments that train each candidate's own network, briefly."""

import functools
import time
from pathlib import Path

import numpy as np

from jaxnas.errors import UserError, unknown
from jaxnas.experiment.paths import PathExperiment
from jaxnas.methods import (
  ShortTrainer,
  fleet_batches,
  ranking_archs,
  read_truth,
  search_archs,
)
from jaxnas.nets import PlainNetwork, Variables
from jaxnas.search import parse_objective
from jaxnas.writer import is_file, write_json


class ChildExperiment(PathExperiment):
  """A search without weight sharing: evolution."""

  def _check(self) -> None:
    setup, config = self.setup, self.config
    fleet_batches(setup, "retrain", config.retrain)
    known = {"accuracy", "loss", *setup.costs}
    for objective in config.search.objectives:
      if (name := parse_objective(objective)[0]) not in known:
        raise unknown("metric in search.objectives", name, known)

  def _about(self) -> str:
    space = self.setup.space
    return f"space {space.name} ({space.size:.3g} archs, no supernet)"

  def train(self) -> dict:
    """Claims the directory; there is no supernet to train.

    Returns:
      What the stage found, for `--json`.
    """
    self._describe()
    self._record("train", 0.0)
    return {"stage": "train", "steps": 0, "validation_accuracy": None}

  def search(self) -> dict:
    """Searches with short trainings and picks the winner.

    Returns:
      The content of `search.json`.
    """
    setup = self.setup
    self._begun()
    searcher = self.method.searcher(setup)
    found, seconds = search_archs(setup, searcher, self._objective)
    start = time.monotonic()
    result = self._chosen(searcher, found, "running")
    write_json(self.workdir / "search.json", result)
    self._record("search", seconds + time.monotonic() - start)
    return {"stage": "search", **result}

  def rank(self, truth: Path | None = None) -> dict:
    """Compares accuracies after the short and after the full training.

    Args:
      truth: CSV with columns `arch` and `standalone_accuracy` (or `accuracy`);
        None trains `ranking.n_archs` random archs.

    Returns:
      The content of `ranking.json`.

    Raises:
      UserError: without archs to rank.
    """
    self._begun()
    setup, config = self.setup, self.config.ranking
    selection = "uniform"
    if truth:
      archs, final = read_truth(truth, setup.space)
      selection, seconds = f"given in {Path(truth).name}", 0.0
    elif not config.n_archs:
      raise UserError(
        "ranking.n_archs is 0; set it to at least 3, or give --truth FILE."
      )
    else:
      archs = ranking_archs(setup)
      final, seconds = self._standalone(archs)
    start = time.monotonic()
    early = self._objective(archs)["accuracy"]
    sound = np.isfinite(early) & np.isfinite(final)
    ranking = {
      "selection": selection,
      "bn_mode": "running",
      **self._compared(
        archs[sound], early[sound], final[sound], "early_accuracy", {}
      ),
    }
    write_json(self.workdir / "ranking.json", ranking)
    self._record("rank", seconds + time.monotonic() - start)
    return {"stage": "rank", **ranking}

  def score(self, archs: np.ndarray, race: float | None = None) -> dict:
    """Metrics of given archs after the short training of a candidate.

    Args:
      archs: `int32[n, L]`.
      race: not possible.

    Returns:
      `bn_mode`, `images` and one row per arch.

    Raises:
      UserError: for a race.
    """
    if race:
      raise UserError(
        f"method {self.method.name} trains each arch's own network; a race is"
        " for archs that share a supernet's weights."
      )
    self._begun()
    setup = self.setup
    archs, rows = np.unique(archs, axis=0, return_inverse=True)
    metrics = self._objective(archs)
    return {
      "bn_mode": "running",
      "images": len(setup.data.validation),
      "archs": [
        {
          "arch": setup.space.to_string(archs[i]),
          **{name: values[i].item() for name, values in metrics.items()},
        }
        for i in rows.reshape(-1)
      ],
    }

  # Inside -------------------------------------------------------------------

  def _objective(self, archs: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics after short trainings, and costs."""
    setup = self.setup
    metrics = self._trainer.parts("child", archs, self.config.divide.epochs)
    del metrics["seconds"]
    costs = {name: table(archs) for name, table in setup.costs.items()}
    return {**metrics, **costs}

  def _standalone(self, archs: np.ndarray) -> tuple[np.ndarray, float]:
    """Accuracies after the full training of a ranking, and its seconds."""
    config = self.config.ranking
    epochs = config.epochs or self.config.retrain.epochs
    found = self._trainer.parts("rank", archs, epochs)
    return found["accuracy"], float(found["seconds"].sum())

  @functools.cached_property
  def _trainer(self) -> ShortTrainer:
    return ShortTrainer(self.setup)

  def _begun(self) -> None:
    """Refuses a directory that `train` has not begun."""
    if not is_file(self.workdir / "config.json"):
      raise self._missing("run", "train")

  def _supernet_accuracy(self, searched: dict) -> None:
    return None

  def _inherited(self, winner: np.ndarray) -> tuple[PlainNetwork, Variables]:
    raise UserError(
      f"no inherited weights: method {self.method.name} trained no supernet."
    )
