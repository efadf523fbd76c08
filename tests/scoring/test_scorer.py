"""The scorer against plain networks, one arch at a time."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny import PAIR, THREE, make_space, shaken

from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.data import Dataset
from jaxnas.data.records import Split
from jaxnas.errors import UserError
from jaxnas.nets import Fleet, PathSupernet, PlainNetwork, inherit
from jaxnas.nets.layers import BatchNorm
from jaxnas.scoring import FleetEvaluator, Scorer, calibration_split
from jaxnas.sharding import Placement, make_placement

HERE = Path(__file__).parent
SPACE = make_space(PAIR, THREE)
ALL = np.array([[a, b] for a in range(2) for b in range(3)], np.int32)
N = 23  # validation images: no multiple of 8
SUPERNET = PathSupernet(SPACE)
# Two batches of statistics (20 images, 16 of them used), three of scores, the
# last one padded by a single image.
BATCHED = ScoreConfig(calibration_images=20, batch_size=8)


def dataset() -> Dataset:
  rng = np.random.default_rng(0)

  def split(n):
    images = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, 4, n).astype(np.int32))

  return Dataset(
    split(40), split(N), split(5), ("a", "b", "c", "d"),
    np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3]), "", "",
  )  # fmt: skip


DATA = dataset()
VARIABLES = shaken(SUPERNET.init(jax.random.key(0)))


def scorer(config=BATCHED, placement=None):
  return Scorer(SUPERNET, DATA, config, placement or make_placement())


@pytest.fixture(scope="module")
def score():
  """The scorer of `BATCHED`, compiled once."""
  return scorer()


@pytest.fixture(scope="module")
def everything(score):
  return score(VARIABLES, ALL, per_example=True)


def normalised(images):
  x = images.astype(np.float32) / np.float32(255)
  return (x - DATA.mean) / DATA.std


def bn_inputs(network, variables, x):
  """What each batch norm of a network receives, by module path."""
  seen = {}

  def spy(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm):
      seen[context.module.path] = np.asarray(args[0], np.float64)
    return call(*args, **kwargs)

  with nn.intercept_methods(spy):
    network.apply(variables, x, False, mutable=["batch_stats"])
  return seen


def statistics(network, own, config):
  """Mean and variance, in NumPy, of what each batch norm sees.

  Each calibration batch goes through the network with its own statistics, as
  in training; then the inputs of every batch norm are pooled over all batches.
  """
  x = normalised(calibration_split(DATA, config).images)
  size = min(config.batch_size, len(x))
  assert len(x) % size == 0
  batches = [
    bn_inputs(network, own, x[i : i + size]) for i in range(0, len(x), size)
  ]
  tree = {}
  for path in batches[0]:
    pooled = np.concatenate([b[path] for b in batches]).reshape(
      -1, batches[0][path].shape[-1]
    )
    node = tree
    for name in path:
      node = node.setdefault(name, {})
    node |= {
      "mean": pooled.mean(0).astype(np.float32),
      "var": pooled.var(0).astype(np.float32),
    }
  return tree


def reference(arch, config):
  """Correctness `bool[N]` and mean loss of one arch as a plain network."""
  network = PlainNetwork(SPACE, tuple(arch.tolist()))
  own = inherit(VARIABLES, SPACE, arch)
  images, y = normalised(DATA.validation.images), DATA.validation.labels
  if config.bn_mode == "batch":
    # A ragged last batch is filled up with real images, not copies of one.
    size = min(config.batch_size, N)
    index = np.arange(-(-N // size) * size)
    index = (index % N).reshape(-1, size)
    parts = [
      network.apply(own, images[i], False, mutable=["batch_stats"])[0]
      for i in index
    ]
    logits = np.concatenate(parts)[:N]
  else:
    if config.bn_mode == "recalibrate":
      own = {**own, "batch_stats": statistics(network, own, config)}
    logits = network.apply(own, images, True)
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  return logits.argmax(1) == y, -log_p[np.arange(N), y].mean()


def agrees(out, archs, config):
  for i, arch in enumerate(archs):
    hits, loss = reference(arch, config)
    np.testing.assert_array_equal(out["correct"][i], hits)
    assert out["accuracy"][i] == hits.mean()
    np.testing.assert_allclose(out["loss"][i], loss, rtol=2e-5)


def test_recalibrated_scores_equal_plain_networks(everything):
  assert everything["accuracy"].dtype == np.float64
  assert len(np.unique(everything["loss"])) == len(ALL)
  agrees(everything, ALL, BATCHED)


@pytest.mark.parametrize(
  "config",
  [
    ScoreConfig("batch", 20, 8),
    ScoreConfig("running", 20, 8),
    ScoreConfig("recalibrate", 16, 512),  # larger than the split
  ],
  ids=lambda c: f"{c.bn_mode}-{c.batch_size}",
)
def test_every_mode_equals_plain_networks(config):
  out = scorer(config)(VARIABLES, ALL[::2], per_example=True)
  assert out["correct"].shape == (3, N)
  agrees(out, ALL[::2], config)


def test_order_company_and_repeats_do_not_matter(score, everything):
  rng = np.random.default_rng(1)
  # Repeats, shuffled; scored after other archs, so that a trace would show.
  rows = rng.permutation(np.repeat(np.arange(len(ALL)), 2))
  out = score(VARIABLES, ALL[rows], per_example=True)
  for name, values in everything.items():
    np.testing.assert_array_equal(out[name], values[rows])


def test_two_calls_commute_to_the_last_bit(score):
  one, two = ALL[:2], ALL[3:]
  forth = [score(VARIABLES, a) for a in (one, two)]
  back = [score(VARIABLES, a) for a in (two, one)][::-1]
  for a, b in zip(forth, back, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_one_arch_and_its_shapes(score, everything):
  out = score(VARIABLES, ALL[4])
  assert out.keys() == {"accuracy", "loss"}
  assert out["accuracy"].shape == (1,)
  assert out["loss"][0] == everything["loss"][4]
  assert score.bn_mode == "recalibrate"


def test_scoring_leaves_the_variables_alone(score):
  before = jax.tree.map(np.copy, VARIABLES)
  score(VARIABLES, ALL[:2])
  jax.tree.map(np.testing.assert_array_equal, VARIABLES, before)


def test_one_program_serves_every_candidate_set(score, everything, caplog):
  other = jax.tree.map(lambda a: 1.01 * a, VARIABLES)
  with jax.log_compiles():
    jax.jit(lambda x: x + 1)(np.ones(3))
    assert any("ompil" in m for m in caplog.messages)  # the log works
    caplog.clear()
    changed = score(other, ALL[[5, 0, 2]])
    score(VARIABLES, ALL[1:2])
  compiled = [m for m in caplog.messages if "ompil" in m]
  assert not compiled
  assert changed["loss"][0] != everything["loss"][5]


def test_running_statistics_must_have_been_kept():
  loose = PathSupernet(SPACE, NetConfig(bn_track=False))
  with pytest.raises(UserError, match=r"net\.bn_track"):
    Scorer(loose, DATA, ScoreConfig("running"), make_placement())


@pytest.mark.parametrize("field", ["calibration_images", "batch_size"])
def test_sizes_below_one_are_refused(field):
  with pytest.raises(UserError, match=rf"score\.{field} is 0"):
    scorer(dataclasses.replace(BATCHED, **{field: 0}))


def test_an_arch_of_another_space_is_refused(score):
  with pytest.raises(UserError, match="layer 1"):
    score(VARIABLES, np.array([[0, 3]]))


def test_a_nan_prediction_is_wrong(score):
  broken = jax.tree.map(np.copy, VARIABLES)
  broken["params"]["classifier"]["bias"][:] = np.nan
  out = score(broken, ALL[:1])
  assert out["accuracy"][0] == 0
  assert np.isnan(out["loss"][0])


def test_fleet_evaluator_equals_plain_networks():
  archs = ((0, 1), (1, 2))
  fleet = Fleet(SPACE, archs)
  own = [inherit(VARIABLES, SPACE, np.array(a)) for a in archs]
  judge = FleetEvaluator(fleet, DATA, DATA.validation, 8, make_placement())
  out = judge(fleet.stack(own))
  config = ScoreConfig("running")
  for i, arch in enumerate(archs):
    hits, loss = reference(np.array(arch), config)
    assert out["accuracy"][i] == hits.mean()
    np.testing.assert_allclose(out["loss"][i], loss, rtol=2e-5)


def main() -> None:
  """Runs in the child: scores on one and on eight devices, as JSON."""
  axes = (jax.sharding.AxisType.Auto,) * 2
  one = jax.make_mesh(
    (1, 1), ("data", "path"), devices=jax.devices()[:1], axis_types=axes
  )
  out = {"devices": jax.device_count()}
  for name, placement in (("one", Placement(one)), ("all", make_placement())):
    result = scorer(placement=placement)(VARIABLES, ALL, per_example=True)
    out[name] = {k: v.tolist() for k, v in result.items()}
  print(json.dumps(out))


def test_eight_devices_score_like_one(everything):
  env = {
    **os.environ,
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join(
      [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    ),
  }
  done = subprocess.run(
    [sys.executable, "-c", "import test_scorer; test_scorer.main()"],
    env=env, capture_output=True, text=True, check=False, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  out = json.loads(done.stdout)
  assert out["devices"] == 8
  # 6 archs on 8 devices: two of them score padding that is thrown away.
  assert len(out["all"]["loss"]) == len(ALL)
  assert out["all"]["correct"] == out["one"]["correct"]
  assert out["all"]["accuracy"] == everything["accuracy"].tolist()
  np.testing.assert_allclose(out["all"]["loss"], everything["loss"], rtol=1e-6)
