"""The compact winner of a masked network: cut out, checked, tuned."""

import jax
import numpy as np

from jaxnas.data import Batches
from jaxnas.errors import RunError
from jaxnas.methods.masked import load_masked
from jaxnas.methods.setup import MaskSetup
from jaxnas.nets import CompactNetwork, Variables, compact
from jaxnas.scoring import (
  Images,
  NetworkEvaluator,
  calibrated,
  calibration_split,
)
from jaxnas.training import (
  Schedule,
  fit,
  init_state,
  make_network_step,
  make_optimizer,
  make_schedule,
  node_names,
)


def compact_winner(
  setup: MaskSetup, variables: Variables, arch: np.ndarray
) -> tuple[CompactNetwork, Variables]:
  """Cuts the winner out of the masked network.

  With the mode `running` its statistics are the supernet's; else they are
  recomputed under its mask from the calibration images.

  Args:
    setup: the run.
    variables: of the supernet.
    arch: `int32[L]`.

  Returns:
    The compact network and its variables, on the host.
  """
  config = setup.config
  if config.score.bn_mode != "running":
    images = Images.of(
      calibration_split(setup.data, config.score), setup.data,
      config.score.batch_size, setup.placement,
    )  # fmt: skip
    variables = jax.jit(
      lambda v, keep, x: calibrated(setup.supernet, v, keep, x)
    )(variables, arch.astype(np.float32), images.x)
  network = CompactNetwork(setup.space.graph, tuple(arch.tolist()), config.net)
  return network, compact(setup.space, arch, jax.device_get(variables))


def check_compact(
  setup: MaskSetup, network: CompactNetwork, variables: Variables,
  searched: float,
) -> None:  # fmt: skip
  """The compact winner must score what the selection saw.

  Holds where a plain network can store the statistics: not for `batch`.

  Args:
    setup: the run.
    network: the compact network.
    variables: its weights.
    searched: accuracy in the selection.

  Raises:
    RunError: if it does not.
  """
  if setup.config.score.bn_mode == "batch":
    return
  judge = NetworkEvaluator(
    network, setup.data, setup.data.validation,
    setup.config.score.batch_size, setup.placement,
  )  # fmt: skip
  accuracy, n = judge(variables)["accuracy"], len(setup.data.validation)
  # Another compilation may round borderline images the other way.
  share = 0.001 if setup.config.net.precision == "float32" else 0.01
  if abs(accuracy - searched) > max(2 / n, share) + 1e-9:
    raise RunError(
      f"the winner outside the supernet scores {accuracy:.4f}, in the"
      f" selection {searched:.4f}; please report this"
    )


def tune_winner(
  setup: MaskSetup, arch: np.ndarray
) -> tuple[CompactNetwork, Variables, float]:
  """The winner's weights after `retrain`: inherited, tuned or from scratch.

  Args:
    setup: the run.
    arch: `int32[L]`.

  Returns:
    The compact network, its variables on the host, and the seconds spent over
    all sessions.
  """
  config = setup.config.retrain
  variables = load_masked(setup).variables
  network, start = compact_winner(setup, variables, arch)
  if not config.epochs:
    return network, start, 0.0
  if not config.inherit:
    start = network.init_variables(setup.key("retrain-init"))
  batches = Batches(
    len(setup.data.train), config.batch_size, setup.seed("retrain")
  )
  per_epoch = batches.steps_per_epoch
  n_steps = config.epochs * per_epoch
  rate = make_schedule(config.optimizer, n_steps, per_epoch)
  tx = make_optimizer(config.optimizer, rate)
  names = node_names(setup.supernet)
  step = make_network_step(
    network, tx, config.label_smoothing, config.optimizer.clip_norm,
    setup.config.net.bn_momentum, names, setup.feed(setup.data.train),
  )  # fmt: skip
  judge = NetworkEvaluator(
    network, setup.data, setup.data.validation,
    setup.config.score.batch_size, setup.placement,
  )  # fmt: skip

  def evaluate(state):
    return {"validation_accuracy": judge(state.variables)["accuracy"]}

  every = config.checkpoint_every * per_epoch
  state, seconds = fit(
    "retrain", step, init_state(start, tx), setup.key("retrain"), batches,
    Schedule(n_steps, config.log_every, every, every),
    setup.checkpoints("retrain"), setup.journal, setup.placement, names, rate,
    evaluate,
  )  # fmt: skip
  return network, jax.device_get(state.variables), seconds
