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
from jaxnas.training.feed import Feed, compile_step
from jaxnas.training.step import clip_gradient

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
  of the new weights minus `guidance` times the bonus (ours, after IRLAS). Both
  are two turns of one loop, which compiles in half the time of two programs and
  costs the gradient that a turn does not use.

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
    `indices` is `int32[2, B]`, the images of both batches. Metrics: `loss`
    (without smoothing) and `accuracy` of the second batch before the logits
    change; `bonus` then, if there is one; and `finite` `bool[]`, whether all
    losses and new values are.
  """

  def loss_of(params, alpha, x, y, noise, first):
    logits = relaxed_logits(supernet, params, mixture(alpha), x, noise)
    loss = cross_entropy(logits, y).mean()
    smoothed = cross_entropy(logits, y, config.label_smoothing).mean()
    found = {"loss": loss, "accuracy": correct(logits, y).mean()}
    return jnp.where(first, smoothed, loss), found

  def learn_weights(state, slopes, guidance):
    grads = slopes[0]
    norm = optax.tree.norm(grads)
    grads = clip_gradient(grads, norm, config.optimizer.clip_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(params=params, opt_state=opt_state)

  def learn_alpha(state, slopes, guidance):
    slope = slopes[1]
    if bonus is not None:
      gain = jax.grad(bonus)(state.alpha)
      slope = jax.tree.map(lambda s, g: s - guidance * g, slope, gain)
    updates, alpha_state = alpha_tx.update(
      slope, state.alpha_state, state.alpha
    )
    alpha = optax.apply_updates(state.alpha, updates)
    return state.replace(alpha=alpha, alpha_state=alpha_state)

  def step(state: RelaxedState, key, indices, arrays, guidance):
    keys = jax.random.split(jax.random.fold_in(key, state.step), (2, 2))

    def turn(state, inputs):
      first, indices, keys = inputs
      x, y = feed.batch(arrays, indices, keys[0])
      noise = Noise(keys[1], jnp.zeros(()))
      slopes, found = jax.grad(loss_of, (0, 1), has_aux=True)(
        state.params, state.alpha, x, y, noise, first
      )
      if bonus is not None:
        found["bonus"] = bonus(state.alpha)
      state = jax.lax.cond(
        first, learn_weights, learn_alpha, state, slopes, guidance
      )
      return state, found

    turns = (jnp.array([True, False]), indices, keys)
    new, found = jax.lax.scan(turn, state, turns)
    values = jax.tree.leaves((found, new.params, new.alpha))
    finite = jnp.array([jnp.isfinite(v).all() for v in values]).all()
    metrics = {name: v[1] for name, v in found.items()}
    return new.replace(step=new.step + 1), {**metrics, "finite": finite}

  compiled = compile_step(step, feed)
  # As an argument, or every lambda would be compiled anew; so those above 0
  # find one program in the compilation cache.
  rest = feed.arrays, jnp.float32(guidance)

  def run(state, key, indices):
    return compiled(state, key, indices, *rest)

  # As of `Step`.
  run.trace = lambda *given: compiled.trace(*given, *rest)
  return run
