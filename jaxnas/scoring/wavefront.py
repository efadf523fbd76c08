"""The wavefront engine: each distinct prefix of the candidates computed once.

The host walks the trie and calls one small program per layer, which loops over
the nodes it is given. What differs between candidate sets is only data: which
parents, which choices, how many. So nothing is compiled twice, and layers of
equal shape share a program.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import BnMode
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Variables
from jaxnas.scoring.engine import SharingEngine, Values
from jaxnas.scoring.images import Images, normalized
from jaxnas.scoring.nodes import Place, merge_rows, own_variables
from jaxnas.scoring.trie import Step, Trie

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


class Wavefront(SharingEngine):
  """One call for some nodes of one layer; see `Engine`."""

  @functools.cached_property
  def _capacity(self) -> tuple[int, ...]:
    """Nodes per call of each place."""
    share = (self.half - sum(self.node_bytes)) // len(self.places)
    # A call keeps a row for each node it could take, so that a run of a single
    # path must not exceed its half either.
    rows = self.half // max(1, sum(self.row_bytes))
    return tuple(
      min(MOST_PER_CALL, 1 + share // size, max(1, rows))
      for size in self.node_bytes
    )

  @functools.cached_property
  def _classify(self):
    """Program: metrics of the last nodes."""

    def run(variables, x, y):
      # One node at a time: over the whole pool, XLA takes another product for
      # few rows, and the last bit would depend on the memory there is.
      def node(x):
        logits = self.supernet.logits(variables, x)
        return {name: f(logits, y) for name, f in self.metrics.items()}

      return jax.lax.map(node, x)

    return jax.jit(run)

  def _runs(self, archs: np.ndarray) -> Iterator[list[Step]]:
    """Cuts candidates into runs whose statistics fit, each in its own order."""
    steps = list(Trie(archs).walk(self._capacity))
    kept = sum(self._capacity[s.layer] * self.row_bytes[s.layer] for s in steps)
    if kept <= self.half or len(archs) == 1:
      yield steps
    else:
      half = len(archs) // 2
      yield from self._runs(archs[:half])
      yield from self._runs(archs[half:])

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
    classifier = {"params": {"classifier": variables["params"]["classifier"]}}
    for steps in self._runs(archs):
      rows = [None] * len(steps)
      if self.bn_mode == "recalibrate":
        rows = yield from self._measure(own, steps, calibration)
      batches = []
      for b in range(n):
        pools = self._pools(images, b)
        values = []
        for step, row in zip(steps, rows, strict=True):
          l, call = step.layer, self._arguments(step)
          pools[l + 1] = _applying(self.places[l], self.bn_mode)(
            own[l], pools[l], pools[l + 1], *call, row
          )
          if l == len(self.places) - 1:
            found = self._classify(classifier, pools[-1], images.y[b])
            values.append((found, len(step.choices)))
          yield
        batches.append(values)
      out.append(functools.partial(_joined, batches))

  def _measure(self, own, steps: list[Step], calibration: Images):
    """Yields after each call; returns the statistics of each step."""
    measured = []
    for b in range(calibration.n_batches):
      pools = self._pools(calibration, b)
      found = []
      for step in steps:
        l, call = step.layer, self._arguments(step)
        pools[l + 1], row = _measuring(self.places[l])(
          own[l], pools[l], pools[l + 1], *call
        )
        found.append(row)
        yield
      measured.append(found)
    return [_merged(*of_step) for of_step in zip(*measured, strict=True)]

  def _arguments(self, step: Step):
    n = len(step.choices)
    pad = (0, self._capacity[step.layer] - n)
    return np.pad(step.parents, pad), np.pad(step.choices, pad), np.int32(n)

  def _pools(self, images: Images, b: int) -> list[jax.Array]:
    """Room for the nodes of each place; its inputs lie in the one below."""
    x = normalized(images.pixels[b], images.mean, images.std)
    pools = [self.supernet.cast(x[None])]
    dtype = dtype_of(self.supernet.net)
    for place, width in zip(self.places, self._capacity, strict=True):
      s = place.shape
      shape = (width, len(x), s.out_size, s.out_size, s.features)
      pools.append(jnp.zeros(shape, dtype, device=x.device))
    return pools


def _joined(batches: list[list[tuple[dict, int]]]) -> Values:
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
