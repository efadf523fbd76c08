"""Every method's quicktest on eight fake devices; in a process of its own.

Short trainings magnify the rounding of sums, which depends on the mesh, within
ten steps, so whole runs are compared by what they reach; that single steps are
equal is tested in training/test_devices.py, and scores in scoring/. The chains
are cut to two layers, and nothing is trained again: most of the time is
compilation.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
# One program for all devices; the wavefront on eight has tests of its own.
SHORT = ['space.options={"depths": [1, 1]}']
CHAIN = [*SHORT, "score.engine=serial"]
RUNS = {
  "fairnas": ("digits_fairnas:quicktest", CHAIN),
  "gcn": (
    "digits_gcn:quicktest",
    [*CHAIN, "search.predictor.kind=gcn", "search.predictor.epochs=20",
     "search.segments.first=1", "search.segments.later=2"],
  ),
  "pgnas": ("digits_pgnas:quicktest", []),
  "irlas": ("digits_irlas:quicktest", ["blocks.compare=()"]),
  "dcnas": ("digits_dcnas:quicktest", [*SHORT, "divide.samples=6"]),
}  # fmt: skip
MESHES = {"one": (1, 1), "eight": (4, 2)}


def main(folder: str) -> None:
  """Runs in the child: prints what each run found, and where it ran."""
  from jaxnas.config import load_config, override
  from jaxnas.experiment import make_experiment
  from jaxnas.memory import drop_programs

  out = {}
  for name, (base, changes) in RUNS.items():
    for mesh, (data, path) in MESHES.items():
      config = override(
        load_config(base), [*changes, f"mesh.data={data}", f"mesh.path={path}"]
      )
      workdir = Path(folder, name, mesh)
      experiment = make_experiment(config, workdir)
      experiment.train()
      experiment.search()
      result = json.loads((workdir / "result.json").read_text())
      scored = np.genfromtxt(
        workdir / "archs.csv", delimiter=",", names=True, dtype=None,
        encoding="utf-8",
      ) if (workdir / "archs.csv").exists() else None  # fmt: skip
      out[f"{name}-{mesh}"] = {
        "devices": experiment.setup.placement.n_devices,
        "arch": result["arch"],
        "metrics": result["metrics"],
        "accuracy": None if scored is None else scored["accuracy"].tolist(),
      }
    drop_programs()
  print(json.dumps(out))


@pytest.fixture(scope="module")
def found(xla_cache):
  roots = [str(HERE), str(HERE.parent)]
  env = {
    **os.environ,
    **xla_cache,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0",
    "PYTHONPATH": os.pathsep.join(roots),
  }
  with tempfile.TemporaryDirectory() as folder:
    done = subprocess.run(
      [sys.executable, "-c",
       f"import test_eight_devices as t; t.main({folder!r})"],
      env=env, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", RUNS)
def test_a_quicktest_on_eight_devices_equals_one(found, name):
  one, eight = found[f"{name}-one"], found[f"{name}-eight"]
  assert (one["devices"], eight["devices"]) == (1, 8)
  assert one["metrics"].keys() == eight["metrics"].keys()
  assert len(one["accuracy"]) == len(eight["accuracy"])
  for n in (4, len(one["accuracy"])):  # before the search has chosen, and all
    means = [np.mean(run["accuracy"][:n]) for run in (one, eight)]
    assert means[0] == pytest.approx(means[1], abs=0.05)
  best = [run["metrics"]["supernet_accuracy"] or 0 for run in (one, eight)]
  assert best[0] == pytest.approx(best[1], abs=0.05)
