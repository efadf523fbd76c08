"""The jitted training step of masked networks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.config import MasksConfig, TrainConfig
from jaxnas.nets import MaskedSupernet, Noise
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.nets.masks import group_squares
from jaxnas.training.accumulate import in_parts
from jaxnas.training.feed import Feed, Step
from jaxnas.training.step import (
  TrainState,
  clip_gradient,
  finite_groups,
)
from jaxnas.training.variational import regulariser, target_penalty

# Share of the auxiliary classifier's loss in ENAS cells (recalled).
AUXILIARY = 0.4


def make_masked_step(
  supernet: MaskedSupernet,
  tx: optax.GradientTransformation,
  config: TrainConfig,
  masks: MasksConfig,
  n_steps: int,
  feed: Feed,
) -> Step:
  """Builds the step of PGNAS: one relaxed mask for each image, one update.

  The loss is the cross-entropy plus `regulariser` (and the target's penalty):
  an unbiased estimate of the negative evidence bound over N, up to the bias of
  the relaxation (paper, sec. 3.2 and Algorithm 1). Weights and drop rates
  follow one optimiser.

  Args:
    supernet: the masked network.
    tx: optimiser.
    config: batch and loss options.
    masks: rates, regulariser and relaxation.
    n_steps: of the whole training, for noise that grows.
    feed: training images.

  Returns:
    `step(state, key, indices) -> (state, metrics)`, jitted, the state donated.
    Metrics: `loss` (cross-entropy), `accuracy`, `regulariser`, `grad_norm`,
    `mean_rate`, and `finite` `bool[G]` for the groups of `node_names`.
  """
  space, fixed = supernet.space, masks.rates == "fixed"
  channels = np.array([g.channels for g in space.groups], np.float32)
  examples = masks.examples or 10.0 * feed.n
  delay = masks.rate_delay * (feed.n // config.batch_size)
  names = node_names(supernet)

  def loss_of(params, batch_stats, x, y, mask_key, noise):
    if fixed:  # predefined dropout learns no rate
      params = {**params, "drop": jax.lax.stop_gradient(params["drop"])}
    variables = {"params": params, "batch_stats": batch_stats}
    if fixed:
      keep = _hard_keep(supernet, params, mask_key, len(x))
    else:
      keep = supernet.draw_keep(
        variables, mask_key, len(x), masks.tau, masks.relaxation
      )
    keep = feed.placement.constrain(keep, "batch")
    logits, stats = supernet.apply(variables, x, keep, False, noise)
    auxiliary = 0.0
    if space.graph.auxiliary:
      logits, extra = logits
      auxiliary = (
        AUXILIARY * cross_entropy(extra, y, config.label_smoothing).mean()
      )
    loss = cross_entropy(logits, y, config.label_smoothing).mean()
    drop = params["drop"]["logits"]
    kl = regulariser(
      drop, group_squares(space, params), channels, masks, examples
    )
    total = loss + auxiliary + kl + target_penalty(drop, space, masks)
    return total, (loss, kl, correct(logits, y).mean(), stats)

  def step(state: TrainState, key, indices, arrays):
    keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    x, y = feed.batch(arrays, indices, keys[0])

    def found(x, y, keys):
      noise = Noise(keys[0], state.step / n_steps)
      return jax.grad(loss_of, has_aux=True)(
        state.params, state.batch_stats, x, y, keys[1], noise
      )

    grads, (loss, kl, hits, stats) = in_parts(
      found, config.accumulate, x, y, (keys[1], keys[2])
    )
    # Before the optimiser, so that no momentum of the delay is left.
    learns = state.step >= delay
    waiting = jax.tree.map(lambda g: learns * g, grads["drop"])
    grads = {**grads, "drop": waiting}
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, config.optimizer.clip_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    faster = jax.tree.map(lambda u: masks.rate_speed * u, updates["drop"])
    updates = {**updates, "drop": faster}
    new = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=supernet.blend_stats(state.batch_stats, stats),
      opt_state=opt_state,
    )
    metrics = {
      "loss": loss,
      "accuracy": hits,
      "regulariser": kl,
      "grad_norm": norm,
      "mean_rate": jax.nn.sigmoid(new.params["drop"]["logits"]).mean(),
      "finite": finite_groups(names, stats, loss + kl, new.params),
    }
    return new, metrics

  return Step(step, feed)


def _hard_keep(supernet, params, key, n) -> jax.Array:
  rates = jax.nn.sigmoid(params["drop"]["logits"])[supernet.space.group_of]
  shape = (n, supernet.space.n_layers)
  return (jax.random.uniform(key, shape) >= rates).astype(jnp.float32)


def node_names(supernet: MaskedSupernet) -> list[str]:
  """Names of the flags in a step's `finite`: nodes with weights, then rates.

  The classifier comes last, as `finite_groups` wants it.
  """
  names = [n.name for n in supernet.space.graph.nodes]
  return [*names[:-1], "drop", names[-1]]
