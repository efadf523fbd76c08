"""An exported network predicts the same, in a process without jaxnas."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import THREE, make_space, same, shaken

from jaxnas.config import NetConfig
from jaxnas.costs import cost_tables
from jaxnas.errors import RunError, UserError
from jaxnas.nets import (
  PathSupernet,
  PlainNetwork,
  export,
  export_network,
  inherit,
  load_network,
)
from jaxnas.spaces import Identity

SPACE = make_space((Identity(), *THREE[1:]), THREE)
MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])
NAMES = ("ant", "bee", "cat", "dog")
IMAGES = np.random.default_rng(0).integers(0, 256, (33, 6, 6, 3), np.uint8)

# Refuses to import jaxnas, then predicts for several numbers of images.
ALONE = """
import sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] == "jaxnas":
      raise ImportError("jaxnas is not here")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import numpy as np
import predict
network = predict.load()
images = np.load(sys.argv[2])
np.savez(sys.argv[3], *[np.asarray(network(images[:n])) for n in (1, 5, 33)])
assert not any(m.split(".")[0] in ("jaxnas", "flax") for m in sys.modules)
"""


def make(arch, net):
  """A network with weights that are not neutral."""
  supernet = PathSupernet(SPACE, net)
  variables = shaken(supernet.init(jax.random.key(0)))
  own = inherit(variables, SPACE, np.array(arch))
  return PlainNetwork(SPACE, arch, net), own


def predict(network, variables):
  apply = jax.jit(network.apply)
  return np.asarray(apply(variables, (IMAGES / np.float32(255) - MEAN) / STD))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run") / "deep" / "export"
  network, variables = make((1, 0), NetConfig())
  gap = export_network(folder, network, variables, MEAN, STD, NAMES, IMAGES[:7])
  return SimpleNamespace(
    folder=folder, gap=gap, network=network, variables=variables
  )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  path = tmp_path_factory.mktemp("pictures") / "images.npy"
  np.save(path, IMAGES)
  return path


def test_files_and_architecture(exported):
  assert {p.name for p in exported.folder.iterdir()} == {
    "architecture.json", "check.npz", "model.jaxexport", "predict.py",
    "weights.npz",
  }  # fmt: skip
  assert 0 <= exported.gap <= 1e-4
  info = json.loads((exported.folder / "architecture.json").read_text())
  assert info["arch"] == "10"
  assert info["choices"] == SPACE.choice_names([1, 0])
  assert info["class_names"] == list(NAMES)
  assert info["input"] == "uint8 [n, 6, 6, 3]"
  macs = cost_tables(SPACE)["macs"](np.array([[1, 0]]))[0]
  assert sum(row["macs"] for row in info["layers"]) == macs


def test_any_number_of_images_without_jaxnas(exported, pictures, tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", ALONE, exported.folder, pictures, "out.npz"],
    cwd=tmp_path, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  want = predict(exported.network, exported.variables)
  with np.load(tmp_path / "out.npz") as found:
    for name, n in zip(found.files, (1, 5, 33), strict=True):
      assert found[name].shape == (n, 4)
      np.testing.assert_allclose(found[name], want[:n], rtol=1e-4, atol=1e-5)


def test_predict_prints_one_class_name_per_image(exported, pictures, tmp_path):
  script = str(exported.folder / "predict.py")
  done = subprocess.run(
    [sys.executable, script, str(pictures)],
    cwd=tmp_path, capture_output=True, text=True, check=False,
  )  # fmt: skip
  want = predict(exported.network, exported.variables).argmax(1)
  assert done.stdout.splitlines() == [NAMES[i] for i in want]
  done = subprocess.run(
    [sys.executable, script], capture_output=True, text=True, check=False
  )
  assert done.returncode == 1
  assert done.stderr.startswith("usage:")


def test_load_network_gives_back_module_and_weights(exported):
  network, variables, info = load_network(exported.folder)
  assert network.space == SPACE
  assert network.arch == (1, 0)
  assert same(variables, exported.variables)
  np.testing.assert_array_equal(np.float32(info["mean"]), MEAN)
  np.testing.assert_array_equal(
    predict(network, variables),
    predict(exported.network, exported.variables),
  )


def test_numerics_travel_along(tmp_path):
  net = NetConfig(precision="bfloat16", bn_affine=False)
  network, variables = make((2, 1), net)
  export_network(tmp_path, network, variables, MEAN, STD, NAMES, IMAGES[:2])
  back, weights, _ = load_network(tmp_path)
  assert back.net.precision == "bfloat16"
  assert not any("scale" in k for k in export.flatten(weights))
  np.testing.assert_array_equal(
    predict(back, weights), predict(network, variables)
  )


def test_a_folder_without_network(exported, tmp_path):
  with pytest.raises(UserError, match="no exported network"):
    load_network(tmp_path / "nowhere")
  file = exported.folder / "architecture.json"
  (tmp_path / file.name).write_bytes(file.read_bytes())
  with pytest.raises(UserError, match=r"no weights\.npz"):
    load_network(tmp_path)


@pytest.mark.parametrize(
  ("process", "message"),
  [
    (SimpleNamespace(returncode=1, stderr="Boom"), "does not run: Boom"),
    (
      SimpleNamespace(returncode=0, stdout='{"largest_difference": 0.5}'),
      "differ by up to 0.5",
    ),
    (
      SimpleNamespace(returncode=0, stdout='{"largest_difference": NaN}'),
      "differ by up to nan",
    ),
  ],
)
def test_a_fresh_process_that_disagrees_is_an_error(
  process, message, monkeypatch, tmp_path
):
  monkeypatch.setattr(export.subprocess, "run", lambda *_, **__: process)
  with pytest.raises(RunError, match=message):
    export._check(tmp_path, np.ones((2, 4)))


def test_the_stored_prediction_is_compared(exported, tmp_path):
  """`predict.py --check` would notice other weights."""
  for file in exported.folder.iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  with np.load(tmp_path / "check.npz") as stored:
    images, logits = stored["images"], stored["logits"]
  np.savez(tmp_path / "check.npz", images=images, logits=logits + 0.25)
  with pytest.raises(RunError, match="differ by up to 0.25"):
    export._check(tmp_path, logits)


def test_flat_names_are_paths():
  tree = {"params": {"a": {"b": np.ones(2)}}, "batch_stats": {}}
  assert list(export.flatten(tree)) == ["params/a/b"]
  assert same(export.unflatten(export.flatten(tree)), tree)
