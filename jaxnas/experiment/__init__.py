"""Runs an experiment: config to stages in order, in one work directory."""

from pathlib import Path

from jaxnas.config import ExperimentConfig
from jaxnas.experiment.base import Experiment
from jaxnas.experiment.masks import MaskExperiment
from jaxnas.experiment.paths import PathExperiment
from jaxnas.methods import MaskMethod, get_method


def make_experiment(config: ExperimentConfig, workdir: Path) -> Experiment:
  """Returns the experiment of a config's method.

  Args:
    config: the resolved config.
    workdir: made by `train` if missing.

  Raises:
    UserError: as `Experiment`.
  """
  masked = isinstance(get_method(config.method), MaskMethod)
  return (MaskExperiment if masked else PathExperiment)(config, workdir)


__all__ = ["Experiment", "MaskExperiment", "PathExperiment", "make_experiment"]
