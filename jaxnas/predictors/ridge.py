"""Ridge regression on one-hot choices: every choice adds its share.

The additive baseline that the spec asks for: with strong noise or few labels
it is hard to beat, since every label tells about every choice in it.
"""

import dataclasses

import numpy as np
from sklearn.linear_model import RidgeCV

from jaxnas.predictors.base import Labels, check_archs
from jaxnas.predictors.features import offsets, one_hot

ALPHAS = np.logspace(-3, 4, 29)


@dataclasses.dataclass(frozen=True)
class FittedRidge:
  """An additive predictor.

  Attributes:
    n_choices: `int32[nodes]`.
    coefficients: what each choice adds, `float64[slots]`.
    intercept: the rest.
    covariance: of the coefficients, in squared units of the labels,
      `float64[slots, slots]`.
    centre: mean of the one-hots that were fitted, `float64[slots]`.
    base: variance of the labels' mean.
    info: `alpha`, `noise` (standard deviation of the residuals).
  """

  n_choices: np.ndarray
  coefficients: np.ndarray
  intercept: float
  covariance: np.ndarray
  centre: np.ndarray
  base: float
  info: dict

  def predict(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `Fitted.predict`; the spread is that of Bayesian ridge."""
    archs = check_archs(self.n_choices, archs)
    slots = archs + offsets(self.n_choices)
    mean = self.intercept + self.coefficients[slots].sum(1)
    # (x - c)' S (x - c), as sums over chosen slots.
    inner = self.covariance @ self.centre
    linear = -2 * inner[slots].sum(1)
    square = sum(
      self.covariance[slots[:, i], slots[:, j]]
      for i in range(slots.shape[1])
      for j in range(slots.shape[1])
    )
    variance = square + linear + self.centre @ inner + self.base
    return mean, np.sqrt(np.maximum(variance, 0))


@dataclasses.dataclass(frozen=True)
class Ridge:
  """Ridge regression; its penalty by generalised cross-validation."""

  def fit(self, n_choices, archs, targets, seed, noise=None) -> FittedRidge:
    """See `Predictor.fit`; nothing is drawn, so `seed` decides nothing."""
    del seed
    labels = Labels.of(n_choices, archs, targets, noise)
    x, y, w = one_hot(n_choices, labels.archs), labels.targets, labels.weights
    found = RidgeCV(ALPHAS).fit(x, y, w)
    alpha = float(found.alpha_)
    centre = (w @ x) / w.sum()
    centred = (x - centre) * np.sqrt(w)[:, None]
    gram = centred.T @ centred
    inverse = np.linalg.inv(gram + alpha * np.eye(len(gram)))
    residual = y - found.predict(x)
    free = max(1.0, len(y) - 1 - np.trace(inverse @ gram))
    variance = float(w @ residual**2 / free) * labels.scale**2
    return FittedRidge(
      labels.n_choices,
      found.coef_ * labels.scale,
      float(found.intercept_) * labels.scale + labels.mean,
      inverse * variance,
      centre,
      variance / w.sum(),
      {"alpha": alpha, "noise": variance**0.5},
    )
