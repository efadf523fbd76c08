"""Blocks scored together have the scores of their own networks."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from plain import dataset
from tiny import shaken

from jaxnas.config import ScoreConfig
from jaxnas.errors import UserError
from jaxnas.nets import BlockSupernet, GraphNetwork, inherit_block
from jaxnas.scoring import BlockScorer, calibrated_block
from jaxnas.sharding import make_placement
from jaxnas.spaces import block_graph, get_space

HERE = Path(__file__).parent
MODES = ("recalibrate", "running", "batch")
SPACE = get_space(
  "blocks-digits", max_layers=4, stem=4, stages=[[4, 1], [6, 1]]
).replace(image_size=6, image_channels=3, n_classes=4)
SUPERNET = BlockSupernet(SPACE)
VARIABLES = shaken(SUPERNET.init(jax.random.key(0)))
DATA = dataset(11, size=6)
# Three batches of statistics and of scores, the last one ragged.
CONFIG = ScoreConfig("recalibrate", calibration_images=14, batch_size=4)
ALL = SPACE.sample(np.random.default_rng(0), 37)


@functools.cache
def scorer(mode="recalibrate", tile=3):
  config = dataclasses.replace(CONFIG, bn_mode=mode)
  return BlockScorer(SUPERNET, DATA, config, make_placement(), tile)


def normalised(images):
  x = images.astype(np.float32) / np.float32(255)
  return (x - DATA.mean) / DATA.std


def logits_of(arch, mode):
  """Logits of all validation images by the block's own network."""
  network = GraphNetwork(block_graph(SPACE, arch))
  own = inherit_block(SPACE, arch, VARIABLES)
  x = normalised(DATA.validation.images)

  def measured(x):
    return network.apply(own, x, False, mutable=["batch_stats"])

  if mode == "batch":
    # A ragged last batch is filled up with real images, from the first on.
    index = np.arange(12) % 11
    return np.concatenate([measured(x[i])[0] for i in index.reshape(3, 4)])[:11]
  if mode == "recalibrate":
    images = normalised(DATA.train.images[:12])
    seen = [
      measured(images[i : i + 4])[1]["batch_stats"] for i in (0, 4, 8)
    ]  # fmt: skip
    stats = {}
    for name in own["batch_stats"]:
      means = np.stack([s[name]["mean"] for s in seen])
      variances = np.stack([s[name]["var"] for s in seen])
      stats[name] = {
        "mean": means.mean(0), "var": variances.mean(0) + means.var(0),
      }  # fmt: skip
    own = {**own, "batch_stats": stats}
  return np.asarray(network.apply(own, x))


@pytest.mark.parametrize("mode", MODES)
def test_scores_equal_those_of_plain_networks(mode):
  tile = 11 if mode == "running" else 3  # changes rounding only
  found = scorer(mode, tile)(VARIABLES, ALL[:6], per_example=True)
  y = DATA.validation.labels
  for i, arch in enumerate(ALL[:6]):
    logits = np.float64(logits_of(arch, mode))
    np.testing.assert_array_equal(found["correct"][i], logits.argmax(1) == y)
    top = logits.max(1)
    nats = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    loss = (nats - logits[np.arange(11), y]).mean()
    assert found["loss"][i] == pytest.approx(loss, rel=1e-4)
    assert found["accuracy"][i] == found["correct"][i].mean()


def test_order_company_and_number_do_not_matter():
  score = scorer()
  whole = score(VARIABLES, ALL)
  back = score(VARIABLES, ALL[::-1])
  for name, values in whole.items():
    np.testing.assert_array_equal(values, back[name][::-1])
    for i in (0, 17, 36):
      np.testing.assert_array_equal(
        values[i : i + 1], score(VARIABLES, ALL[i : i + 1])[name]
      )
  assert score.programs == 1  # for 37 topologies, in sets of many sizes


def test_calibrated_variables_score_the_same_outside():
  arch = ALL[3]
  fresh = calibrated_block(
    SUPERNET, VARIABLES, arch, DATA, CONFIG, make_placement()
  )
  network = GraphNetwork(block_graph(SPACE, arch))
  own = inherit_block(SPACE, arch, jax.device_get(fresh))
  logits = network.apply(own, normalised(DATA.validation.images))
  hits = (logits.argmax(1) == DATA.validation.labels).mean()
  assert hits == scorer()(VARIABLES, arch[None])["accuracy"][0]


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"engine": "wavefront"}, "auto or serial"),
    ({"max_live_bytes": 1000}, "one block on"),
  ],
)
def test_wrong_values_are_explained(change, part):
  config = dataclasses.replace(CONFIG, **change)
  with pytest.raises(UserError, match=part):
    BlockScorer(SUPERNET, DATA, config, make_placement())


def test_illegal_blocks_are_refused():
  with pytest.raises(UserError, match="at layer 1"):
    scorer()(VARIABLES, np.zeros((1, 12), np.int32))


def main() -> None:
  """Runs in the child: prints the losses on all devices as JSON."""
  score = BlockScorer(SUPERNET, DATA, CONFIG, make_placement(), 3)
  found = score(VARIABLES, ALL[:19])
  out = {"devices": jax.device_count(), "loss": found["loss"].tolist()}
  print(json.dumps(out))


def test_eight_devices_equal_one(xla_cache):
  roots = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  env = {
    **os.environ,
    **xla_cache,
    "JAX_PLATFORMS": "cpu",
    # Compiling is most of the time, so without LLVM's optimisations.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0",
    "PYTHONPATH": os.pathsep.join(roots),
  }
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c",
     "import test_block_scorer; test_block_scorer.main()"],
    env=env, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  out = json.loads(done.stdout.splitlines()[-1])
  assert out["devices"] == 8
  expected = scorer()(VARIABLES, ALL[:19])["loss"]
  np.testing.assert_allclose(out["loss"], expected, rtol=1e-5)
