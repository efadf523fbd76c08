"""Placement in one place: a mesh with axes `data` and `path`, and named rules.

Every jitted program asks a `Placement` where its arrays live. Arrays that do
not divide evenly over an axis are replicated along it, so that results never
depend on the number of devices.
"""

import dataclasses
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
  "batch": P("data"),  # [B, ...]: images of one batch
  "paths": P("path"),  # [K, ...]: one row per path or network
  "path_batch": P("path", "data"),  # [K, B, ...]: a batch of every path
  "candidates": P(("path", "data")),  # [n, ...]: archs to score, all devices
}


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh and the rules that map arrays onto it."""

  mesh: Mesh

  @property
  def n_devices(self) -> int:
    """Devices in the mesh."""
    return self.mesh.size

  def sharding(self, rule: str) -> NamedSharding:
    """Returns the sharding of a named rule."""
    return NamedSharding(self.mesh, RULES[rule])

  def put(self, tree: Any, rule: str = "replicated") -> Any:
    """Moves host arrays onto the mesh by one rule.

    Axes whose size does not divide evenly are replicated.
    """
    return jax.tree.map(lambda x: jax.device_put(x, self._fit(x, rule)), tree)

  def constrain(self, x: jax.Array, rule: str) -> jax.Array:
    """Tells the compiler where an intermediate array lives.

    Axes whose size does not divide evenly stay replicated.
    """
    if self.n_devices == 1:
      return x
    return jax.lax.with_sharding_constraint(x, self._fit(x, rule))

  def _fit(self, x: Any, rule: str) -> NamedSharding:
    fitting = []
    for size, axes in zip(np.shape(x), RULES[rule], strict=False):
      names = axes if isinstance(axes, tuple) else (axes,)
      ways = 1
      for name in names:
        ways *= self.mesh.shape[name]
      fitting.append(axes if size % ways == 0 else None)
    return NamedSharding(self.mesh, P(*fitting))


def make_placement(config: MeshConfig | None = None) -> Placement:
  """Builds the mesh over the devices of all hosts.

  Args:
    config: sizes of the axes; `data=0` takes the devices that `path` leaves.

  Raises:
    UserError: if the axes do not multiply to the number of devices.
  """
  config = config or MeshConfig()
  n = jax.device_count()
  path = config.path
  data = config.data or max(1, n // max(1, path))
  if path < 1 or data * path != n:
    raise UserError(
      f"mesh.data={data} x mesh.path={path} does not cover the {n} devices"
      " present; their product must equal the number of devices."
    )
  # Explicit axes, make_mesh's default, break optax losses on newer jax.
  mesh = jax.make_mesh(
    (data, path), ("data", "path"), axis_types=(AxisType.Auto,) * 2
  )
  return Placement(mesh)
