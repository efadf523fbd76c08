"""DC-NAS on scikit-learn's digits: divide, compare within clusters, conquer.

    python -m jaxnas run configs/digits_dcnas.py --workdir runs/digits_dcnas

25 minutes on one CPU core, two thirds of it the ranking (all 64 networks for 30
epochs; `--set ranking.n_archs=0` leaves it out): 471,744 multiply-adds, test
accuracy 0.989, 95 % interval over 359 images 0.972 to 0.996.

64 networks are trained for 5 epochs, put into 8 clusters by how far each of
their layers moved, and the best of each cluster is trained for 20. `shared`
reads the same from the gradients and accuracies of a strictly fair supernet
(ours). `quicktest` and `shared_quicktest` go through the same stages and learn
little. Space, data and retraining are those of `digits_fairnas`; all numbers
are ours.
"""

import dataclasses

from jaxnas.config import (
  DivideConfig,
  ExperimentConfig,
  RankingConfig,
  load_config,
)


def get_config() -> ExperimentConfig:
  base = load_config("digits_fairnas")
  return ExperimentConfig(
    method="dcnas",
    budget=base.budget,
    space=base.space,
    data=base.data,
    divide=DivideConfig(samples=64, epochs=5, conquer_epochs=20),
    retrain=base.retrain,
    ranking=RankingConfig(n_archs=64, epochs=30),
  )


def shared() -> ExperimentConfig:
  """Features and early accuracies of a supernet's shared weights (ours)."""
  config, base = get_config(), load_config("digits_fairnas")
  divide = DivideConfig(samples=256, source="shared-weights", conquer_epochs=20)
  return dataclasses.replace(
    config, train=base.train, score=base.score, divide=divide
  )


def quicktest() -> ExperimentConfig:
  config, base = get_config(), load_config("digits_fairnas:quicktest")
  return dataclasses.replace(
    config,
    divide=DivideConfig(
      samples=8, epochs=1, conquer_epochs=2, clusters=3, together=8
    ),
    retrain=base.retrain,
    ranking=base.ranking,
  )


def shared_quicktest() -> ExperimentConfig:
  config, base = quicktest(), load_config("digits_fairnas:quicktest")
  divide = DivideConfig(
    samples=8, source="shared-weights", conquer_epochs=1, clusters=3
  )
  return dataclasses.replace(
    config, train=base.train, score=base.score, divide=divide
  )
