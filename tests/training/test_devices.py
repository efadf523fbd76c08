"""Steps on eight fake devices equal those on one; in a process of its own."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent


def main() -> None:
  """Runs in the child: prints one JSON object of differences."""
  import jax
  import numpy as np
  from tiny import SMALL, make_feed, make_space, shaken

  from jaxnas import sharding
  from jaxnas.config import (
    MeshConfig,
    NetConfig,
    OptimizerConfig,
    PredictorConfig,
    RetrainConfig,
    TrainConfig,
  )  # fmt: skip
  from jaxnas.data import Split
  from jaxnas.nets import Fleet, PathSupernet, PlainNetwork
  from jaxnas.predictors.ensembles import NeuralPredictor
  from jaxnas.scoring import NetworkEvaluator
  from jaxnas.sharding import make_placement
  from jaxnas.spaces import Conv, MBConv
  from jaxnas.training import (
    StreamedBatches,
    init_state,
    make_fleet_step,
    make_optimizer,
    make_sampler,
    make_supernet_step,
  )  # fmt: skip

  sharding.SHARDED = 1  # no weight of a tiny network is large
  placements = {
    name: make_placement(MeshConfig(*axes))
    for name, axes in {
      "one": (1, 1), "data8": (8, 1), "data4path2": (4, 2),
      "data2path4": (2, 4), "data2path2": (2, 2), "weights": (8, 1, True),
    }.items()
  }  # fmt: skip
  optimizer = OptimizerConfig(clip_norm=1.0)
  tx = make_optimizer(optimizer, lambda _: 0.1)

  def supernet(placement, space=SMALL, parts=1, **changes):
    config = TrainConfig(sampler="fair", optimizer=optimizer, **changes)
    net = PathSupernet(space, NetConfig(bn_parts=parts))
    feed = dataclasses.replace(make_feed(placement=placement), bn_parts=parts)
    step = make_supernet_step(
      net, make_sampler(config, space), tx, config, feed
    )
    state = init_state(shaken(net.init(jax.random.key(0))), tx, space.n_choices)
    return step, state, () if config.share_batch else (space.n_choices[0],)

  def fleet(placement):
    joint = Fleet(SMALL, ((0, 0), (1, 1)))
    config = RetrainConfig(optimizer=optimizer)
    step = make_fleet_step(
      joint, tx, config, 0.9, 0.2, make_feed(placement=placement)
    )
    variables = shaken(joint.init(jax.random.split(jax.random.key(0), 2)))
    return step, init_state(variables, tx), ()

  three = make_space(*[(Conv(3), MBConv(2, 3), MBConv(1, 3))] * 2)
  # 14 images do not divide by 4 or 8, nor 3 paths by 4 devices.
  kinds = {
    "shared": (supernet, 14, ("data8", "data4path2", "weights")),
    "separate": (
      lambda p: supernet(p, three, share_batch=False),
      14,
      ("data2path4",),
    ),
    "parts": (
      lambda p: supernet(p, parts=2, accumulate=2),
      16,
      ("data2path2",),
    ),
    "fleet": (fleet, 14, ("data4path2",)),
  }
  out = {"devices": jax.device_count()}
  for kind, (build, images, names) in kinds.items():
    ends = {}
    for name in ("one", *names):
      placement = placements[name]
      step, state, shape = build(placement)
      state = placement.scatter(placement.put(state))
      for i in range(2):
        rows = np.random.default_rng(i).integers(
          0, 48, (*shape, images), np.int32
        )
        state, metrics = step(state, jax.random.key(0), rows)
      spread = [
        not a.sharding.is_fully_replicated for a in jax.tree.leaves(state)
      ]
      assert any(spread) == (name == "weights")
      ends[name] = jax.device_get((state, metrics))
    for name in names:
      pairs = zip(
        jax.tree.leaves(ends["one"]), jax.tree.leaves(ends[name]), strict=True
      )
      out[f"{kind}-{name}"] = max(
        float(np.abs(np.float64(a) - np.float64(b)).max()) for a, b in pairs
      )
  network = PlainNetwork(SMALL, (0, 1))
  rng = np.random.default_rng(3)
  pixels = rng.integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
  split = Split(pixels, rng.integers(0, 4, 30).astype(np.int32))
  feed = make_feed()
  data = SimpleNamespace(mean=feed.mean, std=feed.std)
  variables = network.init(jax.random.key(0), pixels[:1] / np.float32(255))
  judged = [
    NetworkEvaluator(network, data, split, 16, placements[name])(variables)
    for name in ("one", "data4path2")
  ]
  out["judged"] = max(abs(judged[0][k] - judged[1][k]) for k in judged[0])
  streamed = dataclasses.replace(
    make_feed(placement=placements["data4path2"]), split=split
  )
  # Where XLA may choose, it cuts axes that do not divide by the devices.
  for shape in ((14,), (16,), (2, 8), (3, 8)):
    taken = SimpleNamespace(
      indices=lambda step, shape=shape: np.zeros(shape, np.int32)
    )
    given = StreamedBatches(taken, split, streamed.placement).inputs(0, 1)
    for a, b in zip(next(given), streamed.abstract(shape), strict=True):
      assert a.sharding == b.sharding, shape
  predictor = NeuralPredictor(
    PredictorConfig("mlp", ensemble=9, layers=1, width=8, epochs=4)
  )
  rng = np.random.default_rng(0)
  archs = rng.integers(0, 2, (40, 3), np.int32)
  values, means = archs.sum(1) + rng.normal(size=40), []
  for devices in (jax.devices(), jax.devices()[:1]):
    jax.local_devices = lambda devices=devices: devices
    fitted = predictor.fit(np.array([2, 2, 2]), archs, values, 0)
    means.append(fitted.predict(archs))
  out["ensemble"] = float(np.abs(np.subtract(*means)).max())
  print(json.dumps(out))


@pytest.fixture(scope="module")
def differences():
  roots = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    # Compiling is most of the time, so without LLVM's optimisations.
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0",
    "PYTHONPATH": os.pathsep.join(roots),
  }
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c",
     "import test_devices; test_devices.main()"],
    env=env, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
  "case",
  ["shared-data8", "shared-data4path2", "shared-weights",
   "separate-data2path4", "parts-data2path2", "fleet-data4path2", "judged",
   "ensemble"],
)  # fmt: skip
def test_eight_devices_equal_one(differences, case):
  assert differences["devices"] == 8
  # Values of order one after two steps; only the order of float32 sums over
  # the batch (batch norm, gradients) depends on the devices.
  assert differences[case] < 5e-5
