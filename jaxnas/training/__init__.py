"""Training: path samplers, optimisers, jitted steps, the loop."""

from jaxnas.training.block_step import block_groups, make_block_step
from jaxnas.training.feed import Feed, StreamedBatches
from jaxnas.training.loop import Schedule, fit, validations
from jaxnas.training.masked_step import make_masked_step, node_names
from jaxnas.training.network_step import make_network_step
from jaxnas.training.optimizers import make_optimizer, make_schedule
from jaxnas.training.path_gradients import paths_in_flight
from jaxnas.training.samplers import (
  PathSampler,
  held_uniform,
  make_sampler,
  strict_fair,
  uniform,
)
from jaxnas.training.step import (
  TrainState,
  init_state,
  make_fleet_step,
  make_supernet_step,
)
from jaxnas.training.variational import check_masks

__all__ = [
  "Feed", "PathSampler", "Schedule", "StreamedBatches", "TrainState",
  "block_groups", "check_masks", "fit", "held_uniform", "init_state",
  "make_block_step", "make_fleet_step", "make_masked_step", "make_network_step",
  "make_optimizer", "make_sampler", "make_schedule", "make_supernet_step",
  "node_names", "paths_in_flight", "strict_fair", "uniform", "validations",
]  # fmt: skip
