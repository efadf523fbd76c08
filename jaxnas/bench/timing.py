"""What benchmarks measure with: clocks, compilations, memory, the machine."""

import contextlib
import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax
import jax
from jax.extend import backend

import jaxnas
from jaxnas.bench.options import Options
from jaxnas.compilations import Compilations
from jaxnas.errors import UserError
from jaxnas.spaces import Space

T = TypeVar("T")
Spread = dict[str, float]


@dataclasses.dataclass(frozen=True)
class First:
  """What the first call of an arm took.

  Attributes:
    seconds: wall time: tracing, compiling and running once.
    compile_seconds: of them, spent in the compiler.
    compilations: programs compiled.
    program: the compiled program that needs most memory, see
      `largest_program`; None if nothing was compiled.
  """

  seconds: float
  compile_seconds: float
  compilations: int
  program: dict | None

  def setup(self, steady: float) -> dict:
    """What comes on top of a later call: tracing and compiling, as JSON.

    Args:
      steady: seconds of a later call of the same work.
    """
    return {
      "seconds": max(0.0, self.seconds - steady),
      "compile_seconds": self.compile_seconds,
      "compilations": self.compilations,
    }


def first_call(run: Callable[[], T]) -> tuple[T, First]:
  """Makes an arm's first call and says what it took.

  Args:
    run: the call; its result is waited for.
  """
  before = set(backend.get_backend().live_executables())
  with Compilations() as compiled:
    seconds, result = clock(run)
  new = set(backend.get_backend().live_executables()) - before
  first = First(seconds, compiled.seconds, compiled.count, largest_program(new))
  return result, first


def clock(run: Callable[[], T]) -> tuple[float, T]:
  """Seconds until the result of `run` is there, and the result."""
  start = time.perf_counter()
  result = jax.block_until_ready(run())
  return time.perf_counter() - start, result


def interleave(
  arms: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
  """Times every arm once in each of `repeats` rounds.

  A machine that slows down or speeds up on the way then does so for all arms.

  Returns:
    Seconds of each arm, one a round.
  """
  seconds = {name: [] for name in arms}
  for _ in range(repeats):
    for name, run in arms.items():
      seconds[name].append(clock(run)[0])
  return seconds


def spread(values: list[float], scale: float = 1.0) -> Spread:
  """Median, smallest and largest value, times `scale`."""
  return {
    "median": statistics.median(values) * scale,
    "min": min(values) * scale,
    "max": max(values) * scale,
  }


def ratio(
  baseline: list[float], arm: list[float], scale: float = 1.0
) -> Spread:
  """How many times faster than the baseline, round by round."""
  pairs = zip(baseline, arm, strict=True)
  return spread([b / a for b, a in pairs], scale)


def largest_program(executables: set) -> dict | None:
  """Memory of the compiled program that needs most, in bytes.

  Returns:
    `name`, `arguments`, `outputs`, `temporaries` and `total` (an output that
    takes an argument's place counts once); None without programs, or where
    the platform cannot tell.
  """
  rows = []
  for executable in executables:
    stats = executable.get_compiled_memory_stats()
    if stats is None:
      continue
    row = {
      "name": executable.hlo_modules()[0].name,
      "arguments": stats.argument_size_in_bytes,
      "outputs": stats.output_size_in_bytes,
      "temporaries": stats.temp_size_in_bytes,
    }
    row["total"] = (
      row["arguments"] + row["outputs"] + row["temporaries"]
      - stats.alias_size_in_bytes
    )  # fmt: skip
    rows.append(row)
  return max(rows, key=lambda row: row["total"], default=None)


def peak_memory(run: Callable[[], Any]) -> dict:
  """Peak memory around one untimed call.

  Returns:
    `bytes`, and in `of` what they are: on GPU and TPU the allocator's peak
    since the process began (it cannot be reset, so an arm that runs after a
    larger one shows the larger one's); on CPU the growth of the process's
    resident memory during the call.
  """
  device = jax.local_devices()[0]
  if device.memory_stats() is not None:
    jax.block_until_ready(run())
    peak = device.memory_stats()["peak_bytes_in_use"]
    return {"bytes": peak, "of": "device allocator since process start"}
  before = _reset_peak()
  jax.block_until_ready(run())
  growth = max(0, _peak_resident() - before)
  return {"bytes": growth, "of": "growth of resident memory during a call"}


def _reset_peak() -> int:
  """Sets the peak to the memory held now where possible; returns it."""
  # Elsewhere than on Linux only growth beyond the old peak is seen.
  with contextlib.suppress(OSError):
    Path("/proc/self/clear_refs").write_text("5")
  return _peak_resident()


def _peak_resident() -> int:
  try:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (s for s in lines if s.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
  except (OSError, ValueError):
    import resource  # not on Windows

    # Kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict:
  """The machine as manifests describe it, with its cores."""
  device = jax.devices()[0]
  affinity = getattr(os, "sched_getaffinity", None)
  return {
    "platform": device.platform,
    "device": device.device_kind,
    "n_devices": jax.device_count(),
    "cores": len(affinity(0)) if affinity else os.cpu_count(),
    "processor": _processor(),
    "jaxnas": jaxnas.__version__,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "flax": flax.__version__,
    "compilation_cache": jax.config.jax_compilation_cache_dir is not None,
  }


def _processor() -> str:
  try:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def header(bench: str, space: Space, options: Options) -> dict:
  """What every result begins with: the benchmark, its options, the machine."""
  fields = dataclasses.asdict(options)
  del fields["json"]
  return {
    "bench": bench,
    **fields,
    "space": space.name,
    "layers": space.n_layers,
    "machine": machine(),
  }


def check_counts(least: int = 1, **values: int) -> None:
  """Refuses a number that is too small.

  Args:
    least: smallest legal value.
    **values: by flag, with underscores.

  Raises:
    UserError: naming the flag.
  """
  for name, value in values.items():
    if value < least:
      flag = "--" + name.replace("_", "-")
      raise UserError(f"{flag} is {value}; it must be at least {least}.")
