"""The jitted training steps: supernet paths, and fleets of plain networks."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.config import RetrainConfig, TrainConfig
from jaxnas.nets import Fleet, PathSupernet, blend_stats, group_names
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.training.accumulate import in_parts
from jaxnas.training.feed import Feed, Step
from jaxnas.training.optimizers import freeze_unused, used_tree
from jaxnas.training.path_gradients import make_path_gradients
from jaxnas.training.samplers import PathSampler

Tree = Any


@flax.struct.dataclass
class TrainState:
  """All that a training step changes.

  Attributes:
    step: optimiser steps taken, `int32`.
    params: weights.
    batch_stats: running batch-norm statistics.
    opt_state: optimiser state.
    counts: updates that each choice has received, `int32[L, K]` (supernet), or
      a single zero (fleet).
  """

  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any
  counts: Any

  @property
  def variables(self) -> dict[str, Tree]:
    """What a network applies."""
    return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
  variables: dict[str, Tree],
  tx: optax.GradientTransformation,
  n_choices: np.ndarray | None = None,
) -> TrainState:
  """Fresh training state around fresh variables."""
  shape = (
    (1, 1) if n_choices is None else (len(n_choices), int(n_choices.max()))
  )
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=variables["params"],
    batch_stats=variables["batch_stats"],
    opt_state=tx.init(variables["params"]),
    counts=jnp.zeros(shape, jnp.int32),
  )


def make_supernet_step(
  supernet: PathSupernet,
  sampler: PathSampler,
  tx: optax.GradientTransformation,
  config: TrainConfig,
  feed: Feed,
) -> Step:
  """Builds the step that trains the sampler's paths and updates once.

  The gradient equals the sum (or mean) over the step's paths of the gradients
  of K separate single-path losses. Paths run together where they can: strictly
  fair ones are routed so that every choice is applied exactly once; groups of
  `paths_in_flight` < K distinct ones share a program; others run in turn.

  Args:
    supernet: the network.
    sampler: paths of a step.
    tx: optimiser.
    config: batch, loss and grouping options.
    feed: training images.

  Returns:
    `step(state, key, indices) -> (state, metrics)`, jitted, the state donated.
    `indices` is `int32[B]`, or `int32[K, B]` without `share_batch`. Metrics:
    `loss` and `accuracy` (means over paths), `grad_norm`, and
    `finite` `bool[G]`, whether each group of `group_names` stayed finite in
    its activations and its new weights.

  Raises:
    UserError: for a `paths_in_flight` that the sampler cannot keep.
  """
  placement = feed.placement
  gradients = make_path_gradients(supernet, sampler, config, placement)
  names = group_names(supernet.space)
  choice_axis = jnp.arange(int(supernet.space.n_choices.max()))

  def step(state: TrainState, key, indices, arrays):
    path_key, image_key = jax.random.split(key)
    archs = sampler.sample(path_key, state.step)
    image_key = jax.random.fold_in(image_key, state.step)
    x, y = feed.batch(arrays, indices, image_key)
    if x.ndim == 4 and sampler.n_paths > 1:  # devices differ in their paths
      x, y = (placement.constrain(a, "shared_batch") for a in (x, y))
    counts = (archs[:, :, None] == choice_axis).sum(0, dtype=jnp.int32)

    def found(x, y, _):
      return gradients(state.params, state.batch_stats, archs, x, y)

    grads, losses, hits, stats = in_parts(found, config.accumulate, x, y)
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, config.optimizer.clip_norm)
    if sampler.strictly_fair:
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
    else:
      used = used_tree(supernet, counts, state.params)
      params, opt_state = freeze_unused(
        tx, used, grads, state.opt_state, state.params
      )
    batch_stats = state.batch_stats
    if supernet.net.bn_track:
      batch_stats = blend_stats(
        batch_stats, stats, counts, supernet.space, supernet.net.bn_momentum
      )
    new = TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      counts=state.counts + counts,
    )
    metrics = {
      "loss": losses.mean(),
      "accuracy": hits.mean(),
      "grad_norm": norm,
      "finite": finite_groups(names, stats, losses, new.params),
    }
    return new, metrics

  return Step(step, feed)


def make_fleet_step(
  fleet: Fleet,
  tx: optax.GradientTransformation,
  config: RetrainConfig,
  bn_momentum: float,
  dropout: float,
  feed: Feed,
) -> Step:
  """Builds the step that trains each network of a fleet on the same batch.

  Equal to training every network alone: losses are summed, weights are not
  shared, and gradient clipping goes by each network's own norm.

  Returns:
    As `make_supernet_step`; `loss` and `accuracy` are `float32[n]`.
  """

  def loss(params, batch_stats, x, y, key):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, stats = fleet.apply(
      variables, x, False, dropout, key if dropout else None
    )
    losses = cross_entropy(logits, y, config.label_smoothing).mean(-1)
    return losses.sum(), (losses, correct(logits, y).mean(-1), stats)

  names = group_names(fleet.space)

  def step(state: TrainState, key, indices, arrays):
    image_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
    x, y = feed.batch(arrays, indices, image_key)

    def found(x, y, key):
      return jax.grad(loss, has_aux=True)(
        state.params, state.batch_stats, x, y, key
      )

    grads, (losses, hits, stats) = in_parts(
      found, config.accumulate, x, y, drop_key
    )
    owners = fleet.network_of(grads)
    squares = jnp.zeros(fleet.n)
    for g, rows in zip(
      jax.tree.leaves(grads), jax.tree.leaves(owners), strict=True
    ):
      squares = squares.at[rows].add(
        jnp.square(g).reshape(len(rows), -1).sum(1)
      )
    norms = jnp.sqrt(squares)
    if config.optimizer.clip_norm:
      shrink = jnp.minimum(1.0, config.optimizer.clip_norm / (norms + 1e-12))
      grads = jax.tree.map(
        lambda g, r: g * shrink[r].reshape((-1,) + (1,) * (g.ndim - 1)),
        grads,
        owners,
      )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new = TrainState(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=fleet.blend_stats(state.batch_stats, stats, bn_momentum),
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

  return Step(step, feed)


@jax.named_scope("optimiser")
def clip_gradient(grads: Tree, norm: jax.Array, bound: float) -> Tree:
  """Shrinks gradients of a known norm to a bound; 0 is none."""
  if not bound:
    return grads
  shrink = jnp.minimum(1.0, bound / (norm + 1e-12))
  return jax.tree.map(lambda g: g * shrink, grads)


@jax.named_scope("finite")
def finite_groups(
  names: list[str], stats: Tree, losses: jax.Array, params: Tree
) -> jax.Array:
  """Which groups are finite: batch statistics (classifier: loss), then weights.

  Statistics are sums over all activations, so they find a NaN or an infinity
  anywhere in them at no cost. Groups without batch norm count as finite. The
  updated weights are judged only while all activations are finite: a NaN
  forwards reaches every gradient, and would hide where it began.
  """
  flags = [
    jnp.isfinite(sum(s.sum() for s in jax.tree.leaves(stats[name])))
    if name in stats else jnp.array(True)
    for name in names[:-1]
  ]  # fmt: skip
  forward = jnp.stack([*flags, jnp.isfinite(losses.sum())])
  # The update may overflow although its own step was sound; caught here, it
  # never reaches a checkpoint.
  weights = jnp.stack([
    jnp.array([jnp.isfinite(w).all() for w in jax.tree.leaves(params[name])])
    .all() if name in params else jnp.array(True)
    for name in names
  ])  # fmt: skip
  return forward & (weights | ~forward.all())
