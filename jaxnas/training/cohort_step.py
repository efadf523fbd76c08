"""The training step of a cohort: networks whose archs are data.

Each network of a cohort holds the variables of a whole supernet, of which it
uses its own path. That wastes memory, but one compiled program then trains any
archs, where a fleet compiles a new one for each set of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.config import RetrainConfig
from jaxnas.nets import PathSupernet, blend_stats, group_names
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.training.optimizers import freeze_unused
from jaxnas.training.step import (
  Feed,
  Step,
  TrainState,
  Tree,
  finite_groups,
  init_state,
)


def cohort_state(
  supernet: PathSupernet, keys: jax.Array, tx: optax.GradientTransformation
) -> TrainState:
  """Fresh training state of a cohort, every leaf `[n, ...]`.

  Args:
    supernet: what each network holds a copy of.
    keys: one PRNG key per network, `[n]`. A network's weights depend on its
      own key only.
    tx: optimiser; its count of steps is common to all networks.
  """
  drawn = [supernet.init(key) for key in keys]
  return init_state(jax.tree.map(lambda *a: np.stack(a), *drawn), tx)


def make_cohort_step(
  supernet: PathSupernet,
  tx: optax.GradientTransformation,
  config: RetrainConfig,
  feed: Feed,
) -> Callable[[np.ndarray], Step]:
  """Builds the steps that train each network of a cohort on the same batch.

  Equal to training every network alone, without dropout: losses are summed,
  weights are not shared, and clipping goes by each network's own norm. Choices
  off a network's path stay as they are to the last bit, optimiser included.

  Args:
    supernet: what each network holds a copy of.
    tx: optimiser, elementwise but for the step count.
    config: label smoothing and clipping.
    feed: training images.

  Returns:
    A function of archs `int32[n, L]` that gives their step, as
    `make_fleet_step` does; `loss` and `accuracy` are `float32[n]`. All sets of
    n archs share one compiled program.
  """
  space, names = supernet.space, group_names(supernet.space)
  choice_axis = jnp.arange(int(space.n_choices.max()))

  def loss_of(params, batch_stats, arch, x, y):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, stats = supernet.apply_path(variables, arch, x, stored=False)
    loss = cross_entropy(logits, y, config.label_smoothing).mean()
    return loss, (loss, correct(logits, y).mean(), stats)

  differentiate = jax.grad(loss_of, has_aux=True)

  def blend(old, measured, counts):
    momentum = supernet.net.bn_momentum
    return blend_stats(old, measured, counts, space, momentum)

  def step(state: TrainState, archs, key, indices, arrays):
    # The keys of a fleet's step, so that both see the same images.
    image_key, _ = jax.random.split(jax.random.fold_in(key, state.step))
    x, y = feed.batch(arrays, indices, image_key)
    grads, (losses, hits, stats) = jax.lax.map(
      lambda network: differentiate(*network, x, y),
      (state.params, state.batch_stats, archs),
    )
    norms = jax.vmap(optax.tree.norm)(grads)
    if config.optimizer.clip_norm:
      shrink = jnp.minimum(1.0, config.optimizer.clip_norm / (norms + 1e-12))
      grads = jax.tree.map(lambda g: g * _beside(shrink, g), grads)
    counts = (archs[:, :, None] == choice_axis).astype(jnp.int32)
    params, opt_state = freeze_unused(
      tx, _used_tree(supernet, counts > 0, state.params), grads,
      state.opt_state, state.params,
    )  # fmt: skip
    new = TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=jax.vmap(blend)(state.batch_stats, stats, counts),
      opt_state=opt_state,
      counts=state.counts,
    )
    metrics = {
      "loss": losses,
      "accuracy": hits,
      "grad_norm": norms.mean(),
      "finite": finite_groups(names, stats, losses, new.params),
    }
    return new, metrics

  everywhere = feed.placement.sharding("replicated")
  compiled = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
  arrays = (feed.images, feed.labels)

  def of(archs: np.ndarray) -> Step:
    archs = space.validate(archs)
    return lambda state, key, indices: compiled(
      state, archs, key, indices, arrays
    )

  return of


def _beside(values: jax.Array, leaf: jax.Array) -> jax.Array:
  """Values `[n]`, shaped to broadcast against a leaf `[n, ...]`."""
  return values.reshape((-1,) + (1,) * (leaf.ndim - 1))


def _used_tree(supernet: PathSupernet, taken: jax.Array, params: Tree) -> Tree:
  """Which networks use a leaf, from `bool[n, L, K]`."""
  used = {}
  for group, tree in params.items():
    if not group.startswith("layer_"):
      used[group] = jax.tree.map(lambda _: jnp.array(True), tree)
      continue
    l = int(group.removeprefix("layer_"))
    used[group] = {
      name: jax.tree.map(
        lambda leaf, u=taken[:, l, c]: _beside(u, leaf), tree[name]
      )
      for c, name in enumerate(supernet.names[l])
      if name in tree
    }
  return used
