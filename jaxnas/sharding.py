"""Placement in one place: a mesh with axes `data` and `path`, and named rules.

Every jitted program asks a `Placement` where its arrays live. Inside a program
the compiler pads what does not divide evenly over an axis, and masks that out
of every sum, so that nothing is dropped on any number of devices.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnas.config import MeshConfig
from jaxnas.errors import UserError

# What an array's leading axes mean, and the mesh axes that they lie along.
RULES: dict[str, P] = {
  "replicated": P(),
  "batch": P(("data", "path")),  # [B, ...]: images of one batch
  "shared_batch": P("data"),  # [B, ...]: images that every path sees
  "path_batch": P("path", "data"),  # [K, B, ...]: a batch of every path
  "batches": P(None, ("data", "path")),  # [b, B, ...]: each batch over all
  "candidates": P(("path", "data")),  # [n, ...]: archs to score, all devices
}

# Elements from which on a weight is spread: smaller ones cost more to fetch.
SHARDED = 1 << 12


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh and the rules that map arrays onto it.

  Attributes:
    mesh: axes `data` and `path`.
    shard_weights: training states are spread over `data` between their uses
      (fully sharded data parallelism), not held whole by every device.
  """

  mesh: Mesh
  shard_weights: bool = False

  @property
  def n_devices(self) -> int:
    """Devices in the mesh."""
    return self.mesh.size

  @property
  def n_paths(self) -> int:
    """Devices along the axis `path`."""
    return self.mesh.shape["path"]

  def sharding(self, rule: str) -> NamedSharding:
    """Returns the sharding of a named rule."""
    return NamedSharding(self.mesh, RULES[rule])

  def fit(self, shape: tuple[int, ...], rule: str) -> NamedSharding:
    """Returns a rule's sharding, without the axes that do not divide evenly."""
    fitting = []
    for size, axes in zip(shape, RULES[rule], strict=False):
      names = axes if isinstance(axes, tuple) else (axes,)
      ways = math.prod(self.mesh.shape[name] for name in names if name)
      fitting.append(axes if size % ways == 0 else None)
    return NamedSharding(self.mesh, P(*fitting))

  def put(self, tree: Any, rule: str = "replicated") -> Any:
    """Moves host arrays, the same on every host, onto the mesh by one rule.

    Axes whose size does not divide evenly are replicated.
    """

    def place(x: Any) -> jax.Array:
      sharding = self.fit(np.shape(x), rule)
      if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
      # Each host gives its own devices what they hold of it.
      x = np.asarray(x)
      return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

    return jax.tree.map(place, tree)

  def constrain(self, x: jax.Array, rule: str) -> jax.Array:
    """Tells the compiler where an intermediate array lives.

    Its sizes need not divide evenly: the compiler pads and masks.
    """
    if self.n_devices == 1:
      return x
    return jax.lax.with_sharding_constraint(x, self.sharding(rule))

  def scatter(self, state: Any) -> Any:
    """Spreads a state as `shard_weights` says; inside a program or outside."""
    if not self.shard_weights:
      return state
    return self._move(state, self._state_sharding)

  def gather(self, tree: Any) -> Any:
    """Makes arrays that may be spread whole again on every device."""
    if not self.shard_weights:
      return tree
    return self._move(tree, lambda _: self.sharding("replicated"))

  def _move(self, tree: Any, to: Callable[[Any], NamedSharding]) -> Any:
    shardings = jax.tree.map(to, tree)
    if any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(tree)):
      return jax.lax.with_sharding_constraint(tree, shardings)
    leaves, form = jax.tree.flatten(shardings)
    return _mover(form, tuple(leaves))(tree)

  def _state_sharding(self, x: Any) -> NamedSharding:
    """The one rule: the largest axis that divides evenly, of large arrays."""
    ways, spec = self.mesh.shape["data"], [None] * np.ndim(x)
    fitting = [i for i, size in enumerate(np.shape(x)) if size % ways == 0]
    if fitting and np.size(x) >= SHARDED:
      spec[max(fitting, key=lambda i: np.shape(x)[i])] = "data"
    return NamedSharding(self.mesh, P(*spec))


@functools.lru_cache(maxsize=64)
def _mover(form: Any, shardings: tuple[NamedSharding, ...]) -> Callable:
  """A program that only moves a tree, kept because each `jit` compiles anew.

  A program, because arrays of other hosts cannot be copied to a device.
  """
  return jax.jit(
    lambda tree: tree, out_shardings=jax.tree.unflatten(form, shardings)
  )


def make_placement(config: MeshConfig | None = None) -> Placement:
  """Builds the mesh over the devices of all hosts, or over the first of them.

  Args:
    config: sizes of the axes; `data=0` takes the devices that `path` leaves.

  Raises:
    UserError: if there are fewer devices than the axes need, or if only part
      of the devices of several hosts would be used.
  """
  config = config or MeshConfig()
  devices = jax.devices()
  path = config.path
  data = config.data or max(1, len(devices) // max(1, path))
  needed = data * path
  if path < 1 or data < 1 or needed > len(devices):
    raise UserError(
      f"mesh.data={data} x mesh.path={path} needs {needed} devices and"
      f" {len(devices)} are present; legal: axes of 1 and more whose product is"
      f" at most {len(devices)} (mesh.data=0 takes all that mesh.path leaves)."
    )
  if needed < len(devices) and jax.process_count() > 1:
    raise UserError(
      f"mesh.data={data} x mesh.path={path} uses {needed} of the"
      f" {len(devices)} devices of {jax.process_count()} hosts; legal: all."
    )
  # Explicit axes, make_mesh's default, break optax losses on newer jax.
  mesh = jax.make_mesh(
    (data, path), ("data", "path"), devices=devices[:needed],
    axis_types=(AxisType.Auto,) * 2,
  )  # fmt: skip
  return Placement(mesh, config.shard_weights)
