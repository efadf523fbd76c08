"""The differentiable search for a block: a relaxed interpreter, decoded.

Gradient descent moves probabilities of operations and wiring (first-order
DARTS, arXiv 1806.09055) on the loss of held-out training images minus lambda
times the mirror stimuli function F of the expected feature counts (ours, after
IRLAS). What the probabilities decode to is evaluated as blocks of any other
search are, by the interpreter as it was trained.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
import optax

from jaxnas.data import Batches, Steps
from jaxnas.errors import RunError, UserError
from jaxnas.hosts import agree
from jaxnas.methods.block_search import SAVE_EVERY, Metrics, State, guidances
from jaxnas.methods.setup import BlockSetup
from jaxnas.nets import Variables
from jaxnas.profiling import watch_rounds
from jaxnas.search.features import FeatureMap
from jaxnas.search.irl import Guide
from jaxnas.search.relaxation import (
  BlockRelaxation,
  check_features,
  decode,
  expected_mirror,
  initial_alpha,
  mixture,
  probabilities,
)
from jaxnas.training import StreamedBatches
from jaxnas.training.optimizers import make_optimizer
from jaxnas.training.relaxed_step import (
  RelaxedState,
  RelaxedStep,
  init_relaxed,
  make_relaxed_step,
)
from jaxnas.writer import Progress

# The weights are trained already: they follow at a part of their peak rate.
RATE = 0.1
BETA1 = 0.5  # of Adam for the logits (DARTS, recalled)


def check_relaxed(setup: BlockSetup) -> None:
  """Checks what only the differentiable search needs.

  Raises:
    UserError: without an interpreter; for features whose expected counts are
      not linear, where there is guidance; for penalties; or for a batch that is
      larger than half the training images.
  """
  config = setup.config
  if setup.supernet is None:
    raise UserError(
      f"blocks.evaluation is {config.blocks.evaluation!r};"
      " search.algorithm=differentiable needs 'interpreter'."
    )
  expert = config.expert
  if any(guidances(setup)):
    check_features(FeatureMap(expert.features, expert.offsets), expert.discount)
  BlockRelaxation.from_config(config.blocks, 0.0, setup.space, setup.budget)
  relaxed_indices(setup)


def relaxed_indices(setup: BlockSetup) -> Callable[[int], np.ndarray]:
  """Which images a step sees: two fixed halves of the training images.

  The weights learn from one and the probabilities from the other, so that
  these do not reward memory. Validation images judge blocks only.

  Returns:
    A function of the step, from 0: `int32[2, B]`, weights first.

  Raises:
    UserError: if a batch is larger than a half.
  """
  n, size = len(setup.data.train), setup.config.train.batch_size
  if size > n // 2:
    raise UserError(
      f"train.batch_size is {size}; search.algorithm=differentiable takes"
      f" batches from halves of {n} training images, so it must be at most"
      f" {n // 2}."
    )
  order = np.random.default_rng(setup.seed("halves")).permutation(n)
  halves = order[: n // 2], order[n // 2 :]
  streams = [
    (half.astype(np.int32), Batches(len(half), size, setup.seed(name)))
    for half, name in zip(halves, ("relaxed", "alpha"), strict=True)
  ]
  return lambda step: np.stack(
    [half[batches.indices(step)] for half, batches in streams]
  )


def relaxed_step(
  setup: BlockSetup, guide: Guide, guidance: float, variables: Variables
) -> tuple[RelaxedStep, RelaxedState]:
  """The step of the search with one lambda, and what it begins with.

  The weights are a copy of the interpreter's and keep its optimiser, at a
  constant rate of a tenth of its peak (ours). With lambda = 0 there is no F.

  Args:
    setup: the run.
    guide: the mirror stimuli function.
    guidance: lambda.
    variables: of the interpreter.
  """
  config = setup.config.train
  rate = RATE * config.optimizer.learning_rate
  tx = make_optimizer(config.optimizer, lambda _: rate)
  alpha_tx = optax.adam(setup.config.blocks.policy_learning_rate, b1=BETA1)
  bonus = None
  if guidance:
    bonus = lambda alpha: expected_mirror(guide, probabilities(alpha))
  step = make_relaxed_step(
    setup.supernet, tx, alpha_tx, config,
    lambda alpha: mixture(probabilities(alpha)), bonus, guidance,
    setup.feed(setup.data.train),
  )  # fmt: skip
  alpha = initial_alpha(setup.space.max_layers, setup.seed("search"))
  return step, init_relaxed(variables["params"], alpha, tx, alpha_tx)


def search_relaxed(
  setup: BlockSetup,
  guide: Guide,
  guidance: float,
  variables: Variables,
  objective: Callable[[np.ndarray], Metrics],
) -> tuple[State, list[int], float]:
  """Runs the search with one lambda to its last round, or resumes it.

  A round takes `blocks.per_round` steps and evaluates the block that they led
  to, unless it is known. All searches see the same images in the same order.

  Args:
    setup: the run.
    guide: the mirror stimuli function.
    guidance: lambda.
    variables: of the trained interpreter; left alone.
    objective: evaluates blocks.

  Returns:
    The final state, the round of each evaluated block, and the seconds spent
    over all sessions.

  Raises:
    UserError: as `check_relaxed`, or if no block keeps the budget.
    RunError: if a loss is not finite, naming the round.
  """
  check_relaxed(setup)
  searcher = BlockRelaxation.from_config(
    setup.config.blocks, guidance, setup.space, setup.budget
  )
  checkpoints = setup.checkpoints(f"search-{guidance:g}")
  step, learned = relaxed_step(setup, guide, guidance, variables)
  state, timing, spent = searcher.init(setup.seed("search")), [], 0.0
  found = checkpoints.restore(learned, setup.placement.sharding("replicated"))
  if found:
    _, learned, meta = found
    state, timing, spent = meta["state"], meta["timing"], meta["seconds"]
  else:
    learned = setup.placement.put(learned)
  setup.journal.rewind("search", state["round"], "round", guidance=guidance)
  batches = setup.inputs(Steps(relaxed_indices(setup)))
  clock = saved = time.monotonic()
  run = watch_rounds("search", searcher.rounds - state["round"])
  title = f"search, lambda {guidance:g}"
  with Progress(title, searcher.rounds, state["round"]) as progress:
    while state["round"] < searcher.rounds:
      round_ = state["round"] + 1
      learned, row = run(_run_round, setup, step, learned, batches, round_)
      chances = jax.device_get(probabilities(learned.alpha))
      archs = searcher.ask(state, chances)
      metrics = objective(archs) if len(archs) else {}
      state = searcher.tell(state, archs, metrics)
      timing += [round_] * len(archs)
      now = time.monotonic()
      spent, clock = spent + now - clock, now
      accuracy = np.array(state["archive"]["metrics"].get("accuracy", []))
      best = float(np.max(accuracy[np.isfinite(accuracy)], initial=-np.inf))
      setup.journal.write(
        "search", "round", round=round_, guidance=guidance,
        evaluated=len(accuracy), best_accuracy=best, **row,
        decoded=setup.space.to_string(decode(chances)),
      )  # fmt: skip
      if round_ == searcher.rounds or agree(now - saved > SAVE_EVERY):
        meta = {"state": state, "timing": timing, "seconds": spent}
        checkpoints.save(round_, learned, meta)
        saved = time.monotonic()
      progress.update(round_, best=best, evaluated=len(accuracy), **row)
  if not timing:
    raise UserError(
      "no block that search.algorithm=differentiable led to keeps the budget"
      f" {setup.budget}; raise it, or take another algorithm."
    )
  return state, timing, spent


def _run_round(
  setup: BlockSetup,
  step: RelaxedStep,
  learned: RelaxedState,
  batches: Steps | StreamedBatches,
  round_: int,
) -> tuple[RelaxedState, dict[str, float]]:
  """Takes the steps of a round; returns the means of their metrics."""
  size, key, rows = setup.config.blocks.per_round, setup.key("search"), []
  for inputs in batches.inputs((round_ - 1) * size, round_ * size):
    learned, metrics = step(learned, key, inputs)
    rows.append(metrics)
  rows = jax.device_get(rows)
  if not all(row["finite"] for row in rows):
    raise RunError(
      f"the differentiable search diverged in round {round_}: values are not"
      " finite. Lower train.optimizer.learning_rate or"
      " blocks.policy_learning_rate, or set train.optimizer.clip_norm."
    )
  names = {"loss": "loss", "accuracy": "relaxed_accuracy", "bonus": "mirror"}
  return learned, {
    names[name]: float(np.mean([row[name] for row in rows]))
    for name in rows[0]
    if name != "finite"
  }
