"""Stages of the methods on graphs: masked networks, and blocks."""

from collections.abc import Callable

import jax
import numpy as np

from jaxnas.config import RetrainConfig
from jaxnas.costs.block_budget import block_costs
from jaxnas.costs.masks import mask_costs
from jaxnas.data import Batches
from jaxnas.estimate.counting import Program
from jaxnas.estimate.stage import (
  TRAINED,
  Stage,
  compile_step,
  recipe,
  scored,
  validated,
)
from jaxnas.methods import (
  BlockSetup,
  MaskSetup,
  Setup,
  algorithm_of,
  block_batches,
  block_network,
  guidances,
  masked_batches,
  random_blocks,
  uses_interpreter,
)
from jaxnas.methods.interpreter import POOL
from jaxnas.methods.masked import PROBES
from jaxnas.methods.relaxed import relaxed_step
from jaxnas.nets import CompactNetwork
from jaxnas.training import (
  init_state,
  make_block_step,
  make_masked_step,
  make_network_step,
)

# Blocks that stand for those that a search will meet.
DRAWN = 64

Makers = dict[str, Callable[[Setup], list[Stage]]]


def mask_stages(setup: MaskSetup, wanted: set[str]) -> list[Stage]:
  """The stages of a run on a masked network, or those that are wanted.

  Args:
    setup: abstract.
    wanted: names of stages.
  """
  makers = {
    "train": _train_masks, "search": _search_masks, "retrain": _tune_mask,
  }  # fmt: skip
  return [s for name, f in makers.items() if name in wanted for s in f(setup)]


def block_stages(setup: BlockSetup, wanted: set[str]) -> list[Stage]:
  """The same of a run that searches a block."""
  makers: Makers = {"retrain": _retrain_block}
  if not setup.config.blocks.block:
    makers = {"search": _search_blocks, **makers}
  if uses_interpreter(setup.config.blocks):
    makers = {"train": _train_blocks, **makers, "rank": _rank_blocks}
  return [s for name, f in makers.items() if name in wanted for s in f(setup)]


def _weights(setup: Setup) -> int:
  variables = setup.supernet.init(jax.random.key(0))
  return sum(a.size for a in jax.tree.leaves(variables))


def _network(
  setup: Setup, network, config: RetrainConfig
) -> tuple[Program, int]:
  """The program that trains one plain network, and its steps."""
  size = config.batch_size
  per_epoch = Batches(len(setup.data.train), size, 0).steps_per_epoch
  tx, n_steps = recipe(config.optimizer, config.epochs, per_epoch)
  feed = setup.feed(setup.data.train)
  step = make_network_step(
    network, tx, config.label_smoothing, config.optimizer.clip_norm,
    setup.config.net.bn_momentum, [n.name for n in network.graph.nodes],
    n_steps, feed, config.accumulate,
  )  # fmt: skip
  variables = network.init_variables(jax.random.key(0))
  program = compile_step(
    setup, step, lambda: init_state(variables, tx), (size,), feed
  )
  return program, n_steps


def _supernet(
  setup: Setup, what: str, batches: Batches, macs: float, make_step: Callable,
  judged: tuple[str, int], **about,
) -> list[Stage]:  # fmt: skip
  """The training of shared weights.

  Args:
    setup: of the run.
    what: is trained, in words.
    batches: of the steps.
    macs: multiply-adds of what is trained, for each image.
    make_step: `(tx, n_steps, feed)` to the step.
    judged: what each validation scores, in words, and how many.
    **about: more on the stage.
  """
  config, feed = setup.config.train, setup.feed(setup.data.train)
  tx, n_steps = recipe(config.optimizer, config.epochs, batches.steps_per_epoch)
  variables = setup.supernet.init(jax.random.key(0))
  program = compile_step(
    setup, make_step(tx, n_steps, feed), lambda: init_state(variables, tx),
    (config.batch_size,), feed,
  )  # fmt: skip
  images = n_steps * config.batch_size
  return [
    Stage(
      "train", what, n_steps, config.batch_size, images,
      TRAINED * macs * images, program, **about,
    ),
    *validated(setup, n_steps, *judged, macs, _weights(setup)),
  ]  # fmt: skip


# Masks ------------------------------------------------------------------------


def _full_macs(setup: MaskSetup) -> float:
  """Multiply-adds of the unmasked network, for one image."""
  ones = np.ones((1, setup.space.n_layers), np.int32)
  return float(mask_costs(setup.space, ones)["macs"][0])


def _train_masks(setup: MaskSetup) -> list[Stage]:
  config, masks = setup.config.train, setup.config.masks
  return _supernet(
    setup, "masked network", masked_batches(setup), _full_macs(setup),
    lambda tx, n_steps, feed: make_masked_step(
      setup.supernet, tx, config, masks, n_steps, feed
    ),
    ("masks", PROBES + 1),  # the threshold mask is one more
  )  # fmt: skip


def _search_masks(setup: MaskSetup) -> list[Stage]:
  n = setup.config.masks.candidates + setup.config.masks.threshold
  return [
    scored(
      setup, "search", f"{n:,} masks scored", n, _full_macs(setup),
      _weights(setup),
      "masks are scored at full width; masks.halving is not subtracted",
    )
  ]  # fmt: skip


def _tune_mask(setup: MaskSetup) -> list[Stage]:
  config = setup.config.retrain
  if not config.epochs:
    return []
  arch = (1,) * setup.space.n_layers
  network = CompactNetwork(setup.space.graph, arch, setup.config.net)
  program, n_steps = _network(setup, network, config)
  images = n_steps * config.batch_size
  return [
    Stage(
      "retrain", f"one network for {config.epochs} epochs", n_steps,
      config.batch_size, images, TRAINED * _full_macs(setup) * images, program,
      note="the unmasked network stands for the winner",
    )
  ]  # fmt: skip


# Blocks -----------------------------------------------------------------------


def _block_macs(setup: BlockSetup) -> float:
  archs = random_blocks(setup, "pool", DRAWN)
  return float(block_costs(setup.space, archs)["macs"].mean())


def _train_blocks(setup: BlockSetup) -> list[Stage]:
  config, pool = setup.config.train, random_blocks(setup, "pool", POOL)
  return _supernet(
    setup, "interpreter, a random block a step", block_batches(setup),
    _block_macs(setup),
    lambda tx, n_steps, feed: make_block_step(
      setup.supernet, tx, config, pool, n_steps, feed
    ),
    ("blocks", config.evaluate_archs),
    trusted=False,
    note="FLOP by the cost tables: the program does not say how many layers"
    " a block has",
  )  # fmt: skip


def _search_blocks(setup: BlockSetup) -> list[Stage]:
  blocks, searches = setup.config.blocks, len(guidances(setup))
  rounds = blocks.rounds * searches
  relaxed = algorithm_of(setup) == "differentiable"
  n = rounds if relaxed else rounds * blocks.per_round
  macs = _block_macs(setup)
  what, note = f"at most {n:,} blocks", "blocks met twice are not subtracted"
  if blocks.evaluation == "table":
    return [Stage("search", f"{what} looked up", 0, 0, 0, 0.0)]
  if blocks.evaluation == "children":
    child = blocks.child
    per_epoch = Batches(
      len(setup.data.train), child.batch_size, 0
    ).steps_per_epoch
    images = n * child.epochs * per_epoch * child.batch_size
    return [
      Stage(
        "search", f"{what} trained", 0, child.batch_size, images,
        TRAINED * macs * images, note=note,
      )
    ]  # fmt: skip
  found = scored(
    setup, "search", f"{what} scored", n, macs, _weights(setup), note
  )
  return [*([_relaxed(setup)] if relaxed else []), found]


def _relaxed(setup: BlockSetup) -> Stage:
  """The differentiable search's own steps, without guidance."""
  blocks, size = setup.config.blocks, setup.config.train.batch_size
  variables = setup.supernet.init(jax.random.key(0))
  step, state = relaxed_step(setup, None, 0.0, variables)
  feed = setup.feed(setup.data.train)
  program = compile_step(setup, step, lambda: state, (2, size), feed)
  steps = blocks.rounds * blocks.per_round * len(guidances(setup))
  return Stage(
    "search", "relaxed interpreter", steps, 2 * size, 2 * steps * size,
    program.flops * steps, program,
    note="no cost table knows all operations at once: the program's count"
    " stands for both",
  )  # fmt: skip


def _rank_blocks(setup: BlockSetup) -> list[Stage]:
  config = setup.config.ranking
  if not config.n_archs:
    return []
  recipe_ = setup.config.retrain
  size, epochs = recipe_.batch_size, config.epochs or recipe_.epochs
  per_epoch = Batches(len(setup.data.train), size, 0).steps_per_epoch
  images = config.n_archs * epochs * per_epoch * size
  return [
    Stage(
      "rank", f"{config.n_archs} networks for {epochs} epochs", 0, size, images,
      TRAINED * _block_macs(setup) * images,
    )
  ]  # fmt: skip


def _retrain_block(setup: BlockSetup) -> list[Stage]:
  config, given = setup.config.retrain, setup.config.blocks.block
  if not config.epochs:
    return []
  note = "" if given else (
    f"the dearest of {DRAWN} random blocks stands for the winner"
  )  # fmt: skip
  if given:
    arch = setup.space.from_string(given)
  else:
    archs = random_blocks(setup, "pool", DRAWN)
    arch = archs[np.argmax(block_costs(setup.space, archs)["macs"])]
  macs = float(block_costs(setup.space, arch)["macs"][0])
  program, n_steps = _network(setup, block_network(setup, arch), config)
  images = n_steps * config.batch_size
  return [
    Stage(
      "retrain", f"one network for {config.epochs} epochs", n_steps,
      config.batch_size, images, TRAINED * macs * images, program, note=note,
    )
  ]  # fmt: skip
