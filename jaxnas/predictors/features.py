"""Archs as numbers: one-hot choices, node by node."""

import numpy as np


def offsets(n_choices: np.ndarray) -> np.ndarray:
  """First slot of each node, `int32[nodes]`."""
  return (np.cumsum(n_choices) - n_choices).astype(np.int32)


def one_hot(n_choices: np.ndarray, archs: np.ndarray) -> np.ndarray:
  """Choices as 0 and 1.

  Args:
    n_choices: choices of each node, `int[nodes]`.
    archs: `int32[n, nodes]`.

  Returns:
    `float64[n, slots]`, the slots of node 0 first; `slots` is the sum of
    `n_choices`.
  """
  x = np.zeros((len(archs), int(np.sum(n_choices))))
  x[np.arange(len(archs))[:, None], archs + offsets(n_choices)] = 1.0
  return x
