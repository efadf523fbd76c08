"""DC-NAS: divide and conquer (arXiv 2005.14456), a design from its abstract.

    archs    <- n archs of the space                                # (abstract)
    features <- how each layer's parameters change in a short training,
                or what each layer puts out                         # (abstract)
    clusters <- k-means(features)                                   # (abstract)
    in each cluster: keep the best by the early accuracy            # (abstract)
    train those longer; the best of them wins           # merge, as we read it
    train the winner from scratch

Why: one early-stopping criterion is unfair to networks that learn at different
speeds; those that change alike learn alike, so each is judged among its kind
(paper, abstract). With one cluster this is plain early stopping, with n it is
training everything longer.

What is whose: the steps above are the paper's abstract, which is all that is
established by us. How archs are sampled, every feature, distance, k, budget,
both readings of "merge", successive halving inside clusters, features from a
supernet's shared weights, and the tables' form are ours.
"""

from collections.abc import Callable

import numpy as np

from jaxnas.config import DivideConfig
from jaxnas.methods.base import PathMethod
from jaxnas.methods.setup import PathSetup
from jaxnas.search.conquer import Conquered, conquer
from jaxnas.search.partition import Partition, partition
from jaxnas.training import PathSampler, strict_fair


def sampler(setup: PathSetup) -> PathSampler:
  """Strictly fair paths, of `divide.source=shared-weights` (ours)."""
  return strict_fair(setup.space, setup.config.train.pad_unequal)


class DivideMethod(PathMethod):
  """A method that divides sampled archs into clusters and compares in each."""


def divide_and_conquer(
  features: np.ndarray,
  early: np.ndarray,
  macs: np.ndarray,
  config: DivideConfig,
  seed: int,
  train: Callable[[np.ndarray, int], np.ndarray],
  longer: Callable[[np.ndarray], np.ndarray],
) -> tuple[Partition, Conquered]:
  """Clusters archs, compares them within clusters, and merges the best.

  Args:
    features: standardised, `float[n, d]`.
    early: accuracies by the early criterion, `float[n]`.
    macs: multiply-adds `[n]`, for the baseline that clusters by them.
    config: how.
    seed: of k-means.
    train: accuracies of some archs, by their numbers, at a rung of successive
      halving.
    longer: accuracies of the clusters' best after the longer training.
  """
  clusters = partition(features, macs, config, seed)
  best = conquer(clusters.labels, early, config, train, longer)
  return clusters, best


METHOD = DivideMethod(
  name="dcnas",
  paper="DC-NAS: Divide-and-Conquer Neural Architecture Search, arXiv"
  " 2005.14456",
  fidelity="a design from the abstract: its five steps are the paper's; all"
  " features, distances, numbers and the reading of 'merge' are ours",
  sampler=sampler,
  algorithm="random",
)
