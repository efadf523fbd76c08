"""The jitted training step of one plain network."""

import jax
import optax

from jaxnas.nets import Noise
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.training.accumulate import in_parts
from jaxnas.training.feed import Feed, Step
from jaxnas.training.step import (
  TrainState,
  clip_gradient,
  finite_groups,
)


def make_network_step(
  network,
  tx: optax.GradientTransformation,
  label_smoothing: float,
  clip_norm: float,
  bn_momentum: float,
  names: list[str],
  n_steps: int,
  feed: Feed,
  accumulate: int = 1,
) -> Step:
  """Builds the step that trains one plain network.

  Args:
    network: Linen module, applied as `(variables, images, stored, noise)`.
    tx: optimiser.
    label_smoothing: share of the target spread over all classes.
    clip_norm: bound on the gradient's norm; 0 is off.
    bn_momentum: share of the old running statistics kept.
    names: groups of the flags in `finite`, the classifier last.
    n_steps: of the whole training, for noise that grows.
    feed: training images.
    accumulate: parts of a batch that are computed in turn.

  Returns:
    `step(state, key, indices) -> (state, metrics)`, jitted, the state donated.
    Metrics: `loss`, `accuracy`, `grad_norm`, and `finite` `bool[G]` for the
    groups of `names`.
  """

  def loss_of(params, batch_stats, x, y, noise):
    logits, measured = network.apply(
      {"params": params, "batch_stats": batch_stats}, x, False, noise,
      mutable=["batch_stats"],
    )  # fmt: skip
    loss = cross_entropy(logits, y, label_smoothing).mean()
    return loss, (correct(logits, y).mean(), measured.get("batch_stats", {}))

  def step(state: TrainState, key, indices, arrays):
    key = jax.random.fold_in(key, state.step)
    x, y = feed.batch(arrays, indices, key)

    def found(x, y, key):
      noise = Noise(key, state.step / n_steps)
      return jax.value_and_grad(loss_of, has_aux=True)(
        state.params, state.batch_stats, x, y, noise
      )

    (loss, (hits, stats)), grads = in_parts(
      found, accumulate, x, y, jax.random.fold_in(key, 1)
    )
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, clip_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    moved = jax.tree.map(
      lambda o, m: bn_momentum * o + (1 - bn_momentum) * m,
      {name: state.batch_stats[name] for name in stats}, stats,
    )  # fmt: skip
    new = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats={**state.batch_stats, **moved},
      opt_state=opt_state,
    )
    metrics = {
      "loss": loss,
      "accuracy": hits,
      "grad_norm": norm,
      "finite": finite_groups(names, stats, loss, new.params),
    }
    return new, metrics

  return Step(step, feed)
