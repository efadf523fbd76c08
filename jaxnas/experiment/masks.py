"""Experiments on masked networks: PGNAS."""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import moocore
import numpy as np

from jaxnas.costs.masks import mask_costs
from jaxnas.errors import UserError
from jaxnas.experiment.base import Experiment
from jaxnas.methods import (
  MaskSetup,
  check_network,
  compact_winner,
  judge_winner,
  load_masked,
  make_mask_setup,
  mask_objective,
  mask_sizes,
  masked_batches,
  posterior,
  select_mask,
  train_masked,
  tune_winner,
  winning_mask,
  write_posterior,
)
from jaxnas.nets import CompactNetwork, Variables
from jaxnas.profiling import call_again
from jaxnas.scoring import selection_curve
from jaxnas.writer import read_csv, read_json, write_csv, write_json

log = logging.getLogger("jaxnas")


class MaskExperiment(Experiment):
  """A masked network with learned drop rates: pgnas."""

  setup: MaskSetup

  def _make_setup(self) -> MaskSetup:
    return make_mask_setup(self.config, self.workdir)

  def _check(self) -> None:
    masked_batches(self.setup)
    self.setup.scorer()

  def _about(self) -> str:
    space = self.setup.space
    full = mask_costs(space, np.ones((1, space.n_layers), np.int32))
    return (
      f"supernet {space.name} ({space.n_layers:,} gated channels in"
      f" {len(space.groups)} groups, {int(full['params'][0]):,} parameters)"
    )

  def _found(self, searched: dict, trained: dict) -> dict:
    names = ("candidate", "kept_weights", "kept_channels", "kept_operations")
    return {"front": searched["front"], **{k: searched[k] for k in names}}

  @property
  def ranks(self) -> bool:
    """A winner keeps its weights, so `run` trains no networks to compare."""
    return False

  # Stages -----------------------------------------------------------------

  def train(self) -> dict:
    """Trains weights and drop rates; warns if nothing was learned.

    Returns:
      What the stage found, for `--json`.
    """
    self._describe()
    state, seconds = train_masked(self.setup)
    write_posterior(self.setup, state.variables)
    self._record("train", seconds)
    probes = self._probes()
    names = ("validation_accuracy", "threshold_accuracy", "kept_channels")
    return {
      "stage": "train",
      "steps": int(state.step),
      **{k: probes.get(k) for k in names},
    }

  def search(self) -> dict:
    """Scores candidates drawn from the learned rates and picks the winner.

    Returns:
      The content of `search.json`.
    """
    setup = self.setup
    variables = load_masked(setup).variables
    objective = mask_objective(setup, variables)
    sampler = posterior(setup, variables)
    found, seconds = select_mask(setup, sampler, objective)
    start = time.monotonic()
    archive = found["archive"]
    metrics = {k: np.array(v) for k, v in archive["metrics"].items()}
    row, winner = winning_mask(sampler, found)
    self._alarm(metrics)
    shown = {k: v for k, v in metrics.items() if not k.startswith("hits_")}
    result = {
      "arch": setup.space.to_string(winner),
      "candidate": archive["numbers"][row],
      "evaluated": len(archive["numbers"]),
      "over_budget": found["over_budget"],
      **{name: float(values[row]) for name, values in shown.items()},
      "bn_mode": setup.config.score.bn_mode,
      "front": self._write_front(archive, metrics),
    }
    for each in (result, *result["front"]):
      each["macs"], each["params"] = int(each["macs"]), int(each["params"])
    network, compacted = compact_winner(setup, variables, winner)
    check_network(setup, network, compacted, result["accuracy"])
    write_posterior(setup, variables, winner)
    self._write_selection(archive, metrics)
    write_json(self.workdir / "search.json", result)
    self._record("search", seconds + time.monotonic() - start)
    return {"stage": "search", **result}

  def rank(self, truth: Path | None = None) -> dict:
    """Refuses: masks are judged by their spread, see `selection.json`."""
    raise UserError(
      f"method {self.method.name} has no stage rank: its winner keeps the"
      " supernet's weights. What its selection is worth stands in the report"
      " and in selection.json."
    )

  def score(self, archs: np.ndarray, race: float | None = None) -> dict:
    """Supernet metrics and sizes of given masks.

    Args:
      archs: `int32[n, L]`.
      race: not possible with masks; None or 0.

    Returns:
      `bn_mode`, `images` and one row per mask.
    """
    if race:
      raise UserError(
        f"--race is not for method {self.method.name}; masks.halving scores"
        " many masks on few images."
      )
    setup = self.setup
    variables = load_masked(setup).variables
    scores = call_again("score", setup.scorer(), variables, archs)
    metrics = {**scores, **mask_sizes(setup, archs)}
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

  # Inside -------------------------------------------------------------------

  def _retrained(
    self, winner: np.ndarray
  ) -> tuple[Callable[[], dict[str, float]], float]:
    network, variables, seconds = tune_winner(self.setup, winner)
    judge = functools.partial(judge_winner, self.setup, network, variables)
    return judge, seconds

  def _delivered(self, winner: np.ndarray) -> tuple[CompactNetwork, Variables]:
    return tune_winner(self.setup, winner)[:2]

  def _inherited(self, winner: np.ndarray) -> tuple[CompactNetwork, Variables]:
    variables = load_masked(self.setup).variables
    network, variables = compact_winner(self.setup, variables, winner)
    searched = read_json(self.workdir / "search.json")["accuracy"]
    check_network(self.setup, network, variables, searched)
    return network, variables

  def _alarm(self, metrics: dict) -> None:
    """Calls out candidates at chance level, and rates that drop all."""
    accuracy = metrics["accuracy"]
    self._warn_at_chance(float(np.nanmean(accuracy)), len(accuracy))
    kept = float(metrics["kept_channels"].mean())
    if kept < 0.1:
      log.warning(
        "the candidates keep %.1f %% of the channels: the rates have run away."
        " Lower masks.length_scale or masks.rate_speed, or let the weights"
        " learn alone at first with masks.rate_delay.", 100 * kept,
      )  # fmt: skip

  def _write_front(self, archive: dict, metrics: dict) -> list[dict]:
    """Writes `pareto.csv`: masks that no other beats in accuracy and MACs."""
    finite = np.flatnonzero(np.isfinite(metrics["accuracy"]))
    points = np.stack([-metrics["accuracy"], metrics["macs"]], 1)[finite]
    rows = finite[moocore.is_nondominated(points, keep_weakly=False)]
    table = read_csv(self.workdir / "archs.csv")
    rows = sorted(rows.tolist(), key=lambda i: metrics["macs"][i])
    write_csv(self.workdir / "pareto.csv", [table[i] for i in rows])
    names = ("accuracy", "macs", "params")
    picked = rows[:: -(-len(rows) // 8)]  # a few, from the smallest up
    return [
      {"arch": table[i]["arch"]} | {k: float(metrics[k][i]) for k in names}
      for i in picked
    ]

  def _write_selection(self, archive: dict, metrics: dict) -> None:
    """Writes `selection.json`: what choosing among candidates is worth."""
    hits = [v for k, v in metrics.items() if k.startswith("hits_")]
    numbers = archive["numbers"]
    value = {"candidates": len(numbers)}
    if hits:
      drawn = np.array(numbers) >= 0  # the threshold mask is no draw
      drawn |= ~drawn.any()  # unless every draw equals it
      value |= selection_curve(
        np.stack(hits, 1).astype(np.int64)[drawn],
        len(self.setup.data.validation),
      )
    if -1 in numbers:
      i = numbers.index(-1)
      names = ("accuracy", "loss", "macs", "params")
      value["threshold"] = {k: float(metrics[k][i]) for k in names}
    write_json(self.workdir / "selection.json", value)
