"""The winner as files: architecture, weights, and a program of its own.

`model.jaxexport` is StableHLO with weights and preprocessing inside. It runs
wherever `jax.export` does, without jaxnas; `predict.py` beside it shows how.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.costs import layer_rows
from jaxnas.costs.graph import graph_rows
from jaxnas.costs.masks import mask_layer_rows
from jaxnas.errors import RunError, UserError
from jaxnas.nets.compact import CompactNetwork
from jaxnas.nets.graphs import GraphNetwork
from jaxnas.nets.paths import Variables
from jaxnas.nets.standalone import PlainNetwork
from jaxnas.spaces import Graph, Space
from jaxnas.spaces.masks import MaskSpace
from jaxnas.writer import (
  as_folder,
  is_file,
  read_arrays,
  read_json,
  write_atomic,
  write_json,
)

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # of logits, between two compilations of the same network

Network = PlainNetwork | CompactNetwork | GraphNetwork

PREDICT = '''"""Classifies images; needs jax, flatbuffers and numpy.

    python predict.py images.npy            # uint8 [n, H, W, C] -> class names

In Python:

    import predict
    logits = predict.load()(images)         # float32 [n, classes]
"""

import io
import json
import pathlib
import sys

import jax.export
import numpy as np

HERE = pathlib.Path(__file__).parent


def load():
  """Returns the network: uint8 images [n, H, W, C] to logits [n, classes]."""
  blob = bytearray((HERE / "model.jaxexport").read_bytes())
  return jax.jit(jax.export.deserialize(blob).call)


def main():
  """Prints one class name per image, or checks the stored predictions."""
  names = json.loads((HERE / "architecture.json").read_text())["class_names"]
  if sys.argv[1:] == ["--check"]:
    stored = np.load(HERE / "check.npz", allow_pickle=False)
    gap = float(np.abs(load()(stored["images"]) - stored["logits"]).max())
    print(json.dumps({"largest_difference": gap}))
    return
  if len(sys.argv) != 2:
    sys.exit("usage: python predict.py images.npy | --check")
  images = np.load(sys.argv[1], allow_pickle=False)
  for row in np.asarray(load()(images)).argmax(-1):
    print(names[row])


if __name__ == "__main__":
  main()
'''


def export_network(
  folder: Path,
  network: Network,
  variables: Variables,
  mean: np.ndarray,
  std: np.ndarray,
  class_names: tuple[str, ...],
  images: np.ndarray,
  about: dict | None = None,
) -> float:
  """Writes a network and proves in a fresh process that it predicts the same.

  Args:
    folder: made if missing.
    network: the plain network of an arch or graph, or a mask's compact one.
    variables: its weights and batch-norm statistics.
    mean: per channel, of images scaled to 0..1, `float32[C]`.
    std: the same.
    class_names: labels in the order of the logits.
    images: `uint8[n, H, W, C]`, a few, whose predictions are compared.
    about: more for `architecture.json`: what a `GraphNetwork` was built from.

  Returns:
    The largest difference of a logit between this process and the fresh one.

  Raises:
    RunError: if predictions differ by more than rounding.
  """
  folder.mkdir(parents=True, exist_ok=True)
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

  def predict(images):
    x = (images.astype(jnp.float32) / 255 - mean) / std
    return network.apply(variables, x)

  n, h, w, c = images.shape
  (batch,) = jax.export.symbolic_shape("b")
  exported = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(
    jax.ShapeDtypeStruct((batch, h, w, c), jnp.uint8)
  )
  write_atomic(folder / "model.jaxexport", bytes(exported.serialize()))
  write_json(
    folder / "architecture.json",
    {
      **_describe(network),
      **(about or {}),
      "precision": network.net.precision,
      "bn_affine": network.net.bn_affine,
      "mean": mean.tolist(),
      "std": std.tolist(),
      "class_names": list(class_names),
      "input": f"uint8 [n, {h}, {w}, {c}]",
    },
  )
  _save(folder / "weights.npz", flatten(variables))
  # On the CPU, as in the fresh process: one accelerator seldom serves two
  # processes, and its products round differently.
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    logits = np.asarray(jax.jit(predict)(images))
  _save(folder / "check.npz", {"images": images, "logits": logits})
  write_atomic(folder / "predict.py", PREDICT)
  return _check(folder, logits)


def _describe(network: Network) -> dict:
  if isinstance(network, GraphNetwork):
    graph = network.graph
    return {"graph": graph.to_json(), "layers": graph_rows(graph)}
  space, arch = network.space, np.array(network.arch, np.int32)
  info = {"space": space.to_json(), "arch": space.to_string(arch)}
  if isinstance(network, CompactNetwork):
    return {**info, "layers": mask_layer_rows(space, arch)}
  info["choices"] = space.choice_names(arch)
  return {**info, "layers": layer_rows(space, arch)}


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  write_atomic(path, buffer.getvalue())


def _check(folder: Path, logits: np.ndarray) -> float:
  done = subprocess.run(
    [sys.executable, "predict.py", "--check"],
    cwd=folder, capture_output=True, text=True, check=False,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  if done.returncode:
    raise RunError(f"the exported network does not run: {done.stderr[-500:]}")
  gap = json.loads(done.stdout)["largest_difference"]
  if not gap <= TOLERANCE * max(1.0, float(np.abs(logits).max())):
    raise RunError(
      f"the exported network predicts differently in a fresh process: logits"
      f" differ by up to {gap:.3g}."
    )
  return gap


def load_network(folder: Path) -> tuple[Network, Variables, dict]:
  """Loads an exported network as a Linen module with weights.

  Args:
    folder: an `export/` folder.

  Returns:
    The module, its variables and the content of `architecture.json`.
    `module.apply(variables, (images / 255 - mean) / std)` gives logits.

  Raises:
    UserError: if the folder holds no exported network.
  """
  folder = as_folder(folder)
  path = folder / "architecture.json"
  for name in (path.name, "weights.npz"):
    if not is_file(folder / name):
      raise UserError(f"{folder} holds no exported network (no {name}).")
  info = read_json(path)
  net = NetConfig(precision=info["precision"], bn_affine=info["bn_affine"])
  variables = unflatten(read_arrays(folder / "weights.npz"))
  if "graph" in info:
    return GraphNetwork(Graph.from_json(info["graph"]), net), variables, info
  masked = "nodes" in info["space"]  # a graph, and its arch is a mask
  space = (MaskSpace if masked else Space).from_json(info["space"])
  arch = tuple(int(c) for c in space.from_string(info["arch"]))
  if masked:
    return CompactNetwork(space.graph, arch, net), variables, info
  return PlainNetwork(space, arch, net), variables, info


def flatten(variables: Variables) -> dict[str, np.ndarray]:
  """Variables as a flat dict, `params/layer_00/expand/kernel` and so on."""
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return {
    "/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves
  }


def unflatten(flat: dict[str, np.ndarray]) -> Variables:
  """Inverse of `flatten`."""
  out: Variables = {"params": {}, "batch_stats": {}}
  for name, leaf in flat.items():
    node = out
    *path, last = name.split("/")
    for key in path:
      node = node.setdefault(key, {})
    node[last] = leaf
  return out
