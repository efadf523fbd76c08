"""The evidence behind a ranking of blocks: which are trained from scratch."""

import dataclasses

import numpy as np

from jaxnas.methods.children import Children
from jaxnas.methods.interpreter import random_blocks
from jaxnas.methods.setup import BlockSetup
from jaxnas.nets import Variables
from jaxnas.scoring import BlockScorer, evenly_spaced


def ranking_blocks(
  setup: BlockSetup, scorer: BlockScorer, variables: Variables
) -> np.ndarray:
  """The blocks to train from scratch, by `ranking.selection`.

  Args:
    setup: the run.
    scorer: scores the pool of `evenly-spaced`.
    variables: of the interpreter.

  Returns:
    `int32[n, L]`, no row twice.
  """
  config = setup.config.ranking
  uniform = config.selection == "uniform"
  size = config.n_archs if uniform else max(config.pool, config.n_archs)
  pool = np.unique(random_blocks(setup, "ranking", 4 * size), axis=0)
  rng = np.random.default_rng(setup.seed("ranking"))
  pool = rng.permutation(pool)[:size]
  if uniform:
    return pool
  return pool[
    evenly_spaced(scorer(variables, pool)["accuracy"], config.n_archs)
  ]


def standalone_blocks(setup: BlockSetup, archs: np.ndarray) -> np.ndarray:
  """Trains blocks' networks from scratch, one after the other.

  Args:
    setup: the run.
    archs: `int32[n, L]`.

  Returns:
    Validation accuracies `float64[n]`.
  """
  recipe = setup.config.retrain
  if epochs := setup.config.ranking.epochs:
    recipe = dataclasses.replace(recipe, epochs=epochs)
  return Children(setup, "rank-children", recipe)(archs)
