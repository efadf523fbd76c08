"""The search for a block, with one lambda or several, and what it found."""

import itertools
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from jaxnas.hosts import agree
from jaxnas.methods.interpreter import random_blocks
from jaxnas.methods.setup import BlockSetup
from jaxnas.profiling import watch_rounds
from jaxnas.search import BlockReward, Searcher, make_block_searcher
from jaxnas.spaces import nsc
from jaxnas.writer import Progress, write_csv

FRESH = 64  # random blocks drawn where a search explores none
SAVE_EVERY = 5.0  # seconds between two checkpoints of a search

State = dict
Metrics = dict[str, np.ndarray]


def guidances(setup: BlockSetup) -> tuple[float, ...]:
  """Every lambda that is searched with; the one that picks the winner last."""
  blocks = setup.config.blocks
  return (*sorted(blocks.compare), blocks.guidance)


def algorithm_of(setup: BlockSetup) -> str:
  """The search of a config, Q-learning for `auto`."""
  name = setup.config.search.algorithm
  return "qlearning" if name == "auto" else name


def block_searcher(setup: BlockSetup, guidance: float) -> Searcher:
  """The search with one lambda; all but the differentiable one."""
  return make_block_searcher(
    algorithm_of(setup), setup.config.search, setup.config.blocks, guidance,
    setup.space, setup.budget,
  )  # fmt: skip


def search_blocks(
  setup: BlockSetup,
  guidance: float,
  objective: Callable[[np.ndarray], Metrics],
) -> tuple[State, list[int], float]:
  """Runs the search with one lambda to its last round, or resumes it.

  All searches have one seed, so they explore alike while epsilon is 1.

  Args:
    setup: the run.
    guidance: lambda.
    objective: evaluates blocks.

  Returns:
    The final state, the round of each evaluated block, and the seconds spent
    over all sessions.
  """
  searcher = block_searcher(setup, guidance)
  checkpoints = setup.checkpoints(f"search-{guidance:g}")
  state, timing, spent = searcher.init(setup.seed("search")), [], 0.0
  found = checkpoints.restore({"round": np.zeros((), np.int32)})
  if found:
    meta = found[2]
    state, timing, spent = meta["state"], meta["timing"], meta["seconds"]
  setup.journal.rewind("search", state["round"], "round", guidance=guidance)
  clock = saved = time.monotonic()
  run = watch_rounds("search", searcher.rounds - state["round"])
  title = f"search, lambda {guidance:g}"
  with Progress(title, searcher.rounds, state["round"]) as progress:
    while state["round"] < searcher.rounds:
      archs = searcher.ask(state)
      metrics = run(objective, archs) if len(archs) else {}
      state = searcher.tell(state, archs, metrics)
      round_ = state["round"]
      timing += [round_] * len(archs)
      now = time.monotonic()
      spent, clock = spent + now - clock, now
      accuracy = np.array(state["archive"]["metrics"].get("accuracy", []))
      best = float(np.max(accuracy[np.isfinite(accuracy)], initial=-np.inf))
      setup.journal.write(
        "search", "round", round=round_, guidance=guidance,
        evaluated=len(accuracy), best_accuracy=best,
      )  # fmt: skip
      # Most rounds take less time than saving them.
      if round_ == searcher.rounds or agree(now - saved > SAVE_EVERY):
        meta = {"state": state, "timing": timing, "seconds": spent}
        checkpoints.save(round_, {"round": np.array(round_, np.int32)}, meta)
        saved = time.monotonic()
      progress.update(round_, best=best, evaluated=len(accuracy))
  return state, timing, spent


def write_blocks(
  setup: BlockSetup, found: dict[float, tuple[State, list[int]]]
) -> None:
  """Writes `archs.csv`: every evaluated block of every search, in order."""
  rows = []
  for guidance, (state, timing) in found.items():
    archive = state["archive"]
    metrics = archive["metrics"]
    for i, arch in enumerate(archive["archs"]):
      values = {name: column[i] for name, column in metrics.items()}
      for name in ("macs", "params", "distance"):
        values[name] = int(values[name])
      text = setup.space.to_string(np.array(arch))
      rows.append({"arch": text, "guidance": guidance, "round": timing[i]})
      rows[-1] |= values
  write_csv(setup.workdir / "archs.csv", rows)


def best_first(setup: BlockSetup, state: State, guidance: float) -> np.ndarray:
  """Evaluated blocks from the best reward down; NaN left out.

  Among equals the one with fewer multiply-adds comes first.
  """
  metrics = {k: np.array(v) for k, v in state["archive"]["metrics"].items()}
  reward = BlockReward.from_config(setup.config.blocks, guidance)(metrics)
  rows = np.lexsort((metrics["macs"], -reward))
  return rows[np.isfinite(reward[rows])]


def guidance_row(
  setup: BlockSetup, state: State, guidance: float, best: int
) -> dict:
  """What the search with one lambda found, a row of `guidance.json`.

  Args:
    setup: the run.
    state: its last state.
    guidance: lambda.
    best: position of its best block in the archive.
  """
  archive = state["archive"]
  metrics = {k: np.array(v) for k, v in archive["metrics"].items()}
  row = {k: v[best].item() for k, v in metrics.items()}
  n = len(setup.data.validation)
  if np.isfinite(row["accuracy"]):
    # A table's accuracies may be of other images, but of how many is unknown.
    hits = round(row["accuracy"] * n)
    low, high = stats.binomtest(hits, n).proportion_ci(method="wilson")
    row |= {"low": float(low), "high": float(high)}
  return {
    "guidance": guidance,
    "arch": setup.space.to_string(np.array(archive["archs"][best])),
    **row,
    **{name: int(row[name]) for name in ("macs", "params", "distance")},
    "evaluated": len(archive["archs"]),
    "mean_mirror": float(metrics["mirror"].mean()),
    "mean_distance": float(metrics["distance"].mean()),
    "chosen": guidance == setup.config.blocks.guidance,
  }


def best_blocks(
  setup: BlockSetup, state: State, rows: np.ndarray, n: int = 10
) -> tuple[list[dict], float | None]:
  """The best blocks of a search, and how they differ.

  Args:
    setup: the run.
    state: its last state.
    rows: of `best_first`.
    n: how many.

  Returns:
    One JSON object for each, and the mean edit distance of two of them.
  """
  archive, top = state["archive"], rows[:n].tolist()
  codes = [setup.space.codes(np.array(archive["archs"][i])) for i in top]
  apart = [nsc.edit_distance(a, b) for a, b in itertools.combinations(codes, 2)]
  names = ("accuracy", "mirror", "distance", "macs", "params")
  return [
    {
      "arch": setup.space.to_string(np.array(archive["archs"][i])),
      **{name: archive["metrics"][name][i] for name in names},
    }
    for i in top
  ], float(np.mean(apart)) if apart else None


def equal_blocks(
  setup: BlockSetup,
  objective: Callable[[np.ndarray], Metrics],
  state: State,
  timing: list[int],
  winner: dict,
) -> list[dict]:
  """Random blocks about as accurate as the winner.

  They are from the rounds in which the search explored at random, or drawn
  anew if there were none: first those within one standard error of the winner's
  accuracy, in random order, then the nearest.

  Args:
    setup: the run.
    objective: evaluates blocks.
    state: last state of the search.
    timing: round of each block.
    winner: its row of `guidance.json`.

  Returns:
    At most `blocks.latency_blocks` JSON objects, `arch` and metrics.
  """
  rng = np.random.default_rng(setup.seed("equal"))
  archive = state["archive"]
  explored = np.array(timing) <= random_rounds(setup)
  own = setup.space.from_string(winner["arch"])
  archs = np.array(archive["archs"], np.int32)[explored]
  archs = archs[(archs != own).any(1)]
  if not len(archs):
    archs = np.unique(random_blocks(setup, "equal", FRESH), axis=0)
    archs = archs[(archs != own).any(1)]
  if not len(archs):
    return []
  metrics = objective(archs)
  gap = np.abs(metrics["accuracy"] - winner["accuracy"])
  share = winner["accuracy"]
  error = np.sqrt(share * (1 - share) / len(setup.data.validation))
  order = rng.permutation(np.flatnonzero(np.isfinite(gap)))
  # Equal ones in random order, the others by their distance.
  apart = np.where(gap <= error, 0, gap)
  order = order[np.argsort(apart[order], kind="stable")]
  return [
    {"arch": setup.space.to_string(archs[i])}
    | {name: values[i].item() for name, values in metrics.items()}
    for i in order[: setup.config.blocks.latency_blocks]
  ]


def random_rounds(setup: BlockSetup) -> int:
  """Rounds at the start of a search whose blocks are random."""
  if algorithm_of(setup) == "differentiable":
    return 0
  return block_searcher(setup, 0.0).random_rounds
