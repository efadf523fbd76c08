"""FairNAS: strict fairness, then a multi-objective search (arXiv 1907.01845).

    for each batch (x, y):                                   # Fig. 2 (paper)
      perm[l] <- random permutation of the m choices, for every layer l
      for k in 1..m:                                         # no replacement
        path_k <- (perm[1][k], ..., perm[L][k])
        g <- g + grad(loss(supernet[path_k](x), y))
      weights <- optimiser(weights, g)                       # one update

    P <- random archs within the budget                      # NSGA-II
    repeat: P <- best of P and its children by (front, weighted crowding)
            accuracy from the supernet, multiply-adds and params from tables

What is whose: the step is the paper's; that the m losses are summed over one
shared batch is read from independent reimplementations (options exist for the
other readings); the search's constants, its weighted crowding distance and the
reinforced mutator are recalled and unverified; the factorised controller, BN
recalibration before scoring, and choosing by validation loss among equal
accuracies are ours.
"""

import dataclasses

from jaxnas.methods.base import PathMethod
from jaxnas.methods.setup import PathSetup
from jaxnas.training import PathSampler, make_sampler


def sampler(setup: PathSetup) -> PathSampler:
  """K paths a step, from one permutation per layer (paper, Fig. 2)."""
  config = setup.config.train
  if config.sampler == "auto":
    config = dataclasses.replace(config, sampler="fair")
  return make_sampler(config, setup.space)


# NSGA-II with weighted crowding and hierarchical mutation is recalled.
METHOD = PathMethod(
  name="fairnas",
  paper="FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural"
  " Architecture Search, arXiv 1907.01845",
  fidelity="training step from the paper; loss sum and shared batch from"
  " reimplementations; search constants recalled, unverified; controller ours",
  sampler=sampler,
  algorithm="nsga2",
)
