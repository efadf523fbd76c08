"""GCN: fit the search space, segment by segment (arXiv 2004.08423).

    train the supernet                              # strictly fair paths: ours
    for each segment of 7 cells:                                        # paper
      accuracy <- supernet accuracy of uniformly sampled sub-archs
      GCN      <- fit(sub-arch, accuracy)    # averages the supernet's error out
      keep the 6 best of all sub-archs by the GCN as one super-cell
    the whole last segment, predicted, answers any other budget         # paper

What is whose: that supernet accuracy is true accuracy plus an error that a fit
averages out, the segment procedure and its numbers 7 and 6, and the look-up
are the paper's (abstract, caption of figure 2). No more of it is established
by us: how the supernet is trained, the graph, the network, the loss, how many
samples, how cells outside a segment are filled and how the 6 are ranked are
ours, and so are the predictors that stand beside the GCN.
"""

import dataclasses

from jaxnas.methods.base import PathMethod
from jaxnas.methods.setup import PathSetup
from jaxnas.training import PathSampler, make_sampler


def sampler(setup: PathSetup) -> PathSampler:
  """K strictly fair paths a step (ours)."""
  config = setup.config.train
  if config.sampler == "auto":
    config = dataclasses.replace(config, sampler="fair")
  return make_sampler(config, setup.space)


METHOD = PathMethod(
  name="gcn",
  paper="Fitting the Search Space of Weight-sharing NAS with Graph"
  " Convolutional Networks, arXiv 2004.08423",
  fidelity="segment procedure and look-up from the paper; supernet training,"
  " graph, network, sample counts and baselines ours",
  sampler=sampler,
  algorithm="segments",
)
