"""The PyTorch process: one JSON request a line in, one JSON answer a line out.

    python -m tests.peers.worker FOLDER

`FOLDER` holds `space.json`, `weights.npz` (a state dict) and `images.npz`.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from jaxnas.spaces import MaskSpace, Space

from .masked import MaskedNetwork, score_masks
from .supernet import Supernet, fair_step, score_paths

FORMATS = {
  "nchw": torch.contiguous_format,
  "channels_last": torch.channels_last,
}


def load(path: Path) -> dict[str, torch.Tensor]:
  with np.load(path, allow_pickle=False) as stored:
    return {name: torch.from_numpy(stored[name]) for name in stored.files}


class Arm:
  """Supernets of both layouts around the same weights and images.

  Attributes:
    arms: supernet, images and optimiser by layout, set by `start`.
  """

  def __init__(self, folder: Path) -> None:
    space = json.loads((folder / "space.json").read_text())
    kind = MaskSpace if "nodes" in space else Space
    self._space = kind.from_json(space)
    self._weights = load(folder / "weights.npz")
    self._images = load(folder / "images.npz")
    self.arms = {}

  def start(self, layout: str, learning_rate=0.0, momentum=0.0) -> dict:
    """Begins again from the given weights, without momentum."""
    net, images = self._load(Supernet(self._space).train(), layout)
    sgd = torch.optim.SGD(net.parameters(), learning_rate, momentum)
    self.arms[layout] = net, images, sgd
    return {}

  def start_masked(self, layout: str) -> dict:
    """The same for a masked network, in evaluation mode."""
    net = MaskedNetwork(self._space.graph).eval()
    self.arms[layout] = *self._load(net, layout), None
    return {}

  def _load(self, net: torch.nn.Module, layout: str):
    """The network with the given weights, and the images, in a layout."""
    # Counters of batches have no counterpart; all else must be there.
    missing, extra = net.load_state_dict(self._weights, strict=False)
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    if missing or extra:
      raise KeyError(f"weights missing: {missing}, unexpected: {extra}")
    form = FORMATS[layout]
    images = {
      name: a.permute(0, 3, 1, 2).contiguous(memory_format=form)
      for name, a in self._images.items()
      if a.ndim == 4
    }
    return net.to(memory_format=form), images

  def score_masks(self, layout: str, masks: list, batch_size: int) -> dict:
    net, images, _ = self.arms[layout]
    keeps = [
      torch.from_numpy(self._space.from_string(text)).float() for text in masks
    ]
    start = time.perf_counter()
    accuracy, loss = score_masks(
      net, keeps, images["x"], self._images["y"], batch_size
    )
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": accuracy, "loss": loss}

  def score(self, layout: str, archs: list) -> dict:
    net, images, _ = self.arms[layout]
    args = images["calibration"], images["x"], self._images["y"]
    start = time.perf_counter()
    accuracy, loss = score_paths(net, archs, *args)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": accuracy, "loss": loss}

  def step(self, layout: str, archs: list, n: int, smoothing: float) -> dict:
    net, images, sgd = self.arms[layout]
    x = images["x"][:n]
    y = self._images["y"][:n]
    start = time.perf_counter()
    loss = fair_step(net, sgd, archs, x, y, smoothing)
    return {"seconds": time.perf_counter() - start, "loss": loss}

  def save(self, layout: str, path: str) -> dict:
    """Writes the weights, without statistics, as `load` reads them."""
    net, *_ = self.arms[layout]
    weights = {k: p.detach().numpy() for k, p in net.named_parameters()}
    np.savez(path, **weights)
    return {}


def main() -> None:
  torch.set_num_threads(os.cpu_count())
  arm = Arm(Path(sys.argv[1]))
  for line in sys.stdin:
    request = json.loads(line)
    answer = getattr(arm, request.pop("do"))(**request)
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
