"""SPOS: single path one-shot with uniform sampling (arXiv 1904.00420).

    for each batch (x, y):
      path <- one choice per layer, uniform and independent
      weights <- optimiser(weights, grad(loss(supernet[path](x), y)))

    evolutionary search under a budget, accuracy from the supernet with batch
    norm recalibrated for every arch

The baseline that FairNAS compares with (its Fig. 1 calls it expectation
fairness with one iteration). The search is regularised evolution (Real et al.
2019) in place of SPOS's own evolution, and weights off the path are left alone
by momentum and decay: both are ours.
"""

import dataclasses

from jaxnas.methods.base import PathMethod
from jaxnas.methods.setup import PathSetup
from jaxnas.training import PathSampler, make_sampler


def sampler(setup: PathSetup) -> PathSampler:
  """One uniform path a step."""
  config = setup.config.train
  if config.sampler == "auto":
    config = dataclasses.replace(config, sampler="spos")
  return make_sampler(config, setup.space)


METHOD = PathMethod(
  name="spos",
  paper="Single Path One-Shot Neural Architecture Search with Uniform"
  " Sampling, arXiv 1904.00420",
  fidelity="uniform single paths as in the paper; the evolutionary search is"
  " ours",
  sampler=sampler,
  algorithm="evolution",
)
