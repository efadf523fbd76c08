"""One stage of a run as numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnas.config import OptimizerConfig
from jaxnas.estimate.counting import Program, Rules, compile_program
from jaxnas.methods import Setup
from jaxnas.nets.kernels import estimating
from jaxnas.sharding import Placement
from jaxnas.training import Feed, make_optimizer, make_schedule, validations

FORWARD, TRAINED = 2, 6  # operations per multiply-add: forward; with backward


@dataclasses.dataclass(frozen=True)
class Stage:
  """What a stage will take.

  Attributes:
    name: `train`, `search`, `rank` or `retrain`.
    what: in a few words.
    steps: calls of the program; 0 where there is no one program.
    batch: images of a step, on all devices, each path's counted.
    images: that go through a network, in all; of training, each counts once.
    table_flops: of the whole stage, by the cost tables: 2 operations for each
      multiply-add, 6 where it is trained.
    program: of a step; None where none was compiled.
    memory: bytes on each device by what bounds them, where none was.
    trusted: whether the program's count is; else the cost tables' is taken, and
      the program says only how it is spread over devices.
    note: on these numbers.
  """

  name: str
  what: str
  steps: int
  batch: int
  images: int
  table_flops: float
  program: Program | None = None
  memory: dict[str, int] | None = None
  trusted: bool = True
  note: str = ""

  def to_json(self, devices: int, rate: float) -> dict:
    """The stage as a JSON object.

    Args:
      devices: in the mesh.
      rate: operations per second that a device is assumed to reach.
    """
    program, table = self.program, self.table_flops
    each = table / devices
    if program and not self.trusted:
      scale = table / self.steps / program.flops
      program = dataclasses.replace(
        program,
        flops=program.flops * scale,
        flops_per_device=program.flops_per_device * scale,
      )
    if program:
      each = program.flops_per_device * self.steps
    steps = max(1, self.steps)
    return {
      "name": self.name,
      "what": self.what,
      "steps": self.steps,
      "batch": self.batch,
      "images": self.images,
      "flops_per_step": program and program.flops,
      "flops_per_step_by_tables": table / steps if self.steps else None,
      "flops_per_step_and_device": program and program.flops_per_device,
      "flops": program.flops * self.steps if program else table,
      "flops_by_tables": table,
      "flops_per_device": each,
      "counted_by": "program" if program and self.trusted else "cost tables",
      "memory": program.memory if program else self.memory,
      "hours": each / rate / 3600,
      "note": self.note,
    }


class Abstract(Placement):
  """A placement whose arrays have shapes and no values."""

  def put(self, tree: Any, rule: str = "replicated") -> Any:
    """See `Placement`."""
    return jax.tree.map(lambda x: _shaped(x, self.fit(x.shape, rule)), tree)

  def _move(self, tree: Any, to: Callable) -> Any:
    if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(tree)):
      return super()._move(tree, to)
    return jax.tree.map(lambda x: _shaped(x, to(x)), tree)


def _shaped(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def abstract(setup: Setup) -> Setup:
  """The same set-up, but nothing is put on a device."""
  placement = setup.placement
  own = {
    f.name: getattr(placement, f.name) for f in dataclasses.fields(placement)
  }
  return dataclasses.replace(setup, placement=Abstract(**own))


def compile_step(
  setup: Setup,
  step: Any,
  make_state: Callable[[], Any],
  shape: tuple[int, ...],
  feed: Feed,
  rules: Rules | None = None,
) -> Program:
  """Compiles a training step on arguments without values.

  Args:
    setup: abstract.
    step: has `trace`.
    make_state: gives a fresh state; it is traced, not run.
    shape: of the indices of a step.
    feed: of the step.
    rules: of the count.
  """
  placement = setup.placement
  state = placement.scatter(placement.put(jax.eval_shape(make_state)))
  key = jax.eval_shape(lambda: jax.random.key(0))
  with estimating(True):
    traced = step.trace(state, key, feed.abstract(shape))
    return compile_program(traced, rules or Rules())


def judged(setup: Setup) -> int:
  """Images that score one arch with shared weights."""
  config, n = setup.config.score, len(setup.data.validation)
  if config.bn_mode != "recalibrate":
    return n
  calibration = min(config.calibration_images, len(setup.data.train))
  if calibration > config.batch_size:
    calibration -= calibration % config.batch_size
  return n + calibration


def scoring_memory(setup: Setup, params: int) -> dict[str, int]:
  """Bytes that scoring keeps on each device, by what bounds it.

  Args:
    setup: of the run.
    params: weights of the supernet.
  """
  shape = setup.data.train.images.shape[1:]
  parts = {
    "arguments": 4 * params + judged(setup) * int(np.prod(shape)),
    "temporaries": setup.config.score.max_live_bytes,
    "outputs": 0,
  }
  return parts | {"total": sum(parts.values())}


def scored(
  setup: Setup, name: str, what: str, n: int, macs: float, params: int,
  note: str = "",
) -> Stage:  # fmt: skip
  """A stage that scores with shared weights.

  Args:
    setup: of the run.
    name: of the stage.
    what: is scored, in words.
    n: how many of them.
    macs: multiply-adds of one, for each image.
    params: weights of the supernet.
    note: on these numbers.
  """
  images = n * judged(setup)
  return Stage(
    name, what, 0, setup.config.score.batch_size, images,
    FORWARD * macs * images, memory=scoring_memory(setup, params), note=note,
  )  # fmt: skip


def validated(
  setup: Setup, n_steps: int, what: str, each: int, macs: float, params: int
) -> list[Stage]:
  """The validations between the steps of a supernet's training.

  Args:
    setup: of the run.
    n_steps: of the training.
    what: is scored each time, in words.
    each: how many of them; 0 for no validations.
    macs: multiply-adds of one, for each image.
    params: weights of the supernet.
  """
  if not each:
    return []
  config = setup.config.train
  every = config.evaluate_every * (n_steps // config.epochs)
  looks = validations(n_steps, every)
  what = f"{looks:,} validations of {each:,} {what}"
  return [scored(setup, "train", what, looks * each, macs, params)]


def recipe(
  optimizer: OptimizerConfig, epochs: int, per_epoch: int
) -> tuple[Any, int]:
  """The optimiser of a training, and its steps."""
  n_steps = epochs * per_epoch
  rate = make_schedule(optimizer, n_steps, per_epoch)
  return make_optimizer(optimizer, rate), n_steps
