"""Regularised evolution without weight sharing (arXiv 1802.01548): a baseline.

    population <- random archs, each trained briefly as its own network
    repeat: of some drawn archs mutate the best; train the child briefly;
            it replaces the oldest
    train the best from scratch

The algorithm is the paper's (`search/evolution.py`); that a child is trained
for few epochs, and the space, are ours. What weight sharing is compared with.
"""

from jaxnas.methods.base import PathMethod
from jaxnas.methods.dcnas import sampler


class ChildMethod(PathMethod):
  """A method that trains each candidate's own network; no supernet."""


METHOD = ChildMethod(
  name="evolution",
  paper="Regularized Evolution for Image Classifier Architecture Search, arXiv"
  " 1802.01548",
  fidelity="aging evolution as in the paper; short trainings and all constants"
  " ours",
  sampler=sampler,
  algorithm="evolution",
)
