"""Experiments on supernets of single paths."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxnas.costs import format_count, supernet_params
from jaxnas.errors import UserError, unknown
from jaxnas.experiment.base import Experiment
from jaxnas.methods import (
  PathSetup,
  answer,
  check_inherited,
  evidence,
  fitted_accuracies,
  fleet_batches,
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
from jaxnas.nets import PlainNetwork, Variables
from jaxnas.profiling import call_again
from jaxnas.scoring import (
  FleetEvaluator,
  check_score,
  compare_rankings,
  race_archs,
)
from jaxnas.search import (
  Searcher,
  SegmentSearch,
  archive_archs,
  finalists,
  parse_objective,
  pick_equispaced,
  single_best,
)
from jaxnas.search import front as pareto_front
from jaxnas.training import PathSampler, paths_in_flight
from jaxnas.writer import is_file, read_csv, read_json, write_csv, write_json

log = logging.getLogger("jaxnas")

# Of the front, by accuracy; among equals the lower loss wins, then the cheaper.
SELECTION = ("accuracy", "-loss", "-macs")


class PathExperiment(Experiment):
  """A supernet of single paths: fairnas, spos, gcn."""

  def _make_setup(self) -> PathSetup:
    return make_setup(self.config, self.workdir)

  def _check(self) -> None:
    # Built once here so that a bad value fails before anything is written.
    setup, config = self.setup, self.config
    supernet_batches(setup, self.sampler)
    paths_in_flight(config.train, self.sampler, setup.supernet, setup.placement)
    fleet_batches(setup, "retrain", config.retrain)
    known = {"accuracy", "loss", *setup.costs}
    for objective in self.method.searcher(setup).objectives:
      if (name := parse_objective(objective)[0]) not in known:
        raise unknown("metric in search.objectives", name, known)

  def _about(self) -> str:
    space = self.setup.space
    params = format_count(supernet_params(space))
    return (
      f"space {space.name} ({space.size:.3g} archs, supernet {params}"
      " parameters)"
    )

  def _found(self, searched: dict, trained: dict) -> dict:
    return {"choices": searched["choices"], "front": searched["front"]}

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
    return {
      "stage": "train",
      "steps": int(state.step),
      "validation_accuracy": self._probes().get("validation_accuracy"),
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
    result = self._chosen(searcher, found, setup.config.score.bn_mode)
    winner = setup.space.from_string(result["arch"])
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
    if not is_file(self.workdir / "search.json"):
      self.search()
    setup = self.setup
    answers = answer(
      read_lookup(self.workdir), budgets, setup.parse_budget,
      setup.space.to_string,
    )  # fmt: skip
    path = self.workdir / "lookup.json"
    before = read_json(path)["answers"] if is_file(path) else []
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
    ranking = {
      "selection": selection,
      "bn_mode": scorer.bn_mode,
      **self._compared(
        archs, supernet, accuracy, "supernet_accuracy",
        fitted_accuracies(setup, archs),
      ),
    }  # fmt: skip
    write_json(self.workdir / "ranking.json", ranking)
    self._record("rank", spent + time.monotonic() - start)
    return {"stage": "rank", **ranking}

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
    objective = supernet_objective(setup, state.variables)
    metrics = call_again("score", objective, archs)
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

  def _compared(
    self,
    archs: np.ndarray,
    scores: np.ndarray,
    standalone: np.ndarray,
    name: str,
    fitted: dict[str, np.ndarray],
  ) -> dict:
    """How scores rank archs, and the rows behind that, for `ranking.json`.

    Args:
      archs: `int32[n, L]`.
      scores: what the search went by, `float[n]`.
      standalone: accuracies after full trainings, `float[n]`.
      name: of the scores.
      fitted: accuracies by predictors, `float[n]` each.
    """
    setup, config = self.setup, self.config.ranking
    costs = {k: table(archs) for k, table in setup.costs.items()}
    return {
      **compare_rankings(
        scores, standalone, costs, config.top_k,
        np.random.default_rng(setup.seed("bootstrap")),
        config.bootstrap, config.confidence, fitted,
      ),
      "archs": [
        {
          "arch": setup.space.to_string(arch),
          name: float(scores[i]),
          "standalone_accuracy": float(standalone[i]),
          **{k: int(values[i]) for k, values in costs.items()},
        }
        for i, arch in enumerate(archs)
      ],
    }  # fmt: skip

  def _chosen(self, searcher: Searcher, found: dict, bn_mode: str) -> dict:
    """The winner of a search and its front; writes `pareto.csv`.

    Args:
      searcher: that has come to its end.
      found: its state.
      bn_mode: where the scores' batch-norm statistics came from.

    Returns:
      The content of `search.json`.
    """
    setup, archive = self.setup, found["archive"]
    front = pareto_front(found, setup.space, searcher.objectives)
    rows = finalists(found, setup.space, searcher.objectives)
    metrics = archive["metrics"].items()
    winner = single_best(archive, SELECTION, setup.budget, rows)
    index = archive["archs"].index(winner.tolist())
    table = read_csv(self.workdir / "archs.csv")
    shown = sorted(front.index.tolist())
    write_csv(self.workdir / "pareto.csv", [table[i] for i in shown])
    picked = pick_equispaced(front, setup.config.search.front)
    result = {
      "arch": setup.space.to_string(winner),
      "choices": setup.space.choice_names(winner),
      "evaluated": len(archive_archs(found, setup.space)),
      **{name: values[index] for name, values in metrics},
      "bn_mode": bn_mode,
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
    return result

  def _retrained(
    self, winner: np.ndarray
  ) -> tuple[Callable[[], dict[str, float]], float]:
    fleet, state, seconds = train_winner(self.setup, self.sampler, winner)

    def judge() -> dict[str, float]:
      data, size = self.setup.data, self.config.score.batch_size
      found = {}
      for name, split in (("standalone", data.validation), ("test", data.test)):
        judge = FleetEvaluator(fleet, data, split, size, self.setup.placement)
        accuracy = judge(state.variables)["accuracy"][0]
        found[f"{name}_accuracy"] = float(accuracy)
      return found

    return judge, seconds

  def _delivered(self, winner: np.ndarray) -> tuple[PlainNetwork, Variables]:
    fleet, state, _ = train_winner(self.setup, self.sampler, winner)
    variables = jax.device_get(fleet.unstack(state.variables, 0))
    return self._network(winner), variables

  def _inherited(self, winner: np.ndarray) -> tuple[PlainNetwork, Variables]:
    searched = read_json(self.workdir / "search.json")["accuracy"]
    return self._cut_out(winner, searched)

  def _cut_out(
    self, winner: np.ndarray, scored: float | None
  ) -> tuple[PlainNetwork, Variables]:
    """The winner with the supernet's weights.

    Args:
      winner: `int32[L]`.
      scored: its accuracy there, which it must have alone; None if it is not
        known.
    """
    state = load_supernet(self.setup, self.sampler)
    variables = inherited(self.setup, state.variables, winner)
    if scored is not None:
      check_inherited(self.setup, variables, winner, scored)
    return self._network(winner), variables

  def _network(self, winner: np.ndarray) -> PlainNetwork:
    arch = tuple(winner.tolist())
    return PlainNetwork(self.setup.space, arch, self.config.net)

  def _race(self, archs: np.ndarray, error: float) -> dict:
    setup, scorer = self.setup, self.setup.scorer()
    state = load_supernet(setup, self.sampler)
    names = [setup.space.to_string(arch) for arch in archs]
    # The promise is for archs that were chosen before the order: what one race
    # has shown must not decide who takes part in the next with the same order.
    order = setup.seed(" ".join(["race", *sorted(set(names))]))
    race = functools.partial(race_archs, order_seed=order)
    found, metrics = call_again(
      "score", race, scorer, state.variables, archs, error
    )
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

  def _alarm(self, objective) -> None:
    """Calls out a supernet that is no better than guessing."""
    # Untrained archs differ by chance; a few draws, some of them the same,
    # have a mean too far from that of all.
    probes = self.setup.budget.draw(np.random.default_rng(0), 32)
    mean = float(objective(probes)["accuracy"].mean())
    self._warn_at_chance(mean, len(probes))
