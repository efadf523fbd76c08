"""Short trainings of many archs' own networks, and what they show of them."""

import dataclasses
import time
import zlib
from collections.abc import Callable

import jax
import numpy as np

from jaxnas.config import RetrainConfig
from jaxnas.data.augment import normalize
from jaxnas.methods.base import fleet_batches
from jaxnas.methods.setup import PathSetup
from jaxnas.nets.change import layer_changes
from jaxnas.nets.paths import Tree
from jaxnas.nets.probe import cohort_outputs, project
from jaxnas.scoring.cohort import CohortEvaluator
from jaxnas.training import (
  Schedule,
  TrainState,
  fit,
  make_optimizer,
  make_schedule,
)
from jaxnas.training.cohort_step import cohort_state, make_cohort_step
from jaxnas.writer import (
  is_file,
  make_folder,
  read_arrays,
  remove_folder,
  write_arrays,
)


@dataclasses.dataclass(frozen=True)
class Cohort:
  """Networks after a short training.

  Attributes:
    metrics: `accuracy` and `loss` on the validation split, `float64[n]`; NaN
      for a network that diverged.
    before: parameters when `first_epoch` was over, stacked on the host.
    state: at the end.
    seconds: over all sessions.
  """

  metrics: dict[str, np.ndarray]
  before: Tree
  state: TrainState
  seconds: float


def short_recipe(setup: PathSetup, epochs: int) -> RetrainConfig:
  """The recipe of `retrain`, for fewer epochs; its warm-up shortens alike."""
  recipe = setup.config.retrain
  share = min(1.0, epochs / recipe.epochs)
  optimizer = dataclasses.replace(
    recipe.optimizer, warmup_epochs=recipe.optimizer.warmup_epochs * share
  )
  return dataclasses.replace(recipe, epochs=epochs, optimizer=optimizer)


class ShortTrainer:
  """Trains archs' own networks for a few epochs, side by side.

  One program trains any archs, up to `divide.together` at once, for any number
  of epochs; see `make_cohort_step`. Without dropout, and without an end to all
  when one network diverges: its metrics are NaN.

  Args:
    setup: the run; its recipe is that of `retrain`.
  """

  def __init__(self, setup: PathSetup) -> None:
    self._setup = setup
    self._size = setup.config.divide.together
    recipe = setup.config.retrain
    self._step = make_cohort_step(
      setup.supernet,
      lambda rate: make_optimizer(recipe.optimizer, lambda _: rate),
      recipe,
      setup.feed(setup.data.train),
    )
    self._judge = CohortEvaluator(
      setup.supernet, setup.data, setup.data.validation,
      setup.config.score.batch_size, setup.placement,
    )  # fmt: skip

  def train(
    self, stage: str, archs: np.ndarray, epochs: int, first_epoch: int = 0
  ) -> Cohort:
    """Trains one cohort, or resumes that.

    A network's weights and images depend on the stage and its arch alone, not
    on its company: how many are trained at once changes nothing.

    Args:
      stage: name of seeds; with the archs, of checkpoints and log rows.
      archs: `int32[n, L]`, at most `divide.together`.
      epochs: of the training.
      first_epoch: when `before` is taken; 0 is the fresh networks.
    """
    setup, recipe = self._setup, short_recipe(self._setup, epochs)
    batches, n = fleet_batches(setup, stage, recipe), len(archs)
    per_epoch = batches.steps_per_epoch
    n_steps = epochs * per_epoch
    rate = make_schedule(recipe.optimizer, n_steps, per_epoch)
    rates = np.asarray(jax.vmap(rate)(np.arange(n_steps)))
    # The rest of the room is never trained.
    archs = np.resize(archs, (self._size, archs.shape[1]))
    key, name = setup.key(f"{stage}-init"), named(stage, archs[:n])
    keys = [jax.random.fold_in(key, np.uint32(_number(a))) for a in archs]
    tx = make_optimizer(recipe.optimizer, rate)
    fresh = cohort_state(setup.supernet, keys, tx)

    def until(last):
      own = self._step(archs, rates, n)

      def step(state, key, inputs):
        state, metrics = own(state, key, inputs)
        shown = {k: metrics[k][:n] for k in ("loss", "accuracy")}
        whole = np.ones(1, bool)
        return state, {
          **shown,
          "grad_norm": metrics["grad_norm"],
          "finite": whole,
        }

      every = recipe.checkpoint_every * per_epoch
      return fit(
        name, step, fresh, setup.key(stage), setup.inputs(batches),
        Schedule(last, recipe.log_every, every), setup.checkpoints(name),
        setup.journal, setup.placement, ["cohort"], rate,
      )  # fmt: skip

    before = jax.device_get(fresh.params)
    if first_epoch:
      kept, last = setup.checkpoints(f"{name}-before"), first_epoch * per_epoch
      if found := kept.restore(before):
        before = found[1]
      else:
        state, _ = until(last)
        if int(state.step) > last:  # what was kept is damaged: begin again
          remove_folder(setup.workdir / "checkpoints" / name)
          state, _ = until(last)
        before = jax.device_get(state.params)
        kept.save(last, before, {})
    state, seconds = until(n_steps)
    metrics = self._judge(state.variables, archs, n)
    lost = ~np.isfinite(metrics["loss"])
    metrics["accuracy"] = np.where(lost, np.nan, metrics["accuracy"])
    return Cohort(metrics, before, state, seconds)

  def parts(
    self,
    stage: str,
    archs: np.ndarray,
    epochs: int,
    first_epoch: int = 0,
    shown: Callable[[Cohort, np.ndarray], dict] | None = None,
  ) -> dict[str, np.ndarray]:
    """Trains `divide.together` archs at a time; what is done is kept.

    Args:
      stage: as of `train`; also a folder with a file of each part's numbers.
      archs: `int32[n, L]`.
      epochs: of the training.
      first_epoch: as in `train`.
      shown: further numbers of a cohort, given it and its archs, with as many
        rows as there is room for.

    Returns:
      `accuracy`, `loss` and `seconds`, `float64[n]`, and what is `shown`.
    """
    setup, rows = self._setup, []
    for i in range(0, len(archs), self._size):
      part = archs[i : i + self._size]
      name = named(stage, part)
      path = setup.workdir / stage / f"{name}.npz"
      if not is_file(path):
        start = time.monotonic()
        cohort = self.train(stage, part, epochs, first_epoch)
        found = dict(cohort.metrics)
        if shown:
          full = np.resize(part, (self._size, part.shape[1]))
          more = shown(cohort, full)
          found |= {k: v[: len(part)] for k, v in more.items()}
        # The training's own time counts earlier sessions.
        spent = max(time.monotonic() - start, cohort.seconds)
        found["seconds"] = np.full(len(part), spent / len(part))
        make_folder(path.parent)
        write_arrays(path, found)
      # Weights of candidates are not needed again, and are many.
      for kept in (name, f"{name}-before"):
        remove_folder(setup.workdir / "checkpoints" / kept)
      rows.append(read_arrays(path))
    return {k: np.concatenate([row[k] for row in rows]) for k in rows[0]}


def short_trainings(
  setup: PathSetup, trainer: ShortTrainer, archs: np.ndarray
) -> dict[str, np.ndarray]:
  """The short training of `divide`: metrics, and what each layer did.

  Args:
    setup: the run.
    trainer: of the run.
    archs: `int32[n, L]`.

  Returns:
    `accuracy`, `loss` and `seconds`, `float64[n]`; `changes` `[n, L]` and
    `outputs` `[n, L, q]` where features ask for them.
  """
  config, supernet = setup.config.divide, setup.supernet
  images, _ = probe_images(setup)

  def shown(cohort: Cohort, part: np.ndarray) -> dict[str, np.ndarray]:
    found = {}
    if config.features != "outputs":
      after = cohort.state.params
      found["changes"], _ = layer_changes(
        setup.space, part, cohort.before, after, config.change
      )
    if config.features != "change":
      late = cohort.state.variables
      outputs = cohort_outputs(supernet, late, part, images)
      if config.outputs == "difference":
        fresh = {**late, "params": cohort.before}
        outputs = outputs - cohort_outputs(supernet, fresh, part, images)
      found["outputs"] = project(
        outputs, config.projection, setup.seed("projection")
      )
    return found

  return trainer.parts("early", archs, config.epochs, config.first_epoch, shown)


def probe_images(setup: PathSetup) -> tuple[np.ndarray, np.ndarray]:
  """The fixed training images of `divide.probe_images`, not augmented.

  Returns:
    Images `float32[B, H, W, C]`, normalised, and labels `int32[B]`.
  """
  data, n = setup.data, setup.config.divide.probe_images
  rng = np.random.default_rng(setup.seed("probe"))
  rows = np.sort(rng.permutation(len(data.train))[:n])
  images = normalize(data.train.images[rows], data.mean, data.std)
  return np.asarray(images, np.float32), data.train.labels[rows]


def named(stage: str, archs: np.ndarray) -> str:
  """A stage's name with a number that stands for its archs."""
  return f"{stage}-{_number(archs):08x}"


def _number(archs: np.ndarray) -> int:
  """A checksum of one or several archs, 32 bits."""
  return zlib.crc32(np.ascontiguousarray(archs, np.int32).tobytes())
