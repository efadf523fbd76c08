"""DC-NAS in the NAS-Bench-Macro space, or on its published table.

    python -m jaxnas run configs/nasbench_macro_dcnas.py --workdir runs/md
    python -m jaxnas search configs/nasbench_macro_dcnas.py:table \
      --table nas-bench-macro_cifar10.json

`table` trains nothing: a single training, `accuracy_seed0`, is the early
accuracy, and the mean of all three the final one. The table has no learning
curves, so early means noisy here, not short; and no changes of parameters, so
the features are the choices, one-hot (ours). 276 single trainings and 8 times 3
cost as much as 100 looks at the mean. Data as in `nasbench_macro_fairnas`.
Meant for one accelerator, not run in full by us. `quicktest` takes 2,000 images
and few networks.
"""

import dataclasses

from jaxnas.config import (
  DivideConfig,
  ExperimentConfig,
  SearchConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  base = load_config("nasbench_macro_fairnas")
  return ExperimentConfig(
    method="dcnas",
    budget=base.budget,
    space=base.space,
    data=base.data,
    divide=DivideConfig(samples=96, epochs=5, conquer_epochs=20, together=8),
    retrain=base.retrain,
    ranking=base.ranking,
  )


def table() -> ExperimentConfig:
  """276 noisy looks, and the best of each of 8 clusters once more (ours)."""
  return ExperimentConfig(
    method="dcnas",
    search=SearchConfig(objectives=("accuracy",)),
    divide=DivideConfig(
      samples=276,
      early="accuracy_seed0",
      early_cost=1 / 3,
      distance="euclidean",
    ),  # fmt: skip
  )


def quicktest() -> ExperimentConfig:
  config, base = get_config(), load_config("nasbench_macro_fairnas:quicktest")
  divide = dataclasses.replace(
    config.divide, samples=4, epochs=1, conquer_epochs=1, clusters=2, together=4
  )
  return dataclasses.replace(
    config, data=base.data, divide=divide, retrain=base.retrain
  )
