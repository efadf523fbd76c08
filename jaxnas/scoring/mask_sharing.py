"""Masks that begin alike share their beginning.

Learned rates are near 0 in many groups, so that most candidates keep all of the
first layers. As with paths (`scoring/wavefront.py`) the sorted masks form a
trie of prefixes, here over the segments of `spaces.segments`: every distinct
prefix is computed once, depth first, by one compiled program for each segment.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import BnMode
from jaxnas.nets import MaskedSupernet
from jaxnas.nets.masks import MaskedSegment, folded
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.scoring.calibration import merge_stats
from jaxnas.scoring.engine import Metric
from jaxnas.scoring.images import Images, each_batch, normalized
from jaxnas.spaces.graph import IMAGES
from jaxnas.spaces.segments import Segment, cut


def unique_prefixes(
  segments: tuple[Segment, ...], archs: np.ndarray
) -> list[int]:
  """Distinct masks up to the end of each segment.

  Args:
    segments: of the graph.
    archs: `int32[m, L]`.
  """
  counts, ids = [], np.zeros(len(archs), np.int64)
  for segment in segments:
    if segment.gates.stop > segment.gates.start:
      own = np.packbits(archs[:, segment.gates].astype(bool), axis=1)
      _, own_ids = np.unique(own, axis=0, return_inverse=True)
      pairs = np.stack([ids, own_ids.reshape(-1)], 1)
      _, ids = np.unique(pairs, axis=0, return_inverse=True)
      ids = ids.reshape(-1)
    counts.append(int(ids.max()) + 1)
  return counts


def saving(segments: tuple[Segment, ...], archs: np.ndarray) -> float:
  """Multiply-adds of separate masks over those with shared prefixes."""
  counts = unique_prefixes(segments, archs)
  shared = sum(n * s.macs for n, s in zip(counts, segments, strict=True))
  return len(archs) * sum(s.macs for s in segments) / shared


class MaskTrie:
  """Scores masks on one device, prefixes once.

  Args:
    supernet: the masked network.
    bn_mode: where batch-norm statistics come from.
    calibration: images that give them in the mode `recalibrate`.
    metrics: functions of logits `[B, n_classes]` and labels `[B]`.
    max_live_bytes: bound on the activations between segments; images are taken
      in parts that keep it.
  """

  def __init__(
    self,
    supernet: MaskedSupernet,
    bn_mode: BnMode,
    calibration: Images,
    metrics: Mapping[str, Metric],
    max_live_bytes: int,
  ) -> None:
    self._supernet, self._bn_mode = supernet, bn_mode
    self._metrics, self._calibration = metrics, calibration
    self._bytes = max_live_bytes
    self.segments = cut(supernet.space.graph)

  def image_bytes(self) -> int:
    """Activations between segments that one image keeps alive."""
    shapes = self._supernet.space.graph.shapes
    item = dtype_of(self._supernet.net).itemsize
    kept = [shapes[name] for s in self.segments for name in s.writes]
    return item * sum(s.size**2 * s.channels for s in kept)

  @functools.cached_property
  def _programs(self) -> list:
    last = self.segments[-1]
    return [
      jax.jit(functools.partial(self._run, s, s is last)) for s in self.segments
    ]

  def _run(self, segment, last, variables, keep, values, fixed, y, n):
    """One segment on tiles of images, statistics from the fixed images first.

    Args:
      segment: the segment.
      last: whether it gives the logits.
      variables: of its nodes.
      keep: `float32[own gates]`.
      values: outputs that it reads, of the scored images, `[t, B, ...]`.
      fixed: the same of the calibration images, or None.
      y: labels `int32[t, B]`.
      n: the first n tiles are computed.

    Returns:
      Outputs of its own nodes that later segments need, of both; of the last
      segment the metrics `[t, B]` come first.
    """
    supernet = self._supernet
    gates = supernet.space.graph.gates
    own = {
      name: slice(g.start - segment.gates.start, g.stop - segment.gates.start)
      for name, g in gates.items() if name in segment.nodes
    }  # fmt: skip
    variables = folded(variables, keep, own)
    writes = tuple(name for name in segment.writes if name in segment.nodes)
    module = MaskedSegment(
      supernet.space.graph, segment.nodes, writes, supernet.net
    )

    def measured(x):
      return module.apply(variables, x, False, mutable=["batch_stats"])

    if self._bn_mode == "recalibrate":
      fixed, stats = jax.lax.map(measured, fixed)
      if stats.get("batch_stats"):
        variables = {**variables, **merge_stats(stats)}

    def tile(x, labels):
      if self._bn_mode == "batch":
        out, _ = measured(x)
      else:
        out = module.apply(variables, x, True)
      if not last:
        return out
      (logits,) = out.values()
      return {k: f(logits, labels) for k, f in self._metrics.items()}

    return each_batch(tile, values, y, n), fixed

  def __call__(
    self,
    variables: Variables,
    archs: np.ndarray,
    images: Images,
    n: int,
  ) -> dict[str, np.ndarray]:
    """Scores masks; as `MaskScorer` wants it.

    Args:
      variables: of the supernet.
      archs: `int32[m, L]`, any order.
      images: its batches are tiles.
      n: the first n tiles are scored.

    Returns:
      Of each metric its values `[m, n, B]`.
    """
    # Sorted by what the segments read: an auxiliary classifier plays no part.
    read = np.concatenate([archs[:, s.gates] for s in self.segments], 1)
    _, first, rows = np.unique(
      read, axis=0, return_index=True, return_inverse=True
    )
    distinct = archs[first]
    part = max(1, self._bytes // (self.image_bytes() * images.batch_size))
    part = min(part, images.n_batches)
    found = []
    for start in range(0, n, part):
      own = slice(start, start + part)
      tiles = [_padded(a[own], part) for a in (images.pixels, images.y)]
      count = min(part, n - start)
      values = self._walk(variables, distinct, *tiles, count)
      found.append({k: v[:, :count] for k, v in values.items()})
    return {
      k: np.concatenate([v[k] for v in found], 1)[rows.reshape(-1)]
      for k in self._metrics
    }

  def _walk(self, variables, archs, pixels, y, n) -> dict[str, np.ndarray]:
    own = [_own_variables(variables, s) for s in self.segments]
    out: dict[str, list] = {k: [] for k in self._metrics}
    dtype = dtype_of(self._supernet.net)
    count = np.int32(n)

    def visit(level: int, rows: np.ndarray, values: Tree, fixed: Tree) -> None:
      if level == len(self.segments):
        for name, value in values.items():
          # Waiting here keeps the activations of few nodes in memory.
          out[name] += [np.asarray(value)] * len(rows)
        return
      segment = self.segments[level]
      bits = archs[rows][:, segment.gates]
      starts = np.flatnonzero(np.r_[True, (bits[1:] != bits[:-1]).any(1)])
      for part in np.split(rows, starts[1:]):
        keep = archs[part[0], segment.gates].astype(np.float32)
        new, new_fixed = self._programs[level](
          own[level], keep, _only(values, segment.reads),
          _only(fixed, segment.reads), y, count,
        )  # fmt: skip
        if segment is not self.segments[-1]:
          new = _only(values | new, segment.writes)
          new_fixed = fixed and _only(fixed | new_fixed, segment.writes)
        visit(level + 1, part, new, new_fixed)

    def start(pixels):
      given = self._calibration  # normalises all images alike
      return {IMAGES: normalized(pixels, given.mean, given.std).astype(dtype)}

    fixed = None
    if self._bn_mode == "recalibrate":
      fixed = start(self._calibration.pixels)
    visit(0, np.arange(len(archs)), start(pixels), fixed)
    return {name: np.stack(rows) for name, rows in out.items()}


def _only(tree: Tree | None, names: tuple[str, ...]) -> Tree | None:
  return tree and {name: tree[name] for name in names}


def _own_variables(variables: Variables, segment: Segment) -> Variables:
  return {
    kind: {k: v for k, v in tree.items() if k in segment.nodes}
    for kind, tree in variables.items()
  }


def _padded(a: jax.Array, size: int) -> jax.Array:
  """Zeros behind `a` up to `size` rows; those are never computed."""
  if len(a) == size:
    return a
  return jnp.pad(a, [(0, size - len(a))] + [(0, 0)] * (a.ndim - 1))
