"""DC-NAS on ImageNet in the FairNAS space, features from shared weights.

    python -m jaxnas run configs/imagenet_dcnas.py --workdir runs/id \
      --data folder:IMAGENET

The paper's space, budgets and features are not established, so this is our
setting: the space and supernet of `imagenet_fairnas`, 1,000 archs represented
by one gradient each and judged by the supernet (ours, not what the paper did),
10 clusters, the best of each trained for 30 epochs. Not run by us; a dry run as
that of `imagenet_fairnas` estimates the same memory and 8.3 hours. `quicktest`
is the same at toy sizes, on digits.
"""

import dataclasses

from jaxnas.config import (
  DivideConfig,
  ExperimentConfig,
  RankingConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  base = load_config("imagenet_fairnas")
  return ExperimentConfig(
    method="dcnas",
    budget=base.budget,
    space=base.space,
    data=base.data,
    net=base.net,
    train=base.train,
    score=base.score,
    divide=DivideConfig(
      samples=1000,
      source="shared-weights",
      clusters=10,
      conquer_epochs=30,
      together=1,
    ),  # fmt: skip
    retrain=base.retrain,
    ranking=RankingConfig(n_archs=13),
  )


def quicktest() -> ExperimentConfig:
  config, base = get_config(), load_config("imagenet_fairnas:quicktest")
  divide = dataclasses.replace(
    config.divide, samples=4, conquer_epochs=1, clusters=2, together=2
  )
  return dataclasses.replace(base, method="dcnas", search=config.search,
                             divide=divide)  # fmt: skip
