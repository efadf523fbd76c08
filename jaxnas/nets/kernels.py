"""Convolutions in several exact forms, and which of them is used where.

XLA's own convolution serves GPU and TPU. Its CPU backend runs grouped
convolutions as a slow generic loop, so there one of these takes its place:

* `shifts`, a sum over shifted views. Its kernel gradient adds sixteen products
  at a time within one fused loop; one reduction over the whole batch for each
  tap would stream the activations from memory k^2 times.
* `positions`, for small maps: every output position reads every input
  position, with a zero weight where the kernel does not reach. No padding,
  which on a 4 x 4 map with a 7 x 7 kernel is five sixths of the data, and the
  kernel gradient is one batched matrix product.

`python -m jaxnas bench kernels` times all of them at the shapes of a space.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Form = Callable[[jax.Array, jax.Array, int], jax.Array]

# Within `estimating(True)` programs are traced as for an accelerator, whatever
# the platform, to be compiled for an estimate and never to be run: the kernel
# gradient of a depthwise convolution is a stand-in of the right shapes. XLA's
# CPU backend would expand it into a dense one, which takes as many times more
# memory and operations as there are channels.
estimating = jax.make_user_context(default_value=False)
STAND_IN = "depthwise_kernel_gradient"

# Products added in one fused loop: fewer are bound by memory, more by code.
TERMS = 16
# Largest map, in positions, on which `positions` computes outputs.
FEW_POSITIONS = 16
# Largest product of input and output positions for its kernel gradient.
FEW_PAIRS = 64 * 64


def _pad(x: jax.Array, pad: int) -> jax.Array:
  return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(pad, pad), (pad, pad), (0, 0)])


def taps(x: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
  """The `kernel^2` shifted views of x, padded by kernel // 2."""
  h, w = x.shape[-3:-1]
  padded = _pad(x, kernel // 2)
  return [
    padded[..., i : i + h : stride, j : j + w : stride, :]
    for i in range(kernel)
    for j in range(kernel)
  ]


# Depthwise: outputs ----------------------------------------------------------


def _shifts(x, kernel, stride):
  k, _, channels = kernel.shape
  weights = kernel.reshape(k * k, channels)
  products = (tap * weights[i] for i, tap in enumerate(taps(x, k, stride)))
  return functools.reduce(jnp.add, products)


@functools.cache
def _pair_taps(h: int, w: int, k: int, stride: int) -> np.ndarray:
  """The tap from each input to each output position, `int[Q, P]`; k^2: none."""

  def axis(n):
    step = np.arange(n)[:, None] - stride * np.arange(-(-n // stride)) + k // 2
    return np.where((step >= 0) & (step < k), step, -1)

  rows, columns = axis(h)[:, None, :, None], axis(w)[None, :, None, :]
  tap = np.where((rows >= 0) & (columns >= 0), rows * k + columns, k * k)
  return tap.reshape(h * w, -1)


def _positions(x, kernel, stride):
  k, _, channels = kernel.shape
  h, w = x.shape[-3:-1]
  flat = jnp.concatenate([kernel.reshape(k * k, channels), 0 * kernel[0, :1]])
  weights = flat[_pair_taps(h, w, k, stride)]
  inputs = x.reshape((*x.shape[:-3], h * w, channels))
  products = (inputs[..., q, None, :] * weights[q] for q in range(h * w))
  y = functools.reduce(jnp.add, products)
  size = (-(-h // stride), -(-w // stride))
  return y.reshape((*x.shape[:-3], *size, channels))


# Depthwise: gradients --------------------------------------------------------


def _input_gradient(form, shape, kernel, g, stride):
  """The gradient in x: g, spread out to x's size, with the kernel turned."""
  if stride > 1:
    axes = ((n, -(-n // stride)) for n in shape[-3:-1])
    gaps = [(0, n - 1 - stride * (m - 1), stride - 1) for n, m in axes]
    edges = [(0, 0, 0)] * (g.ndim - 3) + gaps + [(0, 0, 0)]
    g = jax.lax.pad(g, jnp.zeros((), g.dtype), edges)
  return form(g, kernel[::-1, ::-1], 1)


def _divisor(n: int, most: int) -> int:
  return max(d for d in range(1, min(n, most) + 1) if n % d == 0)


def _kernel_gradient_shifts(x, g, k, stride):
  h, w, channels = g.shape[1:]
  rows = _divisor(h, TERMS)  # of one image, added up
  images = _divisor(len(x), TERMS // rows)
  blocks = h // rows

  def add(total, batch):
    inputs, grads = (a.astype(jnp.float32) for a in batch)
    sums = []
    for i in range(k):
      for j in range(k):
        products = []
        for n in range(images):
          for r in range(rows):
            first = i + r * blocks * stride
            view = inputs[
              n, first : first + blocks * stride : stride,
              j : j + w * stride : stride,
            ]  # fmt: skip
            products.append(view * grads[n, r * blocks : (r + 1) * blocks])
        sums.append(functools.reduce(jnp.add, products))
    return total + jnp.stack(sums), None

  def grouped(a):
    return a.reshape((len(a) // images, images, *a.shape[1:]))

  # The last rows and columns of strided views must stay inside.
  edge = (k // 2, k // 2 + stride)
  padded = jnp.pad(x, [(0, 0), edge, edge, (0, 0)])
  # In float32, as a bfloat16 sum of some hundred images stops growing.
  zero = jnp.zeros((k * k, blocks, w, channels), jnp.float32)
  total, _ = jax.lax.scan(add, zero, (grouped(padded), grouped(g)))
  return total.sum((1, 2)).reshape(k, k, channels)


def _kernel_gradient_positions(x, g, k, stride):
  h, w, channels = x.shape[1:]
  chosen = _pair_taps(h, w, k, stride).reshape(-1)
  choose = (chosen[:, None] == np.arange(k * k)).astype(np.float32)
  pairs = jnp.einsum(
    "bqc,bpc->cqp",
    x.reshape(len(x), -1, channels),
    g.reshape(len(g), -1, channels),
    preferred_element_type=jnp.float32,
  )
  sums = pairs.reshape(channels, -1) @ choose
  return sums.T.reshape(k, k, channels)


def _stand_in(x, g, k, stride):
  def depthwise_kernel_gradient(x, g):
    products = (x[:, ::stride, ::stride] * g).astype(jnp.float32)
    return jnp.broadcast_to(products.sum((0, 1, 2)), (k, k, g.shape[-1]))

  return jax.jit(depthwise_kernel_gradient)(x, g)


# What is used ----------------------------------------------------------------


def _on_cpu(x, kernel, stride):
  few = math.prod(x.shape[-3:-1]) <= FEW_POSITIONS
  form = _positions if few and len(kernel) > 3 else _shifts
  return form(x, kernel, stride)


def _kernel_gradient_on_cpu(x, g, k, stride):
  few = math.prod(x.shape[1:3]) * math.prod(g.shape[1:3]) <= FEW_PAIRS
  small = math.prod(x.shape[1:3]) <= FEW_POSITIONS
  form = (
    _kernel_gradient_positions
    if small or (few and k > 3)
    else _kernel_gradient_shifts
  )
  return form(x, g, k, stride)


def _transposed(form: Form, kernel_gradient: Callable) -> Callable:
  """Gradients `(x, kernel, g, stride) -> (in x, in kernel)` of a form."""

  def run(x, kernel, g, stride):
    def flat(a):
      return a.reshape((-1, *a.shape[-3:]))

    by_kernel = kernel_gradient(flat(x), flat(g), len(kernel), stride)
    by_input = _input_gradient(form, x.shape, kernel, g, stride)
    return by_input, by_kernel.astype(kernel.dtype)

  return run


def _xla_conv(x, kernel, stride, groups):
  """Convolution through XLA; kernel `[k, k, in / groups, out]`."""
  pad = kernel.shape[0] // 2
  y = jax.lax.conv_general_dilated(
    x.reshape((-1, *x.shape[-3:])), kernel, (stride, stride),
    [(pad, pad), (pad, pad)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )  # fmt: skip
  return y.reshape(x.shape[:-3] + y.shape[1:])


def _depthwise_xla(x, kernel, stride):
  return _xla_conv(x, kernel[:, :, None, :], stride, x.shape[-1])


def _dense_xla(x, kernel, stride):
  return _xla_conv(x, kernel, stride, 1)


def _patches(x, kernel, stride):
  # One product over gathered taps: a stack of networks batches well, where
  # XLA would turn stacked kernels into a grouped convolution.
  k, _, cin, cout = kernel.shape
  patches = jnp.concatenate(taps(x, k, stride), -1)
  return patches @ kernel.reshape(k * k * cin, cout)


def _automatic(form: Form) -> Callable:
  """Gradients of a form as JAX derives them."""

  def run(x, kernel, g, stride):
    # Linear in each argument, so no forward pass is left in there.
    form_at = functools.partial(form, stride=stride)
    return jax.vjp(form_at, x, kernel)[1](g)

  return run


def _by_platform(
  on_cpu: Form, on_cpu_transposed: Callable, elsewhere: Form
) -> Form:
  """Joins two forms of one bilinear map; the choice falls at lowering.

  The custom gradient keeps only the two arguments for the backward pass;
  without it both forms' intermediates would be kept.
  """

  def choose(stride, cpu, default, *args):
    if estimating.value:
      return default(*args, stride=stride)
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
    cpu, default = on_cpu_transposed, _automatic(elsewhere)
    if estimating.value and arguments[1].ndim == 3:
      default = _transposed(elsewhere, _stand_in)
    return choose(stride, cpu, default, *arguments, g)

  apply.defvjp(forward, backward)
  return apply


def _form(form: Form, kernel_gradient: Callable) -> Form:
  return _by_platform(form, _transposed(form, kernel_gradient), form)


_depthwise = _by_platform(
  _on_cpu, _transposed(_on_cpu, _kernel_gradient_on_cpu), _depthwise_xla
)
_dense = _by_platform(_patches, _automatic(_patches), _dense_xla)

# All forms by name, for comparison: any platform, any shape.
DEPTHWISE_FORMS: dict[str, Form] = {
  "xla": _depthwise_xla,
  "shifts": _form(_shifts, _kernel_gradient_shifts),
  "positions": _form(_positions, _kernel_gradient_positions),
}
DENSE_FORMS: dict[str, Form] = {"xla": _dense_xla, "patches": _patches}


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


def dilated_conv(
  x: jax.Array, kernel: jax.Array, stride: int, dilation: int
) -> jax.Array:
  """Dense convolution with holes, padding `dilation * (k // 2)`.

  Args:
    x: `[..., H, W, C]`.
    kernel: `[k, k, C, features]`, k odd.
    stride: 1 or 2.
    dilation: distance of neighbouring taps in pixels.
  """
  pad = dilation * (kernel.shape[0] // 2)
  y = jax.lax.conv_general_dilated(
    x.reshape(-1, *x.shape[-3:]), kernel, (stride, stride),
    [(pad, pad), (pad, pad)], rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  return y.reshape(*x.shape[:-3], *y.shape[1:])
