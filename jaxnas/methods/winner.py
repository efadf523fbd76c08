"""The winner on its own: inherited weights, retraining, the self-check."""

import jax
import numpy as np

from jaxnas.errors import RunError
from jaxnas.methods.base import load_supernet, train_fleet
from jaxnas.methods.setup import PathSetup
from jaxnas.nets import Fleet, PlainNetwork, Variables, inherit
from jaxnas.scoring import (
  Images,
  NetworkEvaluator,
  calibration_split,
  recalibrated,
)
from jaxnas.training import PathSampler, TrainState


def train_winner(
  setup: PathSetup, sampler: PathSampler, arch: np.ndarray
) -> tuple[Fleet, TrainState, float]:
  """Trains the winner as a plain network, or loads it if that is done.

  Args:
    setup: the run.
    sampler: of the supernet, whose weights `retrain.inherit` starts from.
    arch: `int32[L]`.

  Returns:
    As `train_fleet`, for a fleet of one.
  """
  config = setup.config.retrain
  initial = None
  if config.inherit:
    state = load_supernet(setup, sampler)
    initial = [inherited(setup, state.variables, arch)]
  dropout = config.dropout if config.dropout >= 0 else setup.space.dropout
  return train_fleet(setup, "retrain", arch[None], config, dropout, initial)


def inherited(
  setup: PathSetup, variables: Variables, arch: np.ndarray
) -> Variables:
  """Cuts one arch out of the supernet, batch norm recalibrated.

  Args:
    setup: the run.
    variables: of the supernet.
    arch: `int32[L]`.

  Returns:
    Variables of its `PlainNetwork`, on the host.
  """
  images = Images.of(
    calibration_split(setup.data, setup.config.score), setup.data,
    setup.config.score.batch_size, setup.placement,
  )  # fmt: skip
  fresh = jax.jit(
    lambda v, a, x: recalibrated(setup.supernet, v, a, x),
    out_shardings=setup.placement.sharding("replicated"),
  )(variables, arch, images)
  return jax.device_get(inherit(fresh, setup.space, arch))


def check_inherited(
  setup: PathSetup, variables: Variables, arch: np.ndarray, searched: float
) -> None:
  """The winner cut out of the supernet must score what the search saw.

  Holds for `recalibrate`, whose statistics a plain network can store.

  Args:
    setup: the run.
    variables: of the plain network, as `inherited` returns them.
    arch: `int32[L]`.
    searched: accuracy in the search.

  Raises:
    RunError: if it does not.
  """
  if setup.config.score.bn_mode != "recalibrate":
    return
  net = setup.config.net
  network = PlainNetwork(setup.space, tuple(arch.tolist()), net)
  data, size = setup.data, setup.config.score.batch_size
  found = NetworkEvaluator(
    network, data, data.validation, size, setup.placement
  )(variables)["accuracy"]
  # Another compilation may round borderline images the other way.
  share = 0.001 if net.precision == "float32" else 0.01
  if abs(found - searched) > max(2 / len(data.validation), share) + 1e-9:
    raise RunError(
      f"the winner outside the supernet scores {found:.4f}, in the"
      f" search {searched:.4f}; please report this"
    )
