"""The jitted training steps: supernet paths, and fleets of plain networks."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.config import RetrainConfig, TrainConfig
from jaxnas.errors import UserError
from jaxnas.nets import Fleet, PathSupernet, blend_stats, group_names
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.training.feed import Feed, Step
from jaxnas.training.optimizers import freeze_unused, used_tree
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


def paths_in_flight(
  config: TrainConfig, sampler: PathSampler, supernet: PathSupernet
) -> int:
  """Paths of a step that are computed together.

  Raises:
    UserError: if `train.paths_in_flight` does not suit the sampler: only
      strictly fair paths, which differ at every layer, share a program.
  """
  k = sampler.n_paths
  routable = sampler.strictly_fair and supernet.is_routable(k)
  flight = config.paths_in_flight or (k if routable else 1)
  legal = [d for d in range(1, k + 1) if k % d == 0] if routable else [1]
  if flight not in legal:
    raise UserError(
      f"train.paths_in_flight={flight} does not suit sampler {sampler.name!r}"
      f" with {k} paths; legal values: {[0, *legal]}."
    )
  return flight


def _make_gradients(
  supernet: PathSupernet, sampler: PathSampler, config: TrainConfig
) -> Callable:
  """Gradient of all paths' losses, group by group.

  Returns:
    `(params, batch_stats, archs, x, y) -> (gradients, losses [K], shares of
    correct predictions [K], measured statistics)`.
  """
  k = sampler.n_paths
  flight = paths_in_flight(config, sampler, supernet)
  weight = 1.0 if config.loss_reduce == "sum" else 1.0 / k

  def group_loss(params, batch_stats, archs, x, y):
    variables = {"params": params, "batch_stats": batch_stats}
    if flight == k > 1:
      logits, stats = supernet.apply_routed(variables, archs, x)
    elif flight > 1:
      logits, stats = supernet.apply_group(variables, archs, x)
    else:
      image = x if x.ndim == 4 else x[0]
      logits, stats = supernet.apply_path(variables, archs[0], image, False)
      logits = logits[None]
    losses = cross_entropy(logits, y, config.label_smoothing).mean(-1)
    return weight * losses.sum(), (losses, correct(logits, y).mean(-1), stats)

  differentiate = jax.value_and_grad(group_loss, has_aux=True)

  def all_groups(params, batch_stats, archs, x, y):
    if flight == k:
      (_, aux), grads = differentiate(params, batch_stats, archs, x, y)
      return grads, *aux

    def split(a):
      return a.reshape((k // flight, flight) + a.shape[1:])

    own = x.ndim == 5
    rows = (split(archs), split(x), split(y)) if own else (split(archs),)

    def one_group(row):
      batch = row[1:] if own else (x, y)
      (_, (losses, hits, stats)), grads = differentiate(
        params, batch_stats, row[0], *batch
      )
      return (grads, stats), (losses, hits)

    def body(total, row):
      sums, rest = one_group(row)
      return jax.tree.map(jnp.add, total, sums), rest

    first = jax.tree.map(lambda a: a[0], rows)
    shapes, _ = jax.eval_shape(one_group, first)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (grads, stats), (losses, hits) = jax.lax.scan(body, zero, rows)
    fixed = {
      g: tree if g.startswith("layer_")
      else jax.tree.map(lambda s: s * (flight / k), tree)
      for g, tree in stats.items()
    }  # fmt: skip
    return grads, losses.reshape(-1), hits.reshape(-1), fixed

  return all_groups


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
  gradients = _make_gradients(supernet, sampler, config)
  names = group_names(supernet.space)
  choice_axis = jnp.arange(int(supernet.space.n_choices.max()))

  def step(state: TrainState, key, indices, arrays):
    path_key, image_key = jax.random.split(key)
    archs = sampler.sample(path_key, state.step)
    archs = feed.placement.constrain(archs, "paths")
    image_key = jax.random.fold_in(image_key, state.step)
    x, y = feed.batch(arrays, indices, image_key)
    counts = (archs[:, :, None] == choice_axis).sum(0, dtype=jnp.int32)
    grads, losses, hits, stats = gradients(
      state.params, state.batch_stats, archs, x, y
    )
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
    grads, (losses, hits, stats) = jax.grad(loss, has_aux=True)(
      state.params, state.batch_stats, x, y, drop_key
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


def clip_gradient(grads: Tree, norm: jax.Array, bound: float) -> Tree:
  """Shrinks gradients of a known norm to a bound; 0 is none."""
  if not bound:
    return grads
  shrink = jnp.minimum(1.0, bound / (norm + 1e-12))
  return jax.tree.map(lambda g: g * shrink, grads)


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
