"""Benchmarks: candidate scoring, the training step, convolution kernels."""

from typing import Any

__all__ = ["SETS", "Workload", "candidates", "make_workload"]


def __getattr__(name: str) -> Any:
  # Late, because the command line reads `options` before it needs JAX.
  if name in __all__:
    from jaxnas.bench import workload

    return getattr(workload, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
