"""The primitive layers: convolutions, batch norm, classifier.

All of them take `[..., B, H, W, C]`: a leading axis, if there is one, counts
paths. Convolutions treat it as more batch; batch norm keeps statistics of each
path apart, which is what supernet training needs.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.nets import initial

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "relu6": jax.nn.relu6,
  "swish": jax.nn.silu,
  "none": lambda x: x,
}


def _taps(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
  """The `kernel^2` shifted views of x, padded by kernel // 2."""
  h, w = x.shape[-3:-1]
  pad = kernel // 2
  widths = [(0, 0)] * (x.ndim - 3) + [(pad, pad), (pad, pad), (0, 0)]
  padded = jnp.pad(x, widths)
  return [
    padded[..., i : i + h : stride, j : j + w : stride, :]
    for i in range(kernel)
    for j in range(kernel)
  ]


def _xla_conv(x, kernel, stride, groups):
  """Convolution through XLA; kernel `[k, k, in / groups, out]`."""
  pad = kernel.shape[0] // 2
  y = jax.lax.conv_general_dilated(
    x.reshape((-1, *x.shape[-3:])), kernel, (stride, stride),
    [(pad, pad), (pad, pad)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )  # fmt: skip
  return y.reshape(x.shape[:-3] + y.shape[1:])


def _depthwise_taps(x, kernel, stride):
  k, _, channels = kernel.shape
  weights = kernel.reshape(k * k, channels)
  taps = _taps(x, k, stride)
  return functools.reduce(
    jnp.add, (tap * weights[i] for i, tap in enumerate(taps))
  )


def _depthwise_taps_transpose(x, kernel, g, stride):
  """Gradients of `_depthwise_taps` in x and kernel."""
  by_input = functools.partial(_depthwise_taps, kernel=kernel, stride=stride)
  k = kernel.shape[0]

  # One image at a time, accumulating: a single reduction over the whole batch
  # for each tap streams the activations from memory k^2 times. In float32, as
  # a bfloat16 sum of some hundred images stops growing.
  def add_image(total, image):
    inputs, grads = (a.astype(jnp.float32) for a in image)
    taps = _taps(inputs, k, stride)
    return total + jnp.stack([(t * grads).sum((0, 1)) for t in taps]), None

  def flat(a):
    return a.reshape((-1, *a.shape[-3:]))

  zero = jnp.zeros((k * k, kernel.shape[-1]), jnp.float32)
  total, _ = jax.lax.scan(add_image, zero, (flat(x), flat(g)))
  by_kernel = total.reshape(kernel.shape).astype(kernel.dtype)
  return jax.vjp(by_input, x)[1](g)[0], by_kernel


def _depthwise_xla(x, kernel, stride):
  return _xla_conv(x, kernel[:, :, None, :], stride, x.shape[-1])


def _dense_taps(x, kernel, stride):
  # One product over gathered taps: a stack of networks batches well, where
  # XLA would turn stacked kernels into a grouped convolution.
  k, _, cin, cout = kernel.shape
  patches = jnp.concatenate(_taps(x, k, stride), -1)
  return patches @ kernel.reshape(k * k * cin, cout)


def _dense_xla(x, kernel, stride):
  return _xla_conv(x, kernel, stride, 1)


Form = Callable[[jax.Array, jax.Array, int], jax.Array]


def _by_platform(
  on_cpu: Form, elsewhere: Form, on_cpu_transpose: Callable | None = None
) -> Form:
  """Joins two forms of one bilinear map; the choice falls at lowering.

  The custom gradient keeps only the two arguments for the backward pass;
  without it both forms' intermediates would be kept.
  """

  def transpose(form):
    # Linear in each argument, so no forward pass is left in there.
    def run(x, kernel, g, stride):
      form_at = functools.partial(form, stride=stride)
      return jax.vjp(form_at, x, kernel)[1](g)

    return run

  def choose(stride, cpu, default, *args):
    return jax.lax.platform_dependent(
      *args,
      cpu=functools.partial(cpu, stride=stride),
      default=functools.partial(default, stride=stride),
    )

  @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
  def apply(x, kernel, stride):
    return choose(stride, on_cpu, elsewhere, x, kernel)

  def forward(x, kernel, stride):
    return apply(x, kernel, stride), (x, kernel)

  def backward(stride, arguments, g):
    cpu = on_cpu_transpose or transpose(on_cpu)
    return choose(stride, cpu, transpose(elsewhere), *arguments, g)

  apply.defvjp(forward, backward)
  return apply


# XLA's CPU backend runs grouped convolutions as a slow generic loop: there a
# sum over shifted views takes their place.
_depthwise = _by_platform(
  _depthwise_taps, _depthwise_xla, _depthwise_taps_transpose
)
_dense = _by_platform(_dense_taps, _dense_xla)


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Depthwise convolution with padding k // 2.

  Args:
    x: `[..., H, W, C]`.
    kernel: `[k, k, C]`, k odd.
    stride: 1 or 2.

  Returns:
    `[..., ceil(H / stride), ceil(W / stride), C]`.
  """
  return _depthwise(x, kernel, stride)


def dense_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Dense convolution with padding k // 2; kernel `[k, k, C, features]`."""
  return _dense(x, kernel, stride)


class Conv(nn.Module):
  """Dense k x k convolution without bias, padding k // 2."""

  features: int
  kernel: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` to `[..., H / stride, W / stride, features]`."""
    k, cin = self.kernel, x.shape[-1]
    if k == 1:
      weights = self.param("kernel", initial.kernel, (cin, self.features))
      if self.stride > 1:
        x = x[..., :: self.stride, :: self.stride, :]
      return x @ weights.astype(x.dtype)
    shape = (k, k, cin, self.features)
    weights = self.param("kernel", initial.kernel, shape)
    return dense_conv(x, weights.astype(x.dtype), self.stride)


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


class BatchNorm(nn.Module):
  """Batch norm that either uses stored statistics or measures and emits them.

  Measuring stores the *raw* statistics of this very batch in the collection
  `batch_stats` (when it is mutable): `[C]`, or `[K, C]` with a path axis. How
  they enter running averages is the caller's decision, which is how one module
  serves training, recalibration and evaluation.

  Attributes:
    affine: whether there are scale and shift.
    epsilon: added to the variance.
  """

  affine: bool = True
  epsilon: float = 1e-5

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
      wide = x.astype(jnp.float32)
      mean = wide.mean((-4, -3, -2))
      var = jnp.square(wide).mean((-4, -3, -2)) - jnp.square(mean)
      var = jnp.maximum(var, 0.0)  # rounding may leave a tiny negative
      if (
        self.is_mutable_collection("batch_stats") and not self.is_initializing()
      ):
        mean_var.value, var_var.value = mean, var
      mean, var = (s[..., None, None, None, :] for s in (mean, var))
    scale = jax.lax.rsqrt(var + self.epsilon)
    shift = -mean * scale
    if self.affine:
      gamma = self.param("scale", initial.ones, (channels,))
      beta = self.param("bias", initial.zeros, (channels,))
      scale, shift = scale * gamma, shift * gamma + beta
    return (x * scale + shift).astype(x.dtype)


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
