"""The strict-fair training step: jaxnas routed beside eager PyTorch."""

import dataclasses
import sys
import time

import jax
import numpy as np

from jaxnas.bench.timing import ratio, spread
from jaxnas.bench.workload import Workload
from jaxnas.config import AugmentConfig, OptimizerConfig, TrainConfig
from jaxnas.data.augment import normalize
from jaxnas.errors import RunError
from jaxnas.sharding import make_placement
from jaxnas.training import (
  Feed,
  init_state,
  make_optimizer,
  make_sampler,
  make_supernet_step,
)

from .arms import LAYOUTS, SETTLE_SECONDS, Worker, state_dict

LOSS_TOLERANCE = 1e-4
# A deep network with random weights amplifies rounding: PyTorch's own layouts
# step 2 % apart on `fairnas-cifar`, and jaxnas is about as near to float64 as
# the nearer of them. So their distance is the measure, beside a floor for
# small nets.
UPDATE_TOLERANCE, UPDATE_FLOOR = 2.0, 1e-4
# Its gradients are large too; the rate keeps repeated steps tame.
CONFIG = TrainConfig(
  sampler="fair",
  optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.0),
)


def images_of(workload: Workload) -> dict[str, np.ndarray]:
  """Training images as both arms see them."""
  data = workload.data
  x = np.asarray(normalize(data.train.images, data.mean, data.std))
  return {"x": x, "y": data.train.labels.astype(np.int64)}


class Trainer:
  """The jaxnas arm: steps on the first images of the workload.

  Args:
    workload: space, weights, images.
    batch_size: images of a step.
    seed: of the paths.
    config: of the step.
  """

  def __init__(
    self, workload: Workload, batch_size: int, seed: int,
    config: TrainConfig = CONFIG,
  ) -> None:  # fmt: skip
    placement, space = make_placement(), workload.space
    train, data = workload.data.train, workload.data
    rate = config.optimizer.learning_rate
    tx = make_optimizer(config.optimizer, lambda _: rate)
    self._sampler = make_sampler(config, space)
    images, labels = placement.put((train.images, train.labels))
    feed = Feed(images, labels, data.mean, data.std, AugmentConfig(), placement)
    self._step = make_supernet_step(
      workload.supernet, self._sampler, tx, config, feed
    )
    self._key = jax.random.key(seed)
    self._indices = np.arange(batch_size, dtype=np.int32)
    state = init_state(workload.variables, tx, space.n_choices)
    self.state = placement.put(state)

  def next_paths(self) -> list[list[int]]:
    """The paths that the next step will take, `[K][L]`."""
    path_key, _ = jax.random.split(self._key)  # as the step does
    return self._sampler.sample(path_key, self.state.step).tolist()

  def step(self) -> dict:
    """One step; its `seconds` and its `loss`."""
    start = time.perf_counter()
    self.state, metrics = self._step(self.state, self._key, self._indices)
    jax.block_until_ready((self.state, metrics))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "loss": float(metrics["loss"])}


def compare(
  workload: Workload, batch_sizes: tuple[int, ...], repeats: int, seed: int,
  flight: int = 0,
) -> dict:  # fmt: skip
  """Trains with both, compares loss and weights after one step, then times.

  Args:
    workload: space, weights, images; its training images are the batch.
    batch_sizes: images of a step, none above the training images.
    repeats: timed steps, after one that is compared.
    seed: of the paths.
    flight: `train.paths_in_flight` of the jaxnas arm.

  Returns:
    By batch size: `seconds` of a step by arm, `torch_over_jaxnas` and
    `jaxnas_over_torch` by layout, and the differences after one step.

  Raises:
    RunError: if the updates differ by more than rounding.
  """
  out, images = {}, images_of(workload)
  with Worker(workload.space, workload.variables, images) as torch:
    for n in batch_sizes:
      out[str(n)] = _compare_batch(workload, torch, n, repeats, seed, flight)
      print(f"train batch {n}: {out[str(n)]}", file=sys.stderr)
  return out


def _compare_batch(workload, torch, n, repeats, seed, flight):
  config = dataclasses.replace(CONFIG, paths_in_flight=flight)
  trainer = Trainer(workload, n, seed, config)
  optimizer = CONFIG.optimizer
  for layout in LAYOUTS:
    torch("start", layout=layout, learning_rate=optimizer.learning_rate,
          momentum=optimizer.momentum)  # fmt: skip
  times = {arm: [] for arm in ("jaxnas", *LAYOUTS)}
  for i in range(repeats + 1):
    request = {
      "archs": trainer.next_paths(), "n": n,
      "smoothing": CONFIG.label_smoothing,
    }  # fmt: skip
    ours = trainer.step()
    time.sleep(SETTLE_SECONDS)
    theirs = {x: torch("step", layout=x, **request) for x in LAYOUTS}
    if not i:
      first = ours["seconds"]
      gaps = _gaps(workload, trainer, torch, ours, theirs)
      continue
    for arm, row in {"jaxnas": ours, **theirs}.items():
      times[arm].append(row["seconds"])
  return {
    "paths": len(request["archs"]),
    "first_call_seconds": first,
    "seconds": {arm: spread(t) for arm, t in times.items()},
    "torch_over_jaxnas": {x: ratio(times[x], times["jaxnas"]) for x in LAYOUTS},
    "jaxnas_over_torch": {x: ratio(times["jaxnas"], times[x]) for x in LAYOUTS},
    "relative_difference": gaps,
  }


def _gaps(workload, trainer, torch, ours, theirs) -> dict[str, dict]:
  space = workload.space
  new = {"params": jax.device_get(trainer.state.params)}
  weights = {"jaxnas": state_dict(space, new)}
  for layout in LAYOUTS:
    path = torch.folder / f"{layout}.npz"
    torch("save", layout=layout, path=str(path))
    with np.load(path) as stepped:
      weights[layout] = dict(stepped)
  old = state_dict(space, {"params": workload.variables["params"]})
  losses = {"jaxnas": ours["loss"]} | {x: theirs[x]["loss"] for x in LAYOUTS}
  return step_gaps(losses, weights, old)


def step_gaps(
  losses: dict[str, float],
  weights: dict[str, dict[str, np.ndarray]],
  old: dict[str, np.ndarray],
) -> dict[str, dict[str, float]]:
  """Relative differences after one step, of the loss and the whole update.

  Args:
    losses: by arm.
    weights: new ones, by arm and name.
    old: those before the step, by name.

  Returns:
    `loss` and `update` by layout; `layouts` compares PyTorch with itself.

  Raises:
    RunError: if jaxnas is farther from PyTorch than rounding explains.
  """
  moved = _distance(weights["jaxnas"], old)
  gaps = {
    name: {
      "loss": abs(losses[a] / losses[b] - 1),
      "update": _distance(weights[a], weights[b]) / moved,
    }
    for name, a, b in (
      *((x, "jaxnas", x) for x in LAYOUTS), ("layouts", *LAYOUTS),
    )
  }  # fmt: skip
  bound = UPDATE_TOLERANCE * gaps["layouts"]["update"] + UPDATE_FLOOR
  for x in LAYOUTS:
    if not (gaps[x]["loss"] <= LOSS_TOLERANCE and gaps[x]["update"] <= bound):
      raise RunError(f"jaxnas and PyTorch ({x}) step apart: {gaps}.")
  return gaps


def _distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
  squares = (np.square(a[k] - b[k], dtype=np.float64).sum() for k in a)
  return float(np.sqrt(sum(squares)))
