"""Stages on masked networks: training, and candidates from its rates."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnas.costs.masks import kept_weights, mask_costs
from jaxnas.data import Batches
from jaxnas.errors import UserError
from jaxnas.methods.base import learned_checkpoint
from jaxnas.methods.setup import MaskSetup
from jaxnas.nets import Variables, drop_rates
from jaxnas.profiling import watch_rounds
from jaxnas.scoring import fold_hits, halve
from jaxnas.search import PosteriorSampler, best_number
from jaxnas.training import (
  Schedule,
  TrainState,
  fit,
  init_state,
  make_masked_step,
  make_optimizer,
  make_schedule,
  node_names,
)
from jaxnas.writer import Progress, write_csv, write_json

BINS = 20  # of the histograms of drop rates
PROBES = 3  # masks drawn for a validation in training

State = dict
Metrics = dict[str, np.ndarray]


def masked_batches(setup: MaskSetup) -> Batches:
  """Index stream of supernet training."""
  size = setup.config.train.batch_size
  return Batches(len(setup.data.train), size, setup.seed("train"))


def _template(setup: MaskSetup) -> tuple[TrainState, Any, Callable, int, int]:
  config = setup.config.train
  per_epoch = masked_batches(setup).steps_per_epoch
  n_steps = config.epochs * per_epoch
  rate = make_schedule(config.optimizer, n_steps, per_epoch)
  tx = make_optimizer(config.optimizer, rate)
  variables = setup.supernet.init(
    setup.key("init"), setup.config.masks.initial_rate
  )
  return init_state(variables, tx), tx, rate, n_steps, per_epoch


def train_masked(setup: MaskSetup) -> tuple[TrainState, float]:
  """Trains weights and drop rates, or resumes that.

  Returns:
    The trained state and the seconds spent over all sessions.
  """
  config, masks = setup.config.train, setup.config.masks
  state, tx, rate, n_steps, per_epoch = _template(setup)
  feed = setup.feed(setup.data.train)
  step = make_masked_step(setup.supernet, tx, config, masks, n_steps, feed)
  scorer = setup.scorer()

  def evaluate(state):
    rates = drop_rates(state.variables)
    rng = np.random.default_rng(0)
    drawn = setup.space.draw(rng, rates, PROBES)
    threshold = (rates <= 0.5).astype(np.int32)[setup.space.group_of]
    probes = np.concatenate([drawn, threshold[None]])
    accuracy = scorer(state.variables, probes)["accuracy"]
    return {
      "validation_accuracy": float(accuracy[:-1].mean()),
      "threshold_accuracy": float(accuracy[-1]),
      "kept_channels": float(1 - rates[setup.space.group_of].mean()),
      "rate_histogram": rate_histogram(rates),
    }

  return fit(
    "train", step, state, setup.key("train"),
    setup.inputs(masked_batches(setup)),
    Schedule(
      n_steps=n_steps,
      log_every=config.log_every,
      checkpoint_every=config.checkpoint_every * per_epoch,
      evaluate_every=config.evaluate_every * per_epoch,
    ),
    setup.checkpoints("train"), setup.journal, setup.placement,
    node_names(setup.supernet), rate, evaluate,
  )  # fmt: skip


def rate_histogram(rates: np.ndarray) -> list[int]:
  """Groups with a drop rate in each twentieth of 0..1."""
  return np.histogram(rates, BINS, (0, 1))[0].tolist()


def load_masked(setup: MaskSetup) -> TrainState:
  """Loads the trained masked network of the work directory.

  Raises:
    UserError: if training has not been finished there.
  """
  state, *_, n_steps, _ = _template(setup)
  return learned_checkpoint(setup, state, n_steps)


# Candidates ------------------------------------------------------------------


def posterior(setup: MaskSetup, variables: Variables) -> PosteriorSampler:
  """Candidates from the learned rates, as the config says."""
  masks = setup.config.masks
  return PosteriorSampler(
    space=setup.space,
    rates=drop_rates(variables),
    allows=setup.budget.allows,
    candidates=masks.candidates,
    batch=masks.candidates + 1 if masks.halving else masks.batch,
    threshold=masks.threshold,
  )


def mask_sizes(setup: MaskSetup, archs: np.ndarray) -> Metrics:
  """Costs of compact networks and kept shares, each `[m]`."""
  return {
    **mask_costs(setup.space, archs),
    "kept_weights": kept_weights(setup.space, archs),
    "kept_channels": archs.mean(1),
    "kept_operations": setup.space.kept_operations(archs),
  }


def mask_objective(
  setup: MaskSetup, variables: Variables
) -> Callable[[np.ndarray], Metrics]:
  """Objective of a selection: supernet metrics and sizes of masks.

  Returns:
    A function of `archs int32[m, L]`. Without halving its metrics include
    `hits_0`, `hits_1`..., the correct images of each tenth of the validation
    split; with halving `images`, and NaN for those that were dropped.
  """
  scorer, masks = setup.scorer(), setup.config.masks

  def plain(archs):
    found = scorer(variables, archs, per_example=True)
    hits = fold_hits(found.pop("correct"))
    return found | {f"hits_{f}": hits[:, f] for f in range(hits.shape[1])}

  def halved(archs):
    def score(candidates, images):
      return scorer.score_images(variables, archs[candidates], images)

    found = halve(
      score, len(archs), scorer.n_images, scorer.batch_size, masks.halving,
      setup.seed("halving"),
    )  # fmt: skip
    whole = found.images == scorer.n_images
    return {
      "accuracy": np.where(whole, found.hits / found.images, np.nan),
      "loss": np.where(whole, found.loss / found.images, np.nan),
      "images": found.images,
    }

  def objective(archs):
    scores = halved(archs) if masks.halving else plain(archs)
    return {**scores, **mask_sizes(setup, archs)}

  return objective


def select_mask(
  setup: MaskSetup,
  sampler: PosteriorSampler,
  objective: Callable[[np.ndarray], Metrics],
) -> tuple[State, float]:
  """Scores all candidates, or resumes that.

  Args:
    setup: the run.
    sampler: of the candidates.
    objective: scores them.

  Returns:
    The final state and the seconds spent over all sessions.

  Raises:
    UserError: if no candidate keeps the budget, naming the nearest.
  """
  checkpoints = setup.checkpoints("search")
  state, timing, spent = sampler.init(setup.seed("search")), [], 0.0
  found = checkpoints.restore({"round": np.zeros((), np.int32)})
  if found:
    meta = found[2]
    state, timing, spent = meta["state"], meta["timing"], meta["seconds"]
    write_candidates(setup, sampler, state, timing)
  setup.journal.rewind("search", state["round"], "round")
  start = time.monotonic()
  run = watch_rounds("search", 2)
  with Progress(
    "search", sampler.candidates, max(0, state["next"])
  ) as progress:
    while len(archs := sampler.ask(state)):
      state = sampler.tell(state, archs, run(objective, archs))
      now = time.monotonic()
      spent, seconds, start = spent + now - start, now - start, now
      timing.append([len(archs), seconds])
      accuracy = np.array(state["archive"]["metrics"]["accuracy"])
      best = float(np.nanmax(accuracy))
      setup.journal.write(
        "search", "round", round=state["round"], evaluated=len(accuracy),
        best_accuracy=best,
      )  # fmt: skip
      meta = {"state": state, "timing": timing, "seconds": spent}
      round_ = np.array(state["round"], np.int32)
      checkpoints.save(state["round"], {"round": round_}, meta)
      write_candidates(setup, sampler, state, timing)
      progress.update(min(state["next"], sampler.candidates), best=best)
  if not state["archive"]["numbers"]:
    raise _nothing_fits(setup, sampler, state)
  return state, spent


def _nothing_fits(setup, sampler, state) -> UserError:
  some = [sampler.mask(state["seed"], c) for c in range(sampler.candidates)]
  costs = mask_costs(setup.space, np.array(some, np.int32))
  least = ", ".join(
    f"{int(costs[name].min()):,} {name}" for name, _ in setup.budget.limits
  )
  return UserError(
    f"none of {sampler.candidates} candidates keeps the budget {setup.budget};"
    f" the smallest have {least}. Raise the budget, or train with masks.target"
    " so that the rates come down to it."
  )


def write_candidates(
  setup: MaskSetup, sampler: PosteriorSampler, state: State, timing: list
) -> None:
  """Writes `archs.csv`: every scored candidate, in order of evaluation."""
  archive, rows = state["archive"], []
  shown = {
    name: values for name, values in archive["metrics"].items()
    if not name.startswith("hits_")
  }  # fmt: skip
  each = [
    (r + 1, seconds / n) for r, (n, seconds) in enumerate(timing)
    for _ in range(n)
  ]  # fmt: skip
  for i, number in enumerate(archive["numbers"]):
    row = {name: values[i] for name, values in shown.items()}
    for name in ("macs", "params"):
      row[name] = int(row[name])
    arch = setup.space.to_string(sampler.mask(state["seed"], number))
    rows.append(
      {"arch": arch, "candidate": number, "round": each[i][0]} | row
      | {"seconds": round(each[i][1], 6)}
    )  # fmt: skip
  write_csv(setup.workdir / "archs.csv", rows)


def winning_mask(
  sampler: PosteriorSampler, state: State
) -> tuple[int, np.ndarray]:
  """Position of the winner in the archive, and its mask `int32[L]`."""
  row = best_number(state["archive"])
  number = state["archive"]["numbers"][row]
  return row, sampler.mask(state["seed"], number)


def write_posterior(
  setup: MaskSetup, variables: Variables, winner: np.ndarray | None = None
) -> None:
  """Writes `posterior.json`: rate, and channels that the winner keeps.

  Args:
    setup: the run.
    variables: of the trained supernet.
    winner: `int32[L]`, if there is one yet.
  """
  rows = []
  for group, rate in zip(
    setup.space.groups, drop_rates(variables), strict=True
  ):
    row = {
      "node": group.node, "kernel": group.kernel, "source": group.source,
      "channels": group.channels, "features": group.features,
      "rate": float(rate),
    }  # fmt: skip
    if winner is not None:
      part = winner[group.offset : group.offset + group.channels]
      row["kept"] = int(part.sum())
    rows.append(row)
  write_json(setup.workdir / "posterior.json", {"groups": rows})
