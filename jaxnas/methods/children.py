"""Short trainings of blocks' own networks, each of them paid for once."""

import json
import zlib

import jax
import numpy as np

from jaxnas.config import RetrainConfig
from jaxnas.methods.interpreter import block_network
from jaxnas.methods.networks import child_accuracy
from jaxnas.methods.setup import BlockSetup
from jaxnas.writer import append, read_lines, to_json


class Children:
  """Validation accuracies of networks that are trained from scratch.

  Each is appended to a file of the work directory as soon as it is known, so
  that a run that is killed pays for one network again at most. A block's seed
  is its own: neither the order nor other blocks matter.

  Args:
    setup: the run.
    stage: name of the file and of the seeds.
    recipe: of the training.
  """

  def __init__(
    self, setup: BlockSetup, stage: str, recipe: RetrainConfig
  ) -> None:
    self._setup, self._recipe = setup, recipe
    self._key = setup.key(stage)
    self._path = setup.workdir / f"{stage}.jsonl"
    self._known = self._read()

  def _read(self) -> dict[str, float]:
    known = {}
    for line in read_lines(self._path):
      try:
        row = json.loads(line)
      except json.JSONDecodeError:  # cut off by a kill
        continue
      # What diverged has no number.
      known[row["arch"]] = float("nan" if row["accuracy"] is None else row[
        "accuracy"
      ])  # fmt: skip
    return known

  def __call__(self, archs: np.ndarray) -> np.ndarray:
    """Trains what is not known yet; `int32[n, L]` to `float64[n]`."""
    return np.array([self._one(arch) for arch in archs])

  def _one(self, arch: np.ndarray) -> float:
    text = self._setup.space.to_string(arch)
    if text not in self._known:
      key = jax.random.fold_in(self._key, zlib.crc32(text.encode()))
      network = block_network(self._setup, arch)
      accuracy = child_accuracy(self._setup, network, self._recipe, key)
      self._known[text] = accuracy
      # A line that a kill has cut off must not swallow this one.
      line = to_json({"arch": text, "accuracy": accuracy})
      append(self._path, f"\n{line}\n")
    return self._known[text]
