"""PGNAS-MI on CIFAR-100: a three-branch shake-shake super-network.

    python -m jaxnas run configs/cifar100_pgnas_mi.py --workdir runs/pgnas_mi

The paper reports 14.28 % error with 46.4 M weights. Meant for one accelerator,
for which 1,800 epochs are days; not run in full by us, so neither score nor
wall time is promised. `quicktest` takes 256 images and a narrow network.
"""

import dataclasses

from jaxnas.config import (
  AugmentConfig,
  DataConfig,
  ExperimentConfig,
  MasksConfig,
  OptimizerConfig,
  RetrainConfig,
  ScoreConfig,
  SpaceConfig,
  TrainConfig,
)


def get_config() -> ExperimentConfig:
  return ExperimentConfig(
    method="pgnas",
    space=SpaceConfig("supnet-mi"),
    data=DataConfig(
      "tfds:cifar100",
      # A tenth chooses; the authors' script chooses on the test images.
      validation=0.1,
      augment=AugmentConfig(flip=True, shift=4, cutout=16),  # (paper)
    ),
    train=TrainConfig(
      epochs=1800,  # (paper)
      batch_size=128,  # (paper)
      label_smoothing=0.0,
      checkpoint_every=10,
      evaluate_every=10,
      optimizer=OptimizerConfig(
        learning_rate=0.01,  # cosine without restart (paper)
        nesterov=True,  # (authors)
        clip_norm=5.0,  # (authors)
        weight_decay=0.0,  # the l^2 term takes its place (paper)
      ),
    ),
    score=ScoreConfig(bn_mode="running"),  # no recalibration (authors)
    masks=MasksConfig(
      length_scale=2500.0,  # l^2 (paper)
      examples=5e5,  # N (paper)
      initial_rate=0.1,  # (paper)
      tau=0.2,  # (paper)
      candidates=5000,  # C (paper)
    ),
    retrain=RetrainConfig(epochs=0, inherit=True),  # no retraining (paper)
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    space=SpaceConfig("supnet-mi", {"width": 1, "blocks": 1}),
    data=dataclasses.replace(config.data, limit=256),
    train=dataclasses.replace(config.train, epochs=1, batch_size=32),
    score=dataclasses.replace(config.score, batch_size=64),
    masks=dataclasses.replace(config.masks, candidates=6, batch=6),
  )
