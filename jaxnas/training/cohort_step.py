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
from jaxnas.training.accumulate import in_parts
from jaxnas.training.feed import Feed, Step, compile_step
from jaxnas.training.optimizers import freeze_unused, used_tree
from jaxnas.training.step import (
  TrainState,
  clip_gradient,
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
  optimizer: Callable[[jax.Array], optax.GradientTransformation],
  config: RetrainConfig,
  feed: Feed,
) -> Callable[..., Step]:
  """Builds the steps that train each network of a cohort on the same batch.

  Equal to training every network alone, without dropout: losses are summed,
  weights are not shared, and clipping goes by each network's own norm. Choices
  off a network's path stay as they are to the last bit, optimiser included.

  Args:
    supernet: what each network holds a copy of.
    optimizer: elementwise but for its count of steps; made from the rate of a
      step, which is data, so that trainings of any length share a program.
    config: label smoothing and clipping.
    feed: training images.

  Returns:
    A function of archs `int32[n, L]`, learning rates `float[steps]` and the
    number of networks to train, default n (the others cost nothing and stay),
    that gives their step, as `make_fleet_step` does; `loss` and `accuracy` are
    `float32[n]`, 0 of networks that are not trained. All sets of n archs, rates
    and numbers share one compiled program. A step looks its rate up by the
    state it is first given, and counts from there.
  """
  space, names = supernet.space, group_names(supernet.space)
  choice_axis = jnp.arange(int(space.n_choices.max()))
  momentum = supernet.net.bn_momentum

  def loss_of(params, batch_stats, arch, x, y):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, stats = supernet.apply_path(variables, arch, x, stored=False)
    loss = cross_entropy(logits, y, config.label_smoothing).mean()
    return loss, (loss, correct(logits, y).mean(), stats)

  differentiate = jax.grad(loss_of, has_aux=True)

  def network(tx, params, batch_stats, opt_state, arch, x, y):
    """One step of one network: its new trees, and its metrics."""

    def found(x, y, _):
      return differentiate(params, batch_stats, arch, x, y)

    grads, (loss, hits, stats) = in_parts(found, config.accumulate, x, y)
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, config.optimizer.clip_norm)
    counts = (arch[:, None] == choice_axis).astype(jnp.int32)
    used = used_tree(supernet, counts, params)
    params, opt_state = freeze_unused(tx, used, grads, opt_state, params)
    batch_stats = blend_stats(batch_stats, stats, counts, space, momentum)
    finite = finite_groups(names, stats, loss, params)
    return (params, batch_stats, opt_state), (loss, hits, norm, finite)

  def step(state: TrainState, archs, n, rate, key, indices, arrays):
    # The keys of a fleet's step, so that both see the same images.
    image_key, _ = jax.random.split(jax.random.fold_in(key, state.step))
    x, y = feed.batch(arrays, indices, image_key)
    tx = optimizer(rate)

    def body(i, carry):
      trees, metrics = carry
      own = jax.tree.map(lambda a: a[i] if a.ndim else a, trees[:2])
      # The count of steps is common: each network begins from the old one.
      slots = jax.tree.map(
        lambda old, a: a[i] if a.ndim else old, state.opt_state, trees[2]
      )
      new, (loss, hits, norm, finite) = network(tx, *own, slots, archs[i], x, y)
      trees = jax.tree.map(
        lambda a, b: a.at[i].set(b) if a.ndim else b, trees, new
      )
      return trees, {
        "loss": metrics["loss"].at[i].set(loss),
        "accuracy": metrics["accuracy"].at[i].set(hits),
        "grad_norm": metrics["grad_norm"] + norm / n,
        "finite": metrics["finite"] & finite,
      }

    zeros = jnp.zeros(len(archs))
    metrics = {
      "loss": zeros, "accuracy": zeros, "grad_norm": jnp.zeros(()),
      "finite": jnp.ones(len(names), bool),
    }  # fmt: skip
    trees = state.params, state.batch_stats, state.opt_state
    trees, metrics = jax.lax.fori_loop(0, n, body, (trees, metrics))
    params, batch_stats, opt_state = trees
    new = TrainState(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      counts=state.counts,
    )
    return new, metrics

  compiled = compile_step(step, feed)
  arrays = feed.arrays

  def of(archs: np.ndarray, rates: np.ndarray, n: int | None = None) -> Step:
    archs, taken = space.validate(archs), None
    rates = np.asarray(rates, np.float32)
    number = np.int32(len(archs) if n is None else n)

    def run(state, key, indices):
      nonlocal taken
      taken = int(state.step) if taken is None else taken + 1
      rate = rates[taken]
      return compiled(state, archs, number, rate, key, indices, arrays)

    def trace(state, key, indices):
      rate = jax.ShapeDtypeStruct((), np.float32)
      return compiled.trace(state, archs, number, rate, key, indices, arrays)

    run.trace = trace  # as of `Step`
    return run

  return of
