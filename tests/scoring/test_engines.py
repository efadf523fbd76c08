"""Every engine gives the scores of the serial one, whatever the circumstances.

Two strengths of equality are asserted.

* To the last bit: for one engine and any candidates. Who else is scored, order,
  repeats, memory (but for `routed`, whose blocks it sizes) and the number of
  devices (but for `serial`) change which nodes share a call, never the program
  that computes a node.
* To `CLOSE`: between engines. Each has programs of its own, in which XLA fuses
  and orders sums in its own way, so the last bit of an activation or a logit
  may differ. A node that is computed from a wrong
  parent, choice or statistic is off by far more: a hundredth and up.

Which images are right is compared exactly: seeds are fixed, and no logit here
is within a rounding of another.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Plain, dataset
from tiny import PAIR, SE, THREE, shaken

from jaxnas.compilations import Compilations
from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.scoring import Scorer, routed
from jaxnas.scoring.scorer import ENGINES
from jaxnas.sharding import Placement, make_placement
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space

HERE = Path(__file__).parent
CLOSE = 1e-6  # relative; about 8 roundings of float32, 5e-8 was seen
SHARING = ("wavefront", "routed")


def make_space(stem, layers, head) -> Space:
  def fixed(ops):
    return tuple(Layer((op,), 4 + i) for i, op in enumerate(ops))

  return Space("tiny", 7, 3, 4, fixed(stem), layers, fixed(head))


# Unequal numbers of choices, a fixed layer among them, odd sizes, a strided
# first layer, two stem and two head layers.
SPACE = make_space(
  (Conv(3), Conv(1)),
  (
    Layer(PAIR, 6, 2), Layer(THREE, 6), Layer((MBConv(1, 3),), 6),
    Layer(THREE, 6), Layer((MBConv(1, 3), MBConv(2, 5), SE), 7),
  ),
  (Conv(1), Conv(3)),
)  # fmt: skip
ALL = np.argwhere(np.ones(SPACE.n_choices)).astype(np.int32)
# Neither stem nor head; the strided Identity is a convolution.
BARE = make_space((), (Layer(THREE, 6, 2), Layer(THREE, 6)), ())
NINE = np.argwhere(np.ones((3, 3))).astype(np.int32)
N = 11
# Three batches of statistics (14 images, 12 of them used) and three of scores,
# the last one ragged.
CONFIG = ScoreConfig("recalibrate", calibration_images=14, batch_size=4)
DATA = dataset(N, size=7)
SUPERNET = PathSupernet(SPACE)
VARIABLES = shaken(SUPERNET.init(jax.random.key(0)))


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The label's logit less the mean: a user's metric."""
  own = (logits * jax.nn.one_hot(labels, 4)).sum(-1)
  return own - logits.mean(-1)


def scorer(supernet=SUPERNET, placement=None, metrics=None, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  return Scorer(supernet, DATA, config, placement or make_placement(), metrics)


def same(out, expected):
  assert out.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(out[name], values, err_msg=name)


def close(out, expected, tolerance=CLOSE):
  assert out.keys() == expected.keys()
  for name, values in expected.items():
    assert out[name].shape == values.shape
    assert out[name].dtype == values.dtype
    if name in ("correct", "accuracy"):
      np.testing.assert_array_equal(out[name], values, err_msg=name)
    else:
      # A margin is a difference of logits, so its size is no measure.
      np.testing.assert_allclose(
        out[name], values, rtol=tolerance, atol=tolerance, err_msg=name
      )


def rows_of(out, rows):
  return {name: values[rows] for name, values in out.items()}


@pytest.fixture(scope="module")
def made():
  """A scorer of each engine, and its scores of all archs."""
  out = {}
  for engine in ENGINES:
    score = scorer(engine=engine, metrics={"margin": margin})
    out[engine] = score, score(VARIABLES, ALL, per_example=True)
  return out


@pytest.fixture(scope="module")
def serial(made):
  return made["serial"][1]


# Against references -----------------------------------------------------------


def test_the_serial_engine_equals_plain_networks(serial):
  arch = ALL[38:39]  # two squeeze-excitations, an Identity
  plain = Plain(SUPERNET, VARIABLES, DATA, CONFIG)
  plain.agrees(rows_of(serial, [38]), arch)
  logits, y = plain.logits(arch[0]), DATA.validation.labels
  expected = logits[np.arange(N), y].mean() - logits.mean()
  np.testing.assert_allclose(serial["margin"][38], expected, atol=2e-5)


@pytest.mark.parametrize("engine", SHARING)
def test_engines_agree_on_every_arch(made, serial, engine):
  out = made[engine][1]
  assert out.keys() == {"accuracy", "loss", "margin", "correct"}
  assert out["correct"].shape == (len(ALL), N)
  np.testing.assert_array_equal(out["accuracy"], out["correct"].mean(1))
  close(out, serial)
  # The tolerance tells archs apart.
  assert np.diff(np.sort(out["loss"])).min() > 3 * CLOSE * out["loss"].max()


@pytest.mark.parametrize("engine", SHARING)
def test_a_space_without_stem_head_and_affine(engine):
  supernet = PathSupernet(BARE, NetConfig(bn_affine=False))
  variables = shaken(supernet.init(jax.random.key(1)))
  out = scorer(supernet, engine=engine)(variables, NINE, per_example=True)
  assert len(np.unique(out["loss"])) == 9
  rows = [1, 5, 6]
  plain = Plain(supernet, variables, DATA, CONFIG)
  plain.agrees(rows_of(out, rows), NINE[rows])


def test_bfloat16_agrees_to_its_own_rounding():
  # 8 bits of mantissa, and a fused operation skips some of the roundings.
  tolerance = 2e-3
  supernet = PathSupernet(BARE, NetConfig(precision="bfloat16"))
  variables = shaken(supernet.init(jax.random.key(1)))
  out = {
    engine: scorer(supernet, engine=engine)(variables, NINE, True)
    for engine in ENGINES
  }
  assert np.diff(np.sort(out["serial"]["loss"])).max() > 4 * tolerance
  for engine in SHARING:
    close(out[engine], out["serial"], tolerance)


# Candidates -------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(rows=st.lists(st.integers(0, len(ALL) - 1), min_size=1, max_size=70))
def test_order_company_and_repeats_do_not_matter(made, engine, rows):
  score, everything = made[engine]
  same(score(VARIABLES, ALL[rows], True), rows_of(everything, rows))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
  "rows",
  [
    [31],
    np.flatnonzero((ALL[:, :4] == [1, 2, 0, 1]).all(1)),  # the last layer
    np.flatnonzero((ALL[:, 0] == 1) & (ALL[:, 1] == 0)),
    np.arange(len(ALL))[::-1],
    np.repeat(np.arange(0, len(ALL), 9), 3),
    [7] * 20,
  ],
  ids=["one", "siblings", "segment", "reversed", "repeats", "one-repeated"],
)
def test_special_sets(made, engine, rows):
  score, everything = made[engine]
  assert len(rows) > 0
  same(score(VARIABLES, ALL[rows], True), rows_of(everything, rows))


def test_shared_nodes_are_counted(made):
  rng = np.random.default_rng(2)
  for n in (1, 6, 40):
    archs = SPACE.sample(rng, n)
    prefixes = {
      tuple(a[: l + 1].tolist()) for a in archs for l in range(SPACE.n_layers)
    }
    for score, _ in made.values():
      assert score.count_nodes(archs) == (len(prefixes), n * SPACE.n_layers)


@pytest.mark.parametrize("engine", ENGINES)
def test_another_candidate_set_compiles_nothing(made, engine):
  score, everything = made[engine]
  with Compilations() as seen:
    jax.jit(lambda x: x + 1)(np.ones(3))
    assert seen.count  # the listener works
  rng = np.random.default_rng(3)
  other = jax.tree.map(lambda a: np.float32(1.01) * a, VARIABLES)
  with Compilations() as seen:
    for n in (1, 2, 13, 47):
      score(VARIABLES, ALL[rng.choice(len(ALL), n, replace=False)])
    score(VARIABLES, ALL[ALL[:, 1] == 2], per_example=True)
    changed = score(other, ALL[[5, 40]])
  assert not seen.count
  assert (changed["loss"] != everything["loss"][[5, 40]]).all()


# Memory -----------------------------------------------------------------------


def least_memory(engine) -> int:
  """The need that the refusal of too little names."""
  with pytest.raises(UserError, match=r"score\.max_live_bytes is 1;") as error:
    scorer(engine=engine, max_live_bytes=1)
  return int(re.search(r"needs ([\d,]+)", str(error.value))[1].replace(",", ""))


@pytest.mark.parametrize("engine", SHARING)
def test_a_path_that_does_not_fit_is_refused_with_its_need(engine):
  need = least_memory(engine)
  # Activations after each place, of one batch of images.
  assert need >= 4 * 4 * sum(
    s.out_size**2 * s.features for part in SPACE.shapes for s in part
  )
  with pytest.raises(UserError, match=f"one path of 4 images needs {need:,}"):
    scorer(engine=engine, max_live_bytes=need - 1)
  scorer(engine=engine, max_live_bytes=need)


@pytest.mark.parametrize(
  ("engine", "times", "most"),
  [
    # Nodes one by one, and the archs in two runs.
    ("wavefront", 1, {}),
    # Room for 2 nodes of the large layers and up to 5 of the small ones.
    ("wavefront", 4, {"MOST_PER_CALL": 5}),
    # Two archs at once.
    ("routed", 1, {}),
    # Groups that fill neither their lanes nor the block.
    ("routed", 1000, {"MOST_PER_BLOCK": 7, "LANES": 3}),
  ],
)
def test_memory_does_not_matter(made, monkeypatch, engine, times, most):
  for name, value in most.items():
    monkeypatch.setattr(ENGINES[engine].__module__ + "." + name, value)
  memory = times * least_memory(engine)
  score = scorer(
    engine=engine, max_live_bytes=memory, metrics={"margin": margin}
  )
  out = score(VARIABLES, ALL, per_example=True)
  close(out, made["serial"][1])
  if engine == "wavefront":  # a node's own program knows nothing of memory
    same(out, made[engine][1])
  # What lies in one call differs now; the programs do not.
  rows = np.random.default_rng(4).permutation(len(ALL))[:23]
  same(score(VARIABLES, ALL[rows], True), rows_of(out, rows))


# Metrics ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["accuracy", "loss", "correct"])
def test_a_metric_that_would_hide_another_is_refused(name):
  with pytest.raises(UserError, match=f"'{name}' is taken"):
    scorer(metrics={name: margin})


# Devices ----------------------------------------------------------------------


def main() -> None:
  """Runs in the child: scores on 1, 2, 4 and 8 devices, as JSON."""
  # Every device compiles on its own, so the layers are plain.
  layer = (Conv(3), Conv(1), Identity())
  space = make_space((), (Layer(layer, 6, 2), Layer(layer, 6)), ())
  supernet = PathSupernet(space)
  variables = shaken(supernet.init(jax.random.key(1)))
  # Nine archs would be one block, of which one device takes care.
  routed.MOST_PER_BLOCK = 2
  out = {"present": jax.device_count()}
  for n in (1, 2, 4, 8):
    axes = (jax.sharding.AxisType.Auto,) * 2
    shape = (n // 2, 2) if n > 1 else (1, 1)
    mesh = jax.make_mesh(
      shape, ("data", "path"), devices=jax.devices()[:n], axis_types=axes
    )
    for engine in ENGINES:
      score = scorer(supernet, Placement(mesh), engine=engine)
      for archs in (NINE, NINE[4:7]):
        found = score(variables, archs, per_example=True)
        key = f"{engine} {n} {len(archs)}"
        out[key] = {k: v.tolist() for k, v in found.items()}
  print(json.dumps(out))


@pytest.fixture(scope="module")
def on_devices(xla_cache):
  """Scores by engine, number of devices and number of archs."""
  path = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
  env = {
    **os.environ,
    **xla_cache,
    # Compiling is most of the time, so without LLVM's optimisations.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0",
    "PYTHONPATH": os.pathsep.join(path),
  }
  done = subprocess.run(
    [sys.executable, "-c", "import test_engines; test_engines.main()"],
    env=env, capture_output=True, text=True, check=False, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  out = json.loads(done.stdout)
  assert out.pop("present") == 8
  return {
    key: {k: np.array(v) for k, v in found.items()}
    for key, found in out.items()
  }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_devices_do_not_matter(on_devices, engine, n):
  one = on_devices[f"{engine} 1 9"]
  close(one, on_devices["serial 1 9"])
  # Spread over devices, the serial loop is another program.
  check = close if engine == "serial" else same
  check(on_devices[f"{engine} {n} 9"], one)
  # Fewer archs than devices.
  check(on_devices[f"{engine} {n} 3"], rows_of(one, slice(4, 7)))
