"""Plain networks: one arch as an ordinary Linen module, or many at once.

`PlainNetwork` is what a user takes home. `Fleet` runs several plain networks of
different archs in one compiled program, each with weights of its own: networks
that made the same choice at a layer are stacked and vectorised.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.nets import initial
from jaxnas.nets.layers import Classifier
from jaxnas.nets.mbconv import dtype_of, make_block
from jaxnas.nets.paths import Tree, Variables, apply_module, permute
from jaxnas.spaces import Space


class PlainNetwork(nn.Module):
  """The network of one arch.

  Attributes:
    space: the space.
    arch: choice index of every layer.
    net: numerics.
  """

  space: Space
  arch: tuple[int, ...]
  net: NetConfig = NetConfig()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    stored: bool = True,
    dropout: float = 0.0,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Classifies images.

    Args:
      images: `float32[B, H, W, C]`, normalised.
      stored: use stored batch-norm statistics, else the batch's own, which
        are then written to `batch_stats` if that is mutable.
      dropout: rate before the classifier.
      key: PRNG key of dropout.

    Returns:
      Logits `float32[B, n_classes]`.
    """
    x = images.astype(dtype_of(self.net))
    for name, module in named_blocks(self.space, self.arch, self.net):
      x = module.copy(name=name)(x, stored)
    classifier = Classifier(self.space.n_classes, name="classifier")
    return classifier(x, dropout, key)


def named_blocks(
  space: Space, arch: tuple[int, ...], net: NetConfig
) -> list[tuple[str, nn.Module]]:
  """Names and unbound modules of an arch's blocks, in forward order."""
  chosen = [
    (f"layer_{l:02d}", layer.choices[c])
    for l, (layer, c) in enumerate(zip(space.layers, arch, strict=True))
  ]
  ops = [
    *((f"stem_{i}", layer.choices[0]) for i, layer in enumerate(space.stem)),
    *chosen,
    *((f"head_{i}", layer.choices[0]) for i, layer in enumerate(space.head)),
  ]
  shapes = [s for part in space.shapes for s in part]
  return [
    (name, make_block(op, shape, net))
    for (name, op), shape in zip(ops, shapes, strict=True)
  ]


def inherit(variables: Variables, space: Space, arch: np.ndarray) -> Variables:
  """Cuts one arch out of a supernet's variables.

  Args:
    variables: of the supernet.
    space: its space.
    arch: `int32[L]`.

  Returns:
    Variables of the `PlainNetwork` of `arch`. Their batch-norm statistics are
    the supernet's running ones; `scoring.recalibrate` replaces them.
  """
  out: Variables = {}
  for kind, tree in variables.items():
    own = {}
    for group, value in tree.items():
      if group.startswith("layer_"):
        l = int(group.removeprefix("layer_"))
        value = value.get(space.layers[l].choices[arch[l]].name, {})
      if value:
        own[group] = value
    out[kind] = own
  return out


@dataclasses.dataclass(frozen=True)
class Fleet:
  """Plain networks of several archs, computed together.

  Variables have the layout of a supernet's, `layer_00 / E3K5 / ...`, but every
  leaf has a leading axis that counts the networks which made that choice (all
  networks, for fixed layers).

  Attributes:
    space: the space.
    archs: one tuple of choices per network.
    net: numerics.
  """

  space: Space
  archs: tuple[tuple[int, ...], ...]
  net: NetConfig = NetConfig()

  @property
  def n(self) -> int:
    """Number of networks."""
    return len(self.archs)

  @functools.cached_property
  def _plan(self) -> list[tuple[str, np.ndarray, list]]:
    """Per block: name, order of the networks, [(choice, module, count)]."""
    per_network = [named_blocks(self.space, a, self.net) for a in self.archs]
    plan = []
    for block in zip(*per_network, strict=True):
      name = block[0][0]
      groups: dict[nn.Module, list[int]] = {}
      for i, (_, module) in enumerate(block):
        groups.setdefault(module, []).append(i)
      order = np.array([i for ids in groups.values() for i in ids])
      parts = [(m.op.name, m, len(ids)) for m, ids in groups.items()]
      plan.append((name, order, parts))
    return plan

  def stack(self, variables: list[Variables]) -> Variables:
    """Joins variables of plain networks, one per arch, into the fleet's."""
    out: Variables = {"params": {}, "batch_stats": {}}
    for kind, tree in out.items():
      for name, order, parts in self._plan:
        start = 0
        for choice, _, count in parts:
          ids = order[start : start + count]
          start += count
          own = [variables[i][kind].get(name, {}) for i in ids]
          if own[0]:
            joined = jax.tree.map(lambda *a: np.stack(a), *own)
            tree.setdefault(name, {})[choice] = joined
    heads = [v["params"]["classifier"] for v in variables]
    joined = jax.tree.map(lambda *a: np.stack(a), *heads)
    out["params"]["classifier"] = {"Linear": joined}
    return out

  def unstack(self, variables: Variables, i: int) -> Variables:
    """Variables of network `i` as a `PlainNetwork` takes them."""
    out: Variables = {"params": {}, "batch_stats": {}}
    for kind, own in out.items():
      for name, order, parts in self._plan:
        start = 0
        for choice, _, count in parts:
          ids = order[start : start + count].tolist()
          start += count
          tree = variables[kind].get(name, {}).get(choice)
          if tree and i in ids:
            row = ids.index(i)
            own[name] = jax.tree.map(lambda a, r=row: a[r], tree)
    head = variables["params"]["classifier"]["Linear"]
    out["params"]["classifier"] = jax.tree.map(lambda a: a[i], head)
    return out

  def init(self, keys: jax.Array) -> Variables:
    """Draws fresh weights.

    Args:
      keys: one PRNG key per network, `[n]`. A network's weights depend on its
        own key only, not on the fleet that it trains in.
    """
    size, c = self.space.image_size, self.space.image_channels
    image = jax.ShapeDtypeStruct((1, size, size, c), jnp.float32)
    variables = []
    for arch, key in zip(self.archs, keys, strict=True):
      module = PlainNetwork(self.space, arch, self.net)
      shapes = jax.eval_shape(module.init, jax.random.key(0), image)
      shapes = {"batch_stats": {}, **shapes}
      variables.append(initial.draw(shapes, initial.rng_of(key)))
    return self.stack(variables)

  def network_of(self, tree: Tree) -> Tree:
    """Replaces each leaf by the networks its rows belong to, `int[rows]`."""
    rows: dict[str, dict[str, np.ndarray]] = {}
    for name, order, parts in self._plan:
      start = 0
      for choice, _, count in parts:
        rows.setdefault(name, {})[choice] = order[start : start + count]
        start += count
    rows["classifier"] = {"Linear": np.arange(self.n)}
    return {
      group: {
        choice: jax.tree.map(lambda _, g=group, c=choice: rows[g][c], leaves)
        for choice, leaves in choices.items()
      }
      for group, choices in tree.items()
    }

  @jax.named_scope("forward")
  def apply(
    self,
    variables: Variables,
    images: jax.Array,
    stored: bool,
    dropout: float = 0.0,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, Tree]:
    """Runs every network on the same images.

    Args:
      variables: of the fleet.
      images: `float32[B, H, W, C]`.
      stored: use stored batch-norm statistics, else measure them.
      dropout: rate before the classifier, masks drawn per network.
      key: PRNG key of dropout.

    Returns:
      Logits `float32[n, B, n_classes]` and the measured statistics.
    """
    x = images.astype(dtype_of(self.net))
    held: np.ndarray | None = None  # x[k] belongs to network held[k]
    stats: Tree = {}
    for name, order, parts in self._plan:
      if held is not None and not np.array_equal(order, held):
        position = np.argsort(held)
        x = permute(x, jnp.asarray(position[order]))
      outputs, start = [], 0
      for choice, module, count in parts:
        own = {
          kind: tree.get(name, {}).get(choice, {})
          for kind, tree in variables.items()
        }
        part = x if held is None else x[start : start + count]
        shared = held is None
        with jax.named_scope(f"{name}/{choice}"):
          y, measured = self._run(module, own, part, shared, count, stored)
        start += count
        outputs.append(y)
        if measured:
          stats.setdefault(name, {})[choice] = measured
      x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs)
      held = order
    if not np.array_equal(held, np.arange(self.n)):
      x = permute(x, jnp.asarray(np.argsort(held)))
    head = {"params": variables["params"]["classifier"]["Linear"]}
    module = Classifier(self.space.n_classes)
    keys = None if key is None else jax.random.split(key, self.n)

    @jax.named_scope("classifier")
    def classify(v, x, k):
      return module.apply(v, x, dropout, k)

    axes = (0, 0, None if keys is None else 0)
    return jax.vmap(classify, axes)(head, x, keys), stats

  @staticmethod
  def _run(module, own, x, shared, count, stored):
    def run(v, x):
      return apply_module(module, v, x, stored)

    if count == 1:  # a vmap over one network would only slow products down
      one = jax.tree.map(lambda a: a[0], own)
      y, measured = run(one, x if shared else x[0])
      return y[None], jax.tree.map(lambda a: a[None], measured)
    axes = (0, None if shared else 0)
    # The size is given because an identity at the very start maps nothing.
    return jax.vmap(run, axes, axis_size=count)(own, x)

  @jax.named_scope("statistics")
  def blend_stats(self, old: Tree, measured: Tree, momentum: float) -> Tree:
    """Moves each network's running statistics one step."""
    return {**old, **jax.tree.map(
      lambda o, m: momentum * o + (1 - momentum) * m,
      {group: old[group] for group in measured}, measured,
    )}  # fmt: skip
