"""The serial engine: one candidate after the other, in one program.

The plain reference, and the baseline of every benchmark: every layer of every
candidate is computed, a switch picks the choice, the loop is compiled.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnas.config import BnMode
from jaxnas.nets import PathSupernet
from jaxnas.nets.paths import Variables
from jaxnas.scoring.calibration import recalibrated
from jaxnas.scoring.images import Images
from jaxnas.scoring.wavefront import Metric
from jaxnas.sharding import RULES, Placement

# Candidates of one call on each device. A loop inside the program, rather
# than one call for each, keeps its memory from being fetched and cleared
# again for every candidate.
PER_CALL = 8


class Serial:
  """Scores archs one by one; spread over devices, several at a time.

  Arguments and result are those of `Wavefront`; memory is that of one path.
  """

  def __init__(
    self,
    supernet: PathSupernet,
    bn_mode: BnMode,
    calibration: Images,
    batch_size: int,
    metrics: Mapping[str, Metric],
    placement: Placement,
    max_live_bytes: int,
  ) -> None:
    del batch_size, max_live_bytes  # one path is the least there is
    self._calibration = calibration
    self._n_devices = placement.n_devices
    one = functools.partial(_score_one, supernet, bn_mode, metrics)

    def candidates(variables, archs, calibration, x, y):
      def run(arch):
        return one(variables, arch, calibration, x, y)

      def skip(arch):
        shapes = jax.eval_shape(run, arch)
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

      return jax.lax.map(
        lambda arch: jax.lax.cond(arch[0] >= 0, run, skip, arch), archs
      )

    if self._n_devices > 1:
      spread = RULES["candidates"]
      candidates = jax.shard_map(
        candidates, mesh=placement.mesh,
        in_specs=(P(), spread, P(), P(), P()), out_specs=spread,
        check_vma=False,
      )  # fmt: skip
    self._program = jax.jit(candidates)

  def __call__(
    self, variables: Variables, archs: np.ndarray, x: jax.Array, y: jax.Array
  ) -> dict[str, np.ndarray]:
    """Scores archs; see `Wavefront`."""
    width = self._n_devices * PER_CALL
    padded = -(-len(archs) // width) * width
    rows = np.pad(archs, [(0, padded - len(archs)), (0, 0)], constant_values=-1)
    found = [
      self._program(variables, rows[i : i + width], self._calibration.x, x, y)
      for i in range(0, padded, width)
    ]
    parts = jax.device_get(found)
    return {
      name: np.concatenate([p[name] for p in parts])[: len(archs)]
      for name in parts[0]
    }


def _score_one(supernet, bn_mode, metrics, variables, arch, calibration, x, y):
  if bn_mode == "recalibrate":
    variables = recalibrated(supernet, variables, arch, calibration)

  def batch(xy):
    stored = bn_mode != "batch"
    logits, _ = supernet.apply_path(variables, arch, xy[0], stored=stored)
    return {name: metric(logits, xy[1]) for name, metric in metrics.items()}

  if x.shape[0] == 1:
    return jax.tree.map(lambda a: a[None], batch((x[0], y[0])))
  return jax.lax.map(batch, (x, y))
