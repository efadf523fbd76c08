"""FairNAS on scikit-learn's digits, the embedded real data set.

python -m jaxnas run configs/digits_fairnas.py --workdir runs/digits
"""

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
    budget="macs<=400k",
    space=SpaceConfig("digits"),
    data=DataConfig("digits", augment=AugmentConfig(shift=1)),
    train=TrainConfig(
      epochs=30,
      batch_size=64,
      optimizer=OptimizerConfig(
        learning_rate=0.1, warmup_epochs=1, clip_norm=5.0
      ),
    ),
    score=ScoreConfig(calibration_images=512, batch_size=512),
    search=SearchConfig(population=24, generations=10),
    retrain=RetrainConfig(
      epochs=40,
      batch_size=64,
      optimizer=OptimizerConfig(learning_rate=0.1, warmup_epochs=2),
    ),
    ranking=RankingConfig(n_archs=24, epochs=20),
  )


def quicktest() -> ExperimentConfig:
  import dataclasses

  config = get_config()
  return dataclasses.replace(
    config,
    train=dataclasses.replace(config.train, epochs=2),
    search=dataclasses.replace(config.search, population=8, generations=2),
    retrain=dataclasses.replace(config.retrain, epochs=2),
    ranking=RankingConfig(n_archs=4, epochs=1, bootstrap=200),
  )
