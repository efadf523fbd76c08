"""Stages of methods on single paths: fairnas, spos, gcn, dcnas, evolution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import RetrainConfig
from jaxnas.costs import count_op, supernet_params
from jaxnas.data import Batches
from jaxnas.estimate.counting import Program, Rules
from jaxnas.estimate.stage import (
  TRAINED,
  Stage,
  compile_step,
  recipe,
  scored,
  validated,
)
from jaxnas.methods import (
  ChildMethod,
  DivideMethod,
  PathMethod,
  PathSetup,
  shares_weights,
  supernet_batches,
)
from jaxnas.nets import Fleet
from jaxnas.search import SegmentSearch, planned_rounds
from jaxnas.training import (
  PathSampler,
  init_state,
  make_fleet_step,
  make_optimizer,
  make_supernet_step,
  paths_in_flight,
)
from jaxnas.training.cohort_step import make_cohort_step

# Archs within the budget that stand for those that a search will meet.
DRAWN = 256

UNSHARED = "shared beginnings of archs are not subtracted"


def path_stages(setup: PathSetup, method, wanted: set[str]) -> list[Stage]:
  """The stages of a run, or those that are wanted.

  Args:
    setup: abstract.
    method: of the config.
    wanted: names of stages.
  """
  makers = {
    "train": _train, "search": _search, "rank": _rank, "retrain": _retrain,
  }  # fmt: skip
  if isinstance(method, DivideMethod) and shares_weights(setup.config):
    makers["search"] = _divide
  elif isinstance(method, DivideMethod):
    makers |= {"train": _represent, "search": _conquer}
  elif isinstance(method, ChildMethod):
    makers |= {"train": lambda *_: [], "search": _children}
  return [
    stage
    for name, make in makers.items()
    if name in wanted
    for stage in make(setup, method)
  ]


def supernet_macs(setup: PathSetup, sampler: PathSampler, groups: int) -> float:
  """Multiply-adds of a forward pass of one step's paths, for each image.

  Strictly fair paths take every choice once, others the mean of the choices.

  Args:
    setup: of the run.
    sampler: of the paths.
    groups: of paths, each of which applies the stem anew to a shared batch.
  """
  space, macs, k = setup.space, setup.costs["macs"], sampler.n_paths
  rows = [row[:n] for row, n in zip(macs.table, macs.n_choices, strict=True)]
  searched = sum(row.sum() if sampler.strictly_fair else k * row.mean()
                 for row in rows)  # fmt: skip
  stem = sum(
    count_op(layer.choices[0], shape)[1]
    for layer, shape in zip(space.stem, space.shapes[0], strict=True)
  )
  times = groups if setup.config.train.share_batch else k
  return float(searched + times * stem + k * (macs.fixed - stem))


def _train(setup: PathSetup, method: PathMethod) -> list[Stage]:
  config, sampler = setup.config.train, method.sampler(setup)
  batches = supernet_batches(setup, sampler)
  tx, n_steps = recipe(config.optimizer, config.epochs, batches.steps_per_epoch)
  feed = setup.feed(setup.data.train)
  step = make_supernet_step(setup.supernet, sampler, tx, config, feed)
  flight = paths_in_flight(config, sampler, setup.supernet, setup.placement)
  k, shapes = sampler.n_paths, setup.supernet.variable_shapes
  size = config.batch_size
  program = compile_step(
    setup, step,
    lambda: init_state(_zeros(shapes), tx, setup.space.n_choices),
    (size,) if config.share_batch else (k, size), feed,
    Rules(taken=flight / k),
  )  # fmt: skip
  macs = supernet_macs(setup, sampler, k // flight)
  return [
    Stage(
      "train", f"supernet, {k} {'path' if k == 1 else 'paths'} a step",
      n_steps, k * size, n_steps * k * size,
      TRAINED * macs * size * n_steps, program,
    ),
    *validated(
      setup, n_steps, "archs", config.evaluate_archs, _mean_macs(setup),
      supernet_params(setup.space),
    ),
  ]  # fmt: skip


def _zeros(shapes, n: int | None = None):
  lead = () if n is None else (n,)
  return jax.tree.map(lambda s: jnp.zeros(lead + s.shape, s.dtype), shapes)


def _drawn(setup: PathSetup) -> np.ndarray:
  """Archs of the run: drawn uniformly within its budget, `int32[n, L]`."""
  return setup.budget.draw(np.random.default_rng(0), DRAWN)


def _mean_macs(setup: PathSetup) -> float:
  return float(setup.costs["macs"](_drawn(setup)).mean())


def _scored(setup: PathSetup, name: str, n: int) -> Stage:
  """A stage that scores n archs with shared weights."""
  return scored(
    setup, name, f"at most {n:,} archs scored", n, _mean_macs(setup),
    supernet_params(setup.space), UNSHARED,
  )  # fmt: skip


def evaluated(setup: PathSetup, method: PathMethod) -> int:
  """Archs that the search evaluates at most."""
  config, searcher = setup.config.search, method.searcher(setup)
  if isinstance(searcher, SegmentSearch):
    s = config.segments
    each = s.completions if s.completion == "average" else 1
    own = s.samples * each + s.candidates * s.rescore
    return len(searcher.bounds) * own + s.refine
  rounds = planned_rounds(searcher, config)
  offspring = config.offspring or config.population
  return config.population + (rounds - 1) * offspring


def _search(setup: PathSetup, method: PathMethod) -> list[Stage]:
  return [_scored(setup, "search", evaluated(setup, method))]


def _rank(setup: PathSetup, method) -> list[Stage]:
  config = setup.config.ranking
  if not config.n_archs:
    return []
  epochs = config.epochs or setup.config.retrain.epochs
  note = f"by the cost tables; {config.together} at once"
  own = _trained(setup, "rank", config.n_archs, epochs)
  stages = [dataclasses.replace(own, note=note)]
  if config.selection == "evenly-spaced" and isinstance(method, PathMethod):
    stages.insert(0, _scored(setup, "rank", config.pool))
  return stages


def _trained(
  setup: PathSetup,
  name: str,
  n: int,
  epochs: int,
  program: Program | None = None,
  together: int = 1,
) -> Stage:
  """A stage that trains n networks of their own, some by each program."""
  size = setup.config.retrain.batch_size
  per_epoch = Batches(len(setup.data.train), size, 0).steps_per_epoch
  images = n * epochs * per_epoch * size
  calls = -(-n // together) * epochs * per_epoch if program else 0
  return Stage(
    name, f"{n:,} {'network' if n == 1 else 'networks'} for {epochs} epochs",
    calls, size * together, images, TRAINED * _mean_macs(setup) * images,
    program,
  )  # fmt: skip


def _retrain(setup: PathSetup, method) -> list[Stage]:
  config = setup.config.retrain
  if not config.epochs:
    return []
  archs, macs = _drawn(setup), setup.costs["macs"]
  arch = archs[np.argmax(macs(archs))]
  fleet = Fleet(setup.space, (tuple(arch.tolist()),), setup.config.net)
  size = config.batch_size
  per_epoch = Batches(len(setup.data.train), size, 0).steps_per_epoch
  tx, n_steps = recipe(config.optimizer, config.epochs, per_epoch)
  variables = fleet.init(jax.random.split(jax.random.key(0), 1))
  feed = setup.feed(setup.data.train)
  dropout = config.dropout if config.dropout >= 0 else setup.space.dropout
  step = make_fleet_step(
    fleet, tx, config, setup.config.net.bn_momentum, dropout, feed
  )
  program = compile_step(
    setup, step, lambda: init_state(variables, tx), (size,), feed
  )
  images = n_steps * size
  return [
    Stage(
      "retrain", f"one network for {config.epochs} epochs", n_steps, size,
      images, TRAINED * float(macs(arch[None])[0]) * images, program,
      note=f"the dearest of {DRAWN} archs within the budget stands for the"
      " winner",
    )
  ]  # fmt: skip


# Networks of their own, briefly -----------------------------------------------


def _cohort(setup: PathSetup) -> Program:
  """The step of `divide.together` networks whose archs are data."""
  recipe_, n = setup.config.retrain, setup.config.divide.together
  feed = setup.feed(setup.data.train)
  make = make_cohort_step(
    setup.supernet,
    lambda rate: make_optimizer(recipe_.optimizer, lambda _: rate),
    recipe_,
    feed,
  )
  step = make(np.resize(_drawn(setup), (n, setup.space.n_layers)), np.zeros(1))
  tx = _optimizer(recipe_)
  shapes = setup.supernet.variable_shapes
  return compile_step(
    setup, step, lambda: init_state(_zeros(shapes, n), tx),
    (recipe_.batch_size,), feed, Rules(trips=n),
  )  # fmt: skip


def _optimizer(config: RetrainConfig):
  return make_optimizer(config.optimizer, lambda _: 0.0)


def _represent(setup: PathSetup, method) -> list[Stage]:
  config = setup.config.divide
  return [
    _trained(
      setup, "train", config.samples, config.epochs, _cohort(setup),
      config.together,
    )
  ]  # fmt: skip


def _conquer(setup: PathSetup, method) -> list[Stage]:
  config = setup.config.divide
  n = (config.clusters or config.max_clusters) * config.keep
  stages, epochs, left = [], config.epochs, config.samples
  program = _cohort(setup)
  if config.halving:
    while (left := left // config.halving) > n:
      epochs *= config.halving
      stages.append(
        _trained(setup, "search", left, epochs, program, config.together)
      )
  last = _trained(
    setup, "search", n, config.conquer_epochs, program, config.together
  )
  return [*stages, last]


def _divide(setup: PathSetup, method) -> list[Stage]:
  n = setup.config.divide.samples
  return [_scored(setup, "search", n), *_conquer(setup, method)]


def _children(setup: PathSetup, method: ChildMethod) -> list[Stage]:
  config, n = setup.config.divide, evaluated(setup, method)
  return [
    _trained(
      setup, "search", n, config.epochs, _cohort(setup), config.together
    )
  ]  # fmt: skip
