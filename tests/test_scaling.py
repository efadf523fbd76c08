"""The study of scaling reads what programs exchange: closed forms."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys

import pytest

# Runs with four fake devices, prints the optimised programs by name.
CHILD = """
import functools, json
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((2, 2), ("data", "path"), axis_types=(AxisType.Auto,) * 2)

def text(body, inputs, outputs, *shapes):
  run = jax.shard_map(
    body, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False
  )
  args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return jax.jit(run).lower(*args).compile().as_text()

def both(x):
  with jax.named_scope("part_bn"):
    x = jax.lax.psum(x, ("data", "path"))
  return jax.lax.psum(jnp.sin(x), "data")

def loop(x):
  return jax.lax.fori_loop(
    0, 5, lambda i, x: jnp.sin(jax.lax.psum(x, "data")), x
  )

def gather(x):
  return jax.lax.all_gather(x, ("data", "path"))

def scatter(x):
  return jax.lax.psum_scatter(x, "path", tiled=True)

def shift(x):
  return jax.lax.ppermute(x, "data", [(0, 1), (1, 0)])

print(json.dumps({
  "both": text(both, P(), P(), (10, 3)),
  "loop": text(loop, P(), P(), (7,)),
  "gather": text(gather, P(("data", "path")), P(), (8,)),
  "scatter": text(scatter, P(), P("path"), (6,)),
  "shift": text(shift, P("data"), P("data"), (4,)),
}))
"""


@pytest.fixture(scope="module")
def scaling(repo):
  folder = str(repo / "docs" / "studies")
  sys.path.insert(0, folder)
  yield importlib.import_module("scaling")
  sys.path.remove(folder)
  for name in ("scaling", "exchanges"):
    del sys.modules[name]


@pytest.fixture(scope="module")
def programs():
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
  }
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", CHILD],
    env=env, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  return json.loads(done.stdout)


# kind, bytes, group, times; then what a device sends and the longest chain.
EXPECTED = {
  "both": (
    [("all-reduce", 120, 4, 1), ("all-reduce", 120, 2, 1)], [180, 120], 2
  ),
  "loop": ([("all-reduce", 28, 2, 5)], [28], 5),
  "gather": ([("all-gather", 32, 4, 1)], [24], 1),
  "scatter": ([("reduce-scatter", 24, 2, 1)], [12], 1),
  "shift": ([("collective-permute", 8, 4, 1)], [8], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_exchanges_have_their_known_bytes(scaling, programs, name):
  rows, wires, chain = EXPECTED[name]
  found, longest = scaling.collectives(programs[name], 4)
  assert [(c.kind, c.bytes, c.group, c.times) for c in found] == rows
  assert [c.wire for c in found] == pytest.approx(wires)
  assert longest == chain


def test_scopes_say_what_an_exchange_is_for(scaling, programs):
  found, _ = scaling.collectives(programs["both"], 4)
  assert [c.reason for c in found] == ["batch norm", "other"]
  one = scaling.Collective("all-reduce", 4, 8, 1, "jit(s)/transpose(jvp())/dot")
  assert one.reason == "gradient"


def test_independent_exchanges_make_a_short_chain(scaling):
  text = """HloModule m
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}
ENTRY %main (x: f32[8]) -> (f32[8], f32[8]) {
  %x = f32[8]{0} parameter(0)
  %r1 = f32[8]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %y = bf16[4]{0} parameter(1)
  %r2 = (f32[8]{0}, bf16[4]{0}) all-reduce(%x, %y), replica_groups={},\
   to_apply=%add
  %r3 = f32[8]{0} all-reduce(%r1), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (f32[8]{0}, f32[8]{0}) tuple(%r1, %r3)
}
"""
  found, chain = scaling.collectives(text, 8)
  assert [(c.bytes, c.group) for c in found] == [(32, 8), (40, 8), (32, 2)]
  assert chain == 2


def test_only_what_depends_on_each_other_waits(scaling):
  norm = {"mean": 0, "var": 0}
  stats = {
    "stem_0": {"bn": norm},
    "layer_00": {"A": {"x": norm, "y": norm}, "B": {"x": norm}},
    "layer_01": {"A": {}},
  }
  # Stem and the longer choice, forwards and backwards; then the gradients.
  assert scaling.least_waits(stats, 100) == 2 * (1 + 2) + 1
  assert scaling.least_waits(stats, 1) == 1  # replicas measure alone


def test_predictions_follow_the_formulas(scaling):
  chip = scaling.Chip("c", 1e12, 1e9, 1e-6)
  reduce = scaling.Collective("all-reduce", 4_000_000, 2, 1, "")
  row = {
    "model_flops": 1e12, "batch": 100, "least": 1, "stand_in": 0,
    "collectives": [dataclasses.asdict(reduce)] * 3,
  }  # fmt: skip
  work, sent, wait = scaling.predict(chip, row, 16, 10, 0.5, together=False)
  assert work == pytest.approx(0.2)
  # Three times 2 (n - 1) / n of the bytes, over 1 GB/s.
  assert sent == pytest.approx(3 * 2 * 15 / 16 * 4e-3)
  # A torus of 4 x 4: 8 hops for each exchange.
  assert wait == pytest.approx(3 * 8e-6)
  fast = scaling.predict(chip, row, 16, 10, 0.5, together=True)
  assert fast[2] == pytest.approx(8e-6) and fast[:2] == (work, sent)
