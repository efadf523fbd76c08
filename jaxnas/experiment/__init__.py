"""Runs an experiment: config to stages in order, in one work directory."""

from pathlib import Path

from jaxnas.config import ExperimentConfig
from jaxnas.experiment.base import Experiment
from jaxnas.experiment.blocks import BlockExperiment
from jaxnas.experiment.children import ChildExperiment
from jaxnas.experiment.divide import DivideExperiment
from jaxnas.experiment.masks import MaskExperiment
from jaxnas.experiment.paths import PathExperiment
from jaxnas.methods import (
  BlockMethod,
  ChildMethod,
  DivideMethod,
  MaskMethod,
  PathMethod,
  get_method,
)


def make_experiment(config: ExperimentConfig, workdir: Path) -> Experiment:
  """Returns the experiment of a config's method.

  Args:
    config: the resolved config.
    workdir: made by `train` if missing.

  Raises:
    UserError: as `Experiment`.
  """
  kinds = {
    BlockMethod: BlockExperiment,
    ChildMethod: ChildExperiment,
    DivideMethod: DivideExperiment,
    MaskMethod: MaskExperiment,
    PathMethod: PathExperiment,
  }
  return kinds[type(get_method(config.method))](config, workdir)


__all__ = [
  "BlockExperiment", "ChildExperiment", "DivideExperiment", "Experiment",
  "MaskExperiment", "PathExperiment", "make_experiment",
]  # fmt: skip
