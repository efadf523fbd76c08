"""DC-NAS on CIFAR-10 in the CIFAR-sized FairNAS space.

    python -m jaxnas run configs/cifar10_dcnas.py --workdir runs/cifar10_dcnas

128 networks trained for 5 epochs, 8 clusters, the best of each for 30 (ours).
Data and retraining as in `cifar10_fairnas`; meant for one accelerator or more,
not run in full by us. `quicktest` takes few images and networks.
"""

import dataclasses

from jaxnas.config import (
  DivideConfig,
  ExperimentConfig,
  RankingConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  base = load_config("cifar10_fairnas")
  return ExperimentConfig(
    method="dcnas",
    budget=base.budget,
    space=base.space,
    data=base.data,
    divide=DivideConfig(samples=128, conquer_epochs=30, together=8),
    retrain=base.retrain,
    ranking=RankingConfig(n_archs=24, epochs=30),
  )


def quicktest() -> ExperimentConfig:
  config, base = get_config(), load_config("cifar10_fairnas:quicktest")
  divide = dataclasses.replace(
    config.divide, samples=4, epochs=1, conquer_epochs=1, clusters=2, together=4
  )
  return dataclasses.replace(
    config, data=base.data, divide=divide, retrain=base.retrain,
    ranking=base.ranking,
  )  # fmt: skip
