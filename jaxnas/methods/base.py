"""What methods share: training of supernets and networks, the search loop."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import moocore
import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.config import RetrainConfig, SearchConfig
from jaxnas.data import Batches
from jaxnas.errors import UserError
from jaxnas.methods.setup import PathSetup, Setup
from jaxnas.nets import Fleet, Variables, group_names
from jaxnas.scoring import FleetEvaluator
from jaxnas.search import (
  Searcher,
  front,
  make_searcher,
  parse_objective,
  planned_rounds,
  run_search,
)
from jaxnas.training import (
  PathSampler,
  Schedule,
  TrainState,
  fit,
  init_state,
  make_fleet_step,
  make_optimizer,
  make_schedule,
  make_supernet_step,
)
from jaxnas.writer import Progress, is_folder, write_csv, write_json

SearchState = dict


@dataclasses.dataclass(frozen=True)
class Method:
  """One published method.

  Attributes:
    name: as in the config.
    paper: title and arXiv id.
    fidelity: one sentence on what is the paper's and what is ours.
  """

  name: str
  paper: str
  fidelity: str


class MaskMethod(Method):
  """A method that trains a masked network and draws masks from its rates."""


class BlockMethod(Method):
  """A method that searches a block, guided by an expert's topology."""


@dataclasses.dataclass(frozen=True)
class PathMethod(Method):
  """A method that trains a supernet of single paths and searches archs.

  Attributes:
    sampler: `(setup) -> PathSampler` of its supernet training.
    algorithm: its search, what `search.algorithm=auto` means.
  """

  sampler: Callable[[PathSetup], PathSampler]
  algorithm: str

  def search_config(self, config: SearchConfig) -> SearchConfig:
    """The constants of a search, with this method's algorithm for `auto`."""
    if config.algorithm != "auto":
      return config
    return dataclasses.replace(config, algorithm=self.algorithm)

  def searcher(self, setup: PathSetup) -> Searcher:
    """The search of a run."""
    config = self.search_config(setup.config.search)
    return make_searcher(config, setup.space, setup.budget, setup.costs)


def supernet_template(
  setup: PathSetup, n_steps: int, per_epoch: int
) -> tuple[TrainState, Any, Callable]:
  """Fresh training state of the supernet, its optimiser and schedule."""
  config = setup.config.train.optimizer
  rate = make_schedule(config, n_steps, per_epoch)
  tx = make_optimizer(config, rate)
  variables = setup.supernet.init(setup.key("init"))
  return init_state(variables, tx, setup.space.n_choices), tx, rate


def supernet_batches(setup: PathSetup, sampler: PathSampler) -> Batches:
  """Index stream of supernet training."""
  config = setup.config.train
  return Batches(
    n=len(setup.data.train),
    batch_size=config.batch_size,
    seed=setup.seed("train"),
    copies=None if config.share_batch else sampler.n_paths,
  )


def train_supernet(
  setup: PathSetup, sampler: PathSampler
) -> tuple[TrainState, float]:
  """Trains the supernet on the sampler's paths, or resumes that.

  Args:
    setup: the run.
    sampler: paths of each step.

  Returns:
    The trained state and the seconds spent over all sessions.
  """
  config = setup.config.train
  batches = supernet_batches(setup, sampler)
  per_epoch = batches.steps_per_epoch
  n_steps = config.epochs * per_epoch
  state, tx, rate = supernet_template(setup, n_steps, per_epoch)
  feed = setup.feed(setup.data.train)
  step = make_supernet_step(setup.supernet, sampler, tx, config, feed)
  evaluate = None
  if config.evaluate_archs:
    scorer = setup.scorer()
    rng = np.random.default_rng(0)  # the same archs in every run
    probes = setup.space.sample(rng, config.evaluate_archs)

    def evaluate(state):
      accuracy = scorer(state.variables, probes)["accuracy"]
      return {
        "validation_accuracy": float(accuracy.mean()),
        "validation_accuracy_min": float(accuracy.min()),
        "validation_accuracy_max": float(accuracy.max()),
      }

  return fit(
    "train", step, state, setup.key("train"), setup.inputs(batches),
    Schedule(
      n_steps=n_steps,
      log_every=config.log_every,
      checkpoint_every=config.checkpoint_every * per_epoch,
      evaluate_every=config.evaluate_every * per_epoch,
    ),
    setup.checkpoints("train"), setup.journal, setup.placement,
    group_names(setup.space), rate, evaluate,
  )  # fmt: skip


def load_supernet(setup: PathSetup, sampler: PathSampler) -> TrainState:
  """Loads the trained supernet of the work directory.

  Raises:
    UserError: if training has not been finished there.
  """
  per_epoch = supernet_batches(setup, sampler).steps_per_epoch
  n_steps = setup.config.train.epochs * per_epoch
  state, _, _ = supernet_template(setup, n_steps, per_epoch)
  return learned_checkpoint(setup, state, n_steps)


def learned_checkpoint(
  setup: Setup, state: TrainState, n_steps: int
) -> TrainState:
  """Loads the last state of supernet training.

  Args:
    setup: the run.
    state: a fresh state, which says how a checkpoint is laid out.
    n_steps: of the whole training.

  Raises:
    UserError: if training has not been finished there.
  """
  found = None
  if is_folder(setup.workdir / "checkpoints" / "train"):
    found = setup.checkpoints("train").restore(
      state, setup.placement.sharding("replicated")
    )
  if not found or found[0] < n_steps:
    done = f" (step {found[0]} of {n_steps})" if found else ""
    raise UserError(
      f"{setup.workdir} holds no fully trained supernet{done}; run `python -m"
      " jaxnas train` with the same config and --workdir first."
    )
  return found[1]


def supernet_objective(
  setup: PathSetup, variables: Variables
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Objective of a search: supernet metrics and costs of archs."""
  scorer = setup.scorer()

  def objective(archs):
    costs = {name: table(archs) for name, table in setup.costs.items()}
    return {**scorer(variables, archs), **costs}

  return objective


def search_archs(
  setup: PathSetup,
  searcher: Searcher,
  objective: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> tuple[SearchState, float]:
  """Runs the search to its last round, or resumes it.

  The whole state (archive, population, controller) is saved after each round;
  `archs.csv` lists every evaluated arch.

  Args:
    setup: the run.
    searcher: proposes archs.
    objective: evaluates them.

  Returns:
    The final state and the seconds spent over all sessions.
  """
  rounds = planned_rounds(searcher, setup.config.search)
  checkpoints = setup.checkpoints("search")
  state, rows, spent = searcher.init(setup.seed("search")), [], 0.0
  found = checkpoints.restore({"round": np.zeros((), np.int32)})
  if found:
    _, _, meta = found
    state, rows, spent = meta["state"], meta["rows"], meta["seconds"]
    # A kill may fall between the checkpoint and the table.
    write_archs(setup.workdir / "archs.csv", state, rows)
  setup.journal.rewind("search", state["round"], "round")
  clock = time.monotonic()
  with Progress("search", rounds, state["round"]) as progress:

    def on_round(state, archs, metrics):
      nonlocal clock, spent
      seconds = time.monotonic() - clock
      clock += seconds
      spent += seconds
      rows.extend([[state["round"], seconds / len(archs)]] * len(archs))
      accuracy = np.array(state["archive"]["metrics"]["accuracy"])
      best = float(np.max(accuracy[np.isfinite(accuracy)], initial=-np.inf))
      setup.journal.write(
        "search", "round", round=state["round"], evaluated=len(rows),
        best_accuracy=best, hypervolume=hypervolume(setup, searcher, state),
      )  # fmt: skip
      meta = {"state": state, "rows": rows, "seconds": spent}
      round_ = np.array(state["round"], np.int32)
      checkpoints.save(state["round"], {"round": round_}, meta)
      write_archs(setup.workdir / "archs.csv", state, rows)
      progress.update(state["round"], best=best, evaluated=len(rows))

    state = run_search(searcher, objective, rounds, state, on_round)
  return state, spent


def write_archs(path: Path, state: SearchState, timing: list) -> None:
  """Writes `archs.csv`: every evaluated arch, in order of evaluation.

  Args:
    path: the file.
    state: of the search.
    timing: `[round, seconds]` of each arch.
  """
  archive, rows = state["archive"], []
  for i, (arch, (round_, seconds)) in enumerate(
    zip(archive["archs"], timing, strict=True)
  ):
    metrics = {name: values[i] for name, values in archive["metrics"].items()}
    counts = {name: int(metrics[name]) for name in ("macs", "params")}
    rows.append(
      {"arch": arch_lib.to_string(np.array(arch)), "round": round_}
      | metrics | counts | {"seconds": round(seconds, 6)}
    )  # fmt: skip
  write_csv(path, rows)


def hypervolume(
  setup: PathSetup, searcher: Searcher, state: SearchState
) -> float:
  """Share of the objective box that the front dominates, 0..1.

  Accuracies span 0..1 and costs the smallest to the largest arch of the space,
  so the value is comparable over rounds and runs.
  """
  points = front(state, setup.space, searcher.objectives).values
  if not len(points):
    return 0.0
  scaled = []
  for column, objective in zip(points.T, searcher.objectives, strict=True):
    name, sign = parse_objective(objective)
    low, high = 0.0, 1.0
    if name in setup.costs:
      low, high = setup.costs[name].smallest, setup.costs[name].largest
    # All archs may cost the same, as when choices differ in activation only.
    scaled.append((sign * column - low) / ((high - low) or 1.0))
    if sign < 0:
      scaled[-1] = 1 - scaled[-1]
  return float(
    moocore.hypervolume(-np.stack(scaled, 1), ref=np.zeros(len(scaled)))
  )


def fleet_batches(
  setup: PathSetup, stage: str, config: RetrainConfig
) -> Batches:
  """Index stream of a stage that trains plain networks."""
  return Batches(len(setup.data.train), config.batch_size, setup.seed(stage))


def train_fleet(
  setup: PathSetup,
  stage: str,
  archs: np.ndarray,
  config: RetrainConfig,
  dropout: float,
  initial: list[Variables] | None = None,
) -> tuple[Fleet, TrainState, float]:
  """Trains plain networks together, each with weights of its own.

  Args:
    setup: the run.
    stage: name of checkpoints, seeds and log rows.
    archs: `int32[n, L]`.
    config: recipe.
    dropout: rate before the classifier.
    initial: start from these variables instead of fresh ones.

  Returns:
    The fleet, its trained state, and the seconds spent over all sessions.
  """
  fleet = Fleet(
    setup.space,
    tuple(tuple(int(c) for c in arch) for arch in archs),
    setup.config.net,
  )
  batches = fleet_batches(setup, stage, config)
  per_epoch = batches.steps_per_epoch
  n_steps = config.epochs * per_epoch
  rate = make_schedule(config.optimizer, n_steps, per_epoch)
  tx = make_optimizer(config.optimizer, rate)
  if initial is None:
    keys = jax.random.split(setup.key(f"{stage}-init"), fleet.n)
    variables = fleet.init(keys)
  else:
    variables = fleet.stack(initial)
  feed = setup.feed(setup.data.train)
  step = make_fleet_step(
    fleet, tx, config, setup.config.net.bn_momentum, dropout, feed
  )
  judge = FleetEvaluator(
    fleet, setup.data, setup.data.validation,
    setup.config.score.batch_size, setup.placement,
  )  # fmt: skip

  def evaluate(state):
    return {
      "validation_accuracy": float(judge(state.variables)["accuracy"].mean())
    }

  state, seconds = fit(
    stage, step, init_state(variables, tx), setup.key(stage),
    setup.inputs(batches),
    Schedule(
      n_steps=n_steps,
      log_every=config.log_every,
      checkpoint_every=config.checkpoint_every * per_epoch,
      evaluate_every=config.checkpoint_every * per_epoch,
    ),
    setup.checkpoints(stage), setup.journal, setup.placement,
    group_names(setup.space), rate, evaluate,
  )  # fmt: skip
  return fleet, state, seconds


def write_fairness(
  setup: PathSetup, sampler: PathSampler, state: TrainState
) -> None:
  """Writes `fairness.json`: updates that every choice received."""
  counts = np.asarray(state.counts)
  write_json(
    setup.workdir / "fairness.json",
    {
      "sampler": sampler.name,
      "strictly_fair": sampler.strictly_fair,
      "steps": int(state.step),
      "counts": [
        row[:k].tolist()
        for row, k in zip(counts, setup.space.n_choices, strict=True)
      ],
    },
  )
