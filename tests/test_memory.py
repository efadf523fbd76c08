"""The allocator keeps what was freed, seen from page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
import numpy as np
from jaxnas.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(1 << 24)  # 128 MiB, freed at once
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults():
  def run(mode):
    done = subprocess.run(
      [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True,
      check=True,
    )  # fmt: skip
    kept, faults = done.stdout.split()
    return kept, int(faults)

  kept, faults = run("keep")
  if kept == "False":
    pytest.skip("another C library")
  assert faults < 100
  assert run("plain")[1] > 10 * max(faults, 1)


def test_programs_are_dropped_when_there_are_many():
  import jax

  from jaxnas.memory import drop_programs

  f = jax.jit(lambda x: x + 1)
  f(1.0)
  assert f._cache_size() == 1
  assert not drop_programs()
  assert f._cache_size() == 1
  if sys.platform.startswith("linux"):
    assert drop_programs(most=0)
    assert f._cache_size() == 0
