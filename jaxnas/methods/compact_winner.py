"""The compact winner of a masked network: cut out, and tuned."""

import jax
import numpy as np

from jaxnas.methods.masked import load_masked
from jaxnas.methods.networks import fresh_network, train_network
from jaxnas.methods.setup import MaskSetup
from jaxnas.nets import CompactNetwork, Variables, compact
from jaxnas.scoring import Images, calibrated, calibration_split


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
      lambda v, keep, i: calibrated(setup.supernet, v, keep, i),
      out_shardings=setup.placement.sharding("replicated"),
    )(variables, arch.astype(np.float32), images)
  network = CompactNetwork(setup.space.graph, tuple(arch.tolist()), config.net)
  return network, compact(setup.space, arch, jax.device_get(variables))


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
    start = fresh_network(setup, network, "retrain")
  variables, seconds = train_network(setup, "retrain", network, start, config)
  return network, variables, seconds
