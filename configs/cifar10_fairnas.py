"""FairNAS on CIFAR-10 in the CIFAR-sized FairNAS space.

    python -m jaxnas run configs/cifar10_fairnas.py --workdir runs/cifar10

Data: `tfds:cifar10`, prepared once as array_record (README, "Your own data"),
or `--data folder:PATH` / `--data npz:PATH`. Meant for one accelerator or more;
not run in full by us, so neither score nor wall time is promised. `quicktest`
takes at most 2,000 images and a few steps.
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
    budget="macs<=80M",
    space=SpaceConfig("fairnas-cifar"),
    data=DataConfig(
      "tfds:cifar10",
      validation=0.1,
      augment=AugmentConfig(flip=True, shift=4),
    ),
    train=TrainConfig(  # sizes and rates: ours
      epochs=150,
      batch_size=128,
      optimizer=OptimizerConfig(
        learning_rate=0.05, warmup_epochs=3, clip_norm=5.0
      ),
    ),
    score=ScoreConfig(calibration_images=2048, batch_size=1024),
    search=SearchConfig(population=70, generations=50),
    retrain=RetrainConfig(
      epochs=300,
      batch_size=128,
      optimizer=OptimizerConfig(
        learning_rate=0.05, warmup_epochs=5, weight_decay=5e-4
      ),
    ),
    ranking=RankingConfig(n_archs=24, epochs=30, together=4),
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, limit=2000),
    train=dataclasses.replace(
      config.train,
      optimizer=_steady(config.train.optimizer),
      epochs=1,
      batch_size=64,
    ),
    score=ScoreConfig(calibration_images=256, batch_size=256),
    search=dataclasses.replace(config.search, population=8, generations=1),
    retrain=dataclasses.replace(
      config.retrain, optimizer=_steady(config.retrain.optimizer), epochs=1
    ),
    ranking=RankingConfig(n_archs=0),
  )


def _steady(optimizer: OptimizerConfig) -> OptimizerConfig:
  """Without warm-up, which would outlast a quick test."""
  return dataclasses.replace(optimizer, warmup_epochs=0)
