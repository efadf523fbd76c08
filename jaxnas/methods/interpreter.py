"""The interpreter supernet of a search for blocks: training, inheritance."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnas.data import Batches
from jaxnas.errors import UserError
from jaxnas.methods.base import learned_checkpoint
from jaxnas.methods.setup import BlockSetup
from jaxnas.nets import GraphNetwork, Variables, inherit_block
from jaxnas.scoring import calibrated_block
from jaxnas.spaces import block_graph
from jaxnas.training import (
  Schedule,
  TrainState,
  block_groups,
  fit,
  init_state,
  make_block_step,
  make_optimizer,
  make_schedule,
)

POOL = 4096  # random blocks that the interpreter's training draws from


def block_batches(setup: BlockSetup) -> Batches:
  """Index stream of supernet training."""
  size = setup.config.train.batch_size
  return Batches(len(setup.data.train), size, setup.seed("train"))


def _template(setup: BlockSetup) -> tuple[TrainState, Any, Callable, int]:
  config = setup.config.train
  per_epoch = block_batches(setup).steps_per_epoch
  n_steps = config.epochs * per_epoch
  rate = make_schedule(config.optimizer, n_steps, per_epoch)
  tx = make_optimizer(config.optimizer, rate)
  state = init_state(setup.supernet.init(setup.key("init")), tx)
  return state, tx, rate, n_steps


def random_blocks(setup: BlockSetup, stage: str, n: int) -> np.ndarray:
  """Blocks as BlockQNN's agent explores, within the budget: `int32[n, L]`.

  Raises:
    UserError: if hardly any block keeps the budget.
  """
  rng = np.random.default_rng(setup.seed(stage))
  found = np.zeros((0, setup.space.n_layers), np.int32)
  for _ in range(100):
    drawn = setup.space.canonical(setup.space.sample(rng, n))
    found = np.concatenate([found, drawn[setup.budget.allows(drawn)]])
    if len(found) >= n:
      return found[:n]
  raise UserError(
    f"of {100 * n:,} random blocks {len(found)} keep the budget"
    f" {setup.budget}; raise it."
  )


def train_interpreter(setup: BlockSetup) -> tuple[TrainState, float]:
  """Trains the interpreter on random blocks, one a step, or resumes that.

  Returns:
    The trained state and the seconds spent over all sessions.
  """
  config = setup.config.train
  state, tx, rate, n_steps = _template(setup)
  per_epoch = block_batches(setup).steps_per_epoch
  step = make_block_step(
    setup.supernet, tx, config, random_blocks(setup, "pool", POOL), n_steps,
    setup.feed(setup.data.train),
  )  # fmt: skip
  evaluate = None
  if config.evaluate_archs:
    scorer = setup.scorer()
    rng = np.random.default_rng(0)  # the same blocks in every run
    probes = setup.space.sample(rng, config.evaluate_archs)

    def evaluate(state):
      accuracy = scorer(state.variables, probes)["accuracy"]
      return {
        "validation_accuracy": float(accuracy.mean()),
        "validation_accuracy_min": float(accuracy.min()),
        "validation_accuracy_max": float(accuracy.max()),
      }

  return fit(
    "train", step, state, setup.key("train"),
    setup.inputs(block_batches(setup)),
    Schedule(
      n_steps=n_steps,
      log_every=config.log_every,
      checkpoint_every=config.checkpoint_every * per_epoch,
      evaluate_every=config.evaluate_every * per_epoch,
    ),
    setup.checkpoints("train"), setup.journal, setup.placement,
    block_groups(setup.supernet), rate, evaluate,
  )  # fmt: skip


def load_interpreter(setup: BlockSetup) -> Variables:
  """Loads the trained interpreter of the work directory.

  Raises:
    UserError: if training has not been finished there.
  """
  state, _, _, n_steps = _template(setup)
  return learned_checkpoint(setup, state, n_steps).variables


def block_network(setup: BlockSetup, arch: np.ndarray) -> GraphNetwork:
  """The plain network of a block."""
  return GraphNetwork(block_graph(setup.space, arch), setup.config.net)


def inherited_block(
  setup: BlockSetup, variables: Variables, arch: np.ndarray
) -> Variables:
  """Cuts one block's network out of the interpreter.

  With the mode `running` its statistics are the supernet's; else they are
  recomputed for it from the calibration images.

  Args:
    setup: the run.
    variables: of the interpreter.
    arch: `int32[L]`.

  Returns:
    Variables of its `block_network`, on the host.
  """
  if setup.config.score.bn_mode != "running":
    variables = calibrated_block(
      setup.supernet, variables, arch, setup.data, setup.config.score,
      setup.placement,
    )  # fmt: skip
  return inherit_block(setup.space, arch, jax.device_get(variables))
