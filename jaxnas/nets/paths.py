"""The single-path supernet: every choice's weights, pure functions of them.

Variables are one tree, `{"params": ..., "batch_stats": ...}`, with the groups
`stem_0`, `layer_00` (one entry per choice, by operation name), `head_0` and
`classifier`. Nothing is shared between choices. Blocks are Linen modules; paths
are composed by plain functions, because the same block is applied in several
ways: to one slot of a stack (training), under a switch (scoring any arch by one
program), or alone (export).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.nets import initial
from jaxnas.nets.layers import Classifier
from jaxnas.nets.mbconv import dtype_of, make_block
from jaxnas.spaces import Space

Tree = Any
Variables = dict[str, Tree]


@functools.lru_cache(maxsize=4096)
def module_shapes(module: nn.Module, shape: tuple[int, ...]) -> Variables:
  """Shapes of a block's variables for inputs `(B, H, W, C)`.

  Returns:
    `{"params", "batch_stats"}` of `ShapeDtypeStruct`, either possibly empty.
  """
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  args = (x,) if isinstance(module, Classifier) else (x, False)
  init = functools.partial(module.init, jax.random.key(0))
  variables = jax.eval_shape(lambda x: init(x, *args[1:]), x)
  return {k: variables.get(k, {}) for k in ("params", "batch_stats")}


def apply_module(
  module: nn.Module, variables: Variables, x: jax.Array, stored: bool
) -> tuple[jax.Array, Tree]:
  """Applies a block; returns its output and the statistics it measured."""
  if stored:
    return module.apply(variables, x, True), {}
  y, measured = module.apply(variables, x, False, mutable=["batch_stats"])
  return y, measured.get("batch_stats", {})


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array) -> jax.Array:
  """`x[order]` along the first axis for a permutation.

  The gradient gathers by the inverse permutation; the transpose of a plain
  gather would be a scatter-add, which is slow and hides that rows are unique.
  """
  return x[order]


def _permute_forward(x, order):
  return x[order], order


def _permute_backward(order, g):
  return g[jnp.argsort(order)], None


permute.defvjp(_permute_forward, _permute_backward)


def group_names(space: Space) -> list[str]:
  """Names of the top-level groups of the variables, in forward order."""
  return [
    *(f"stem_{i}" for i in range(len(space.stem))),
    *(f"layer_{l:02d}" for l in range(space.n_layers)),
    *(f"head_{i}" for i in range(len(space.head))),
    "classifier",
  ]


@dataclasses.dataclass(frozen=True)
class PathSupernet:
  """A space's supernet.

  Attributes:
    space: the space.
    net: numerics.
  """

  space: Space
  net: NetConfig = NetConfig()

  # Blocks -----------------------------------------------------------------

  @functools.cached_property
  def stem(self) -> tuple[nn.Module, ...]:
    """Modules of the stem."""
    return self._fixed(self.space.stem, self.space.shapes[0])

  @functools.cached_property
  def head(self) -> tuple[nn.Module, ...]:
    """Modules between the searched layers and the classifier."""
    return self._fixed(self.space.head, self.space.shapes[2])

  @functools.cached_property
  def choices(self) -> tuple[tuple[nn.Module, ...], ...]:
    """Module of each choice of each searched layer."""
    return tuple(
      tuple(make_block(op, shape, self.net) for op in layer.choices)
      for layer, shape in zip(
        self.space.layers, self.space.layer_shapes, strict=True
      )
    )

  @functools.cached_property
  def names(self) -> tuple[tuple[str, ...], ...]:
    """Name of each choice of each searched layer, its key in the variables."""
    return tuple(
      tuple(op.name for op in layer.choices) for layer in self.space.layers
    )

  @functools.cached_property
  def classifier(self) -> Classifier:
    """Pooling and the linear layer."""
    return Classifier(self.space.n_classes)

  def _fixed(self, layers, shapes):
    return tuple(
      make_block(layer.choices[0], shape, self.net)
      for layer, shape in zip(layers, shapes, strict=True)
    )

  @functools.cached_property
  def variable_shapes(self) -> Variables:
    """Shapes of all variables, a tree of `ShapeDtypeStruct`."""
    stem, layers, head = self.space.shapes
    out: Variables = {"params": {}, "batch_stats": {}}

    def shapes_of(module, s):
      return module_shapes(module, (1, s.in_size, s.in_size, s.in_channels))

    for part, modules, shapes in (
      ("stem", self.stem, stem),
      ("head", self.head, head),
    ):
      for i, (module, s) in enumerate(zip(modules, shapes, strict=True)):
        for kind, tree in shapes_of(module, s).items():
          out[kind][f"{part}_{i}"] = tree
    for l, s in enumerate(layers):
      for name, module in zip(self.names[l], self.choices[l], strict=True):
        for kind, tree in shapes_of(module, s).items():
          out[kind].setdefault(f"layer_{l:02d}", {})[name] = tree
    last = (head or layers)[-1]
    shape = (1, last.out_size, last.out_size, last.features)
    out["params"]["classifier"] = module_shapes(self.classifier, shape)[
      "params"
    ]
    return out

  def init(self, key: jax.Array) -> Variables:
    """Draws all weights on the host (`initial.draw`).

    Args:
      key: PRNG key.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32.
    """
    return initial.draw(self.variable_shapes, initial.rng_of(key))

  # One block at a time: what scorers and training compose -------------------

  def apply_fixed(
    self, part: str, variables: Variables, x: jax.Array, stored: bool
  ) -> tuple[jax.Array, Tree]:
    """Applies the stem or the head (without the classifier).

    Args:
      part: `"stem"` or `"head"`.
      variables: all variables.
      x: `[..., B, H, W, C]`.
      stored: use stored statistics, else measure them.

    Returns:
      The output and the measured statistics by group, means over a path axis.
    """
    stats = {}
    for i, module in enumerate(getattr(self, part)):
      group = f"{part}_{i}"
      own = {kind: tree.get(group, {}) for kind, tree in variables.items()}
      with jax.named_scope(group):
        x, measured = apply_module(module, own, x, stored)
        if measured:
          stats[group] = jax.tree.map(
            lambda s: s.mean(0) if s.ndim > 1 else s, measured
          )
    return x, stats

  def apply_choice(
    self, l: int, c: int, variables: Variables, x: jax.Array, stored: bool,
    remat: bool = False,
  ) -> tuple[jax.Array, Tree]:  # fmt: skip
    """Applies choice `c` of layer `l` to `[..., B, H, W, C]`.

    With `remat`, or where the numerics ask for it, a gradient recomputes what
    is inside the block.
    """
    group, name = f"layer_{l:02d}", self.names[l][c]
    own = {
      kind: tree.get(group, {}).get(name, {})
      for kind, tree in variables.items()
    }
    run = functools.partial(apply_module, self.choices[l][c])
    if remat or self.net.remat:
      run = jax.checkpoint(run, static_argnums=(2,))
    with jax.named_scope(f"{group}/{name}"):
      return run(own, x, stored)

  @jax.named_scope("classifier")
  def logits(self, variables: Variables, x: jax.Array) -> jax.Array:
    """Classifies activations `[..., B, H, W, C]`: `float32[..., B, n]`."""
    own = {"params": variables["params"]["classifier"]}
    return self.classifier.apply(own, x)

  def cast(self, images: jax.Array) -> jax.Array:
    """Images in the type of the activations."""
    return images.astype(dtype_of(self.net))

  # Whole paths ----------------------------------------------------------------

  @jax.named_scope("forward")
  def apply_path(
    self,
    variables: Variables,
    arch: jax.Array,
    images: jax.Array,
    stored: bool = True,
  ) -> tuple[jax.Array, Tree]:
    """Evaluates one path by a switch at every layer.

    Args:
      variables: all variables.
      arch: `int32[L]`, may be traced: one program serves every arch.
      images: `float32[B, H, W, C]`, normalised.
      stored: use stored batch-norm statistics, else the batch's own.

    Returns:
      Logits `float32[B, n_classes]` and the measured statistics, zero for
      choices off the path (empty if `stored`).
    """
    x, stats = self.apply_fixed("stem", variables, self.cast(images), stored)
    for l in range(self.space.n_layers):
      x, measured = self.switch_layer(l, arch[l], variables, x, stored)
      stats |= measured
    x, measured = self.apply_fixed("head", variables, x, stored)
    return self.logits(variables, x), stats | measured

  def switch_layer(
    self,
    l: int,
    choice: jax.Array,
    variables: Variables,
    x: jax.Array,
    stored: bool,
  ) -> tuple[jax.Array, Tree]:
    """Applies the traced choice of layer `l`; other choices cost nothing."""

    def branch(c: int) -> Callable:
      def run(x):
        y, measured = self.apply_choice(l, c, variables, x, stored, True)
        return y, {} if stored else self._place(l, c, measured)

      return run

    # A switch keeps the residuals of *all* its branches for the backward pass;
    # recomputing them from the layer's input is what makes one path cheap. The
    # branches recompute too: XLA on CPU ignores the outer barrier and would run
    # every layer's recomputation first, so that all residuals live at once.
    def layer(choice, x):
      branches = [branch(c) for c in range(len(self.choices[l]))]
      return jax.lax.switch(choice, branches, x)

    return jax.checkpoint(layer)(choice, x)

  @jax.named_scope("forward")
  def apply_group(
    self, variables: Variables, archs: jax.Array, images: jax.Array
  ) -> tuple[jax.Array, Tree]:
    """Evaluates g < K paths that differ from each other at every layer.

    Each choice is traced once and runs only if one of the paths takes it.

    Args:
      variables: all variables.
      archs: `int32[g, L]`, no value twice in a column.
      images: `float32[B, H, W, C]` for all paths, or `[g, B, H, W, C]`.

    Returns:
      As `apply_routed`, statistics zero for choices that no path takes.
    """
    x, stats = self.apply_fixed("stem", variables, self.cast(images), False)
    if images.ndim == 4:
      x = jnp.broadcast_to(x, (archs.shape[0], *x.shape))
    for l in range(self.space.n_layers):

      def layer(column, x, l=l):
        s = self.space.layer_shapes[l]
        shape = x.shape[:2] + (s.out_size, s.out_size, s.features)
        out, measured = jnp.zeros(shape, x.dtype), {}
        for c in range(len(self.choices[l])):

          def run(out, x, slot, c=c):
            y, own = self.apply_choice(l, c, variables, x[slot], False, True)
            return out.at[slot].set(y), self._place(l, c, own)

          def skip(out, x, slot):
            return out, self._place(l, -1, {})

          slot = jnp.argmax(column == c)
          out, own = jax.lax.cond((column == c).any(), run, skip, out, x, slot)
          measured = jax.tree.map(jnp.add, measured, own) if measured else own
        return out, measured

      # As in `switch_layer`: keep only the layer's input for the gradient.
      x, measured = jax.checkpoint(layer)(archs[:, l], x)
      stats |= measured
    x, measured = self.apply_fixed("head", variables, x, False)
    return self.logits(variables, x), stats | measured

  def _place(self, l: int, c: int, measured: Tree) -> Tree:
    """Statistics of a whole layer, zero but for choice `c`."""
    group = f"layer_{l:02d}"
    shapes = self._stat_shapes[group]
    own = {
      name: measured if i == c
      else jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[name])
      for i, name in enumerate(self.names[l]) if name in shapes
    }  # fmt: skip
    return {group: own} if own else {}

  @functools.cached_property
  def _stat_shapes(self) -> Tree:
    return {
      group: {name: s for name, s in tree.items() if s}
      if group.startswith("layer_") else tree
      for group, tree in self.variable_shapes["batch_stats"].items()
    }  # fmt: skip

  @jax.named_scope("forward")
  def apply_routed(
    self, variables: Variables, archs: jax.Array, images: jax.Array
  ) -> tuple[jax.Array, Tree]:
    """Evaluates K strictly fair paths together, each choice exactly once.

    The K slots hold one path each. At every layer the slots are permuted so
    that slot c meets choice c; shapes never change and nothing is computed
    twice or thrown away.

    Args:
      variables: all variables.
      archs: `int32[K, L]`, every column a permutation of 0..K-1.
      images: `float32[B, H, W, C]` for all paths, or `[K, B, H, W, C]`.

    Returns:
      Logits `float32[K, B, n_classes]` and the measured statistics: of every
      choice, and the mean over paths of the fixed layers.
    """
    shared = images.ndim == 4
    x, stats = self.apply_fixed("stem", variables, self.cast(images), False)
    # Slot c holds the path that takes choice c; `where[k]` is path k's slot.
    where = jnp.arange(archs.shape[0])
    for l in range(self.space.n_layers):
      if not (l == 0 and shared):
        x = permute(x, where[jnp.argsort(archs[:, l])])
      outputs, measured = [], {}
      for c, name in enumerate(self.names[l]):
        slot = x if l == 0 and shared else x[c]
        y, own = self.apply_choice(l, c, variables, slot, False)
        outputs.append(y)
        if own:
          measured[name] = own
      if measured:
        stats[f"layer_{l:02d}"] = measured
      x = jnp.stack(outputs)
      where = archs[:, l]
    x, measured = self.apply_fixed("head", variables, x, False)
    return permute(self.logits(variables, x), where), stats | measured

  def is_routable(self, n_paths: int) -> bool:
    """Whether strict-fair paths can be routed: K choices in every layer."""
    return bool((self.space.n_choices == n_paths).all())


@jax.named_scope("statistics")
def blend_stats(
  old: Tree, measured: Tree, counts: np.ndarray | jax.Array, space: Space,
  momentum: float,
) -> Tree:  # fmt: skip
  """Moves running statistics one step towards the measured ones.

  Each batch norm moves once per training step, towards the mean over the paths
  that used it, so the result does not depend on how paths are grouped.

  Args:
    old: running statistics of the supernet.
    measured: sums over paths for choices, means over paths for fixed layers.
    counts: `int32[L, K]`, paths of this step that used each choice.
    space: the space.
    momentum: share of the old value that is kept.

  Returns:
    The new running statistics; unused choices keep theirs exactly.
  """
  new = dict(old)
  for group, tree in measured.items():
    if not group.startswith("layer_"):
      new[group] = jax.tree.map(
        lambda o, m: momentum * o + (1 - momentum) * m, old[group], tree
      )
      continue
    l = int(group.removeprefix("layer_"))
    layer = dict(old[group])
    for c, op in enumerate(space.layers[l].choices):
      if op.name in tree:
        n = counts[l, c]
        layer[op.name] = jax.tree.map(
          lambda o, m, n=n: jnp.where(
            n > 0, momentum * o + (1 - momentum) * m / jnp.maximum(n, 1), o
          ),
          old[group][op.name],
          tree[op.name],
        )
    new[group] = layer
  return new
