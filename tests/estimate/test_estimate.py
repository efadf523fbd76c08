"""Estimates against closed forms; nothing is run."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.config import DataConfig, load_config
from jaxnas.errors import UserError
from jaxnas.estimate.counting import Rules, compile_program
from jaxnas.estimate.sizes import data_sizes
from jaxnas.nets.kernels import depthwise_conv, estimating

DIGITS = "configs/digits_fairnas.py:quicktest"
# XLA adds what is not multiplied (batch norm, activations, the optimiser, the
# augmentation), and leaves out products with padding.
TOLERANCE = 0.2
SIDE = 2 * 16**3
X = jax.ShapeDtypeStruct((16, 16), jnp.float32)
# Wide enough that products outweigh all else.
SPACE = """
from jaxnas.spaces import Conv, Layer, MBConv, Space


def get_space():
  def layer(features, stride):
    choices = tuple(MBConv(6, k) for k in (3, 5))
    return Layer(choices, features, stride)

  return Space(
    name="small",
    image_size=16,
    image_channels=1,
    n_classes=10,
    stem=(Layer((Conv(3),), 32, 1),),
    layers=(layer(32, 1), layer(64, 2), layer(64, 1)),
    head=(),
  )
"""
N = jax.ShapeDtypeStruct((), jnp.int32)


def repeated(a):
  return jax.lax.scan(lambda c, _: (c @ c, None), a, None, length=10)[0]


def dynamic(a, n):
  return jax.lax.fori_loop(0, n, lambda _, c: c @ c, a)


def switched(a, n):
  return jax.lax.switch(n, [lambda a: a @ a, lambda a: a @ a @ a @ a], a)


def skipped(a, n):
  return jax.lax.cond(n > 0, lambda a: a @ a, lambda a: a, a)


@pytest.mark.parametrize(
  ("function", "given", "rules", "products"),
  [
    (repeated, (X,), Rules(), 10),
    (dynamic, (X, N), Rules(trips=7), 7),
    (switched, (X, N), Rules(), 2),
    (skipped, (X, N), Rules(taken=0.25), 0.25),
  ],
)
def test_loops_and_switches_count_as_they_run(function, given, rules, products):
  found = compile_program(jax.jit(function).trace(*given), rules)
  assert found.flops == pytest.approx(products * SIDE, rel=0.01, abs=10)


def test_a_depthwise_gradient_is_neither_dense_nor_lost():
  x = jax.ShapeDtypeStruct((2, 8, 8, 32), jnp.float32)
  kernel = jax.ShapeDtypeStruct((5, 5, 32), jnp.float32)

  def both(x, kernel):
    return jax.vjp(lambda x, k: depthwise_conv(x, k, 1), x, kernel)[1](x)

  with estimating(True):
    found = compile_program(jax.jit(both).trace(x, kernel), Rules())
  macs = 2 * 8 * 8 * 32 * 25
  assert found.flops == pytest.approx(2 * 2 * macs, rel=0.2)
  assert found.memory["temporaries"] < 8 * 4 * 2 * 8 * 8 * 32


def test_sizes_without_images():
  config = DataConfig("folder:imagenet", validation=50_000)
  data, where = data_sizes(config, 224)
  sizes = len(data.train), len(data.validation), len(data.test)
  assert sizes == (1_281_167 - 50_000, 50_000, 50_000)
  assert data.n_classes == 1000
  assert data.streamed
  assert "not read" in where
  data, _ = data_sizes(DataConfig("npz:none"), 16, images=100, classes=3)
  assert [len(data.train), len(data.test), data.n_classes] == [60, 20, 3]
  with pytest.raises(UserError, match="--images N --classes C"):
    data_sizes(DataConfig("npz:none"), 16)


def test_a_dry_run_agrees_with_the_cost_tables(repo, tmp_path):
  work, space = tmp_path / "none", tmp_path / "small.py"
  space.write_text(SPACE)
  command = [
    sys.executable, "-m", "jaxnas", "train", DIGITS, "--workdir", str(work),
    "--dry-run", "--mesh", "4x1", "--flops", "1e9", "--json",
    "--set", f"space.name={space}", "--set", "budget=",
    "--set", "train.evaluate_every=1", "--set", "score.bn_mode=running",
  ]  # fmt: skip
  done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  train, judged = found["stages"]
  assert found["devices"] == 4
  assert found["fake_devices"]
  assert not work.exists()
  tables = train["flops_per_step_by_tables"]
  assert train["flops_per_step"] == pytest.approx(tables, rel=TOLERANCE)
  # The optimiser's work is done by every device.
  total = 4 * train["flops_per_step_and_device"]
  assert total == pytest.approx(train["flops_per_step"], rel=TOLERANCE)
  hours = train["flops_per_step_and_device"] * train["steps"] / 1e9 / 0.3 / 3600
  assert train["hours"] == pytest.approx(hours)
  config = load_config(DIGITS).train
  looks = config.epochs * config.evaluate_archs
  assert judged["images"] == looks * found["data"]["validation"]
  memory = train["memory"]
  assert (
    np.sum([v for k, v in memory.items() if k != "total"]) == (memory["total"])
  )


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--flops", "1e9"], "without --dry-run"),
    (["--dry-run", "--profile"], "could trace"),
    (["--mesh", "8"], "DATAxPATH"),
    (["--dry-run", "--efficiency", "2"], "efficiency"),
  ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, capsys, flags, message):
  from jaxnas.cli import main

  with pytest.raises(SystemExit) as stop:
    main(["train", DIGITS, "--workdir", str(tmp_path / "none"), *flags])
  assert stop.value.code == 2
  assert message in capsys.readouterr().err
