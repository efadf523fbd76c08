"""Losses against hand computations."""

import numpy as np
import pytest

from jaxnas.nets.losses import correct, cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((2, 3, 5)).astype(np.float32) * 3
  labels = rng.integers(0, 5, (2, 3))
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  targets = np.full((2, 3, 5), smoothing / 5)
  np.put_along_axis(targets, labels[..., None], 1 - smoothing * 4 / 5, -1)
  expected = -(targets * log_p).sum(-1)
  got = cross_entropy(logits, labels, smoothing)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  # Labels of one batch serve all paths.
  both = cross_entropy(logits, labels[0], smoothing)
  np.testing.assert_allclose(both[0], expected[0], rtol=1e-5)


def test_nan_is_never_correct():
  logits = np.array(
    [[2.0, 1.0], [1.0, 2.0], [np.nan, 1.0], [3.0, np.nan], [np.inf, 0.0]],
    np.float32,
  )
  labels = np.zeros(5, np.int32)
  expected = [True, False, False, False, False]
  np.testing.assert_array_equal(correct(logits, labels), expected)
