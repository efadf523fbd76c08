"""Experiments that divide sampled archs into clusters: DC-NAS."""

import time
from pathlib import Path

import numpy as np

from jaxnas.errors import UserError
from jaxnas.experiment.children import ChildExperiment
from jaxnas.experiment.paths import PathExperiment
from jaxnas.methods import (
  Divided,
  Represented,
  describe_clusters,
  read_truth,
  represent,
  sample_archs,
  search_divided,
  shares_weights,
  write_archs,
)
from jaxnas.nets import PlainNetwork, Variables
from jaxnas.scoring import compare_partitions
from jaxnas.search import front as pareto_front
from jaxnas.writer import is_file, read_json, write_csv, write_json


class DivideExperiment(ChildExperiment):
  """Samples, clusters, comparison within them, longer trainings: dcnas."""

  def _check(self) -> None:
    if self._shares:
      PathExperiment._check(self)
    else:
      super()._check()
    sample_archs(self.setup)

  def _about(self) -> str:
    if self._shares:
      return PathExperiment._about(self)
    return super()._about()

  @property
  def _shares(self) -> bool:
    return shares_weights(self.config)

  # Stages -----------------------------------------------------------------

  def train(self) -> dict:
    """Trains the sampled archs briefly, or the supernet that they share.

    Returns:
      What the stage found, for `--json`.
    """
    if self._shares:
      return PathExperiment.train(self)
    self._describe()
    found = represent(self.setup, self._trainer)
    self._record("train", found.cost["seconds"])
    return {
      "stage": "train",
      "networks": len(found.archs),
      "validation_accuracy": float(np.nanmean(found.metrics["accuracy"])),
    }

  def search(self) -> dict:
    """Divides the archs, compares within clusters, merges the best.

    Returns:
      The content of `search.json`.
    """
    self._begun()
    setup = self.setup
    found = search_divided(setup, self._trainer)
    early = found.represented.metrics["accuracy"]
    seconds = found.seconds
    if self._shares:
      self._warn_at_chance(float(np.mean(early)), len(early))
      seconds += found.represented.cost["seconds"]
    start = time.monotonic()
    self._write_archs(found.represented)
    write_json(self.workdir / "clusters.json", describe_clusters(setup, found))
    winner = found.winner
    sampled = np.flatnonzero((found.represented.archs == winner).all(1))
    result = {
      "arch": setup.space.to_string(winner),
      "choices": setup.space.choice_names(winner),
      "evaluated": len(early),
      **found.metrics,
      # An arch that was voted for need not have been sampled.
      "early": float(early[sampled[0]]) if len(sampled) else None,
      **{k: table(winner[None])[0].item() for k, table in setup.costs.items()},
      "bn_mode": self.config.score.bn_mode if self._shares else "running",
      "front": self._survivors(found),
    }
    write_json(self.workdir / "search.json", result)
    self._record("search", seconds + time.monotonic() - start)
    return {"stage": "search", **result}

  def rank(self, truth: Path | None = None) -> dict:
    """Compares early and final accuracies, overall and within clusters.

    Args:
      truth: CSV with columns `arch` and `standalone_accuracy` (or `accuracy`)
        of sampled archs; None trains the first `ranking.n_archs` of them.

    Returns:
      The content of `ranking.json`.

    Raises:
      UserError: before a search, or if fewer than 3 archs are known.
    """
    setup, config = self.setup, self.config.ranking
    if not is_file(self.workdir / "clusters.json"):
      raise self._missing("clusters", "search")
    rows = read_json(self.workdir / "clusters.json")["archs"]
    found = represent(setup, self._trainer)
    known = {row.tobytes(): i for i, row in enumerate(found.archs)}
    seconds = 0.0
    if truth:
      given, values = read_truth(truth, setup.space)
      numbers = [known.get(row.tobytes(), -1) for row in given]
      picked = np.array([i for i in numbers if i >= 0], int)
      final = np.array(
        [v for i, v in zip(numbers, values, strict=True) if i >= 0]
      )
      selection = f"sampled, and given in {Path(truth).name}"
    else:
      picked = np.arange(min(config.n_archs, len(found.archs)))
      selection = "the first of the sampled"
    if len(picked) < 3:
      raise UserError(
        f"{len(picked)} of the sampled archs have a stand-alone accuracy; a"
        " rank correlation needs at least 3 (ranking.n_archs, or --truth FILE)."
      )
    if not truth:
      final, seconds = self._standalone(found.archs[picked])
    start = time.monotonic()
    early = found.metrics["accuracy"][picked]
    sound = np.isfinite(early) & np.isfinite(final)
    picked, early, final = picked[sound], early[sound], final[sound]
    archs = found.archs[picked]
    labels = np.array([row["cluster"] for row in rows])[picked]
    ranking = {
      "selection": selection,
      "bn_mode": self.config.score.bn_mode if self._shares else "running",
      **self._compared(
        archs, early, final,
        "supernet_accuracy" if self._shares else "early_accuracy", {},
      ),
      "partition": compare_partitions(
        labels, early, final, setup.costs["macs"](archs),
        np.random.default_rng(setup.seed("partitions")), config.bootstrap,
        config.confidence,
      ),
    }  # fmt: skip
    write_json(self.workdir / "ranking.json", ranking)
    self._record("rank", seconds + time.monotonic() - start)
    return {"stage": "rank", **ranking}

  def score(self, archs: np.ndarray, race: float | None = None) -> dict:
    """Metrics of given archs by the early criterion, and costs."""
    if self._shares:
      return PathExperiment.score(self, archs, race)
    return super().score(archs, race)

  # Inside -------------------------------------------------------------------

  def _survivors(self, found: Divided) -> list[dict]:
    """Rows of those trained longer, the most accurate first."""
    archs, best = found.represented.archs, found.conquered
    order = best.survivors[np.argsort(-best.longer, kind="stable")]
    costs = {k: self.setup.costs[k](archs[order]) for k in ("macs", "params")}
    return [
      {
        "arch": self.setup.space.to_string(archs[i]),
        "accuracy": found.longer[int(i)],
        **{k: int(v[row]) for k, v in costs.items()},
      }
      for row, i in enumerate(order)
    ]

  def _write_archs(self, found: Represented) -> None:
    """Writes `archs.csv`, all samples, and `pareto.csv`, their early front."""
    space, costs = self.setup.space, self.setup.costs
    metrics = {
      **found.metrics,
      **{name: table(found.archs) for name, table in costs.items()},
    }
    metrics = {k: np.asarray(v, float).tolist() for k, v in metrics.items()}
    state = {"archive": {"archs": found.archs.tolist(), "metrics": metrics}}
    share = found.cost["seconds"] / len(found.archs)
    write_archs(
      self.workdir / "archs.csv", state, [[0, share]] * len(found.archs)
    )
    front = pareto_front(state, space, ("accuracy", "-macs"))
    rows = [
      {
        "arch": space.to_string(found.archs[i]),
        **{k: metrics[k][i] for k in ("accuracy", "loss")},
        **{k: int(metrics[k][i]) for k in ("macs", "params")},
      }
      for i in sorted(front.index.tolist())
    ]
    write_csv(self.workdir / "pareto.csv", rows)

  def _supernet_accuracy(self, searched: dict) -> float | None:
    return searched["early"] if self._shares else None

  def _inherited(self, winner: np.ndarray) -> tuple[PlainNetwork, Variables]:
    if not self._shares:
      return super()._inherited(winner)
    # The search compared longer trainings, but began with these weights.
    early = read_json(self.workdir / "search.json")["early"]
    return self._cut_out(winner, early)
