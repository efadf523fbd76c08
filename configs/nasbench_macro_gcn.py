"""GCN search-space fitting in the NAS-Bench-Macro space, one segment of 8.

    python -m jaxnas run configs/nasbench_macro_gcn.py --workdir runs/mg
    python -m jaxnas rank configs/nasbench_macro_gcn.py --workdir runs/mg \
      --truth macro.csv

    python -m jaxnas search configs/nasbench_macro_gcn.py:table \
      --table nas-bench-macro_cifar10.json

`macro.csv` is made as `nasbench_macro_fairnas` says; `rank` then shows tau-b of
the supernet and of each fit to it. All 6,561 archs fit in one segment, so the
look-up covers the space. `table` searches the published table instead, with 100
evaluations. Supernet and data as in `nasbench_macro_fairnas`; meant for one
accelerator, not run in full by us. `small` is what docs/results.md reports:

    python -m jaxnas train configs/nasbench_macro_gcn.py:small \
      --workdir runs/ms --data npz:cifar10.npz
    (then `search`, and `rank --truth macro.csv`, with the same arguments)
"""

import dataclasses

from jaxnas.config import (
  AugmentConfig,
  ExperimentConfig,
  ScoreConfig,
  SearchConfig,
  SegmentsConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  search = SearchConfig(segments=SegmentsConfig(first=8))
  return dataclasses.replace(
    load_config("nasbench_macro_fairnas"),
    method="gcn",
    budget="",
    search=search,
  )


def table() -> ExperimentConfig:
  """100 evaluations of the table: 50 samples, then 5 parts of 10 (ours)."""
  return ExperimentConfig(
    method="gcn",
    search=SearchConfig(
      objectives=("accuracy",),
      segments=SegmentsConfig(
        top_k=1, samples=50, candidates=50, refits=5, batch=50
      ),
    ),
  )


def small() -> ExperimentConfig:
  """A supernet that 2 CPU cores can train: 16 x 16 images, 20,000 of them."""
  config = get_config()
  return dataclasses.replace(
    config,
    space=dataclasses.replace(config.space, image_size=16),
    data=dataclasses.replace(
      config.data,
      limit=20_000,
      validation=1000,
      augment=AugmentConfig(flip=True, shift=2),
    ),
    train=dataclasses.replace(
      config.train,
      epochs=20,
      batch_size=64,
      evaluate_every=3,
      checkpoint_every=1,
      log_every=50,
    ),
    score=ScoreConfig(calibration_images=250, batch_size=250),
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  segments = dataclasses.replace(
    config.search.segments, samples=24, candidates=8
  )
  return dataclasses.replace(
    load_config("nasbench_macro_fairnas:quicktest"),
    method="gcn",
    budget="",
    search=dataclasses.replace(config.search, segments=segments),
  )
