"""One node of the trie: a block applied to its parent's activations.

A *place* is one position of the whole chain, stem and head included: its
alternative modules. Everything about it that a program needs is in the modules
and shapes, nothing in its position, so places that look alike share programs.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.config import BnMode
from jaxnas.nets import PathSupernet
from jaxnas.nets.paths import Tree, Variables, apply_module, module_shapes
from jaxnas.scoring.calibration import merge_stats
from jaxnas.spaces import Shape

# Of every alternative of a place: its variables.
Own = tuple[Variables, ...]


@dataclasses.dataclass(frozen=True)
class Place:
  """Alternative modules at one position.

  Attributes:
    modules: one for each choice.
    shape: of inputs and outputs.
  """

  modules: tuple[nn.Module, ...]
  shape: Shape

  @functools.cached_property
  def stats_shapes(self) -> tuple[Tree, ...]:
    """Shapes of the batch-norm statistics of each choice."""
    s = self.shape
    image = (1, s.in_size, s.in_size, s.in_channels)
    return tuple(module_shapes(m, image)["batch_stats"] for m in self.modules)

  @functools.cached_property
  def width(self) -> int:
    """Channels that are normalised by the choice that has the most."""
    sizes = [sum(m.size for m in self._split(t)[0]) for t in self.stats_shapes]
    return max(sizes)

  def _split(self, stats: Tree) -> tuple[list, list]:
    """The leaves of all means, and those of all variances, in one order."""
    leaves = jax.tree.leaves_with_path(stats)
    return tuple(
      [leaf for path, leaf in leaves if path[-1].key == name]
      for name in ("mean", "var")
    )

  def pack(self, stats: Tree, lanes: int) -> jax.Array:
    """Statistics with leaves `[lanes, C]` as `float32[lanes, 2, width]`.

    Means and variances apart, so that rows of several batches can be merged
    whatever the choices were.
    """
    halves = []
    for leaves in self._split(stats):
      row = jnp.concatenate([jnp.zeros((lanes, 0)), *leaves], 1)
      halves.append(jnp.pad(row, [(0, 0), (0, self.width - row.shape[1])]))
    return jnp.stack(halves, 1)

  def unpack(self, choice: int, rows: jax.Array) -> Tree:
    """Inverse of `pack`, with leaves that broadcast: `[lanes, 1, 1, 1, C]`."""
    at = {"mean": 0, "var": 0}

    def take(path, leaf):
      name = path[-1].key
      first, at[name] = at[name], at[name] + leaf.size
      half = rows[:, ("mean", "var").index(name)]
      return half[:, None, None, None, first : at[name]]

    return jax.tree.map_with_path(take, self.stats_shapes[choice])

  def measure(
    self, own: Own, choice: jax.Array, x: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Applies a traced choice and measures its batch-norm statistics.

    Args:
      own: variables of every choice.
      choice: which.
      x: `[lanes, B, H, W, C]`, normalised by its own statistics on the way.

    Returns:
      Activations `[lanes, B, H', W', C']`, statistics as packed rows.
    """

    def branch(c):
      @jax.named_scope(f"choice_{c}")
      def run(x):
        y, stats = apply_module(self.modules[c], own[c], x, stored=False)
        return y, self.pack(stats, len(x))

      return run

    branches = [branch(c) for c in range(len(self.modules))]
    return jax.lax.switch(choice, branches, x)

  def apply(
    self,
    bn_mode: BnMode,
    own: Own,
    choice: jax.Array,
    x: jax.Array,
    stats: jax.Array | None,
  ) -> jax.Array:
    """Applies a traced choice to one batch.

    Args:
      bn_mode: where batch-norm statistics come from.
      own: variables of every choice.
      choice: which.
      x: `[lanes, B, H, W, C]`.
      stats: rows that `measure` returned, in the mode `recalibrate`.

    Returns:
      Activations `[lanes, B, H', W', C']`.
    """

    def branch(c):
      @jax.named_scope(f"choice_{c}")
      def run(x, stats):
        variables = own[c]
        if bn_mode == "recalibrate":
          measured = self.unpack(c, stats)
          variables = {"params": own[c]["params"], "batch_stats": measured}
        stored = bn_mode != "batch"
        return apply_module(self.modules[c], variables, x, stored)[0]

      return run

    branches = [branch(c) for c in range(len(self.modules))]
    return jax.lax.switch(choice, branches, x, stats)


def merge_rows(batches: jax.Array) -> jax.Array:
  """Joins packed rows of several batches, `[b, ...]`, into the whole's."""
  parts = {"mean": batches[..., 0, :], "var": batches[..., 1, :]}
  whole = merge_stats(parts)
  return jnp.stack([whole["mean"], whole["var"]], -2)


def chain(supernet: PathSupernet) -> tuple[Place, ...]:
  """The places of a supernet: stem, searched layers, head."""
  stem, layers, head = supernet.space.shapes
  modules = [
    *((m,) for m in supernet.stem),
    *supernet.choices,
    *((m,) for m in supernet.head),
  ]
  shapes = [*stem, *layers, *head]
  return tuple(Place(m, s) for m, s in zip(modules, shapes, strict=True))


def place_names(supernet: PathSupernet) -> list[str]:
  """Names of the places of `chain`, as traces show them."""
  space = supernet.space
  return [
    *(f"stem_{i}" for i in range(len(supernet.stem))),
    *(f"layer_{l:02d}" for l in range(space.n_layers)),
    *(f"head_{i}" for i in range(len(supernet.head))),
  ]


def own_variables(
  supernet: PathSupernet, variables: Variables
) -> tuple[Own, ...]:
  """The variables of every choice of every place of `chain`."""

  def of(group, name=None):
    tree = {k: v.get(group, {}) for k, v in variables.items()}
    return (
      tree if name is None else {k: v.get(name, {}) for k, v in tree.items()}
    )

  return (
    *((of(f"stem_{i}"),) for i in range(len(supernet.stem))),
    *(
      tuple(of(f"layer_{l:02d}", name) for name in names)
      for l, names in enumerate(supernet.names)
    ),
    *((of(f"head_{i}"),) for i in range(len(supernet.head))),
  )
