"""Experiments that search a block: IRLAS on BlockQNN."""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnas.costs.block_budget import block_costs
from jaxnas.errors import UserError
from jaxnas.experiment.base import Experiment
from jaxnas.experiment.block_latency import write_latencies
from jaxnas.methods import (
  BlockObjective,
  BlockSetup,
  algorithm_of,
  best_blocks,
  best_first,
  block_batches,
  block_network,
  block_searcher,
  check_network,
  check_relaxed,
  equal_blocks,
  expert_guide,
  experts,
  fresh_network,
  guidance_row,
  guidances,
  inherited_block,
  judge_winner,
  load_interpreter,
  make_block_setup,
  network_batches,
  random_blocks,
  ranking_blocks,
  read_table,
  read_truth,
  search_blocks,
  search_relaxed,
  standalone_blocks,
  train_interpreter,
  train_network,
  uses_interpreter,
  write_blocks,
)
from jaxnas.nets import GraphNetwork, Variables
from jaxnas.profiling import call_again
from jaxnas.scoring import compare_rankings
from jaxnas.spaces import nsc
from jaxnas.writer import is_file, read_json, write_json

log = logging.getLogger("jaxnas")


class BlockExperiment(Experiment):
  """A block that is searched and stacked: irlas."""

  setup: BlockSetup

  def _make_setup(self) -> BlockSetup:
    return make_block_setup(self.config, self.workdir)

  def _check(self) -> None:
    # Built once here so that a bad value fails before anything is written.
    setup, blocks = self.setup, self.config.blocks
    network_batches(setup, "retrain", self.config.retrain)
    if blocks.block:
      block_network(setup, setup.space.from_string(blocks.block))
      return
    if setup.space.macro.published:
      raise UserError(
        f"space {setup.space.name!r} has one block, so there is nothing to"
        " search; set blocks.block to it, or use blocks-imagenet."
      )
    experts(setup)
    if algorithm_of(setup) == "differentiable":
      check_relaxed(setup)
    else:
      for guidance in guidances(setup):
        block_searcher(setup, guidance)
    if blocks.evaluation == "interpreter":
      block_batches(setup)
      setup.scorer()
    elif blocks.evaluation == "table":
      read_table(setup)
    else:
      network_batches(setup, "child", blocks.child)

  def _about(self) -> str:
    space = self.setup.space
    return f"space {space.name} (blocks of up to {space.max_layers} layers)"

  def _found(self, searched: dict, trained: dict) -> dict:
    names = ("choices", "evaluation", "guidance", "mirror", "distance")
    return {name: searched.get(name) for name in names}

  def _supernet_accuracy(self, searched: dict) -> float | None:
    return searched["accuracy"] if self._interprets else None

  @property
  def _interprets(self) -> bool:
    return uses_interpreter(self.config.blocks)

  @property
  def ranks(self) -> bool:
    """Whether `run` ranks: where there is a supernet to judge."""
    return self._interprets and super().ranks

  # Stages -----------------------------------------------------------------

  def train(self) -> dict:
    """Trains the interpreter, if it judges blocks; warns if it learned nothing.

    Returns:
      What the stage found, for `--json`.
    """
    self._describe()
    if not self._interprets:
      log.info("no supernet is trained: the section train is not used")
      self._record("train", 0.0)
      return {"stage": "train", "steps": 0, "validation_accuracy": None}
    state, seconds = train_interpreter(self.setup)
    self._record("train", seconds)
    return {
      "stage": "train",
      "steps": int(state.step),
      "validation_accuracy": self._probes().get("validation_accuracy"),
    }

  def search(self) -> dict:
    """Learns from the expert, searches with every lambda, picks the winner.

    Returns:
      The content of `search.json`.
    """
    self._claimed()
    if self.config.blocks.block:
      return self._take_given()
    setup, start = self.setup, time.monotonic()
    variables = load_interpreter(setup) if self._interprets else None
    guide = expert_guide(setup)
    objective = BlockObjective(setup, guide, variables)
    if self._interprets:
      probes = random_blocks(setup, "alarm", 32)
      accuracy = objective(probes)["accuracy"]
      self._warn_at_chance(float(accuracy.mean()), len(accuracy))
    seconds = time.monotonic() - start
    found, rows = {}, []
    for guidance in guidances(setup):
      if algorithm_of(setup) == "differentiable":
        state, timing, spent = search_relaxed(
          setup, guide, guidance, variables, objective
        )
      else:
        state, timing, spent = search_blocks(setup, guidance, objective)
      objective.remember(state["archive"])
      best = best_first(setup, state, guidance)
      if not len(best):
        raise UserError(
          f"no block that was searched with lambda {guidance:g} has an"
          " accuracy; with blocks.evaluation=table, the file must list the"
          " blocks of the space, and a budget must leave some."
        )
      found[guidance] = state, timing
      rows.append(guidance_row(setup, state, guidance, int(best[0])))
      seconds += spent
    start = time.monotonic()
    write_blocks(setup, found)
    n = len(setup.data.validation)
    write_json(self.workdir / "guidance.json", {"rows": rows, "n_images": n})
    result = self._result(rows[-1], state, best)
    winner = setup.space.from_string(result["arch"])
    if self._interprets:
      cut = inherited_block(setup, variables, winner)
      network = block_network(setup, winner)
      check_network(setup, network, cut, result["accuracy"])
    if self.config.blocks.latency_blocks:
      equal = equal_blocks(setup, objective, state, timing, rows[-1])
      write_latencies(setup, rows, equal)
    write_json(self.workdir / "search.json", result)
    self._record("search", seconds + time.monotonic() - start)
    return {"stage": "search", **result}

  def rank(self, truth: Path | None = None) -> dict:
    """Compares interpreter and stand-alone accuracies.

    Args:
      truth: CSV with columns `arch` and `standalone_accuracy` (or
        `accuracy`); None trains `ranking.n_archs` networks from scratch.

    Returns:
      The content of `ranking.json`.
    """
    setup, config = self.setup, self.config.ranking
    if not self._interprets:
      raise UserError(
        "rank compares the interpreter's accuracies, and this run has no"
        " interpreter (blocks.evaluation, blocks.block)."
      )
    if truth:
      archs, accuracy = read_truth(truth, setup.space)
      archs = setup.space.canonical(archs)
    elif not config.n_archs:
      raise UserError(
        "ranking.n_archs is 0; set it to at least 3, or give --truth FILE."
      )
    variables, start = load_interpreter(setup), time.monotonic()
    scorer, selection = setup.scorer(), config.selection
    if truth:
      selection = f"given in {Path(truth).name}"
    else:
      archs = ranking_blocks(setup, scorer, variables)
      accuracy = standalone_blocks(setup, archs)
    supernet = scorer(variables, archs)["accuracy"]
    costs = block_costs(setup.space, archs)
    costs = {name: costs[name] for name in ("macs", "params")}
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
    self._record("rank", time.monotonic() - start)
    return {"stage": "rank", **ranking}

  def score(self, archs: np.ndarray, race: float | None = None) -> dict:
    """Metrics of given blocks, as the search would see them.

    Args:
      archs: `int32[n, L]`.
      race: not possible with blocks; None or 0.

    Returns:
      `bn_mode`, `images` and one row per block.
    """
    if race:
      raise UserError(f"--race is not for method {self.method.name}.")
    setup = self.setup
    if self.config.blocks.block:
      raise UserError(
        "score needs an evaluation of blocks, and this run takes the block of"
        " blocks.block."
      )
    self._claimed()
    variables = load_interpreter(setup) if self._interprets else None
    objective = BlockObjective(setup, expert_guide(setup), variables)
    canonical = setup.space.canonical(archs)
    metrics = call_again("score", objective.evaluate, canonical)
    return {
      "bn_mode": self.config.score.bn_mode if self._interprets else None,
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
    network, variables, seconds = self._trained(winner)
    judge = functools.partial(judge_winner, self.setup, network, variables)
    return judge, seconds

  def _delivered(self, winner: np.ndarray) -> tuple[GraphNetwork, Variables]:
    return self._trained(winner)[:2]

  def _inherited(self, winner: np.ndarray) -> tuple[GraphNetwork, Variables]:
    if not self._interprets:
      raise UserError(
        "no inherited weights: this run has no interpreter"
        " (blocks.evaluation, blocks.block)."
      )
    setup, network = self.setup, block_network(self.setup, winner)
    variables = inherited_block(setup, load_interpreter(setup), winner)
    searched = read_json(self.workdir / "search.json")["accuracy"]
    check_network(setup, network, variables, searched)
    return network, variables

  def _origin(self, winner: np.ndarray) -> dict:
    space = self.setup.space
    return {"space": space.to_json(), "arch": space.to_string(winner)}

  def _claimed(self) -> None:
    """Refuses a directory that `train` has not begun."""
    if not is_file(self.workdir / "config.json"):
      raise self._missing("run of this config", "train")

  def _result(self, row: dict, state: dict, best: np.ndarray) -> dict:
    """The content of `search.json`."""
    setup, config = self.setup, self.config
    top, diversity = best_blocks(setup, state, best)
    codes = setup.space.codes(setup.space.from_string(row["arch"]))
    skipped = ("low", "high", "mean_mirror", "mean_distance", "chosen")
    return {
      **{name: value for name, value in row.items() if name not in skipped},
      "choices": [nsc.to_text(code) for code in codes],
      "algorithm": algorithm_of(setup),
      "evaluation": config.blocks.evaluation,
      "bn_mode": config.score.bn_mode if self._interprets else None,
      "top": top,
      "diversity": diversity,
    }

  def _take_given(self) -> dict:
    """The block of the config as the winner: no search."""
    start, setup = time.monotonic(), self.setup
    arch = setup.space.from_string(self.config.blocks.block)
    costs = block_costs(setup.space, arch)
    result = {
      "arch": setup.space.to_string(arch),
      "choices": [nsc.to_text(code) for code in setup.space.codes(arch)],
      "evaluated": 0,
      "evaluation": None,
      "accuracy": None,
      "bn_mode": None,
      **{name: int(costs[name][0]) for name in ("macs", "params")},
      "density": float(costs["density"][0]),
    }
    write_json(self.workdir / "search.json", result)
    self._record("search", time.monotonic() - start)
    return {"stage": "search", **result}

  def _trained(
    self, winner: np.ndarray
  ) -> tuple[GraphNetwork, Variables, float]:
    """The winner's network after `retrain`."""
    setup, config = self.setup, self.config.retrain
    network = block_network(setup, winner)
    if config.inherit:
      start = inherited_block(setup, load_interpreter(setup), winner)
      if not config.epochs:
        return network, start, 0.0
    else:
      start = fresh_network(setup, network, "retrain")
    variables, seconds = train_network(setup, "retrain", network, start, config)
    return network, variables, seconds
