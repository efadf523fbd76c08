"""One training loop for all neural predictors: a jitted `lax.scan`.

The members of an ensemble are trained side by side by `vmap`: each has its own
initial weights, order of labels and validation split. Numbers of labels are
padded to a few sizes, so that a fit with some labels more is the same program.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from jaxnas.config import PredictorConfig
from jaxnas.errors import UserError

Params = Any
Inputs = Any  # a tree of arrays with a leading axis of rows

MARGIN = 0.1  # of the ranking loss, in standard deviations of the labels


class Network(Protocol):
  """A function with weights; equal networks share compiled programs.

  Implemented by frozen dataclasses of hashable fields.
  """

  def init(self, key: jax.Array) -> Params:
    """Draws weights."""
    ...

  def apply(self, params: Params, inputs: Inputs) -> jax.Array:
    """Maps `b` rows to `float32[b]`."""
    ...


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Trained networks.

  Attributes:
    network: what all members are.
    params: their weights, with a leading axis of members.
    slope: of the map from outputs to standardised labels, `float64[members]`.
    shift: of that map.
    info: `epochs` trained and `best_epoch` kept (counted from 1), by member,
      and `validation_loss`, None without a split.
  """

  network: Network
  params: Params
  slope: np.ndarray
  shift: np.ndarray
  info: dict

  def members(self, inputs: Inputs) -> np.ndarray:
    """Standardised predictions of each member, `float64[members, n]`."""
    out = np.asarray(_forward(self.network, self.params, inputs), np.float64)
    return self.slope[:, None] * out + self.shift[:, None]

  def predict(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the members, `float64[n]` each."""
    out = self.members(inputs)
    return out.mean(0), out.std(0, ddof=1 if len(out) > 1 else 0)


def check_config(config: PredictorConfig) -> None:
  """Refuses constants that no training can have.

  Raises:
    UserError: naming the field.
  """
  c = config
  for name, value, least in (
    ("ensemble", c.ensemble, 1), ("layers", c.layers, 1), ("width", c.width, 1),
    ("epochs", c.epochs, 1), ("batch_size", c.batch_size, 2),
    ("patience", c.patience, 0), ("weight_decay", c.weight_decay, 0),
  ):  # fmt: skip
    if value < least:
      raise UserError(f"search.predictor.{name} is {value}; at least {least}.")
  if not c.learning_rate > 0:
    raise UserError(
      f"search.predictor.learning_rate is {c.learning_rate}; must be above 0."
    )
  if not 0 <= c.validation <= 0.5:
    raise UserError(
      f"search.predictor.validation is {c.validation}; a share from 0 to 0.5."
    )


def train(
  network: Network,
  config: PredictorConfig,
  inputs: Inputs,
  targets: np.ndarray,
  weights: np.ndarray,
  seed: int,
  members: tuple[int, ...] | None = None,
) -> Ensemble:
  """Trains an ensemble.

  Args:
    network: what to train.
    config: constants; `loss`, optimiser, early stopping.
    inputs: tree of arrays with `n` rows.
    targets: standardised labels, `float[n]`.
    weights: of the labels, mean 1, `float[n]`.
    seed: decides weights, splits and orders.
    members: which members to train, `ensemble` of them by default; member `k`
      is the same whoever is trained beside it.
  """
  check_config(config)
  n = len(targets)
  members = tuple(range(config.ensemble)) if members is None else members
  splits = [_split(n, config.validation, seed, k) for k in members]
  n_train = len(splits[0][0])
  batch = min(config.batch_size, n_train)
  room = batch * _padded(-(-n_train // batch))
  held_room = batch * _padded(-(-len(splits[0][1]) // batch))
  full = _padded(-(-n // batch)) * batch
  data = jax.tree.map(lambda a: _fill(np.asarray(a), full), inputs)
  keys = jnp.stack(
    [jax.random.fold_in(jax.random.key(seed), k) for k in members]
  )
  loop = dataclasses.replace(
    config, kind="mlp", ensemble=1, validation=0.0, batch_size=batch
  )
  params, best_epoch, epochs, best_loss = _on_devices(
    network,
    loop,
    (
      data,
      _fill(np.asarray(targets, np.float32), full),
      _fill(np.asarray(weights, np.float32), full),
      np.int32(n_train),
      np.int32(len(splits[0][1])),
    ),
    (
      np.stack([_fill(t, room) for t, _ in splits]),
      np.stack([_fill(v, held_room) for _, v in splits]),
      keys,
    ),
  )
  slope, shift = np.ones(len(members)), np.zeros(len(members))
  info = {
    "epochs": np.asarray(epochs).tolist(),
    "best_epoch": np.asarray(best_epoch).tolist(),
    "validation_loss": (
      np.asarray(best_loss).tolist() if len(splits[0][1]) else None
    ),
  }
  ensemble = Ensemble(network, params, slope, shift, info)
  if config.loss != "ranking":
    return ensemble
  # Its outputs have an order, but no unit: least squares gives them one.
  out = ensemble.members(data)[:, :n]
  for k, row in enumerate(out):
    centre = np.average(row, weights=weights)
    variance = np.average((row - centre) ** 2, weights=weights)
    covariance = np.average((row - centre) * targets, weights=weights)
    slope[k] = max(0.0, covariance / variance) if variance > 0 else 0.0
    shift[k] = np.average(targets - slope[k] * row, weights=weights)
  return ensemble


def _split(
  n: int, share: float, seed: int, member: int
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of training and of validation, `int32`."""
  order = np.random.default_rng([seed, member]).permutation(n).astype(np.int32)
  held = max(1, round(share * n)) if share else 0
  return np.sort(order[held:]), np.sort(order[:held])


def _padded(count: int) -> int:
  """The next of 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, ..."""
  step = 1 << max(0, count.bit_length() - 3)
  return -(-count // step) * step


def _fill(a: np.ndarray, rows: int) -> np.ndarray:
  return np.concatenate([a, np.zeros((rows - len(a), *a.shape[1:]), a.dtype)])


def _loss(kind: str, out: jax.Array, y: jax.Array, w: jax.Array) -> jax.Array:
  """Weighted mean loss of rows; rows of weight 0 do not count."""
  if kind == "ranking":
    pairs = w[:, None] * w[None] * (y[:, None] > y[None])
    hinge = jnp.maximum(0.0, MARGIN - (out[:, None] - out[None]))
    return (pairs * hinge).sum() / jnp.maximum(pairs.sum(), 1e-6)
  each = optax.huber_loss(out, y) if kind == "huber" else (out - y) ** 2
  return (w * each).sum() / jnp.maximum(w.sum(), 1e-6)


def _on_devices(
  network: Network, config: PredictorConfig, common: tuple, own: tuple
) -> tuple:
  """Deals members out over this host's devices, `[members, ...]` of `own`.

  Every host trains all of them: they are small, and need no exchange then.
  """
  members = len(own[-1])
  devices = tuple(jax.local_devices()[:members])
  if len(devices) == 1:
    return _train(network, config, None, common, own)
  # Filled up with the last member, which is thrown away again.
  rows = np.minimum(np.arange(-(-members // len(devices)) * len(devices)),
                    members - 1)  # fmt: skip
  mesh = jax.sharding.Mesh(np.array(devices), ("path",))
  found = _train(network, config, mesh, common, tuple(a[rows] for a in own))
  return jax.tree.map(lambda a: a[:members], jax.device_get(found))


@functools.partial(jax.jit, static_argnames=("network", "config", "mesh"))
def _train(
  network: Network,
  config: PredictorConfig,
  mesh: jax.sharding.Mesh | None,
  common: tuple,
  own: tuple,
) -> tuple:
  run = functools.partial(_train_members, network, config)
  if mesh is None:
    return run(common, own)
  # Apart from each other: a device whose members have stopped is done.
  return jax.shard_map(
    run, mesh=mesh, in_specs=(P(), P("path")), out_specs=P("path"),
    check_vma=False,
  )(common, own)  # fmt: skip


def _train_members(
  network: Network, config: PredictorConfig, common: tuple, own: tuple
) -> tuple:
  """Trains all members; only the first `n_train` of `train_rows` count."""
  inputs, targets, weights, n_train, n_held = common
  train_rows, held_rows, keys = own
  c, batch = config, config.batch_size
  room, held_room = train_rows.shape[1], held_rows.shape[1]
  steps = -(-n_train // batch)
  schedule = lambda count: (
    0.5 * c.learning_rate
    * (1 + jnp.cos(jnp.pi * jnp.minimum(count / (steps * c.epochs), 1.0)))
  )  # fmt: skip
  optimizer = optax.adamw(schedule, weight_decay=c.weight_decay)
  take = lambda rows: jax.tree.map(lambda a: a[rows], inputs)

  def loss(params, rows, counts):
    out = network.apply(params, take(rows))
    return _loss(c.loss, out, targets[rows], weights[rows] * counts)

  @jax.vmap
  def update(params, moments, rows, counts):
    gradient = jax.grad(loss)(params, rows, counts)
    change, moments = optimizer.update(gradient, moments, params)
    return optax.apply_updates(params, change), moments

  @functools.partial(jax.vmap, in_axes=(0, None, 0))
  def shuffled(key, epoch, rows):
    chance = jax.random.uniform(jax.random.fold_in(key, epoch), (room,))
    return rows[jnp.argsort(jnp.where(jnp.arange(room) < n_train, chance, 2.0))]

  def one_epoch(state, epoch):
    order = shuffled(keys, epoch, train_rows)

    def step(carry, i):
      at = i * batch + jnp.arange(batch)
      counts = jnp.broadcast_to(at < n_train, (len(keys), batch))
      run = lambda c: update(*c, order[:, at], counts)
      # Steps that are padding cost nothing.
      return jax.lax.cond(i < steps, run, lambda c: c, carry), None

    params, moments = state["params"], state["moments"]
    (params, moments), _ = jax.lax.scan(
      step, (params, moments), jnp.arange(room // batch)
    )
    if held_room:
      counts = jnp.broadcast_to(
        jnp.arange(held_room) < n_held, (len(keys), held_room)
      )
      value = jax.vmap(loss)(params, held_rows, counts)
    else:
      value = jnp.full(len(keys), -1.0 * epoch)  # the last is the best
    alive = _alive(state)
    better = (value < state["loss"]) & alive
    keep = lambda new, old: jnp.where(
      better.reshape(-1, *[1] * (new.ndim - 1)), new, old
    )
    return {
      "params": params,
      "moments": moments,
      "best": jax.tree.map(keep, params, state["best"]),
      "loss": jnp.where(better, value, state["loss"]),
      "best_epoch": jnp.where(better, epoch + 1, state["best_epoch"]),
      "stale": jnp.where(better, 0, state["stale"] + 1),
      "epochs": jnp.where(alive, epoch + 1, state["epochs"]),
    }

  def _alive(state):
    return state["stale"] < (c.patience or c.epochs + 1)

  def epoch(state, number):
    run = lambda s: one_epoch(s, number)
    return jax.lax.cond(_alive(state).any(), run, lambda s: s, state), None

  params = jax.vmap(network.init)(keys)
  zero = jnp.zeros(len(keys), jnp.int32)
  state = {
    "params": params,
    "moments": jax.vmap(optimizer.init)(params),
    "best": params,
    "loss": jnp.full(len(keys), jnp.inf),
    "best_epoch": zero,
    "stale": zero,
    "epochs": zero,
  }
  state, _ = jax.lax.scan(epoch, state, jnp.arange(c.epochs))
  return state["best"], state["best_epoch"], state["epochs"], state["loss"]


@functools.partial(jax.jit, static_argnames=("network",))
def _forward(network: Network, params: Params, inputs: Inputs) -> jax.Array:
  # One member after the other keeps what is alive at once in the caches.
  return jax.lax.map(lambda p: network.apply(p, inputs), params)
