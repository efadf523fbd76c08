"""Optimisers and schedules from the config."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnas.config import OptimizerConfig
from jaxnas.nets import PathSupernet

Tree = Any


def make_schedule(
  config: OptimizerConfig, n_steps: int, steps_per_epoch: int
) -> optax.Schedule:
  """Linear warm-up from 0, then what `config.schedule` says.

  Args:
    config: rates and epochs.
    n_steps: of the whole training; the cosine ends after the last.
    steps_per_epoch: to count epochs in steps.
  """
  warmup = round(config.warmup_epochs * steps_per_epoch)
  peak, left = config.learning_rate, max(1, n_steps - warmup)
  low = config.final_learning_rate
  match config.schedule:
    case "cosine":
      main = _cosine(peak, low, left)
    case "restarts":
      main = _restarts(config, left, steps_per_epoch)
    case "drops":
      drops = {
        round(epoch * steps_per_epoch) - warmup: 1 / config.drop_factor
        for epoch in config.drop_epochs
      }
      main = optax.piecewise_constant_schedule(peak, drops)
  if not warmup:
    return main
  ramp = optax.linear_schedule(0.0, peak, warmup)
  return optax.join_schedules([ramp, main], [warmup])


def _cosine(peak: float, low: float, steps: int) -> optax.Schedule:
  return optax.cosine_decay_schedule(peak, steps, low / peak if peak else 0.0)


def _restarts(
  config: OptimizerConfig, n_steps: int, steps_per_epoch: int
) -> optax.Schedule:
  """Cosines one after the other until `n_steps` are covered."""
  parts, ends = [], []
  length = config.restart_epochs * steps_per_epoch
  while not ends or ends[-1] < n_steps:
    steps = max(1, round(length))
    peak, low = config.learning_rate, config.final_learning_rate
    parts.append(_cosine(peak, low, steps))
    ends.append(steps + (ends[-1] if ends else 0))
    length *= config.restart_growth
  return optax.join_schedules(parts, ends[:-1])


def decay_mask(params: Tree) -> Tree:
  """True for weights of products, false for batch norm and biases."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in ("kernel", "linear"), params
  )


def make_optimizer(
  config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Builds the optimiser; gradient clipping is the step's affair.

  L2 decay enters the gradient before the momentum, as in PyTorch's SGD and
  RMSProp; `adamw` decouples it.
  """
  tx = _make_optimizer(config, schedule)
  update = jax.named_scope("optimiser")(tx.update)
  return optax.GradientTransformation(tx.init, update)


def _make_optimizer(config, schedule):
  mask = None if config.decay_all else decay_mask
  decay = optax.add_decayed_weights(config.weight_decay, mask)
  match config.name:
    case "sgd":
      return optax.chain(
        decay, optax.sgd(schedule, config.momentum, config.nesterov)
      )
    case "rmsprop":
      rms = optax.rmsprop(schedule, decay=0.9, momentum=config.momentum)
      return optax.chain(decay, rms)
    case "adamw":
      return optax.adamw(
        schedule,
        b1=config.momentum,
        weight_decay=config.weight_decay,
        mask=mask,
      )
  raise TypeError(config.name)


def freeze_unused(
  tx: optax.GradientTransformation,
  used: Tree,
  grads: Tree,
  opt_state: Tree,
  params: Tree,
) -> tuple[Tree, Tree]:
  """Updates only the used part of the parameters, moments included.

  A choice that no path of the step took has a zero gradient, but momentum and
  decay would still move it. It is left alone, as frameworks do that skip
  parameters without a gradient.

  Args:
    tx: the optimiser.
    used: tree of booleans broadcastable to `params`.
    grads: gradients.
    opt_state: optimiser state.
    params: parameters.

  Returns:
    New parameters and optimiser state.
  """
  structure = jax.tree.structure(params)

  def like_params(node):
    return jax.tree.structure(node) == structure

  def keep(new, old):
    return jax.tree.map(lambda u, n, o: jnp.where(u, n, o), used, new, old)

  updates, new_state = tx.update(grads, opt_state, params)
  new_state = jax.tree.map(
    lambda new, old: keep(new, old) if like_params(new) else new,
    new_state,
    opt_state,
    is_leaf=like_params,
  )
  return keep(optax.apply_updates(params, updates), params), new_state


def used_tree(supernet: PathSupernet, counts: jax.Array, params: Tree) -> Tree:
  """Whether a step used a parameter, a tree of booleans.

  Args:
    supernet: the network.
    counts: `int32[L, K]`, paths that took each choice.
    params: its parameters.
  """
  used = {}
  for group, tree in params.items():
    if not group.startswith("layer_"):
      used[group] = jax.tree.map(lambda _: jnp.array(True), tree)
      continue
    l = int(group.removeprefix("layer_"))
    taken = dict(zip(supernet.names[l], counts[l] > 0, strict=False))
    used[group] = {
      name: jax.tree.map(lambda _, u=taken[name]: u, choice)
      for name, choice in tree.items()
    }
  return used
