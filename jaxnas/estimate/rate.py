"""Operations per second: given, or measured on this machine."""

import time

import jax
import jax.numpy as jnp

# Side of the matrices that are multiplied, and how often.
SIDE, REPEATS = 2048, 5
SIDE_ON_CPU = 1024


def measured_rate(precision: str) -> float:
  """Times products of square matrices on one device, the best of several.

  Args:
    precision: `float32` or `bfloat16`.

  Returns:
    Operations per second; a CPU's cores count as one device.
  """
  n = SIDE_ON_CPU if jax.default_backend() == "cpu" else SIDE
  a = jnp.ones((n, n), precision)
  # Several in one call, so that an accelerator's start-up does not count.
  run = jax.jit(lambda a: jax.lax.fori_loop(0, 8, lambda _, b: (a @ b) / n, a))
  run(a).block_until_ready()
  best = float("inf")
  for _ in range(REPEATS):
    start = time.perf_counter()
    run(a).block_until_ready()
    best = min(best, time.perf_counter() - start)
  return 8 * 2 * n**3 / best
