"""The reinforced controller: a policy over archs, trained by PPO.

That FairNAS mixes a PPO-trained controller into its mutations is recalled,
unverified. The factorised policy (independent categorical logits per layer)
and all constants of `PPO` are ours.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


@dataclasses.dataclass(frozen=True)
class PPO:
  """Constants of the update (Schulman et al. 2017, clipped objective; ours).

  Attributes:
    learning_rate: step size of Adam.
    clip: the probability ratio counts only within 1 - clip .. 1 + clip.
    epochs: gradient steps on one round's archs.
    entropy: weight of the mean entropy per layer, against early collapse.
    momentum: share of the old baseline kept at each update.
  """

  learning_rate: float = 0.05
  clip: float = 0.2
  epochs: int = 4
  entropy: float = 0.02
  momentum: float = 0.9


def init(n_choices: np.ndarray) -> dict:
  """Returns the state of a uniform policy, a JSON object.

  Args:
    n_choices: choices of each layer, `int32[L]`.

  Returns:
    `arrays`: logits `[L, K]` and the leaves of Adam's state, `baseline`: the
    moving mean of rewards, None before the first update.
  """
  logits = jnp.zeros((len(n_choices), int(n_choices.max())), jnp.float32)
  arrays = _to_lists((logits, _adam(0.0).init(logits)))
  return {"arrays": arrays, "baseline": None}


def policy(state: dict, n_choices: np.ndarray) -> np.ndarray:
  """Returns the probabilities of each choice, `float64[L, K]`.

  Choices that a layer does not have get 0.
  """
  logits = np.array(state["arrays"][0], np.float64)
  mask = np.arange(logits.shape[1]) < n_choices[:, None]
  logits = np.where(mask, logits, -np.inf)
  weights = np.exp(logits - logits.max(1, keepdims=True))
  return weights / weights.sum(1, keepdims=True)


def update(
  state: dict,
  n_choices: np.ndarray,
  archs: np.ndarray,
  rewards: np.ndarray,
  settings: PPO,
) -> dict:
  """Makes archs with more reward than the moving baseline more likely.

  Archs that the policy did not draw (other mutators, crossover) take part as
  if it had (ours): they carry the same information about rewards.

  Args:
    state: left alone.
    n_choices: choices of each layer, `int32[L]`.
    archs: `int32[n, L]`.
    rewards: `float[n]`, finite.
    settings: constants of the update.

  Returns:
    The new state; `state` itself if there are no archs.
  """
  n = len(archs)
  if not n:
    return state
  mean = float(rewards.mean())
  baseline = mean if state["baseline"] is None else state["baseline"]
  # Padding to powers of two, 32 at least, keeps the compiled shapes few.
  extra = max(32, 1 << (n - 1).bit_length()) - n
  new = _update(
    tuple(
      np.asarray(a, t) for a, t in zip(state["arrays"], _TYPES, strict=True)
    ),
    jnp.arange(int(n_choices.max())) < n_choices[:, None],
    np.pad(archs, ((0, extra), (0, 0))),
    np.pad(np.float32(rewards - baseline), (0, extra)),
    np.pad(np.full(n, 1 / n, np.float32), (0, extra)),
    settings,
  )
  keep = settings.momentum
  return {
    "arrays": _to_lists(new),
    "baseline": keep * baseline + (1 - keep) * mean,
  }


def ppo_loss(
  logits: jax.Array,
  old_log_prob: jax.Array,
  mask: jax.Array,
  archs: jax.Array,
  advantages: jax.Array,
  weights: jax.Array,
  clip: float,
  entropy: float,
) -> jax.Array:
  """Negative clipped objective minus the entropy bonus.

  Args:
    logits: `float32[L, K]`.
    old_log_prob: log-probabilities of the archs before the update, `[n]`.
    mask: legal choices, `bool[L, K]`.
    archs: `int32[n, L]`.
    advantages: `float32[n]`.
    weights: weight of each arch, `float32[n]`, summing to 1.
    clip: half-width of the trusted ratios.
    entropy: weight of the bonus.

  Returns:
    A scalar.
  """
  log_policy = _log_policy(logits, mask)
  # Steps far beyond the clip must not overflow to inf - inf.
  change = jnp.clip(_log_prob(log_policy, archs) - old_log_prob, -20, 20)
  ratio = jnp.exp(change)
  trusted = jnp.clip(ratio, 1 - clip, 1 + clip)
  gain = jnp.minimum(ratio * advantages, trusted * advantages)
  terms = jnp.where(mask, jnp.exp(log_policy) * log_policy, 0.0)
  return -(weights * gain).sum() + entropy * terms.sum(1).mean()


# The leaves of (logits, Adam's state): logits, count, mu, nu.
_TYPES = (np.float32, np.int32, np.float32, np.float32)


def _adam(learning_rate: float) -> optax.GradientTransformation:
  # Choices that no arch of the round made have a gradient of rounding errors
  # only; with the usual eps of 1e-8 Adam would blow them up to full steps.
  return optax.adam(learning_rate, eps=1e-5)


def _to_lists(tree) -> list:
  return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]


def _log_policy(logits: jax.Array, mask: jax.Array) -> jax.Array:
  # A finite stand-in for minus infinity, whose gradient would be NaN.
  return jax.nn.log_softmax(jnp.where(mask, logits, -1e9))


def _log_prob(log_policy: jax.Array, archs: jax.Array) -> jax.Array:
  return log_policy[jnp.arange(archs.shape[1]), archs].sum(1)


@functools.partial(jax.jit, static_argnames="settings")
def _update(leaves, mask, archs, advantages, weights, settings: PPO):
  optimizer = _adam(settings.learning_rate)
  shape = jax.tree.structure((leaves[0], optimizer.init(leaves[0])))
  logits, moments = jax.tree.unflatten(shape, leaves)
  old = _log_prob(_log_policy(logits, mask), archs)

  def epoch(_, carry):
    logits, moments = carry
    gradient = jax.grad(ppo_loss)(
      logits, old, mask, archs, advantages, weights, settings.clip,
      settings.entropy,
    )  # fmt: skip
    step, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(logits, step), moments

  return jax.lax.fori_loop(0, settings.epochs, epoch, (logits, moments))
