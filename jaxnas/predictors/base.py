"""What all predictors share: their contract, checks of labels, chunks."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError

LEAST = 4  # labels without which no fit is worth its name
CHUNK = 1024  # archs predicted by one call; what a layer makes stays in caches


class Fitted(Protocol):
  """A fitted predictor.

  Attributes:
    info: what the fit found, JSON-able: `epochs`, `noise` and the like.
  """

  info: dict

  def predict(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicts the labels of archs.

    Args:
      archs: `int32[m, nodes]`.

    Returns:
      Mean and spread, `float64[m]` each, in the unit of the labels. The spread
      is the standard deviation of what the predictor does not know about the
      mean; the labels' own noise is not in it.
    """
    ...


class Predictor(Protocol):
  """A way to predict labels of archs from labels of others."""

  def fit(
    self,
    n_choices: np.ndarray,
    archs: np.ndarray,
    targets: np.ndarray,
    seed: int,
    noise: np.ndarray | None = None,
  ) -> Fitted:
    """Fits the predictor.

    Args:
      n_choices: choices of each node, `int[nodes]`.
      archs: `int32[n, nodes]`.
      targets: labels, `float[n]`, such as accuracies; larger need not be
        better.
      seed: decides all that is drawn.
      noise: standard deviations of the labels' errors *relative to each other*,
        `float[n]` above 0, as where one label is the mean of more scores than
        another; their common scale is found from the labels. None says that
        all are equal.

    Raises:
      UserError: for labels that do not fit the archs, are not finite or are
        fewer than 4.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Labels:
  """Checked labels, standardised.

  Attributes:
    n_choices: `int32[nodes]`.
    archs: `int32[n, nodes]`.
    targets: `float64[n]`, mean 0 and standard deviation 1 (all 0 if the labels
      are equal).
    weights: of the labels, inverse variances of their noise with mean 1,
      `float64[n]`.
    mean: of the labels.
    scale: their standard deviation, or 1 where that is 0.
  """

  n_choices: np.ndarray
  archs: np.ndarray
  targets: np.ndarray
  weights: np.ndarray
  mean: float
  scale: float

  @classmethod
  def of(cls, n_choices, archs, targets, noise=None) -> "Labels":
    """Checks and standardises; see `Predictor.fit`."""
    n_choices = np.asarray(n_choices, np.int32)
    archs = check_archs(n_choices, archs)
    y = np.asarray(targets, np.float64)
    if y.shape != (len(archs),):
      raise UserError(
        f"{len(archs)} archs have labels of shape {y.shape}; one number for"
        " each is needed."
      )
    y, weights = check_targets(y, noise)
    mean, scale = float(y.mean()), float(y.std())
    # Equal labels differ by rounding at most.
    scale = scale if scale > 1e-12 * max(1.0, abs(mean)) else 1.0
    return cls(n_choices, archs, (y - mean) / scale, weights, mean, scale)


def check_targets(
  targets: np.ndarray, noise: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """Checks labels and their noise.

  Returns:
    The labels and their weights, inverse variances with mean 1.

  Raises:
    UserError: for too few labels, one that is not finite, or noise that is not
      above 0.
  """
  y = np.asarray(targets, np.float64)
  if len(y) < LEAST:
    raise UserError(f"{len(y)} labels; a predictor needs at least {LEAST}.")
  if not np.isfinite(y).all():
    row = int(np.flatnonzero(~np.isfinite(y))[0])
    raise UserError(f"label {row} is {y[row]}; labels have to be finite.")
  if noise is None:
    return y, np.ones_like(y)
  noise = np.asarray(noise, np.float64)
  if noise.shape != y.shape or not (np.isfinite(noise) & (noise > 0)).all():
    raise UserError(
      f"noise has to be {len(y)} finite numbers above 0, one for each label."
    )
  weights = 1 / noise**2
  return y, weights / weights.mean()


def check_archs(n_choices: np.ndarray, archs: np.ndarray) -> np.ndarray:
  """Returns archs as `int32[n, nodes]`.

  Raises:
    UserError: naming the first arch that is none of the nodes' choices.
  """
  archs = np.asarray(archs)
  if archs.ndim != 2 or archs.shape[1] != len(n_choices):
    raise UserError(
      f"archs have shape {archs.shape}; (n, {len(n_choices)}) is needed, one"
      " choice for each node."
    )
  archs = archs.astype(np.int32)
  wrong = (archs < 0) | (archs >= n_choices)
  if wrong.any():
    row, node = (int(i[0]) for i in np.nonzero(wrong))
    raise UserError(
      f"arch {arch_lib.to_string(archs[row])!r} has choice {archs[row, node]}"
      f" at node {node}; legal: 0 to {n_choices[node] - 1}."
    )
  return archs


def in_chunks(
  run: Callable[[np.ndarray], tuple],
  archs: np.ndarray,
  chunk: int = CHUNK,
) -> tuple[np.ndarray, ...]:
  """Applies a compiled function to archs, a fixed number at a time.

  Args:
    run: of `int32[size, nodes]`, to arrays with rows alike.
    archs: `int32[m, nodes]`.
    chunk: largest size; smaller sets are padded to the next power of two, so
      that few programs are compiled.

  Returns:
    What `run` returns, rows put together, as `float64`.
  """
  if not len(archs):
    shapes = run(np.zeros((1, archs.shape[1]), np.int32))
    return tuple(np.zeros((0, *np.shape(s)[1:])) for s in shapes)
  size = min(chunk, 1 << max(0, len(archs) - 1).bit_length())
  parts = []
  for begin in range(0, len(archs), size):
    rows = archs[begin : begin + size]
    filled = np.zeros((size, archs.shape[1]), np.int32)
    filled[: len(rows)] = rows
    parts.append([np.asarray(r)[: len(rows)] for r in run(filled)])
  return tuple(
    np.concatenate(column).astype(np.float64)
    for column in zip(*parts, strict=True)
  )
