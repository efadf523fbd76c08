"""PGNAS on ImageNet: a DenseNet-121 whose links are all searched.

    python -m jaxnas run configs/imagenet_pgnas_d121.py --workdir runs/d121

The paper reports 24.8 % top-1 error with 6.6 M weights; a released log of this
recipe ends 1.8 points above (authors), so that figure is not promised.
Not run in full by us, so neither score nor wall time is promised. The same
command with `--dry-run --mesh 8x1 --flops 197e12` estimates, from programs
compiled for 8 fake CPU devices in the form for accelerators: training 761 GFLOP
per step and device, 614,880 steps, 7.6 GB; scoring 11.9 GB; 2.6 hours on 8
devices of 197 TFLOP/s of which 30 % are assumed to be reached.
Training images are streamed from what `prepare` packs (docs/data.md).
`quicktest` runs a narrow network on the embedded digits.
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
    space=SpaceConfig("supnet-d121"),
    data=DataConfig(
      "tfds:imagenet2012",
      # Chosen on images held out from training; the authors' script chooses on
      # the validation images that they report.
      validation=50_000,
      augment=AugmentConfig(flip=True, crop_scale=0.08),  # "standard" (paper)
    ),
    train=TrainConfig(
      epochs=180,  # (paper)
      batch_size=300,  # (paper)
      label_smoothing=0.0,
      checkpoint_every=1,
      evaluate_every=1,
      optimizer=OptimizerConfig(
        learning_rate=0.1,  # (paper)
        schedule="drops",  # (paper)
        drop_epochs=(90, 140, 160),  # (paper)
        drop_factor=10,  # (paper)
        nesterov=True,  # (paper)
        weight_decay=0.0,  # the l^2 term takes its place (paper)
      ),
    ),
    score=ScoreConfig(  # no recalibration (authors)
      bn_mode="running", batch_size=100
    ),
    masks=MasksConfig(
      length_scale=100.0,  # l^2 (paper)
      examples=1_281_167,  # N (authors); 1.2e6 (paper)
      initial_rate=0.1,  # (paper)
      tau=0.2,  # (paper)
      candidates=1500,  # C (paper)
    ),
    retrain=RetrainConfig(epochs=0, inherit=True),  # no retraining (paper)
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    space=SpaceConfig(
      "supnet-d121", {"blocks": [2, 2], "growth": 4}, image_size=16
    ),
    data=DataConfig("digits", limit=256),
    train=dataclasses.replace(
      config.train,
      epochs=1,
      batch_size=32,
      optimizer=dataclasses.replace(
        config.train.optimizer, schedule="cosine", drop_epochs=()
      ),
    ),
    score=dataclasses.replace(config.score, batch_size=64),
    masks=dataclasses.replace(config.masks, candidates=6, batch=6),
  )
