"""Path samplers: which paths one optimiser step trains.

Sources: strict fairness, FairNAS Fig. 2 (paper), steps as in section 3.3 of
several reimplementations; `spos` is the one-iteration case and `ef-k` the
k-iteration case of expectation fairness, Fig. 1 (paper).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnas.config import TrainConfig
from jaxnas.errors import UserError
from jaxnas.spaces import Space


@dataclasses.dataclass(frozen=True)
class PathSampler:
  """Draws the paths of one step.

  Attributes:
    name: as in the config.
    n_paths: paths of one step, K.
    strictly_fair: every choice of every layer is in exactly one path of every
      step.
    sample: `(key, step) -> int32[K, L]`, traceable; `key` is the same for the
      whole run.
  """

  name: str
  n_paths: int
  strictly_fair: bool
  sample: Callable[[jax.Array, jax.Array], jax.Array]


def strict_fair(space: Space, pad_unequal: bool = False) -> PathSampler:
  """Strict fairness: K paths from one permutation per layer.

  Args:
    space: the space.
    pad_unequal: accept layers with fewer choices by resampling some of them;
      such a sampler is not strictly fair.

  Raises:
    UserError: if layers differ in their number of choices.
  """
  n_choices = jnp.asarray(space.n_choices)
  k = int(space.n_choices.max())
  equal = bool((space.n_choices == k).all())
  if not equal and not pad_unequal:
    raise UserError(
      f"strict fairness needs the same number of choices in every layer; space"
      f" {space.name!r} has {sorted(set(space.n_choices.tolist()))}. Set"
      " train.pad_unequal=true to resample the shorter ones (not strictly"
      " fair), or train.sampler=uniform-k."
    )

  def sample(key: jax.Array, step: jax.Array) -> jax.Array:
    order_key, pad_key = jax.random.split(jax.random.fold_in(key, step))
    shape = (k, space.n_layers)
    # Ranks of independent random bits: one permutation per column.
    perms = jnp.argsort(jax.random.bits(order_key, shape), axis=0)
    extra = jax.random.randint(pad_key, shape, 0, n_choices)
    return jnp.where(perms < n_choices, perms, extra).astype(jnp.int32)

  return PathSampler("fair", k, equal, sample)


def uniform(space: Space, k: int) -> PathSampler:
  """`k` independent uniform paths per step; SPOS for k = 1."""
  n_choices = jnp.asarray(space.n_choices)

  def sample(key: jax.Array, step: jax.Array) -> jax.Array:
    shape = (k, space.n_layers)
    return jax.random.randint(
      jax.random.fold_in(key, step), shape, 0, n_choices, jnp.int32
    )

  return PathSampler("spos" if k == 1 else "uniform-k", k, False, sample)


def held_uniform(space: Space, k: int) -> PathSampler:
  """One uniform path, held for `k` successive updates (EF, k iterations)."""
  one = uniform(space, 1)
  return PathSampler(
    "ef-k", 1, False, lambda key, step: one.sample(key, step // k)
  )


def make_sampler(config: TrainConfig, space: Space) -> PathSampler:
  """Builds the sampler that the config names.

  Raises:
    UserError: if `paths` or `pad_unequal` is set for a sampler that has no
      use for it.
  """
  if config.sampler in ("fair", "spos") and config.paths:
    raise UserError(
      f"train.paths={config.paths} means nothing to sampler {config.sampler!r},"
      " which fixes the number of paths; leave it at 0."
    )
  if config.pad_unequal and config.sampler != "fair":
    raise UserError(
      f"train.pad_unequal=true means nothing to sampler {config.sampler!r}; it"
      " is for sampler 'fair'."
    )
  k = config.paths or int(space.n_choices.max())
  match config.sampler:
    case "fair":
      return strict_fair(space, config.pad_unequal)
    case "spos":
      return uniform(space, 1)
    case "uniform-k":
      return uniform(space, k)
    case "ef-k":
      return held_uniform(space, k)
  raise TypeError(config.sampler)
