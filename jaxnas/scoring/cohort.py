"""Accuracy of a cohort: networks whose archs are data."""

import jax
import numpy as np

from jaxnas.data import Dataset, Split
from jaxnas.nets import PathSupernet
from jaxnas.nets.paths import Variables
from jaxnas.scoring.images import Images
from jaxnas.scoring.scorer import METRICS
from jaxnas.sharding import Placement


class CohortEvaluator:
  """Accuracy of networks that hold a supernet's variables each, on a split.

  All sets of n archs share one compiled program.

  Args:
    supernet: what each network holds a copy of.
    data: gives the normalisation.
    split: images to classify.
    batch_size: images at once.
    placement: where they live.
  """

  def __init__(
    self,
    supernet: PathSupernet,
    data: Dataset,
    split: Split,
    batch_size: int,
    placement: Placement,
  ) -> None:
    self._images = Images.of(split, data, batch_size, placement)

    def run(variables, archs, x, y):
      def network(one):
        def batch(xy):
          logits, _ = supernet.apply_path(*one, xy[0], stored=True)
          return {name: f(logits, xy[1]) for name, f in METRICS.items()}

        return jax.lax.map(batch, (x, y))

      return jax.lax.map(network, (variables, archs))

    self._program = jax.jit(run)

  def __call__(
    self, variables: Variables, archs: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Classifies with the stored (running) batch-norm statistics.

    Args:
      variables: of the cohort, every leaf `[n, ...]`.
      archs: `int32[n, L]`.

    Returns:
      `accuracy` (share) and `loss` (nats, mean), `float64[n]`.
    """
    found = jax.device_get(
      self._program(variables, archs, self._images.x, self._images.y)
    )
    real = np.asarray(self._images.mask)
    return {k: a[:, real].mean(1, dtype=np.float64) for k, a in found.items()}
