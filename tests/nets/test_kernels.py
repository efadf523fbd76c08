"""Convolutions against slow NumPy references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import conv_reference, diagonal, draw
from tiny import close

from jaxnas.nets import kernels


def with_gradients(form, stride):
  """`(x, kernel, g) -> (y, dx, dkernel)`, jitted."""

  def run(x, kernel, g):
    y, pull = jax.vjp(lambda a, b: form(a, b, stride), x, kernel)
    return y, *pull(g)

  return jax.jit(run)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_depthwise_equals_definition_and_xla(k, stride):
  h, w, c = 7, 6, 3  # an odd and an even side, smaller than the padded kernel
  out = -(-h // stride), -(-w // stride)
  x, kernel, g = draw(k, (2, h, w, c), (k, k, c), (2, *out, c))
  y, dx, dk = conv_reference(x, diagonal(kernel), stride, g)
  expected = (y, dx, np.einsum("pqcc->pqc", dk))
  got = with_gradients(kernels.depthwise_conv, stride)(x, kernel, g)
  close(got, tuple(expected), 1e-4, 1e-4)
  xla = with_gradients(kernels.DEPTHWISE_FORMS["xla"], stride)(x, kernel, g)
  close(got, xla, 1e-4, 1e-4)


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_dense_equals_definition_and_xla(k, stride):
  h, w = 5, 6
  out = -(-h // stride), -(-w // stride)
  x, kernel, g = draw(k, (2, h, w, 3), (k, k, 3, 4), (2, *out, 4))
  expected = conv_reference(x, kernel, stride, g)
  got = with_gradients(kernels.dense_conv, stride)(x, kernel, g)
  close(got, expected, 1e-4, 1e-4)
  xla = with_gradients(kernels.DENSE_FORMS["xla"], stride)(x, kernel, g)
  close(got, xla, 1e-4, 1e-4)


def test_padding_is_explicit_not_same():
  # XLA's SAME pads an even side with stride 2 on the far edge only.
  x = np.zeros((1, 4, 4, 1), np.float32)
  x[0, 0, 0] = 1
  kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
  y = kernels.depthwise_conv(x, kernel, 2)
  assert y[0, 0, 0, 0] == kernel[1, 1, 0]


@pytest.mark.parametrize("form", ["depthwise", "dense"])
def test_convolution_under_vmap_and_with_a_path_axis(form):
  conv = getattr(kernels, f"{form}_conv")
  shape = (3, 3, 3) if form == "depthwise" else (3, 3, 3, 4)
  features = shape[-1]
  x, ws, g = draw(0, (2, 3, 5, 5, 3), (2, *shape), (2, 3, 3, 3, features))
  run = with_gradients(conv, 2)
  batched = jax.jit(jax.vmap(run))(x, ws, g)
  alone = [run(*args) for args in zip(x, ws, g, strict=True)]
  close(batched, tuple(np.stack(p) for p in zip(*alone, strict=True)))
  # A path axis that shares one kernel is more batch.
  y, dx, dk = run(x, ws[0], g)
  flat = run(x.reshape(-1, 5, 5, 3), ws[0], g.reshape(-1, 3, 3, features))
  close((y.reshape(-1, 3, 3, features), dx.reshape(-1, 5, 5, 3), dk), flat)


def test_depthwise_in_bfloat16_is_close_and_sums_in_float32():
  n, c = 600, 2
  x, kernel = draw(0, (n, 5, 5, c), (3, 3, c))
  x, kernel = jnp.bfloat16(x), jnp.bfloat16(kernel)
  g = jnp.ones((n, 5, 5, c), jnp.bfloat16)
  run = with_gradients(kernels.depthwise_conv, 1)
  got = run(x, kernel, g)
  wide = run(*(a.astype(jnp.float32) for a in (x, kernel, g)))
  assert all(a.dtype == jnp.bfloat16 for a in got)
  for a, b in zip(got, wide, strict=True):
    a = np.asarray(a, np.float32)
    np.testing.assert_allclose(a, b, rtol=0.02, atol=0.06)
  # Many equal terms: a running bfloat16 sum would stop growing at 256.
  _, _, dk = run(jnp.ones_like(x), kernel, g)
  np.testing.assert_allclose(np.float32(dk[1, 1]), n * 25, rtol=0.01)


# Sizes on both sides of every rule that chooses a form, and sides that sixteen
# does not divide.
@pytest.mark.parametrize("form", [*kernels.DEPTHWISE_FORMS, "used"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
  ("size", "k"), [(1, 3), (3, 7), (4, 3), (4, 5), (8, 3), (8, 5), (18, 3)]
)
def test_every_depthwise_form_equals_the_definition(form, size, k, stride):
  run = kernels.DEPTHWISE_FORMS.get(form, kernels.depthwise_conv)
  out = -(-size // stride)
  x, kernel, g = draw(size, (3, size, size, 2), (k, k, 2), (3, out, out, 2))
  y, dx, dk = conv_reference(x, diagonal(kernel), stride, g)
  expected = (y, dx, np.einsum("pqcc->pqc", dk))
  close(with_gradients(run, stride)(x, kernel, g), expected, 1e-4, 1e-4)
