"""Predictors of accuracy from archs: ridge, MLP, GCN and the default (ours)."""

from jaxnas.predictors.base import Fitted, Predictor
from jaxnas.predictors.compare import (
  KINDS,
  REFERENCE_GCN,
  compare_predictors,
  learning_curve,
  make_predictor,
  tau_b,
)
from jaxnas.predictors.ensembles import FittedGraphs, fit_graphs
from jaxnas.predictors.graphs import Chain, dag, stack

__all__ = [
  "KINDS",
  "REFERENCE_GCN",
  "Chain",
  "Fitted",
  "FittedGraphs",
  "Predictor",
  "compare_predictors",
  "dag",
  "fit_graphs",
  "learning_curve",
  "make_predictor",
  "stack",
  "tau_b",
]
