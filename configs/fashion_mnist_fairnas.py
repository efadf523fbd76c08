"""FairNAS on Fashion-MNIST, 28 x 28 grey, in the CIFAR-sized FairNAS space.

    python -m jaxnas run configs/fashion_mnist_fairnas.py --workdir runs/fashion

Data: the four idx files, by default where Debian's `dataset-fashion-mnist`
puts them; else `--data idx:FOLDER`, or `--data tfds:fashion_mnist`. Meant for
one accelerator; not run in full by us, so neither score nor wall time is
promised. `quicktest` takes 2,000 images and a few steps, 6 min 39 s on 2 CPU
cores, mostly compiling.
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
    budget="macs<=90M",
    space=SpaceConfig("fairnas-cifar", image_size=28),
    data=DataConfig(
      "idx:", validation=0.1, augment=AugmentConfig(flip=True, shift=2)
    ),
    train=TrainConfig(  # sizes and rates: ours
      epochs=60,
      batch_size=128,
      optimizer=OptimizerConfig(
        learning_rate=0.05, warmup_epochs=2, clip_norm=5.0
      ),
    ),
    score=ScoreConfig(calibration_images=2048, batch_size=1024),
    search=SearchConfig(population=70, generations=30),
    retrain=RetrainConfig(
      epochs=100,
      batch_size=128,
      optimizer=OptimizerConfig(
        learning_rate=0.05, warmup_epochs=3, weight_decay=5e-4
      ),
    ),
    ranking=RankingConfig(n_archs=24, epochs=15, together=4),
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
