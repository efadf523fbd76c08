"""PGNAS-E on CIFAR-10: a super-network of ENAS cells.

    python -m jaxnas run configs/cifar10_pgnas_e.py --workdir runs/pgnas_e

The paper reports 2.73 % error with 3.1 M weights. Meant for one accelerator;
not run in full by us, so neither score nor wall time is promised. `quicktest`
takes 256 images and a narrow network.
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
    space=SpaceConfig("supnet-e"),
    data=DataConfig(
      "tfds:cifar10",
      # A tenth chooses; the authors' script chooses on the test images.
      validation=0.1,
      augment=AugmentConfig(flip=True, shift=4, cutout=16),  # (paper)
    ),
    train=TrainConfig(
      epochs=630,  # (paper)
      batch_size=72,  # (authors: their script for EI)
      label_smoothing=0.0,
      checkpoint_every=10,
      evaluate_every=10,
      optimizer=OptimizerConfig(
        learning_rate=0.05,  # (paper)
        final_learning_rate=1e-4,  # (paper)
        schedule="restarts",  # (paper)
        restart_epochs=10,  # T0 (paper)
        restart_growth=2,  # Tmul (paper)
        nesterov=True,  # (authors, of the shake-shake script)
        clip_norm=5.0,  # (authors, of the shake-shake script)
        weight_decay=0.0,  # the l^2 term takes its place (paper)
      ),
    ),
    score=ScoreConfig(bn_mode="running"),  # no recalibration (authors)
    masks=MasksConfig(
      length_scale=0.1,  # l^2 (paper)
      examples=5e5,  # N (paper)
      initial_rate=0.1,  # (paper); 0.5 in the released files (authors)
      tau=0.2,  # (paper); 2/3 in the released files (authors)
      candidates=1500,  # C (paper)
    ),
    retrain=RetrainConfig(epochs=0, inherit=True),  # no retraining (paper)
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    space=SpaceConfig("supnet-e", {"filters": 4, "layers": 3}),
    data=dataclasses.replace(config.data, limit=256),
    train=dataclasses.replace(config.train, epochs=1, batch_size=32),
    score=dataclasses.replace(config.score, batch_size=64),
    masks=dataclasses.replace(config.masks, candidates=6, batch=6),
  )
