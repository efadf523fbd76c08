"""Masks scored many in a call have the scores of masks scored one by one.

However they are computed: vectorised or in a loop, on whole batches or a few
images at once, on any number of devices. The reference walks the graph node by
node for one mask; it takes means and variances in NumPy.
"""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import graphs
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import dataset
from tiny import shaken

from jaxnas.compilations import Compilations
from jaxnas.config import ScoreConfig
from jaxnas.errors import UserError
from jaxnas.nets import MaskedSupernet
from jaxnas.scoring import MaskForm, MaskScorer, calibration_split
from jaxnas.sharding import Placement, make_placement
from jaxnas.spaces.graph import IMAGES, Norm

HERE = Path(__file__).parent
CLOSE = 1e-6  # relative; about 8 roundings of float32
MODES = ("running", "recalibrate", "batch")
FORMS = {
  "serial": MaskForm(vectorised=1, looped=1, tile=0),
  "looped": MaskForm(vectorised=1, looped=3, tile=2),
  "vectorised": MaskForm(vectorised=4, looped=1, tile=0),
  "both": MaskForm(vectorised=2, looped=2, tile=3),
}
SPACE = graphs.SPACES["shake"]
SUPERNET = MaskedSupernet(SPACE)
VARIABLES = shaken(SUPERNET.init(jax.random.key(0)))
N = 11
DATA = dataset(N, size=6)
# Three batches of statistics (14 images, 12 of them used) and three of scores,
# the last one ragged.
CONFIG = ScoreConfig("running", calibration_images=14, batch_size=4)
# The empty network among them; 9 is no multiple of any chunk.
RATES = np.linspace(0.05, 0.3, len(SPACE.groups))
ALL = SPACE.draw(np.random.default_rng(0), RATES, 9)
ALL[5] = 0


def normalised(images):
  x = images.astype(np.float32) / np.float32(255)
  return (x - DATA.mean) / DATA.std


def walk(images, keep, stats=None):
  """Logits, and what every batch norm saw; its own statistics if none given."""
  graph, seen = SPACE.graph, {}
  values = {IMAGES: images}
  for node in graph.nodes:
    inputs = [values[i] for i in node.inputs]
    if node.name in graph.gates:
      inputs[0] = inputs[0] * keep[graph.gates[node.name]]
    own = VARIABLES["params"].get(node.name, {})
    known = None
    if isinstance(node.op, Norm):
      x = seen[node.name] = np.asarray(inputs[0], np.float64)
      known = stats[node.name] if stats else moments(x)
    values[node.name] = graphs.evaluate_op(node.op, inputs, own, known)
  return np.asarray(values[graph.output], np.float64), seen


def moments(x):
  x = x.reshape(-1, x.shape[-1])
  return {"mean": np.float32(x.mean(0)), "var": np.float32(x.var(0))}


def logits_of(mask, mode):
  """Logits of all validation images under one mask, `float64[N, 4]`."""
  keep, x = mask.astype(np.float32), normalised(DATA.validation.images)
  if mode == "batch":
    # A ragged last batch is filled up with real images, from the first on.
    index = np.arange(-(-N // 4) * 4) % N
    parts = [walk(x[i], keep)[0] for i in index.reshape(-1, 4)]
    return np.concatenate(parts)[:N]
  stats = VARIABLES["batch_stats"]
  if mode == "recalibrate":
    images = normalised(calibration_split(DATA, CONFIG).images)
    seen = [walk(images[i : i + 4], keep)[1] for i in range(0, len(images), 4)]
    stats = {
      name: moments(np.concatenate([s[name] for s in seen])) for name in seen[0]
    }
  return walk(x, keep, stats)[0]


@functools.cache
def reference(mode):
  """`correct`, `accuracy` and `loss` of all masks, one after the other."""
  hits, losses = [], []
  for mask in ALL:
    logits, y = logits_of(mask, mode), DATA.validation.labels
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    hits.append(logits.argmax(1) == y)
    losses.append(-log_p[np.arange(N), y].mean())
  hits = np.stack(hits)
  return {"accuracy": hits.mean(1), "loss": np.array(losses), "correct": hits}


def scorer(form, mode="running", placement=None, **changes):
  config = dataclasses.replace(CONFIG, bn_mode=mode, **changes)
  placement = placement or make_placement()
  return MaskScorer(SUPERNET, DATA, config, placement, FORMS.get(form))


@functools.cache
def made(form, mode):
  """A scorer, and its scores of all masks."""
  score = scorer(form, mode)
  return score, score(VARIABLES, ALL, per_example=True)


def close(out, expected, tolerance=CLOSE):
  assert out.keys() == expected.keys()
  np.testing.assert_array_equal(out["accuracy"], expected["accuracy"])
  np.testing.assert_array_equal(out["correct"], expected["correct"])
  np.testing.assert_allclose(out["loss"], expected["loss"], rtol=tolerance)


def rows_of(out, rows):
  return {name: values[rows] for name, values in out.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_scores_are_those_of_masks_one_by_one(form, mode):
  score, out = made(form, mode)
  assert score.bn_mode == mode
  assert out["correct"].shape == (len(ALL), N)
  assert out["correct"].dtype == bool
  # The reference rounds elsewhere; masks differ by far more.
  close(out, reference(mode), 2e-5)
  assert np.diff(np.sort(out["loss"])).min() > 1e-4
  close(out, made("serial", mode)[1])


def test_modes_differ():
  for a, b in ((0, 1), (1, 2), (0, 2)):
    gap = reference(MODES[a])["loss"] - reference(MODES[b])["loss"]
    assert np.abs(gap).max() > 1e-2


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(rows=st.lists(st.integers(0, len(ALL) - 1), min_size=1, max_size=20))
def test_order_company_and_repeats_do_not_matter(form, rows):
  score, everything = made(form, "recalibrate")
  close(score(VARIABLES, ALL[rows], True), rows_of(everything, rows))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", FORMS)
def test_another_set_compiles_nothing(form, mode):
  score, everything = made(form, mode)
  if mode != "batch":  # the gathering of images has a program of its own
    score.score_images(VARIABLES, ALL[:2], np.arange(3))
  with Compilations() as seen:
    jax.jit(lambda x: x + 1)(np.ones(3))
    assert seen.count  # the listener works
  other = jax.tree.map(lambda a: np.float32(1.01) * a, VARIABLES)
  with Compilations() as seen:
    for n in (1, 3, 5, len(ALL)):
      score(VARIABLES, ALL[:n], per_example=True)
    changed = score(other, ALL)
    if mode != "batch":
      for images in ([4], [10, 0, 7], np.arange(N)):
        score.score_images(VARIABLES, ALL[3:], np.array(images))
  assert not seen.count
  assert (changed["loss"] != everything["loss"]).all()


@pytest.mark.parametrize("form", ["looped", "both"])
def test_all_chunks_are_one_program(form):
  score = scorer(form)
  with Compilations() as seen:
    score(VARIABLES, ALL)  # three chunks; the last one is not always full
  assert seen.count == 1


# Parts of the images ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["running", "recalibrate"])
@pytest.mark.parametrize("form", FORMS)
def test_chosen_images_have_their_scores(form, mode):
  score, everything = made(form, mode)
  whole = score.score_images(VARIABLES, ALL, np.arange(N))
  np.testing.assert_array_equal(whole["accuracy"], everything["correct"])
  np.testing.assert_allclose(
    whole["loss"].mean(1, dtype=np.float64), everything["loss"], rtol=CLOSE
  )
  for images in ([8], [10, 0, 3, 5, 9], [*range(N)][::-1]):
    part = score.score_images(VARIABLES, ALL[2:8], np.array(images))
    for name, values in part.items():
      assert values.shape == (6, len(images))
      np.testing.assert_allclose(
        values, whole[name][2:8][:, images], rtol=CLOSE, atol=CLOSE
      )


def test_single_images_have_no_score_in_batch_mode():
  with pytest.raises(UserError, match="score.bn_mode=batch"):
    made("serial", "batch")[0].score_images(VARIABLES, ALL, np.arange(3))


def test_the_batch_size_is_that_of_the_config():
  assert made("looped", "running")[0].batch_size == 4
  assert made("looped", "running")[0].form.tile == 2
  # There images depend on those beside them.
  assert made("looped", "batch")[0].form.tile == 4
  assert made("serial", "running")[0].n_images == N


# Memory and mistakes ----------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_memory_bounds_what_is_vectorised(mode):
  with pytest.raises(UserError, match=r"max_live_bytes is 1;") as error:
    scorer("vectorised", mode, max_live_bytes=1)
  need = int(re.search(r"about ([\d,]+)", str(error.value))[1].replace(",", ""))
  # The activations after every node that a sum or product still reads.
  most = max(s.size**2 * s.channels for s in SPACE.graph.shapes.values())
  assert need >= 4 * 4 * 2 * most
  with pytest.raises(UserError, match=f"4 images needs about {need:,}"):
    scorer("vectorised", mode, max_live_bytes=need - 1)
  score = scorer("vectorised", mode, max_live_bytes=3 * need)
  assert score.form.vectorised == 3
  if mode == "running":
    close(score(VARIABLES, ALL, True), made("vectorised", mode)[1])


def test_fewer_images_at_once_need_less_memory():
  whole, tiled = (
    made(form, "running")[0].mask_bytes() for form in ("serial", "looped")
  )
  assert tiled * 2 == whole
  # Statistics are those of whole batches.
  assert made("looped", "recalibrate")[0].mask_bytes() == whole


@pytest.mark.parametrize(
  ("archs", "part"),
  [(ALL[:, 1:], "channels"), (ALL + 1, "legal: 0 .drop. and 1 .keep.")],
)
def test_what_is_no_mask_is_refused(archs, part):
  with pytest.raises(UserError, match=part):
    made("serial", "running")[0](VARIABLES, archs)


# Devices ----------------------------------------------------------------------


def main() -> None:
  """Runs in the child: scores on 1, 3 and 8 devices, as JSON."""
  out = {"present": jax.device_count()}
  for n, shape in ((1, (1, 1)), (3, (3, 1)), (8, (4, 2))):
    mesh = jax.make_mesh(
      shape, ("data", "path"), devices=jax.devices()[:n],
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
    )  # fmt: skip
    score = scorer("both", "recalibrate", Placement(mesh))
    for archs in (ALL, ALL[4:6]):
      found = score(VARIABLES, archs, per_example=True)
      key = f"{n} {len(archs)}"
      out[key] = {k: v.tolist() for k, v in found.items()}
  print(json.dumps(out))


@pytest.fixture(scope="module")
def on_devices(xla_cache):
  """Scores by number of devices and number of masks."""
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
    [sys.executable, "-c", "import test_mask_scorer as t; t.main()"],
    env=env, capture_output=True, text=True, check=False, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  out = json.loads(done.stdout)
  assert out.pop("present") == 8
  return {
    key: {k: np.array(v) for k, v in found.items()}
    for key, found in out.items()
  }


@pytest.mark.parametrize("n", [1, 3, 8])
def test_devices_do_not_matter(on_devices, n):
  expected = made("both", "recalibrate")[1]
  close(on_devices[f"{n} 9"], expected)
  # Fewer masks than devices.
  close(on_devices[f"{n} 2"], rows_of(expected, slice(4, 6)))
