"""GCN and MLP as predictors: deep ensembles on archs, and on any graphs."""

import dataclasses

import jraph
import numpy as np
from scipy import stats

from jaxnas.config import PredictorConfig
from jaxnas.predictors import neural
from jaxnas.predictors.base import (
  Labels,
  check_archs,
  check_targets,
  in_chunks,
)
from jaxnas.predictors.gcn import ChainGcn, Gcn
from jaxnas.predictors.graphs import Chain
from jaxnas.predictors.mlp import Mlp


@dataclasses.dataclass(frozen=True)
class FittedEnsemble:
  """Networks trained on archs.

  Attributes:
    labels: that were fitted.
    ensemble: the networks.
    info: of `neural.Ensemble`, and `train_tau`, Kendall's tau-b on the labels.
  """

  labels: Labels
  ensemble: neural.Ensemble
  info: dict

  def predict(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `Fitted.predict`; the spread is that of the networks."""
    archs = check_archs(self.labels.n_choices, archs)
    mean, spread = in_chunks(self.ensemble.predict, archs)
    scale = self.labels.scale
    return self.labels.mean + scale * mean, scale * spread


@dataclasses.dataclass(frozen=True)
class NeuralPredictor:
  """A deep ensemble of chain GCNs or MLPs.

  Attributes:
    config: `kind` is `gcn` or `mlp`.
  """

  config: PredictorConfig

  def network(self, n_choices: np.ndarray) -> neural.Network:
    """The network for nodes with so many choices."""
    c, sizes = self.config, tuple(int(k) for k in n_choices)
    if c.kind == "mlp":
      return Mlp(sizes, c.layers, c.width)
    chain = Chain(sizes, c.shared_slots, c.directed)
    return ChainGcn(chain, c.layers, c.width, c.readout)

  def fit(self, n_choices, archs, targets, seed, noise=None) -> FittedEnsemble:
    """See `Predictor.fit`.

    Raises:
      UserError: also for constants out of range.
    """
    labels = Labels.of(n_choices, archs, targets, noise)
    ensemble = neural.train(
      self.network(labels.n_choices), self.config, labels.archs,
      labels.targets, labels.weights, seed,
    )  # fmt: skip
    fitted = FittedEnsemble(labels, ensemble, ensemble.info)
    mean, _ = fitted.predict(labels.archs)
    tau = float(stats.kendalltau(mean, labels.targets).statistic)
    return dataclasses.replace(fitted, info=ensemble.info | {"train_tau": tau})


@dataclasses.dataclass(frozen=True)
class FittedGraphs:
  """Networks trained on graphs.

  Attributes:
    ensemble: the networks.
    mean: of the labels.
    scale: their standard deviation.
    info: of `neural.Ensemble`.
  """

  ensemble: neural.Ensemble
  mean: float
  scale: float
  info: dict

  def predict(self, graphs: jraph.GraphsTuple) -> tuple[np.ndarray, np.ndarray]:
    """Predicts the labels of stacked graphs.

    Args:
      graphs: of `graphs.stack`, with the columns of those fitted; they may be
        padded to another size.

    Returns:
      Mean and spread, `float64[m]` each, in the unit of the labels.
    """
    mean, spread = self.ensemble.predict(graphs)
    return self.mean + self.scale * mean, self.scale * spread


def fit_graphs(
  graphs: jraph.GraphsTuple,
  targets: np.ndarray,
  config: PredictorConfig,
  seed: int,
  *,
  global_column: int,
  noise: np.ndarray | None = None,
) -> FittedGraphs:
  """Fits a deep ensemble of GCNs to arbitrary graphs.

  Args:
    graphs: of `graphs.stack`.
    targets: labels, `float[n]`.
    config: constants; `kind` and `shared_slots` do not matter here.
    seed: decides all that is drawn.
    global_column: the feature that marks the global node, `n_types` of
      `graphs.dag`.
    noise: see `Predictor.fit`.

  Raises:
    UserError: for labels that are not finite or fewer than 4, or constants out
      of range.
  """
  y, weights = check_targets(targets, noise)
  mean, scale = float(y.mean()), float(y.std()) or 1.0
  network = Gcn(
    graphs.nodes.shape[-1], graphs.edges.shape[-1], global_column,
    config.layers, config.width, config.directed, config.readout,
  )  # fmt: skip
  ensemble = neural.train(
    network, config, graphs, (y - mean) / scale, weights, seed
  )
  return FittedGraphs(ensemble, mean, scale, ensemble.info)
