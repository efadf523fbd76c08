"""What both comparisons share: the PyTorch process and the weights."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxnas.errors import RunError
from jaxnas.nets import Variables
from jaxnas.nets.export import flatten
from jaxnas.spaces import MaskSpace, Space

REPO = Path(__file__).resolve().parents[2]
LAYOUTS = ("nchw", "channels_last")
# Idle threads of either library spin for a while before they sleep.
SETTLE_SECONDS = 0.1

LEAVES = {
  "kernel": "weight", "linear": "weight", "scale": "weight", "bias": "bias",
  "mean": "running_mean", "var": "running_var",
}  # fmt: skip


def state_dict(
  space: Space | MaskSpace, variables: Variables
) -> dict[str, np.ndarray]:
  """Variables under the names and in the layouts of the PyTorch supernet."""
  out = {}
  masked = isinstance(space, MaskSpace)
  unused = {"drop", *space.graph.training_only} if masked else ()
  for name, leaf in flatten(variables).items():
    _, group, *path, last = name.split("/")
    if group in unused:
      continue
    if masked:
      prefix = f"ops.{group.replace('.', '/')}"
    elif group.startswith("layer_"):
      l = int(group.removeprefix("layer_"))
      ops = [op.name for op in space.layers[l].choices]
      prefix = f"layers.{l}.{ops.index(path.pop(0))}"
    else:
      prefix = group.replace("_", ".")
    if last == "linear":
      leaf = leaf.T
    elif last == "kernel":
      match leaf.ndim:
        case 2:  # [in, out], a 1x1 convolution
          leaf = leaf.T[:, :, None, None]
        case 3:  # [k, k, C], depthwise
          leaf = leaf.transpose(2, 0, 1)[:, None]
        case 4:  # [k, k, in, out]
          leaf = leaf.transpose(3, 2, 0, 1)
    key = ".".join([prefix, *path, LEAVES[last]])
    out[key] = np.ascontiguousarray(leaf)
  return out


class Worker:
  """A process that runs the PyTorch arm, one request at a time.

  It has its own thread pools, and does nothing between requests.

  Args:
    space: the space.
    variables: weights of the supernet, given to both arms.
    images: arrays by name; images are `float32[n, H, W, C]`, normalised,
      labels `int64[n]`.
  """

  def __init__(
    self,
    space: Space | MaskSpace,
    variables: Variables,
    images: dict[str, np.ndarray],
  ) -> None:
    self._folder = tempfile.TemporaryDirectory()
    self.folder = Path(self._folder.name)
    (self.folder / "space.json").write_text(json.dumps(space.to_json()))
    np.savez(self.folder / "weights.npz", **state_dict(space, variables))
    np.savez(self.folder / "images.npz", **images)
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.peers.worker", str(self.folder)],
      cwd=REPO, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

  def __call__(self, do: str, **request) -> dict:
    """Sends a request; returns its answer after a pause."""
    try:
      print(json.dumps({"do": do, **request}), file=self._process.stdin,
            flush=True)  # fmt: skip
      answer = self._process.stdout.readline()
    except BrokenPipeError:
      answer = ""
    if not answer:
      raise RunError(f"the PyTorch process ended during {do!r}.")
    time.sleep(SETTLE_SECONDS)
    return json.loads(answer)

  def __enter__(self) -> "Worker":
    return self

  def __exit__(self, *_) -> None:
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()
    self._folder.cleanup()
