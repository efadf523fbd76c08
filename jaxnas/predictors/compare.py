"""Makes predictors, compares them, and draws learning curves."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import get_args, get_type_hints

import numpy as np
from scipy import stats

from jaxnas.config import PredictorConfig
from jaxnas.errors import UserError, unknown
from jaxnas.predictors.base import Fitted, Predictor
from jaxnas.predictors.default import Default
from jaxnas.predictors.ensembles import NeuralPredictor
from jaxnas.predictors.ridge import Ridge

KINDS = get_args(get_type_hints(PredictorConfig)["kind"])
# The spec's reference (3.4, ours): trained to the last epoch on all labels.
REFERENCE_GCN = PredictorConfig(
  kind="gcn", ensemble=1, shared_slots=True, validation=0.0, patience=0
)


def make_predictor(config: PredictorConfig) -> Predictor:
  """Returns the predictor that a config describes.

  Raises:
    UserError: for an unknown kind.
  """
  makers = {
    "default": Default,
    "ridge": Ridge,
    "gcn": functools.partial(NeuralPredictor, config),
    "mlp": functools.partial(NeuralPredictor, config),
  }
  if config.kind not in makers:
    raise unknown("predictor", config.kind, makers)
  return makers[config.kind]()


def compare_predictors(
  n_choices: np.ndarray,
  archs: np.ndarray,
  targets: np.ndarray,
  test_archs: np.ndarray,
  config: PredictorConfig,
  seed: int,
  kinds: Sequence[str] = ("ridge", "mlp", "gcn", "default"),
) -> dict[str, np.ndarray]:
  """Fits several predictors to the same labels.

  Args:
    n_choices: choices of each node, `int[nodes]`.
    archs: `int32[n, nodes]`.
    targets: labels, `float[n]`.
    test_archs: `int32[m, nodes]`.
    config: constants of all of them; its `kind` is not looked at.
    seed: decides all that is drawn.
    kinds: which predictors.

  Returns:
    By kind the predictions for `test_archs`, `float64[m]`.
  """
  found = {}
  for kind in kinds:
    predictor = make_predictor(dataclasses.replace(config, kind=kind))
    fitted = predictor.fit(n_choices, archs, targets, seed)
    found[kind] = fitted.predict(test_archs)[0]
  return found


def learning_curve(
  predictor: Predictor,
  n_choices: np.ndarray,
  archs: np.ndarray,
  targets: np.ndarray,
  sizes: Sequence[int],
  seed: int,
  repeats: int = 3,
  held_out: float = 0.2,
) -> list[dict]:
  """Kendall's tau against the number of labels: are more of them worth it?

  Args:
    predictor: what to fit.
    n_choices: choices of each node, `int[nodes]`.
    archs: `int32[n, nodes]`.
    targets: labels, `float[n]`; their noise bounds tau from above.
    sizes: numbers of labels to fit, in any order.
    seed: decides splits and fits.
    repeats: splits; the same held-out labels judge all sizes of one.
    held_out: share of the labels that judge.

  Returns:
    For each size `n`, `tau` (tau-b on held-out labels, one for each repeat)
    and `mean`.

  Raises:
    UserError: for a size larger than what is not held out.
  """
  n = len(archs)
  held = max(2, round(held_out * n))
  if not sizes or max(sizes) > n - held:
    raise UserError(
      f"sizes {list(sizes)} of a learning curve; from 1 to {n - held} of the"
      f" {n} labels are not held out."
    )
  rows = {int(size): [] for size in sizes}
  for repeat in range(repeats):
    order = np.random.default_rng([seed, repeat]).permutation(n)
    test, rest = order[:held], order[held:]
    for size in rows:
      fit = rest[:size]
      fitted = predictor.fit(n_choices, archs[fit], targets[fit], seed + repeat)
      mean, _ = fitted.predict(archs[test])
      rows[size].append(tau_b(mean, targets[test]))
  return [
    {"n": size, "tau": taus, "mean": float(np.mean(taus))}
    for size, taus in rows.items()
  ]


def tau_b(x: np.ndarray, y: np.ndarray) -> float:
  """Kendall's tau-b; 0 where a side is constant, which ranks nothing."""
  tau = stats.kendalltau(x, y).statistic
  return float(tau) if np.isfinite(tau) else 0.0


__all__ = [
  "KINDS",
  "REFERENCE_GCN",
  "Fitted",
  "Predictor",
  "compare_predictors",
  "learning_curve",
  "make_predictor",
  "tau_b",
]
