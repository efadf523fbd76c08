"""Accuracy of a cohort: networks whose archs are data."""

import jax
import jax.numpy as jnp
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

    def run(variables, archs, n, images):
      def network(i, out):
        own = jax.tree.map(lambda a: a[i], variables)

        def batch(x, y):
          logits, _ = supernet.apply_path(own, archs[i], x, stored=True)
          return {name: f(logits, y) for name, f in METRICS.items()}

        found = images.map(batch)
        return {k: a.at[i].set(found[k]) for k, a in out.items()}

      shape = (len(archs), *images.y.shape)
      out = {k: jnp.zeros(shape) for k in METRICS}
      return jax.lax.fori_loop(0, n, network, out)

    self._program = jax.jit(run, out_shardings=placement.sharding("replicated"))

  def __call__(
    self, variables: Variables, archs: np.ndarray, n: int | None = None
  ) -> dict[str, np.ndarray]:
    """Classifies with the stored (running) batch-norm statistics.

    Args:
      variables: of the cohort, every leaf `[n, ...]`.
      archs: `int32[n, L]`.
      n: the first so many networks are judged; default all.

    Returns:
      `accuracy` (share) and `loss` (nats, mean), `float64[n]`.
    """
    n = len(archs) if n is None else n
    found = jax.device_get(
      self._program(variables, archs, np.int32(n), self._images)
    )
    return {
      name: self._images.real(a[:n]).mean(1, dtype=np.float64)
      for name, a in found.items()
    }
