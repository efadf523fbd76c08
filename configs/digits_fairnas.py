"""FairNAS on scikit-learn's digits: the main job, on an embedded real data set.

    python -m jaxnas run configs/digits_fairnas.py --workdir runs/digits

Under 4 minutes on 2 CPU cores, compilation included. Expected: a network below
600,000 multiply-adds with at least 97 % test accuracy. Variants:
`evenly_spaced_13` ranks by the paper's protocol; `quicktest` goes through the
same stages in a fraction of the time and learns little.

Sizes and rates here are ours; FairNAS itself never saw these images.
"""

import dataclasses

from jaxnas.config import (
  AugmentConfig,
  DataConfig,
  ExperimentConfig,
  OptimizerConfig,
  RankingConfig,
  RetrainConfig,
  ScoreConfig,
  SearchConfig,
  SpaceConfig,
  TrainConfig,
)


def get_config() -> ExperimentConfig:
  return ExperimentConfig(
    method="fairnas",
    budget="macs<=600k",
    space=SpaceConfig("digits"),
    data=DataConfig("digits", augment=AugmentConfig(shift=1)),
    train=TrainConfig(
      epochs=30,
      batch_size=32,
      evaluate_every=5,
      optimizer=OptimizerConfig(
        learning_rate=0.1, warmup_epochs=1, clip_norm=5.0
      ),
    ),
    score=ScoreConfig(calibration_images=512, batch_size=512),
    search=SearchConfig(population=24, generations=12),
    retrain=RetrainConfig(
      epochs=60,
      batch_size=64,
      checkpoint_every=10,
      optimizer=OptimizerConfig(
        learning_rate=0.1, warmup_epochs=2, weight_decay=1e-3
      ),
    ),
    ranking=RankingConfig(n_archs=24, epochs=10, together=24),
  )


def evenly_spaced_13() -> ExperimentConfig:
  """13 networks (authors) of 960 (paper); even steps are inferred (ours)."""
  config = get_config()
  ranking = dataclasses.replace(
    config.ranking, selection="evenly-spaced", n_archs=13, pool=960
  )
  return dataclasses.replace(config, ranking=ranking)


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    train=dataclasses.replace(
      config.train,
      optimizer=_steady(config.train.optimizer),
      epochs=2,
      evaluate_every=1,
      checkpoint_every=1,
    ),
    search=dataclasses.replace(config.search, population=8, generations=2),
    retrain=dataclasses.replace(
      config.retrain,
      optimizer=_steady(config.retrain.optimizer),
      epochs=2,
      checkpoint_every=1,
    ),
    ranking=RankingConfig(n_archs=4, epochs=1, top_k=2, bootstrap=200),
  )


def _steady(optimizer: OptimizerConfig) -> OptimizerConfig:
  """Without warm-up, which would outlast a quick test."""
  return dataclasses.replace(optimizer, warmup_epochs=0)
