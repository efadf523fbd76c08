"""Slow definitions in NumPy that several tests compare with."""

import numpy as np


def conv_reference(x, kernel, stride, g=None):
  """Dense convolution with padding k // 2, by definition, in float64.

  With `g` it returns the gradients of `(conv * g).sum()` in x and kernel.
  """
  k, pad = kernel.shape[0], kernel.shape[0] // 2
  b, h, w, _ = x.shape
  out = -(-h // stride), -(-w // stride)
  y = np.zeros((b, *out, kernel.shape[-1]))
  dx, dk = np.zeros(x.shape), np.zeros(kernel.shape)
  for i, j, p, q in np.ndindex(*out, k, k):
    r, s = i * stride + p - pad, j * stride + q - pad
    if 0 <= r < h and 0 <= s < w:
      y[:, i, j] += x[:, r, s].astype(np.float64) @ kernel[p, q]
      if g is not None:
        dx[:, r, s] += g[:, i, j] @ kernel[p, q].T
        dk[p, q] += x[:, r, s].T.astype(np.float64) @ g[:, i, j]
  return y if g is None else (y, dx, dk)


def diagonal(kernel):
  """A depthwise kernel `[k, k, C]` as a dense one."""
  return kernel[..., None] * np.eye(kernel.shape[-1])


def draw(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.standard_normal(s).astype(np.float32) for s in shapes]
