"""What each layer puts out on fixed images: features of a network (DC-NAS).

From the output features of each layer (paper, arXiv 2005.14456, abstract);
pooling and projection are ours.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.nets.paths import PathSupernet, Variables


def pooled(x: jax.Array) -> jax.Array:
  """Summary of activations that the order of channels does not change.

  Args:
    x: `[..., B, H, W, C]`.

  Returns:
    Mean and standard deviation over channels of the mean over places,
    `float32[..., B, 2]`.
  """
  channels = x.astype(jnp.float32).mean((-3, -2))
  return jnp.stack([channels.mean(-1), channels.std(-1)], -1)


def layer_outputs(
  supernet: PathSupernet,
  variables: Variables,
  arch: jax.Array,
  images: jax.Array,
  stored: bool,
) -> jax.Array:
  """Pooled outputs of the searched layers of one path.

  Args:
    supernet: the network.
    variables: of the supernet.
    arch: `int32[L]`, may be traced.
    images: `float32[B, H, W, C]`, normalised.
    stored: use stored batch-norm statistics, else those of these images.

  Returns:
    `float32[L, B, 2]`.
  """
  x = supernet.cast(images)
  x, _ = supernet.apply_fixed("stem", variables, x, stored)
  out = []
  for l in range(supernet.space.n_layers):
    x, _ = supernet.switch_layer(l, arch[l], variables, x, stored)
    out.append(pooled(x))
  return jnp.stack(out)


@functools.partial(jax.jit, static_argnums=0)
def cohort_outputs(
  supernet: PathSupernet,
  variables: Variables,
  archs: jax.Array,
  images: jax.Array,
) -> jax.Array:
  """Pooled outputs of the searched layers of a cohort's networks.

  With the statistics of these images: the running ones of fresh networks are
  those of no images at all. All sets of n archs share one compiled program.

  Args:
    supernet: what each network holds a copy of.
    variables: of the cohort, every leaf `[n, ...]`.
    archs: `int32[n, L]`.
    images: `float32[B, H, W, C]`, normalised.

  Returns:
    `float32[n, L, B, 2]`.
  """
  return jax.lax.map(
    lambda one: layer_outputs(supernet, *one, images, stored=False),
    (variables, archs),
  )


def project(outputs: np.ndarray, q: int, seed: int) -> np.ndarray:
  """Projects pooled outputs by one random matrix for all layers and archs.

  Entries are N(0, 1 / 2B), so that a projected number is as large as a pooled
  one on average.

  Args:
    outputs: `float[n, L, B, 2]`.
    q: numbers that are left of a layer.
    seed: of the matrix.

  Returns:
    `float64[n, L, q]`.
  """
  n, l, b, two = outputs.shape
  rng = np.random.default_rng(seed)
  matrix = rng.standard_normal((b * two, q)) / np.sqrt(b * two)
  with np.errstate(invalid="ignore"):  # outputs of networks that diverged
    return np.asarray(outputs, np.float64).reshape(n, l, -1) @ matrix
