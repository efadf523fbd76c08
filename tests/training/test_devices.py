"""Steps on eight fake devices equal those on one; in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def main() -> None:
  """Runs in the child: prints one JSON object of differences."""
  import jax
  import numpy as np
  from tiny import SMALL, make_feed, shaken

  from jaxnas.config import (
    MeshConfig,
    OptimizerConfig,
    RetrainConfig,
    TrainConfig,
  )  # fmt: skip
  from jaxnas.nets import Fleet, PathSupernet
  from jaxnas.sharding import Placement, make_placement
  from jaxnas.training import (
    init_state,
    make_fleet_step,
    make_optimizer,
    make_sampler,
    make_supernet_step,
  )  # fmt: skip

  mesh = jax.make_mesh(
    (1, 1), ("data", "path"), devices=jax.devices()[:1],
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )  # fmt: skip
  placements = {
    "one": Placement(mesh),
    "data4path2": make_placement(MeshConfig(data=4, path=2)),
    "data8": make_placement(MeshConfig(data=8)),
  }
  optimizer = OptimizerConfig(clip_norm=1.0)
  tx = make_optimizer(optimizer, lambda _: 0.1)

  def supernet(placement, share):
    config = TrainConfig(sampler="fair", share_batch=share, optimizer=optimizer)
    net = PathSupernet(SMALL)
    step = make_supernet_step(
      net, make_sampler(config, SMALL), tx, config,
      make_feed(placement=placement),
    )  # fmt: skip
    variables = shaken(net.init(jax.random.key(0)))
    state = placement.put(init_state(variables, tx, SMALL.n_choices))
    return step, state, (16,) if share else (2, 16)

  def fleet(placement):
    joint = Fleet(SMALL, ((0, 0), (1, 1)))
    config = RetrainConfig(optimizer=optimizer)
    step = make_fleet_step(
      joint, tx, config, 0.9, 0.2, make_feed(placement=placement)
    )
    variables = shaken(joint.init(jax.random.split(jax.random.key(0), 2)))
    return step, placement.put(init_state(variables, tx)), (16,)

  kinds = {
    "shared": lambda p: supernet(p, True),
    "separate": lambda p: supernet(p, False),
    "fleet": fleet,
  }
  out = {"devices": jax.device_count()}
  for kind, build in kinds.items():
    ends = {}
    for name, placement in placements.items():
      if name == "data8" and kind != "shared":
        continue
      step, state, shape = build(placement)
      for i in range(2):
        rows = np.random.default_rng(i).integers(0, 48, shape, np.int32)
        state, metrics = step(state, jax.random.key(0), rows)
      assert all(a.sharding.is_fully_replicated for a in jax.tree.leaves(state))
      ends[name] = jax.device_get((state, metrics))
    for name in list(ends)[1:]:
      pairs = zip(
        jax.tree.leaves(ends["one"]), jax.tree.leaves(ends[name]), strict=True
      )
      out[f"{kind}-{name}"] = max(
        float(np.abs(np.float64(a) - np.float64(b)).max()) for a, b in pairs
      )
  print(json.dumps(out))


@pytest.fixture(scope="module")
def differences():
  roots = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    # Compiling is nearly all of the time, so without LLVM's optimisations.
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
  ["shared-data4path2", "shared-data8", "separate-data4path2",
   "fleet-data4path2"],
)  # fmt: skip
def test_eight_devices_equal_one(differences, case):
  assert differences["devices"] == 8
  # Values of order one after two steps; only the order of float32 sums over
  # the batch (batch norm, gradients) depends on the devices.
  assert differences[case] < 5e-5
