"""`bench train`: the strict-fair routed step beside paths taken in turn."""

import dataclasses
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.bench.options import TrainOptions
from jaxnas.bench.timing import (
  First,
  check_counts,
  first_call,
  header,
  interleave,
  peak_memory,
  ratio,
  spread,
)
from jaxnas.bench.workload import Workload, make_workload
from jaxnas.config import AugmentConfig, NetConfig, TrainConfig
from jaxnas.errors import UserError
from jaxnas.sharding import make_placement
from jaxnas.training import (
  Feed,
  TrainState,
  init_state,
  make_optimizer,
  make_sampler,
  make_supernet_step,
)

log = logging.getLogger("jaxnas")

# Paths in flight of the two arms: all at once, and one after the other.
ARMS = {"routed": 0, "serial": 1}
RATE = 0.01
# Largest relative difference of loss and gradient norm put down to rounding.
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}


def bench_train(options: TrainOptions) -> dict:
  """Times one strict-fair step against its paths back-propagated in turn.

  Both arms run in one process, turn about, and do the same work: K paths on
  one shared batch, summed gradients, one update. The serial arm is the
  compiled loop over paths (`train.paths_in_flight=1`). What one step finds is
  compared before anything is timed.

  Returns:
    JSON object: the options, `machine`, `paths` and `batches` (one row each).
    Seconds are of one step, medians with the smallest and the largest; they
    leave out `setup`, the tracing and compiling of the first call.

  Raises:
    UserError: for an unknown name, a number out of range, or a space whose
      layers differ in their number of choices.
  """
  o = options
  check_counts(steps=o.steps, repeats=o.repeats)
  if not o.batch_sizes:
    raise UserError("--batch-sizes is empty; give at least one, such as 32.")
  for size in o.batch_sizes:
    check_counts(batch_sizes=size)
  net = NetConfig(precision=o.precision, remat=o.remat)
  workload = make_workload(
    o.space, max(o.batch_sizes), 1, o.seed, o.data, net
  )  # fmt: skip
  k = int(workload.space.n_choices.max())
  if k == 1 or not workload.supernet.is_routable(k):
    raise UserError(
      f"space {workload.space.name!r} has"
      f" {sorted(set(workload.space.n_choices.tolist()))} choices in its"
      " layers; bench train needs the same number, at least 2, in every layer."
    )
  return {
    **header("train", workload.space, o),
    "paths": k,
    "batches": [_compare(workload, size, k, o) for size in o.batch_sizes],
  }


@dataclasses.dataclass
class Arm:
  """One way to take the step, with a training state of its own."""

  step: Callable
  fresh: Callable[[], TrainState]
  key: jax.Array
  indices: np.ndarray
  state: TrainState | None = None

  def take(self, steps: int) -> dict:
    """Takes steps from where the last call ended; metrics of the last."""
    state = self.fresh() if self.state is None else self.state
    for _ in range(steps):
      state, metrics = self.step(state, self.key, self.indices)
    self.state = state
    return jax.block_until_ready((state, metrics))[1]


def _compare(workload: Workload, size: int, k: int, o: TrainOptions) -> dict:
  """One row: both arms at one batch size."""
  log.info("bench train: batch of %d", size)
  arms = {
    name: make_arm(workload, size, flight) for name, flight in ARMS.items()
  }
  found, first = {}, {}
  for name, arm in arms.items():
    metrics, first[name] = first_call(lambda a=arm: a.take(1))
    found[name] = {m: float(metrics[m]) for m in ("loss", "grad_norm")}
  step = _difference(found, arms, TOLERANCE[o.precision])
  if not step["agree"]:
    log.warning(
      "bench train: the arms disagree at batch size %d (loss %.6g and %.6g): do"
      " not trust the ratio.", size, found["routed"]["loss"],
      found["serial"]["loss"],
    )  # fmt: skip
  memory = {n: peak_memory(lambda a=a: a.take(1)) for n, a in arms.items()}
  seconds = interleave(
    {name: lambda a=arm: a.take(o.steps) for name, arm in arms.items()},
    o.repeats,
  )
  return {
    "batch_size": size,
    "step": step,
    **{
      name: _report(seconds[name], o.steps, k * size, first[name], memory[name])
      for name in arms
    },
    "ratio": ratio(seconds["serial"], seconds["routed"]),
  }


def make_arm(workload: Workload, size: int, flight: int) -> Arm:
  """The strict-fair step on the first training images.

  Args:
    workload: with at least `size` training images, in memory.
    size: images of a path's batch.
    flight: `train.paths_in_flight`.
  """
  space, data = workload.space, workload.data
  placement = make_placement()
  images, labels = placement.put((data.train.images, data.train.labels))
  feed = Feed(images, labels, data.mean, data.std, AugmentConfig(), placement)
  config = TrainConfig(
    batch_size=size, sampler="fair", paths_in_flight=flight
  )  # fmt: skip
  tx = make_optimizer(config.optimizer, lambda _: RATE)
  sampler = make_sampler(config, space)
  step = make_supernet_step(workload.supernet, sampler, tx, config, feed)

  def fresh():
    # The step donates its state, so the workload's own weights are copied.
    variables = jax.tree.map(jnp.copy, workload.variables)
    return placement.put(init_state(variables, tx, space.n_choices))

  key = jax.random.key(workload.seed)
  return Arm(step, fresh, key, np.arange(size, dtype=np.int32))


def _difference(found: dict, arms: dict[str, Arm], tolerance: float) -> dict:
  """Loss, gradient norm and new weights after the first step of both arms."""
  routed, serial = found["routed"], found["serial"]
  relative = max(abs(routed[m] - serial[m]) / abs(serial[m]) for m in serial)
  moved = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(), arms["routed"].state.params,
    arms["serial"].state.params,
  )  # fmt: skip
  return {
    **found,
    "largest_weight_difference": float(max(jax.tree.leaves(moved))),
    # Written so that NaN, which compares false, disagrees.
    "agree": bool(relative <= tolerance),
  }


def _report(
  seconds: list[float], steps: int, images: int, first: First, memory: dict
) -> dict:
  taken = spread(seconds, 1 / steps)
  return {
    "seconds": taken,
    "images_per_second": images / taken["median"],
    "setup": first.setup(taken["median"]),
    "peak": memory,
    "largest_program": first.program,
  }
