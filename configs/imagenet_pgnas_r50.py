"""PGNAS on ImageNet: a ResNet-50 with four kernel sizes in each block.

    python -m jaxnas run configs/imagenet_pgnas_r50.py --workdir runs/r50

The paper reports 22.73 % top-1 error with 26.0 M weights, out of a super-net
of 44.0 M; our reading of it has 28.1 M, and no other was found that fits.
Not run in full by us, so neither score nor wall time is promised. The same
command with `--dry-run --mesh 8x1 --flops 197e12` estimates, from programs
compiled for 8 fake CPU devices in the form for accelerators: training 799 GFLOP
per step and device, 360,270 steps, 5.0 GB; scoring 11.9 GB; 1.8 hours on 8
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
    space=SpaceConfig("supnet-r50"),
    data=DataConfig(
      "tfds:imagenet2012",
      # Chosen on images held out from training; the authors' script chooses on
      # the validation images that they report.
      validation=50_000,
      augment=AugmentConfig(flip=True, crop_scale=0.08),  # "standard" (paper)
    ),
    train=TrainConfig(
      epochs=90,  # (paper)
      batch_size=256,  # (paper)
      label_smoothing=0.0,
      checkpoint_every=1,
      evaluate_every=1,
      optimizer=OptimizerConfig(
        learning_rate=0.1,  # (paper)
        schedule="drops",  # (paper)
        drop_epochs=(30, 60),  # (paper)
        drop_factor=10,  # (paper)
        nesterov=True,  # (paper)
        weight_decay=0.0,  # the l^2 term takes its place (paper)
      ),
    ),
    score=ScoreConfig(  # no recalibration (authors)
      bn_mode="running", batch_size=100
    ),
    masks=MasksConfig(
      length_scale=80.0,  # l^2 (paper)
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
      "supnet-r50", {"width": 4, "blocks": [1, 1]}, image_size=16
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
