"""The routed engine: a block of candidates in one program.

Where starting a program costs more than running it, as on accelerators, a
whole block goes through in one call. At each layer the block's distinct
prefixes are grouped by choice, a few *lanes* wide, and each group is applied
at once; a loop with a dynamic trip count runs over the groups, so one program
serves every block, and no branch is computed that nobody takes.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.nets.paths import Variables
from jaxnas.scoring.engine import SharingEngine, Values
from jaxnas.scoring.images import Images
from jaxnas.scoring.nodes import merge_rows, own_variables, place_names
from jaxnas.scoring.trie import Trie

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


class Routed(SharingEngine):
  """One call for a block of candidates, which share prefixes; see `Engine`."""

  @functools.cached_property
  def _block(self) -> int:
    """Candidates of a block."""
    # Nodes of one layer and their parents are live together.
    fits = self.half // (2 * max(self.node_bytes))
    rows = self.half // max(1, sum(self.row_bytes))
    return max(1, min(MOST_PER_BLOCK, fits, rows))

  @functools.cached_property
  def _names(self) -> list[str]:
    return place_names(self.supernet)

  @functools.cached_property
  def _program(self):
    return jax.jit(self._run)

  def walk(
    self,
    variables: Variables,
    archs: np.ndarray,
    calibration: Images,
    images: Images,
    n: int,
    out: list,
  ) -> Iterator[None]:
    """See `SharingEngine`."""
    own = own_variables(self.supernet, variables)
    classifier = variables["params"]["classifier"]
    for first in range(0, len(archs), self._block):
      block = archs[first : first + self._block]
      trie = Trie(block)
      groups = [
        group_nodes(
          p, c, len(place.modules), self._block, min(LANES, self._block)
        )
        for p, c, place in zip(
          trie.parents, trie.choices, self.places, strict=True
        )
      ]
      found = self._program(
        own, classifier, calibration, images, np.int32(n), groups
      )
      out.append(functools.partial(_fetched, found, len(block), n))
      yield

  def _run(self, own, classifier, calibration, images, n, groups):
    rows = [None] * len(self.places)
    if self.bn_mode == "recalibrate":
      rows = self._statistics(own, calibration, groups)

    def score(x, y):
      pool = self.supernet.cast(x[None])
      for l, group in enumerate(groups):
        with jax.named_scope(self._names[l]):
          pool = self._apply(l, own[l], pool, group, rows[l])
      variables = {"params": {"classifier": classifier}}
      logits = self.supernet.logits(variables, pool)
      return {name: f(logits, y) for name, f in self.metrics.items()}

    return images.map_first(score, n)

  def _statistics(self, own, calibration, groups):
    """Packed rows of each place, `[block, 2, width]`."""

    def batch(x, _):
      pool, found = self.supernet.cast(x[None]), []
      for l, group in enumerate(groups):
        with jax.named_scope(self._names[l]):
          pool, row = self._measure(l, own[l], pool, group)
        found.append(row)
      return found

    return [merge_rows(rows) for rows in calibration.map(batch)]

  def _measure(self, l, own, below, group):
    """All nodes of a place, with their statistics."""
    place = self.places[l]
    parents, slots, choices, n = group

    def one_group(g, carry):
      above, rows = carry
      y, row = place.measure(own, choices[g], _take(below, parents[g]))
      return _put(above, y, slots[g]), _put(rows, row, slots[g])

    rows = jnp.zeros((self._block, 2, place.width))
    return jax.lax.fori_loop(0, n, one_group, (self._pool(l, below), rows))

  def _apply(self, l, own, below, group, rows):
    """All nodes of a place."""
    place = self.places[l]
    parents, slots, choices, n = group

    def one_group(g, above):
      row = None if rows is None else _take(rows, slots[g])
      x = _take(below, parents[g])
      y = place.apply(self.bn_mode, own, choices[g], x, row)
      return _put(above, y, slots[g])

    return jax.lax.fori_loop(0, n, one_group, self._pool(l, below))

  def _pool(self, l, below):
    s = self.places[l].shape
    shape = (self._block, below.shape[1], s.out_size, s.out_size, s.features)
    return jnp.zeros(shape, below.dtype)


def _take(pool, at):
  """Lanes out of a pool, one slice each: cheaper on CPU than a gather."""
  return jnp.concatenate([jax.lax.dynamic_slice_in_dim(pool, i, 1) for i in at])


def _put(pool, values, at):
  """Lanes into a pool."""
  for i, lane in enumerate(at):
    pool = jax.lax.dynamic_update_slice_in_dim(pool, values[i : i + 1], lane, 0)
  return pool


def _fetched(found: dict, paths: int, n: int) -> Values:
  found = jax.device_get(found)
  return {k: np.moveaxis(v, 0, 1)[:paths, :n] for k, v in found.items()}
