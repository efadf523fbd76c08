"""The jitted training step of the interpreter: one random block each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas.config import TrainConfig
from jaxnas.nets import BlockSupernet, Noise
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.training.accumulate import in_parts
from jaxnas.training.feed import Feed, Step
from jaxnas.training.step import (
  TrainState,
  clip_gradient,
  finite_groups,
)


def make_block_step(
  supernet: BlockSupernet,
  tx: optax.GradientTransformation,
  config: TrainConfig,
  pool: np.ndarray,
  n_steps: int,
  feed: Feed,
) -> Step:
  """Builds the step that trains the weights of one block of a pool (ours).

  Args:
    supernet: the interpreter.
    tx: optimiser.
    config: loss and gradient options.
    pool: blocks that are trained, each as often as any other on average,
      `int32[n, L]`.
    n_steps: of the whole training.
    feed: training images.

  Returns:
    `step(state, key, indices) -> (state, metrics)`, jitted, the state donated.
    Metrics: `loss`, `accuracy`, `grad_norm`, and `finite` `bool[G]` for the
    groups of `block_groups`.
  """
  blocks, names = jnp.asarray(pool), block_groups(supernet)

  def loss_of(params, batch_stats, arch, x, y, noise):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, stats = supernet.apply(variables, arch, x, False, noise)
    loss = cross_entropy(logits, y, config.label_smoothing).mean()
    return loss, (correct(logits, y).mean(), stats)

  def step(state: TrainState, key, indices, arrays):
    keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    x, y = feed.batch(arrays, indices, keys[0])
    arch = blocks[jax.random.randint(keys[1], (), 0, len(blocks))]

    def found(x, y, key):
      noise = Noise(key, state.step / n_steps)
      return jax.value_and_grad(loss_of, has_aux=True)(
        state.params, state.batch_stats, arch, x, y, noise
      )

    (loss, (hits, stats)), grads = in_parts(
      found, config.accumulate, x, y, keys[2]
    )
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, config.optimizer.clip_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=supernet.blend_stats(state.batch_stats, stats, arch),
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


def block_groups(supernet: BlockSupernet) -> list[str]:
  """Names of the flags in a step's `finite`, the classifier last."""
  stems = range(len(supernet.space.macro.stem_strides))
  return [
    *(f"stem{i}" for i in stems), *(f"stem{i}_norm" for i in stems),
    *(name for name, _, _ in supernet.cells), "classifier",
  ]  # fmt: skip
