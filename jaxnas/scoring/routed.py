"""The routed engine: a block of candidates in one program.

Where starting a program costs more than running it, as on accelerators, a
whole block goes through in one call. At each layer the block's distinct
prefixes are grouped by choice, a few *lanes* wide, and each group is applied
at once; a loop with a dynamic trip count runs over the groups, so one program
serves every block, and no branch is computed that nobody takes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import BnMode
from jaxnas.nets import PathSupernet
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Variables
from jaxnas.scoring.images import Images
from jaxnas.scoring.nodes import chain, merge_rows, own_variables
from jaxnas.scoring.trie import Trie
from jaxnas.scoring.wavefront import (
  Metric,
  on_device,
  plan_memory,
  with_fixed,
)
from jaxnas.sharding import Placement

MOST_PER_BLOCK = 256
LANES = 8

# Of one place: parents `int32[T, lanes]`, slots `int32[T, lanes]`, choices
# `int32[T]`, and the number of groups, at most T.
Groups = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def group_nodes(
  parents: np.ndarray, choices: np.ndarray, n_choices: int, block: int,
  lanes: int,
) -> Groups:  # fmt: skip
  """Groups the nodes of one layer by choice.

  A group that is not full repeats its last node, which is computed again and
  stored in the same place.

  Args:
    parents: `int[m]`, slot of each node's parent; the node's own slot is its
      number.
    choices: `int32[m]`.
    n_choices: alternatives of the layer.
    block: largest m.
    lanes: nodes of a group.
  """
  groups = []
  for c in range(n_choices):
    nodes = np.flatnonzero(choices == c)
    for i in range(0, len(nodes), lanes):
      group = nodes[i : i + lanes]
      groups.append((c, np.pad(group, (0, lanes - len(group)), mode="edge")))
  room = -(-block // lanes) + n_choices
  slots = np.zeros((room, lanes), np.int32)
  slots[: len(groups)] = [g for _, g in groups]
  taken = np.zeros(room, np.int32)
  taken[: len(groups)] = [c for c, _ in groups]
  return parents.astype(np.int32)[slots], slots, taken, np.int32(len(groups))


class Routed:
  """Scores distinct archs, a block of them in each call.

  Arguments and result are those of `Wavefront`; prefixes are shared within a
  block.
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
    self._supernet, self._metrics = supernet, metrics
    self._bn_mode = bn_mode
    self._calibration = calibration
    self._devices = list(placement.mesh.devices.flat)
    self._places = chain(supernet)
    _, paths = plan_memory(
      supernet, bn_mode, calibration, batch_size, max_live_bytes
    )
    largest = max(p.shape.out_size**2 * p.shape.features for p in self._places)
    # Nodes of one layer and their parents are live together.
    node = 2 * batch_size * largest * dtype_of(supernet.net).itemsize
    fits = min(paths, max_live_bytes // 2 // node)
    self._block = max(1, min(MOST_PER_BLOCK, fits))
    self._lanes = min(LANES, self._block)
    self._program = jax.jit(self._run)

  def __call__(
    self, variables: Variables, archs: np.ndarray, x: jax.Array, y: jax.Array
  ) -> dict[str, np.ndarray]:
    """Scores archs; see `Wavefront`."""
    archs = with_fixed(self._supernet, archs)
    copies = [
      on_device(
        (
          own_variables(self._supernet, variables),
          variables["params"]["classifier"],
          self._calibration.x, x, y,
        ),
        device,
      )
      for device in self._devices
    ]  # fmt: skip
    found, sizes = [], []
    # A smaller set than fills the blocks is dealt out to all devices.
    size = min(self._block, -(-len(archs) // len(copies)))
    for i, first in enumerate(range(0, len(archs), size)):
      block = archs[first : first + size]
      trie = Trie(block)
      groups = [
        group_nodes(p, c, len(place.modules), self._block, self._lanes)
        for p, c, place in zip(
          trie.parents, trie.choices, self._places, strict=True
        )
      ]
      found.append(self._program(*copies[i % len(copies)], groups))
      sizes.append(len(block))
    parts = jax.device_get(found)
    return {
      name: np.concatenate(
        [
          np.moveaxis(p[name], 0, 1)[:n]
          for p, n in zip(parts, sizes, strict=True)
        ]
      )
      for name in self._metrics
    }

  def _run(self, own, classifier, calibration, x, y, groups):
    rows = [None] * len(self._places)
    if self._bn_mode == "recalibrate":

      def measure(images):
        pool, found = self._supernet.cast(images[None]), []
        for l, group in enumerate(groups):
          pool, row = self._sweep(l, own[l], pool, group, None)
          found.append(row)
        return found

      if len(calibration) == 1:
        rows = measure(calibration[0])
      else:
        measured = jax.lax.map(measure, calibration)
        rows = [merge_rows(row) for row in measured]

    def batch(xy):
      pool = self._supernet.cast(xy[0][None])
      for l, group in enumerate(groups):
        pool, _ = self._sweep(l, own[l], pool, group, rows[l], True)
      variables = {"params": {"classifier": classifier}}
      logits = self._supernet.logits(variables, pool)
      return {n: metric(logits, xy[1]) for n, metric in self._metrics.items()}

    if x.shape[0] == 1:
      return jax.tree.map(lambda a: a[None], batch((x[0], y[0])))
    return jax.lax.map(batch, (x, y))

  def _sweep(self, l, own, below, group, rows, final=False):
    """All nodes of a place; measures when not `final`."""
    place = self._places[l]
    parents, slots, choices, n = group
    s = place.shape
    shape = (self._block, below.shape[1], s.out_size, s.out_size)
    above = jnp.zeros((*shape, s.features), below.dtype)
    out = jnp.zeros((self._block, 2, place.width))

    def lanes(pool, at):
      return jnp.concatenate(
        [jax.lax.dynamic_slice_in_dim(pool, i, 1) for i in at]
      )

    def store(pool, values, at):
      for i, lane in enumerate(at):
        pool = jax.lax.dynamic_update_slice_in_dim(
          pool, values[i : i + 1], lane, 0
        )
      return pool

    def one_group(g, carry):
      above, out = carry
      x = lanes(below, parents[g])
      if not final:
        y, row = place.measure(own, choices[g], x)
        return store(above, y, slots[g]), store(out, row, slots[g])
      row = None if rows is None else lanes(rows, slots[g])
      y = place.apply(self._bn_mode, own, choices[g], x, row)
      return store(above, y, slots[g]), out

    return jax.lax.fori_loop(0, n, one_group, (above, out))
