"""GCN search-space fitting on CIFAR-10 in the CIFAR-sized FairNAS space.

    python -m jaxnas run configs/cifar10_gcn.py --workdir runs/cifar10_gcn

Segments of 7, 1 + 6 and 1 + 6 of the 19 layers, 2,000 samples each (ours).
Supernet, data and retraining as in `cifar10_fairnas`; meant for one accelerator
or more, not run in full by us. `quicktest` takes few images and a few steps.
"""

import dataclasses

from jaxnas.config import (
  ExperimentConfig,
  SearchConfig,
  SegmentsConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  search = SearchConfig(segments=SegmentsConfig(cost_bins=3))
  return dataclasses.replace(
    load_config("cifar10_fairnas"), method="gcn", budget="", search=search
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  segments = dataclasses.replace(
    config.search.segments, samples=12, candidates=6, batch=12
  )
  return dataclasses.replace(
    load_config("cifar10_fairnas:quicktest"),
    method="gcn",
    budget="",
    search=dataclasses.replace(config.search, segments=segments),
  )
