"""Depthwise convolutions on CPU: the forms that were tried, timed.

`python docs/studies/kernels.py` prints, for maps of several sizes, milliseconds
(the fastest of several calls) of the forward pass and of the kernel gradient in
each form, and the seconds it took to compile. What the nets use is in
`jaxnas/nets/kernels.py`; `python -m jaxnas bench kernels` times that alone.
"""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas.memory import keep_freed_memory
from jaxnas.nets import kernels

# Size, channels, images.
MAPS = ((4, 1152, 192), (8, 288, 192), (16, 120, 192), (32, 96, 192))


def _pad(x, k):
  p = k // 2
  return jnp.pad(x, [(0, 0), (p, p), (p, p), (0, 0)])


def _add(terms):
  return functools.reduce(jnp.add, terms)


# Forward ----------------------------------------------------------------------


def barrier(x, w):
  """Shifted views of a padded copy that is really made."""
  h, v, k = *x.shape[1:3], len(w)
  xp = lax.optimization_barrier(_pad(x, k))
  pairs = [(i, j) for i in range(k) for j in range(k)]
  return _add(xp[:, i : i + h, j : j + v] * w[i, j] for i, j in pairs)


def rows(x, w):
  """One kernel row at a time."""
  h, v, k = *x.shape[1:3], len(w)
  xp, total = lax.optimization_barrier(_pad(x, k)), jnp.zeros_like(x)
  for i in range(k):
    row = _add(xp[:, i : i + h, j : j + v] * w[i, j] for j in range(k))
    total = lax.optimization_barrier(total + row)
  return total


def flat(x, w):
  """Contiguous shifts of flattened rows, the overhang cut off at the end."""
  (b, h, v, c), k = x.shape, len(w)
  p, wide = k // 2, v + 2 * (k // 2)
  xp = jnp.pad(x, [(0, 0), (p, p + 1), (p, p), (0, 0)])
  xf = lax.optimization_barrier(xp.reshape(b, -1, c))
  at = [(i * wide + j, w[i, j]) for i in range(k) for j in range(k)]
  y = _add(xf[:, n : n + h * wide] * weight for n, weight in at)
  return y.reshape(b, h, wide, c)[:, :, :v]


def channels_first(x, w):
  """Shifted views with channels outermost, layout changes not included."""
  h, v, k = *x.shape[2:], len(w)
  p = k // 2
  xp = lax.optimization_barrier(jnp.pad(x, [(0, 0), (0, 0), (p, p), (p, p)]))
  pairs = [(i, j) for i in range(k) for j in range(k)]
  return _add(
    xp[:, :, i : i + h, j : j + v] * w[i, j][:, None, None, None]
    for i, j in pairs
  )


# Kernel gradient --------------------------------------------------------------


def scan(x, g, k, images):
  """One reduction per tap over some images at a time."""
  h, v = g.shape[1:3]

  def step(total, batch):
    a, d = batch
    pairs = [(i, j) for i in range(k) for j in range(k)]
    sums = [(a[:, i : i + h, j : j + v] * d).sum((0, 1, 2)) for i, j in pairs]
    return total + jnp.stack(sums), None

  def cut(a):
    return a.reshape((-1, images, *a.shape[1:]))

  zero = jnp.zeros((k * k, x.shape[-1]))
  return lax.scan(step, zero, (cut(_pad(x, k)), cut(g)))[0]


def unrolled(x, g, k, terms):
  """Some rows of one image added in one fused loop, column sums kept."""
  h, v, c = g.shape[1:]
  n = h // terms

  def step(total, batch):
    a, d = batch
    pairs = [(i, j) for i in range(k) for j in range(k)]
    sums = [
      _add(
        a[i + q * n : i + (q + 1) * n, j : j + v] * d[q * n : (q + 1) * n]
        for q in range(terms)
      )
      for i, j in pairs
    ]
    return total + jnp.stack(sums), None

  zero = jnp.zeros((k * k, n, v, c))
  return lax.scan(step, zero, (_pad(x, k), g))[0].sum((1, 2))


def row_products(x, g, k):
  """A matrix product for each kernel row, its diagonals summed."""
  (b, h, v, c), p = x.shape, k // 2
  steps = np.arange(v)[:, None] - np.arange(v) + p
  choose = (steps.reshape(-1, 1) == np.arange(k)).astype(np.float32)
  xp = jnp.pad(x, [(0, 0), (p, p), (0, 0), (0, 0)]).transpose(3, 2, 0, 1)
  gt = g.transpose(3, 0, 1, 2).reshape(c, b * h, v)
  products = jnp.stack([
    jnp.einsum("cqn,cnp->cqp", xp[..., i : i + h].reshape(c, v, b * h), gt)
    for i in range(k)
  ])  # fmt: skip
  return jnp.einsum("kcn,nt->ktc", products.reshape(k, c, -1), choose)


# Timing -----------------------------------------------------------------------


def _clock(form, *arguments):
  began = time.perf_counter()
  program = jax.jit(form).lower(*arguments).compile()
  compiling = time.perf_counter() - began
  jax.block_until_ready(program(*arguments))
  best = float("inf")
  for _ in range(7):
    began = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    best = min(best, time.perf_counter() - began)
  return f"{best * 1e3:.1f} ({compiling:.1f} s)"


def main(maps=MAPS, kernel_sizes=(3, 7)):
  """Times all forms; `maps` as `MAPS`."""
  keep_freed_memory()
  forms = kernels.DEPTHWISE_FORMS
  for size, c, b in maps:
    draw = functools.partial(np.random.default_rng(0).standard_normal)
    x, g = (jnp.asarray(draw((b, size, size, c)), jnp.float32) for _ in "xg")
    for k in kernel_sizes:
      w = jnp.asarray(draw((k, k, c)), jnp.float32)
      forward = {
        "shifts": lambda x, w: forms["shifts"](x, w, 1),
        "barrier": barrier, "rows": rows, "flat": flat,
      }  # fmt: skip
      gradient = {
        "scan 1": functools.partial(scan, k=k, images=1),
        "scan 8": functools.partial(scan, k=k, images=8),
        "scan all": functools.partial(scan, k=k, images=b),
        "row products": functools.partial(row_products, k=k),
        **{
          f"unrolled {n}": functools.partial(unrolled, k=k, terms=n)
          for n in (4, 8, 16, 32)
          if n <= size
        },
      }
      if size <= 8:
        gradient["positions"] = lambda x, g, k=k: (
          kernels._kernel_gradient_positions(x, g, k, 1)
        )
      gradient["used"] = lambda x, g, k=k: kernels._kernel_gradient_on_cpu(
        x, g, k, 1
      )
      print(f"{size} x {size} x {c}, {b} images, kernel {k}")
      if size <= 4:
        positions = functools.partial(forms["positions"], stride=1)
        forward["positions"] = positions
      times = {n: _clock(f, x, w) for n, f in forward.items()}
      times["channels first"] = _clock(
        channels_first, x.transpose(3, 0, 1, 2), w
      )
      print(
        "  forward        ", ", ".join(f"{n} {t}" for n, t in times.items())
      )
      times = {n: _clock(f, x, g) for n, f in gradient.items()}
      print(
        "  kernel gradient", ", ".join(f"{n} {t}" for n, t in times.items())
      )
      sys.stdout.flush()


if __name__ == "__main__":
  main()
