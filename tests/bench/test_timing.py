"""Clocks, compilation counts and memory figures measure what they say."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxnas.bench import timing
from jaxnas.compilations import Compilations
from jaxnas.errors import UserError


def test_compilations_inside_the_block_are_counted():
  program = jax.jit(lambda x: 3 * x + 1)
  x = jnp.ones(7)
  with Compilations() as first:
    program(x)
  with Compilations() as second:
    program(x)
  jax.jit(lambda x: 5 * x)(x)  # outside, so not heard
  assert (first.count, second.count) == (1, 0)
  assert first.seconds > 0 == second.seconds


def test_a_first_call_is_told_apart_from_a_later_one():
  program = jax.jit(lambda x: (x @ x).sum())
  x = jnp.ones((64, 64))
  result, first = timing.first_call(lambda: program(x))
  assert result == 64**3
  assert first.compilations == 1
  assert first.seconds >= first.compile_seconds > 0
  assert first.program["arguments"] == 4 * 64 * 64
  assert first.program["outputs"] == 4
  assert first.program["total"] >= 4 * (64 * 64 + 1)
  assert first.setup(first.seconds / 2)["seconds"] == first.seconds / 2
  assert first.setup(2 * first.seconds)["seconds"] == 0
  _, later = timing.first_call(lambda: program(x))
  assert later.compilations == 0
  assert later.program is None


def test_the_largest_program_wins_and_donation_counts_once():
  small, large = (
    jax.jit(lambda x: x + 1, donate_argnums=0).lower(jnp.ones(n)).compile()
    for n in (100, 1000)
  )
  found = timing.largest_program(
    {p.runtime_executable() for p in (small, large)}
  )
  assert found["arguments"] == found["outputs"] == 4000
  assert found["total"] == 4000 + found["temporaries"]


def test_arms_take_turns():
  calls = []
  arms = {name: lambda name=name: calls.append(name) for name in "ab"}
  seconds = timing.interleave(arms, 3)
  assert "".join(calls) == "ababab"
  assert {name: len(s) for name, s in seconds.items()} == {"a": 3, "b": 3}


def test_spread_and_ratio():
  assert timing.spread([3.0, 1.0, 8.0], 2) == {
    "median": 6, "min": 2, "max": 16,
  }  # fmt: skip
  found = timing.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0], 10)
  assert found == {"median": 20, "min": 10, "max": 30}


WATCHED = """
import json
import numpy as np
from jaxnas.bench import timing

def run():
  return np.ones(1 << 27, np.uint8).sum()

# The call frees what it took, so its peak is seen only if it was watched.
run()
print(json.dumps([timing.peak_memory(run), timing.peak_memory(lambda: None)]))
"""


def test_resident_memory_grows_by_what_is_touched():
  """In a process of its own: one that keeps freed memory does not grow."""
  if jax.default_backend() != "cpu":
    pytest.skip("accelerators tell their allocator's peak")
  done = subprocess.run(
    [sys.executable, "-c", WATCHED], capture_output=True, text=True, check=True
  )
  found, idle = json.loads(done.stdout)
  assert 0.9 * (1 << 27) < found["bytes"] < 2 * (1 << 27)
  assert "resident" in found["of"]
  assert idle["bytes"] < (1 << 27) / 4


def test_the_machine_is_named():
  m = timing.machine()
  assert m["platform"] == jax.default_backend()
  assert m["jax"] == jax.__version__
  assert m["cores"] >= 1
  assert m["device"] and m["processor"]


def test_small_counts_are_refused_by_flag():
  timing.check_counts(repeats=1)
  with pytest.raises(UserError, match="--serial-sample is 0"):
    timing.check_counts(serial_sample=0)
