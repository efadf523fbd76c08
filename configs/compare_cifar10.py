"""All methods side by side on CIFAR-10, at equal search cost.

    python -m jaxnas compare configs/compare_cifar10.py \
      --workdir runs/compare_cifar10

As `compare_fashion_mnist`, with colour images of 32 x 32 from TFDS, or
`--set data.source=npz:cifar10.npz`. Meant for one accelerator; not run by us.
`quicktest` takes 500 images and learns little. All sizes are ours.
"""

import dataclasses

from jaxnas.compare import load_arms
from jaxnas.config import AugmentConfig, ExperimentConfig


def get_configs() -> dict[str, ExperimentConfig]:
  return _cifar10("compare_fashion_mnist")


def quicktest() -> dict[str, ExperimentConfig]:
  return _cifar10("compare_fashion_mnist:quicktest")


def _cifar10(reference: str) -> dict[str, ExperimentConfig]:
  found = {}
  for arm in load_arms([reference]):
    config = arm.config
    data = dataclasses.replace(
      config.data,
      source="tfds:cifar10",
      augment=AugmentConfig(flip=True, shift=4),
    )
    space = dataclasses.replace(config.space, image_size=32)
    found[arm.name] = dataclasses.replace(config, data=data, space=space)
  return found
