"""Archs scored one at a time as plain networks, in NumPy where it matters."""

import dataclasses

import flax.linen as nn
import numpy as np

from jaxnas.config import ScoreConfig
from jaxnas.data import Dataset
from jaxnas.data.records import Split
from jaxnas.nets import PathSupernet, PlainNetwork, inherit
from jaxnas.nets.layers import BatchNorm
from jaxnas.scoring import calibration_split


def dataset(n_validation: int, size: int = 6) -> Dataset:
  """Noise: 40 training images, 4 classes."""
  rng = np.random.default_rng(0)

  def split(n):
    images = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, 4, n).astype(np.int32))

  return Dataset(
    split(40), split(n_validation), split(5), ("a", "b", "c", "d"),
    np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3]), "", "",
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plain:
  """The reference: no supernet, no switch, no padding, no compiled program.

  Attributes:
    supernet: gives the space and the numerics.
    variables: of the supernet.
    data: what is scored.
    config: mode and sizes.
  """

  supernet: PathSupernet
  variables: dict
  data: Dataset
  config: ScoreConfig

  def logits(self, arch: np.ndarray) -> np.ndarray:
    """Logits of all validation images, `float64[N, n_classes]`."""
    net = self.supernet
    network = PlainNetwork(net.space, tuple(arch.tolist()), net.net)
    own = inherit(self.variables, net.space, arch)
    images = self._normalised(self.data.validation.images)
    if self.config.bn_mode == "batch":
      # A ragged last batch is filled up with real images, not copies of one.
      n = len(images)
      size = min(self.config.batch_size, n)
      index = np.arange(-(-n // size) * size) % n
      parts = [
        network.apply(own, images[i], False, mutable=["batch_stats"])[0]
        for i in index.reshape(-1, size)
      ]
      return np.concatenate(parts)[:n].astype(np.float64)
    if self.config.bn_mode == "recalibrate":
      own = {**own, "batch_stats": self._statistics(network, own)}
    return np.asarray(network.apply(own, images, True), np.float64)

  def score(self, arch: np.ndarray) -> tuple[np.ndarray, float]:
    """Correctness `bool[N]` and mean loss of one arch."""
    logits, y = self.logits(arch), self.data.validation.labels
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return logits.argmax(1) == y, -log_p[np.arange(len(y)), y].mean()

  def agrees(self, out: dict[str, np.ndarray], archs: np.ndarray) -> None:
    """Asserts that a scorer's result is the reference's.

    The reference computes means, variances and losses in float64 and fuses
    nothing, so losses agree to some roundings of float32 only.
    """
    for i, arch in enumerate(archs):
      hits, loss = self.score(arch)
      np.testing.assert_array_equal(out["correct"][i], hits)
      assert out["accuracy"][i] == hits.mean()
      np.testing.assert_allclose(out["loss"][i], loss, rtol=2e-5)

  def _normalised(self, images):
    x = images.astype(np.float32) / np.float32(255)
    return (x - self.data.mean) / self.data.std

  def _statistics(self, network, own):
    """Mean and variance, in NumPy, of what each batch norm sees.

    Each calibration batch goes through the network with its own statistics, as
    in training; then the inputs of every batch norm are pooled over batches.
    """
    x = self._normalised(calibration_split(self.data, self.config).images)
    size = min(self.config.batch_size, len(x))
    assert len(x) % size == 0
    batches = [
      _bn_inputs(network, own, x[i : i + size]) for i in range(0, len(x), size)
    ]
    tree = {}
    for path, first in batches[0].items():
      pooled = np.concatenate([b[path] for b in batches])
      pooled = pooled.reshape(-1, first.shape[-1])
      node = tree
      for name in path:
        node = node.setdefault(name, {})
      node |= {
        "mean": pooled.mean(0).astype(np.float32),
        "var": pooled.var(0).astype(np.float32),
      }
    return tree


def _bn_inputs(network, variables, x):
  """What each batch norm of a network receives, by module path."""
  seen = {}

  def spy(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm):
      seen[context.module.path] = np.asarray(args[0], np.float64)
    return call(*args, **kwargs)

  with nn.intercept_methods(spy):
    network.apply(variables, x, False, mutable=["batch_stats"])
  return seen
