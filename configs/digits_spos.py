"""SPOS on scikit-learn's digits: the baseline of `digits_fairnas`.

    python -m jaxnas run configs/digits_spos.py --workdir runs/digits_spos

Everything but the method and the search's tournament equals `digits_fairnas`:
one uniform path a step in place of six strictly fair ones, so a training of as
many epochs costs a sixth.
`equal_cost` trains six times as long. `quicktest` only exercises the stages.
About 3 minutes on 2 CPU cores, half of them for the ranking; a supernet
accuracy near 0.56 and a test accuracy of 97 % or more.
"""

import dataclasses

from jaxnas.config import ExperimentConfig, load_config


def get_config() -> ExperimentConfig:
  return _spos(load_config("digits_fairnas"))


def equal_cost() -> ExperimentConfig:
  config = get_config()
  train = dataclasses.replace(
    config.train, epochs=6 * config.train.epochs, evaluate_every=30
  )
  return dataclasses.replace(config, train=train)


def quicktest() -> ExperimentConfig:
  return _spos(load_config("digits_fairnas:quicktest"))


def _spos(config: ExperimentConfig) -> ExperimentConfig:
  search = dataclasses.replace(config.search, tournament=10)
  return dataclasses.replace(config, method="spos", search=search)
