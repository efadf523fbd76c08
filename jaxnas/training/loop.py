"""The training loop: batches, log rows, validation, checkpoints, NaN stop."""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from jaxnas.checkpoint import Checkpoints
from jaxnas.data import Batches
from jaxnas.errors import RunError
from jaxnas.profiling import Watch
from jaxnas.sharding import Placement
from jaxnas.training.feed import Step, StreamedBatches
from jaxnas.training.step import TrainState
from jaxnas.writer import Journal, Progress


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When things happen, in optimiser steps.

  Attributes:
    n_steps: the last step.
    log_every: steps between two log rows (and NaN checks).
    checkpoint_every: steps between two checkpoints.
    evaluate_every: steps between two validations; 0 leaves only the last.
  """

  n_steps: int
  log_every: int
  checkpoint_every: int
  evaluate_every: int = 0


def fit(
  stage: str,
  step: Step,
  state: TrainState,
  key: jax.Array,
  batches: Batches | StreamedBatches,
  schedule: Schedule,
  checkpoints: Checkpoints,
  journal: Journal,
  placement: Placement,
  groups: list[str],
  learning_rate: Callable[[int], float],
  evaluate: Callable[[TrainState], dict[str, float]] | None = None,
) -> tuple[TrainState, float]:
  """Trains from the newest checkpoint to the last step.

  Everything random derives from `key` and the step, and the batches from the
  step, so a resumed run takes the very steps that an undisturbed one takes.

  Args:
    stage: name in log rows, such as `train`.
    step: jitted step.
    state: fresh state; also says how a checkpoint is laid out.
    key: PRNG key of the stage.
    batches: what the steps take.
    schedule: when to log, save and validate.
    checkpoints: of this stage.
    journal: log rows.
    placement: where the state lives.
    groups: names of the flags in the step's `finite` metric.
    learning_rate: of a step, for the log.
    evaluate: validation, logged; must not change anything.

  Returns:
    The trained state and the seconds spent on it over all sessions.

  Raises:
    RunError: if the loss or an activation is not finite, naming the step, the
      layer and the last good checkpoint.
  """
  spent, first = 0.0, 0
  found = checkpoints.restore(state, placement.sharding("replicated"))
  if found:
    first, state, meta = found
    spent = meta["seconds"]
  else:
    state = placement.put(state)
  journal.rewind(stage, first)
  if first >= schedule.n_steps:
    return state, spent
  state = placement.scatter(state)
  start = time.monotonic()
  pending: list[tuple[int, dict]] = []
  whole = placement.gather
  # Cohorts of one stage are numbered; the first one's trace is enough.
  run = Watch(stage.split("-")[0], schedule.n_steps - first)
  with Progress(stage, schedule.n_steps, first) as progress:
    taken = batches.inputs(first, schedule.n_steps)
    for i, inputs in enumerate(taken, first + 1):
      state, metrics = run(step, state, key, inputs)
      pending.append((i, metrics))
      last = i == schedule.n_steps
      save = last or i % schedule.checkpoint_every == 0
      look = evaluate and (
        last or (schedule.evaluate_every and i % schedule.evaluate_every == 0)
      )
      if i % schedule.log_every == 0 or save or look:
        row = _read(stage, pending, groups, checkpoints)
        epoch = i / batches.steps_per_epoch
        rate = float(learning_rate(i - 1))
        if i % schedule.log_every == 0 or last:
          journal.write(stage, step=i, epoch=epoch, **row, learning_rate=rate)
        progress.update(i, loss=row["loss"], accuracy=row["accuracy"])
      if look:
        journal.write(stage, step=i, epoch=epoch, **evaluate(whole(state)))
      if save:
        seconds = spent + time.monotonic() - start
        checkpoints.save(i, whole(state), {"seconds": seconds})
  return whole(state), spent + time.monotonic() - start


def validations(steps: int, every: int) -> int:
  """How often `fit` validates: at intervals and at the end.

  Args:
    steps: of the whole training.
    every: steps between two validations; 0 leaves only the last.
  """
  if not steps:
    return 0
  return -(-steps // every) if every else 1


def _read(stage, pending, groups, checkpoints) -> dict[str, float]:
  """Fetches the pending metrics, stops on NaN, returns their means."""
  rows = [(i, jax.device_get(m)) for i, m in pending]
  pending.clear()
  for i, m in rows:
    if not m["finite"].all():
      where = groups[int(np.argmin(m["finite"]))]
      good = checkpoints.steps()
      kept = f"step {good[-1]}" if good else "none yet"
      raise RunError(
        f"stage {stage} diverged at step {i}: values in {where} are not finite."
        f" Last good checkpoint: {kept}. Lower the learning rate, set"
        " optimizer.clip_norm, or train longer with warm-up."
      )
  return {
    name: float(np.mean([np.mean(m[name]) for _, m in rows]))
    for name in rows[0][1]
    if name != "finite"
  }
