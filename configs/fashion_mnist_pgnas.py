"""PGNAS on Fashion-MNIST: learned channel masks of a small super-network.

    python -m jaxnas run configs/fashion_mnist_pgnas.py --workdir runs/fashion

Data: the four idx files, by default where Debian's `dataset-fashion-mnist`
puts them; else `--data idx:FOLDER`. 10,000 training images; with all of them
(`--set data.limit=0`) the length scale grows in proportion, for N is ten times
the training images. Test accuracy of the compact winner 0.828 to 0.853 over
three seeds, with about half of 73,338 parameters; a few minutes on 2 CPU
cores.
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
    space=SpaceConfig("supnet-small", {"stem_stride": 2}, image_size=28),
    data=DataConfig(
      "idx:",
      validation=2000,
      limit=10_000,
      augment=AugmentConfig(flip=True, shift=2),
    ),
    train=TrainConfig(  # sizes and rates: ours
      epochs=12,
      batch_size=128,
      label_smoothing=0.0,
      checkpoint_every=2,
      evaluate_every=1,
      optimizer=OptimizerConfig(
        learning_rate=0.05, nesterov=True, weight_decay=0.0, clip_norm=5.0
      ),
    ),
    score=ScoreConfig(bn_mode="running", batch_size=500),
    masks=MasksConfig(length_scale=200.0, rate_speed=30.0, candidates=200),
    retrain=RetrainConfig(epochs=0, inherit=True),
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    space=SpaceConfig(
      "supnet-small", {"stem_stride": 2, "width": 4, "blocks": 1}, 28
    ),
    data=dataclasses.replace(config.data, limit=2000),
    train=dataclasses.replace(config.train, epochs=1),
    masks=dataclasses.replace(config.masks, candidates=16, batch=8),
  )
