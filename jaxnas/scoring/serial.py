"""The serial engine: one candidate after the other, in one program.

The plain reference, and the baseline of every benchmark: every layer of every
candidate is computed, a switch picks the choice, the loop is compiled.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnas.nets.paths import Variables
from jaxnas.scoring.calibration import recalibrated
from jaxnas.scoring.engine import Engine, Values
from jaxnas.scoring.images import Images
from jaxnas.sharding import RULES

# Candidates of one call on each device. A loop inside the program, rather
# than one call for each, keeps its memory from being fetched and cleared
# again for every candidate.
PER_CALL = 8


class Serial(Engine):
  """Candidates one by one; over devices, several at a time. See `Engine`.

  The memory is that of one path, the least there is, so it keeps to no bound.
  """

  @functools.cached_property
  def _program(self):
    def candidates(variables, archs, calibration, images, n):
      def run(arch):
        return self._score_one(variables, arch, calibration, images, n)

      def skip(arch):
        shapes = jax.eval_shape(run, arch)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

      return jax.lax.map(
        lambda arch: jax.lax.cond(arch[0] >= 0, run, skip, arch), archs
      )

    if self.placement.n_devices > 1:
      spread = RULES["candidates"]
      candidates = jax.shard_map(
        candidates, mesh=self.placement.mesh,
        in_specs=(P(), spread, P(), P(), P()), out_specs=spread,
        check_vma=False,
      )  # fmt: skip
    # All hosts see all results.
    return jax.jit(
      candidates, out_shardings=self.placement.sharding("replicated")
    )

  def __call__(
    self,
    variables: Variables,
    archs: np.ndarray,
    images: Images,
    n: int,
  ) -> Values:
    """See `Engine`."""
    width = self.placement.n_devices * PER_CALL
    padded = -(-len(archs) // width) * width
    rows = np.pad(archs, [(0, padded - len(archs)), (0, 0)], constant_values=-1)
    found = [
      self._program(
        variables, rows[i : i + width], self.calibration, images, np.int32(n)
      )
      for i in range(0, padded, width)
    ]
    parts = jax.device_get(found)
    return {
      name: np.concatenate([p[name] for p in parts])[: len(archs), :n]
      for name in self.metrics
    }

  def _score_one(self, variables, arch, calibration, images, n):
    if self.bn_mode == "recalibrate":
      variables = recalibrated(self.supernet, variables, arch, calibration)

    def score(x, y):
      stored = self.bn_mode != "batch"
      logits, _ = self.supernet.apply_path(variables, arch, x, stored=stored)
      return {name: f(logits, y) for name, f in self.metrics.items()}

    return images.map_first(score, n)
