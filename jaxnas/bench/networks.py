"""Latency of whole networks on the present device, turn about."""

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxnas.bench.latency import Times, take_turns
from jaxnas.nets import GraphNetwork, Variables


def network_latencies(
  networks: Mapping[str, tuple[GraphNetwork, Variables]],
  batches: Sequence[int],
  repeats: int,
  seed: int = 0,
) -> dict[str, dict[int, Times]]:
  """Times networks with stored statistics, and their weights as constants.

  Compiled as they would be served; compilation is not counted. All of them take
  turns, so that a machine that slows down does so for all.

  Args:
    networks: and their variables, by name.
    batches: images of a call.
    repeats: turns of each.
    seed: of the images and of the order.

  Returns:
    Milliseconds of a call, by name and batch.
  """
  rng = np.random.default_rng(seed)
  programs = {}
  for name, (network, variables) in networks.items():
    g = network.graph
    run = jax.jit(functools.partial(network.apply, variables))
    for batch in batches:
      shape = (batch, g.image_size, g.image_size, g.image_channels)
      images = jax.device_put(rng.standard_normal(shape, np.float32))
      programs[name, batch] = functools.partial(run, images)
      # Compiled before it is timed, or compiling would pass for a long call.
      jax.block_until_ready(run(images))
  seconds = take_turns(programs, repeats, rng, "latency")
  times = {key: Times.of(values) for key, values in seconds.items()}
  return {
    name: {batch: times[name, batch] for batch in batches} for name in networks
  }
