"""The jitted step of the differentiable search: weights, then probabilities."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnas.config import TrainConfig
from jaxnas.nets import BlockSupernet, Noise
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.nets.relaxed_blocks import relaxed_logits
from jaxnas.training.step import Feed, clip_gradient, jit_step

Tree = Any


@flax.struct.dataclass
class RelaxedState:
  """All that the differentiable search learns.

  Attributes:
    step: updates of both, `int32`.
    params: weights of the interpreter.
    opt_state: their optimiser's state.
    alpha: logits of the architecture's probabilities.
    alpha_state: their optimiser's state.
  """

  step: Any
  params: Any
  opt_state: Any
  alpha: Any
  alpha_state: Any


RelaxedStep = Callable[
  [RelaxedState, jax.Array, jax.Array], tuple[RelaxedState, dict]
]


def init_relaxed(
  params: Tree,
  alpha: Tree,
  tx: optax.GradientTransformation,
  alpha_tx: optax.GradientTransformation,
) -> RelaxedState:
  """Fresh state around copies of the weights, which steps may overwrite."""
  params, alpha = jax.tree.map(jnp.copy, (params, alpha))
  return RelaxedState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    alpha=alpha,
    alpha_state=alpha_tx.init(alpha),
  )


def make_relaxed_step(
  supernet: BlockSupernet,
  tx: optax.GradientTransformation,
  alpha_tx: optax.GradientTransformation,
  config: TrainConfig,
  mixture: Callable[[Tree], Tree],
  bonus: Callable[[Tree], jax.Array] | None,
  guidance: float,
  feed: Feed,
) -> RelaxedStep:
  """Builds the step of first-order DARTS (arXiv 1806.09055; recalled).

  It updates the weights on one batch, then the logits on another, on the loss
  of the new weights minus `guidance` times the bonus (ours, after IRLAS).

  Args:
    supernet: the interpreter.
    tx: optimiser of the weights.
    alpha_tx: optimiser of the logits.
    config: label smoothing and gradient clipping of the weights.
    mixture: from logits to what `relaxed_logits` takes.
    bonus: from logits to a number; None leaves the term out.
    guidance: lambda.
    feed: training images.

  Returns:
    `step(state, key, indices) -> (state, metrics)`, jitted, the state donated.
    `indices` is `int32[2, B]`, the images of both batches. Metrics: `loss` and
    `accuracy` of the second batch before the logits change; `bonus`, if there
    is one; and `finite` `bool[]`, whether all losses and new values are.
  """

  def weight_loss(params, alpha, x, y, noise):
    logits = relaxed_logits(supernet, params, mixture(alpha), x, noise)
    return cross_entropy(logits, y, config.label_smoothing).mean()

  def alpha_loss(alpha, params, x, y):
    logits = relaxed_logits(supernet, params, mixture(alpha), x)
    loss = cross_entropy(logits, y, 0.0).mean()
    found = {"loss": loss, "accuracy": correct(logits, y).mean()}
    if bonus is None:
      return loss, found
    extra = bonus(alpha)
    return loss - guidance * extra, {**found, "bonus": extra}

  def step(state: RelaxedState, key, indices, arrays):
    keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
    x, y = feed.batch(arrays, indices[0], keys[0])
    noise = Noise(keys[1], jnp.zeros(()))
    loss, grads = jax.value_and_grad(weight_loss)(
      state.params, state.alpha, x, y, noise
    )
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, config.optimizer.clip_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    x, y = feed.batch(arrays, indices[1], keys[2])
    slope, found = jax.grad(alpha_loss, has_aux=True)(state.alpha, params, x, y)
    updates, alpha_state = alpha_tx.update(
      slope, state.alpha_state, state.alpha
    )
    alpha = optax.apply_updates(state.alpha, updates)
    new = RelaxedState(state.step + 1, params, opt_state, alpha, alpha_state)
    values = jax.tree.leaves((loss, found, params, alpha))
    finite = jnp.array([jnp.isfinite(v).all() for v in values]).all()
    return new, {**found, "finite": finite}

  return jit_step(step, feed)
