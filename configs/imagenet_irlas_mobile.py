"""IRLAS-mobile on ImageNet: the published network, trained from scratch.

    python -m jaxnas run configs/imagenet_irlas_mobile.py --workdir runs/mobile

No search: the block and its macro-architecture are the authors', 9,962,600
parameters and 1,418,807,296 multiply-adds at 224 pixels. Their model scores
75.15 % top-1 (authors; 75.28 % in the paper); how it was trained is not
published, so the recipe here is ours, and neither score nor wall time is
promised. The same command with `--dry-run --mesh 8x1 --flops 197e12` estimates,
from programs compiled for 8 fake CPU devices in the form for accelerators: 277
GFLOP per step and device, 960,720 steps, 1.8 GB, 1.3 hours on 8 devices of 197
TFLOP/s of which 30 % are assumed to be reached.
Training images are streamed from what `prepare` packs (docs/data.md).
`quicktest` trains it on the embedded digits at 16 pixels.
"""

import dataclasses

from jaxnas.config import (
  AugmentConfig,
  BlocksConfig,
  DataConfig,
  ExperimentConfig,
  OptimizerConfig,
  RetrainConfig,
  SpaceConfig,
)


def get_config() -> ExperimentConfig:
  return ExperimentConfig(
    method="irlas",
    space=SpaceConfig("irlas-mobile"),
    data=DataConfig(
      "tfds:imagenet2012",
      validation=50_000,
      augment=AugmentConfig(flip=True, crop_scale=0.08),
    ),
    blocks=BlocksConfig(block="irlas-mobile"),
    retrain=RetrainConfig(  # ours
      epochs=240,
      batch_size=256,
      label_smoothing=0.1,
      optimizer=OptimizerConfig(
        learning_rate=0.1,
        warmup_epochs=5,
        nesterov=True,
        weight_decay=4e-5,
      ),
      checkpoint_every=1,
    ),
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    space=SpaceConfig("irlas-mobile", image_size=16),
    data=DataConfig("digits", limit=64),
    retrain=dataclasses.replace(
      config.retrain,
      epochs=1,
      batch_size=32,
      optimizer=dataclasses.replace(config.retrain.optimizer, warmup_epochs=0),
    ),
  )
