"""GCN search-space fitting on scikit-learn's digits, many budgets at once.

    python -m jaxnas run configs/digits_gcn.py --workdir runs/gcn
    python -m jaxnas search configs/digits_gcn.py --workdir runs/gcn \
      --budget "macs<=400k" --budget "macs<=600k" --budget "macs<=800k"

The second command answers from the table that the first one left; the supernet
is not touched. Supernet, retraining and ranking are those of `digits_fairnas`.
Segments of 4 and 1 + 4 layers, since 7 of 8 layers would leave the second one
almost nothing to choose; 12 sub-archs survive, 3 of each quarter of the range
of cost. `quicktest` goes through the same stages and learns little.
"""

import dataclasses

from jaxnas.config import (
  ExperimentConfig,
  SearchConfig,
  SegmentsConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  search = SearchConfig(
    segments=SegmentsConfig(
      first=4, later=5, top_k=12, samples=500, candidates=48, cost_bins=4
    )
  )
  return dataclasses.replace(
    load_config("digits_fairnas"), method="gcn", budget="", search=search
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  segments = dataclasses.replace(
    config.search.segments, samples=24, candidates=8, top_k=4
  )
  return dataclasses.replace(
    load_config("digits_fairnas:quicktest"),
    method="gcn",
    budget="",
    search=dataclasses.replace(config.search, segments=segments),
  )
