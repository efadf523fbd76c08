"""The wavefront engine: each distinct prefix of the candidates computed once.

The host walks the trie and calls one small program per layer, which loops over
the nodes it is given. What differs between candidate sets is only data: which
parents, which choices, how many. So nothing is compiled twice, and layers of
equal shape share a program.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import BnMode
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.scoring.images import Images
from jaxnas.scoring.nodes import Place, chain, merge_rows, own_variables
from jaxnas.scoring.trie import Trie
from jaxnas.sharding import Placement

Metric = Callable[[jax.Array, jax.Array], jax.Array]

# More nodes per call would only take memory: the call itself costs far less
# than a node.
MOST_PER_CALL = 32


@functools.cache
def _measuring(place: Place):
  """Program: nodes of a place on calibration images, with their statistics."""

  def run(own, below, above, parents, choices, n):
    def node(i, carry):
      above, rows = carry
      x = jax.lax.dynamic_slice_in_dim(below, parents[i], 1)
      y, row = place.measure(own, choices[i], x)
      update = jax.lax.dynamic_update_slice_in_dim
      return update(above, y, i, 0), update(rows, row, i, 0)

    rows = jnp.zeros((len(parents), 2, place.width))
    return jax.lax.fori_loop(0, n, node, (above, rows))

  return jax.jit(run, donate_argnums=2)


@functools.cache
def _applying(place: Place, bn_mode: BnMode):
  """Program: nodes of a place on one batch of images."""

  def run(own, below, above, parents, choices, n, rows):
    def node(i, above):
      x = jax.lax.dynamic_slice_in_dim(below, parents[i], 1)
      row = None
      if rows is not None:
        row = jax.lax.dynamic_slice_in_dim(rows, i, 1)
      y = place.apply(bn_mode, own, choices[i], x, row)
      return jax.lax.dynamic_update_slice_in_dim(above, y, i, 0)

    return jax.lax.fori_loop(0, n, node, above)

  return jax.jit(run, donate_argnums=2)


@jax.jit
def _merged(*rows):
  """Statistics of some nodes from those on each calibration batch."""
  return rows[0] if len(rows) == 1 else merge_rows(jnp.stack(rows))


class Wavefront:
  """Scores distinct archs, sharing their prefixes.

  Args:
    supernet: the network.
    bn_mode: where batch-norm statistics come from.
    calibration: images that give them in the mode `recalibrate`.
    batch_size: images scored at once.
    metrics: functions of logits `[n, B, n_classes]` and labels `[B]`.
    placement: each of its devices takes a share of the candidates.
    max_live_bytes: bound on activations and statistics kept on each device.

  Raises:
    UserError: if a single path needs more.
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
    self._supernet, self._bn_mode = supernet, bn_mode
    self._calibration = calibration
    self._devices = list(placement.mesh.devices.flat)
    self._places = chain(supernet)
    self._capacity, self._most_paths = plan_memory(
      supernet, bn_mode, calibration, batch_size, max_live_bytes
    )

    def classify(variables, x, y):
      # One node at a time: over the whole pool, XLA takes another product for
      # few rows, and the last bit would depend on the memory there is.
      def node(x):
        logits = supernet.logits(variables, x)
        return {name: metric(logits, y) for name, metric in metrics.items()}

      return jax.lax.map(node, x)

    self._classify = jax.jit(classify)

  def __call__(
    self,
    variables: Variables,
    archs: np.ndarray,
    x: jax.Array | Sequence[jax.Array],
    y: jax.Array | Sequence[jax.Array],
  ) -> dict[str, np.ndarray]:
    """Scores archs.

    Args:
      variables: of the supernet.
      archs: `int32[n, L]`, distinct, in lexicographic order.
      x: b batches of images, `float32[B, H, W, C]` each.
      y: their labels, `int32[B]` each.

    Returns:
      Of each metric its values `[n, b, B]` on the batches of images.
    """
    archs = with_fixed(self._supernet, archs)
    shares = np.array_split(archs, min(len(self._devices), len(archs)))
    results = [[] for _ in shares]
    walks = [
      self._score(device, variables, share, x, y, out)
      for device, share, out in zip(
        self._devices, shares, results, strict=False
      )
    ]
    # Calls return before they have run: dealing them out in turn keeps all
    # devices busy.
    for _ in itertools.zip_longest(*walks):
      pass
    parts = [join(batches) for batches in itertools.chain(*results)]
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

  def _score(self, device, variables, archs, x, y, out: list) -> Iterator[None]:
    """Yields after each call; appends one entry per run of paths to `out`."""
    variables = on_device(variables, device)
    own = own_variables(self._supernet, variables)
    classifier = {"params": {"classifier": variables["params"]["classifier"]}}
    calibration = on_device(self._calibration.x, device)
    x, y = on_device((x, y), device)
    for first in range(0, len(archs), self._most_paths):
      block = archs[first : first + self._most_paths]
      steps = list(Trie(block).walk(self._capacity))
      rows = [None] * len(steps)
      if self._bn_mode == "recalibrate":
        measured = []
        for images in calibration:
          pools = self._pools(images[None], device)
          found = []
          for step in steps:
            l, call = step.layer, self._arguments(step)
            pools[l + 1], row = _measuring(self._places[l])(
              own[l], pools[l], pools[l + 1], *call
            )
            found.append(row)
            yield
          measured.append(found)
        rows = [_merged(*of_step) for of_step in zip(*measured, strict=True)]
        del pools, measured
      batches = []
      for b in range(len(x)):
        pools = self._pools(x[b][None], device)
        values = []
        for step, row in zip(steps, rows, strict=True):
          l, call = step.layer, self._arguments(step)
          pools[l + 1] = _applying(self._places[l], self._bn_mode)(
            own[l], pools[l], pools[l + 1], *call, row
          )
          if l == len(self._places) - 1:
            found = self._classify(classifier, pools[-1], y[b])
            values.append((found, len(step.choices)))
          yield
        batches.append(values)
      out.append(batches)

  def _arguments(self, step):
    width = self._capacity[step.layer]
    n = len(step.choices)
    pad = (0, width - n)
    return np.pad(step.parents, pad), np.pad(step.choices, pad), np.int32(n)

  def _pools(self, images: jax.Array, device: jax.Device) -> list[jax.Array]:
    """Room for the nodes of each place; its inputs lie in the one below."""
    pools = [self._supernet.cast(images)]
    dtype = dtype_of(self._supernet.net)
    for place, width in zip(self._places, self._capacity, strict=True):
      s = place.shape
      shape = (width, images.shape[1], s.out_size, s.out_size, s.features)
      pools.append(jnp.zeros(shape, dtype, device=device))
    return pools


def join(batches: list[list[tuple[Tree, int]]]) -> dict[str, np.ndarray]:
  """Values `[paths, b, B]` from those of each batch and call.

  On the host: the numbers of calls and nodes differ from set to set, and
  joining them on the device would be compiled anew for each.
  """
  columns = [
    [{k: v[:n] for k, v in found.items()} for found, n in jax.device_get(calls)]
    for calls in batches
  ]
  return {
    name: np.stack(
      [np.concatenate([c[name] for c in calls]) for calls in columns], 1
    )
    for name in columns[0][0]
  }


def with_fixed(supernet: PathSupernet, archs: np.ndarray) -> np.ndarray:
  """Archs with the only choice of each fixed place, `int32[n, places]`."""
  before, after = len(supernet.stem), len(supernet.head)
  return np.pad(archs, [(0, 0), (before, after)])


def on_device(tree: Tree, device: jax.Device) -> Tree:
  """A replicated tree as arrays of one device, copied only if it must be."""

  def local(a):
    if isinstance(a, jax.Array) and a.is_fully_replicated:
      for shard in a.addressable_shards:
        if shard.device == device:
          return shard.data
    return jax.device_put(a, device)

  return jax.tree.map(local, tree)


def plan_memory(
  supernet: PathSupernet,
  bn_mode: BnMode,
  calibration: Images,
  batch_size: int,
  max_live_bytes: int,
) -> tuple[tuple[int, ...], int]:
  """Divides the memory: half for activations, half for statistics.

  Returns:
    Nodes per call of each place, paths whose statistics are kept at once.

  Raises:
    UserError: if a single path does not fit.
  """
  places = chain(supernet)
  item = dtype_of(supernet.net).itemsize
  node = [
    batch_size * p.shape.out_size**2 * p.shape.features * item for p in places
  ]
  stats = 0
  if bn_mode == "recalibrate":
    stats = len(calibration.x) * sum(8 * p.width for p in places)
  half = max_live_bytes // 2
  need = 2 * max(sum(node), stats)
  if need > max_live_bytes:
    raise UserError(
      f"score.max_live_bytes is {max_live_bytes:,}; one path of {batch_size:,}"
      f" images needs {need:,}. Raise it, or lower score.batch_size."
    )
  share = (half - sum(node)) // len(places)
  fits = [min(MOST_PER_CALL, 1 + share // size) for size in node]
  return tuple(fits), max(1, half // max(stats, 1))
