"""The primitive layers: convolutions, batch norm, classifier.

All of them take `[..., B, H, W, C]`: a leading axis, if there is one, counts
paths. Convolutions treat it as more batch; batch norm keeps statistics of each
path apart, which is what supernet training needs.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.nets import initial
from jaxnas.nets.kernels import dense_conv, depthwise_conv

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "relu6": jax.nn.relu6,
  "swish": jax.nn.silu,
  "none": lambda x: x,
}


class Conv(nn.Module):
  """Dense k x k convolution, padding k // 2."""

  features: int
  kernel: int = 1
  stride: int = 1
  bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` to `[..., H / stride, W / stride, features]`."""
    k, cin = self.kernel, x.shape[-1]
    if k == 1:
      weights = self.param("kernel", initial.kernel, (cin, self.features))
      if self.stride > 1:
        x = x[..., :: self.stride, :: self.stride, :]
      y = x @ weights.astype(x.dtype)
    else:
      shape = (k, k, cin, self.features)
      weights = self.param("kernel", initial.kernel, shape)
      y = dense_conv(x, weights.astype(x.dtype), self.stride)
    if self.bias:
      bias = self.param("bias", initial.zeros, (self.features,))
      y = y + bias.astype(y.dtype)
    return y


class DepthwiseConv(nn.Module):
  """Depthwise k x k convolution without bias, padding k // 2."""

  kernel: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` to `[..., H / stride, W / stride, C]`."""
    k, channels = self.kernel, x.shape[-1]
    weights = self.param("kernel", initial.kernel, (k, k, channels))
    return depthwise_conv(x, weights.astype(x.dtype), self.stride)


Moments = tuple[jax.Array, jax.Array]  # mean and variance
EPSILON = 1e-5  # added to the variance of batch norm


@dataclasses.dataclass(frozen=True)
class Measuring:
  """Which images batch norm measures together, while it is being traced.

  Attributes:
    parts: equal parts of the batch that are measured apart.
    axis: mesh axis over which the images of a batch are spread by hand.
    weights: of the images of this device, `float32[B]`, in all proportional to
      1 or, for padding, 0; None weighs all alike.
  """

  parts: int = 1
  axis: str | None = None
  weights: jax.Array | None = None


_WHOLE_BATCH = Measuring()
_MEASURING = contextvars.ContextVar("measuring", default=_WHOLE_BATCH)


@contextlib.contextmanager
def measuring(**changes: Any) -> Iterator[None]:
  """Changes how batch norm measures inside, by fields of `Measuring`."""
  token = _MEASURING.set(dataclasses.replace(_MEASURING.get(), **changes))
  try:
    yield
  finally:
    _MEASURING.reset(token)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and variance over B, H and W of `[..., B, H, W, C]`: `[..., C]`.

  Inside `measuring` B counts the images of all devices along the axis, or each
  part of the batch gives moments of its own, `[..., parts, C]`.
  """
  how, wide = _MEASURING.get(), x.astype(jnp.float32)
  if how.parts > 1:
    parts = how.parts
    if how.axis is not None:  # whole parts on every device
      parts //= jax.lax.axis_size(how.axis)
    wide = wide.reshape(*x.shape[:-4], parts, -1, *x.shape[-3:])

  def average(a):
    if how.axis is None or how.parts > 1:
      return a.mean((-4, -3, -2))
    by_image = a.mean((-3, -2))
    weights = how.weights
    if weights is None:
      weights = jnp.ones(by_image.shape[-2])
    sums = (weights[:, None] * by_image).sum(-2), weights.sum()
    total, count = jax.lax.psum(sums, how.axis)
    return total / count

  mean = average(wide)
  var = average(jnp.square(wide)) - jnp.square(mean)
  return mean, jnp.maximum(var, 0.0)  # rounding may leave a tiny negative


def measure(x: jax.Array) -> tuple[Moments, Moments]:
  """Moments of `[..., B, H, W, C]`, to be used and to be kept.

  Returns:
    Mean and variance that broadcast against x; and those of the whole batch,
    `[..., C]`, which are means over its parts if it is measured in parts.
  """
  how, own = _MEASURING.get(), moments(x)
  if how.parts == 1:
    return tuple(s[..., None, None, None, :] for s in own), own
  repeats = x.shape[-4] // own[0].shape[-2]
  used = tuple(jnp.repeat(s, repeats, -2)[..., None, None, :] for s in own)
  kept = tuple(s.mean(-2) for s in own)
  return used, kept if how.axis is None else jax.lax.pmean(kept, how.axis)


def standardize(
  x: jax.Array,
  mean: jax.Array,
  var: jax.Array,
  gamma: jax.Array | float,
  beta: jax.Array | float,
) -> jax.Array:
  """Batch norm of x with given statistics, scale and shift."""
  scale = jax.lax.rsqrt(var + EPSILON)
  shift = -mean * scale
  return (x * (scale * gamma) + (shift * gamma + beta)).astype(x.dtype)


class BatchNorm(nn.Module):
  """Batch norm that either uses stored statistics or measures and emits them.

  Measuring stores the *raw* statistics of this very batch in the collection
  `batch_stats` (when it is mutable): `[C]`, or `[K, C]` with a path axis. How
  they enter running averages is the caller's decision, which is how one module
  serves training, recalibration and evaluation.

  Attributes:
    affine: whether there are scale and shift.
  """

  affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, stored: bool) -> jax.Array:
    """Normalises `[..., B, H, W, C]` over B, H and W.

    Args:
      x: activations.
      stored: use the statistics in `batch_stats`, else those of `x`.
    """
    channels = x.shape[-1]
    mean_var = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
    var_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
    if stored:
      mean, var = mean_var.value, var_var.value
    else:
      (mean, var), kept = measure(x)
      if (
        self.is_mutable_collection("batch_stats") and not self.is_initializing()
      ):
        mean_var.value, var_var.value = kept
    gamma, beta = 1.0, 0.0
    if self.affine:
      gamma = self.param("scale", initial.ones, (channels,))
      beta = self.param("bias", initial.zeros, (channels,))
    return standardize(x, mean, var, gamma, beta)


class BiasedPointwise(nn.Module):
  """1x1 convolution with bias."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., C]` to `[..., features]`."""
    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", initial.kernel, shape)
    bias = self.param("bias", initial.zeros, (self.features,))
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


class SqueezeExcite(nn.Module):
  """Squeeze-and-excitation with biased 1x1 convolutions (timm, FairNAS-SE)."""

  narrow: int
  act: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Gates the channels of `[..., H, W, C]`."""
    channels = x.shape[-1]
    pooled = x.mean((-3, -2), keepdims=True)
    for name, features, act in (
      ("reduce", self.narrow, ACTIVATIONS[self.act]),
      ("expand", channels, jax.nn.sigmoid),
    ):
      pooled = act(BiasedPointwise(features, name=name)(pooled))
    return x * pooled


class Classifier(nn.Module):
  """Global average pooling, dropout, linear layer with bias, in float32."""

  n_classes: int

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    dropout: float = 0.0,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """`[..., B, H, W, C]` to logits `float32[..., B, n_classes]`.

    Args:
      x: activations.
      dropout: rate; needs `key` when above 0.
      key: PRNG key of the dropout mask.
    """
    x = x.astype(jnp.float32).mean((-3, -2))
    if dropout:
      keep = jax.random.bernoulli(key, 1.0 - dropout, x.shape)
      x = jnp.where(keep, x / (1.0 - dropout), 0.0)
    shape = (x.shape[-1], self.n_classes)
    kernel = self.param("linear", initial.linear, shape)
    bias = self.param("bias", initial.zeros, (self.n_classes,))
    return x @ kernel + bias
