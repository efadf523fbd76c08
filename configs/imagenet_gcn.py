"""GCN search-space fitting on ImageNet in the FairNAS space.

    python -m jaxnas run configs/imagenet_gcn.py --workdir runs/imagenet_gcn \
      --data folder:IMAGENET

The paper's space, supernet training and sample counts are not established, so
this is our setting: the space of `imagenet_fairnas`, whose 19 layers of 6 agree
with the paper's 7 cells and 6 choices (7 + 6 + 6), its supernet, 2,000 samples
a segment. No result of the paper can be compared with. Not run by us; a dry run
as that of `imagenet_fairnas` estimates the same memory and 7.7 hours.
`quicktest` is the same at toy sizes, on digits.
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
    load_config("imagenet_fairnas"), method="gcn", budget="", search=search
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  segments = dataclasses.replace(
    config.search.segments, samples=24, candidates=6, first=4, later=5
  )
  return dataclasses.replace(
    load_config("imagenet_fairnas:quicktest"),
    method="gcn",
    budget="",
    search=dataclasses.replace(config.search, segments=segments),
  )
