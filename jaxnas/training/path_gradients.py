"""Gradients of a step's paths: routed together, in groups, on many devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from jaxnas.config import TrainConfig
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.nets.layers import measuring
from jaxnas.nets.losses import correct, cross_entropy
from jaxnas.sharding import Placement
from jaxnas.training.samplers import PathSampler

Tree = Any
# `(params, batch_stats, archs, x, y) -> (gradients, losses [K], shares of
# correct predictions [K], measured statistics)`.
PathGradients = Callable[..., tuple[Tree, jax.Array, jax.Array, Tree]]


def paths_in_flight(
  config: TrainConfig,
  sampler: PathSampler,
  supernet: PathSupernet,
  placement: Placement,
) -> int:
  """Paths of a step that are computed together on a device.

  By default all of them, or as many as spread the step evenly over the devices
  of the axis `path`.

  Raises:
    UserError: if `train.paths_in_flight` does not suit the sampler: only
      strictly fair paths, which differ at every layer, share a program; or if
      `net.bn_parts` does not suit the mesh.
  """
  k = sampler.n_paths
  routable = sampler.strictly_fair and supernet.is_routable(k)
  legal = [d for d in range(1, k + 1) if k % d == 0] if routable else [1]
  share = -(-k // placement.n_paths)
  flight = config.paths_in_flight or max(d for d in legal if d <= share)
  if flight not in legal:
    raise UserError(
      f"train.paths_in_flight={flight} does not suit sampler {sampler.name!r}"
      f" with {k} paths; legal values: {[0, *legal]}."
    )
  along, parts = placement.mesh.shape["data"], supernet.net.bn_parts
  if placement.n_paths > 1 and parts > 1 and parts % along:
    raise UserError(
      f"net.bn_parts is {parts} with mesh.path={placement.n_paths}; legal: 1,"
      f" or a multiple of mesh.data, {along}."
    )
  return flight


def make_path_gradients(
  supernet: PathSupernet,
  sampler: PathSampler,
  config: TrainConfig,
  placement: Placement,
) -> PathGradients:
  """Gradient of the sum (or mean) of all paths' losses.

  On one device groups of `paths_in_flight` run in turn. Along the mesh's axis
  `path` they run side by side: there devices take different choices, so every
  exchange between them is written out here (batch norm sums over `data`, the
  gradient over both axes) instead of being left to the compiler, which may ask
  for devices that are in another choice.
  """
  k = sampler.n_paths
  flight = paths_in_flight(config, sampler, supernet, placement)
  weight = 1.0 if config.loss_reduce == "sum" else 1.0 / k

  def group_loss(params, batch_stats, archs, x, y, share):
    variables = {"params": params, "batch_stats": batch_stats}
    if flight == k > 1:
      logits, stats = supernet.apply_routed(variables, archs, x)
    elif flight > 1:
      logits, stats = supernet.apply_group(variables, archs, x)
    else:
      image = x if x.ndim == 4 else x[0]
      logits, stats = supernet.apply_path(variables, archs[0], image, False)
      logits = logits[None]
    losses = cross_entropy(logits, y, config.label_smoothing)
    losses, hits = (_average(v, share) for v in (losses, correct(logits, y)))
    return weight * losses.sum(), (losses, hits, stats)

  differentiate = jax.value_and_grad(group_loss, has_aux=True)

  def one_group(params, batch_stats, archs, x, y, share=None):
    """What adds up over groups, and what belongs to the paths of this one."""
    (_, (losses, hits, stats)), grads = differentiate(
      params, batch_stats, archs, x, y, share
    )
    # Fixed layers are used by every path: their statistics are means.
    stats = {
      group: tree if group.startswith("layer_")
      else jax.tree.map(lambda s: s * (flight / k), tree)
      for group, tree in stats.items()
    }  # fmt: skip
    return (grads, stats), (losses, hits)

  if placement.n_paths > 1 and k > 1:
    return _side_by_side(one_group, k // flight, flight, placement)

  def in_turn(params, batch_stats, archs, x, y):
    if flight == k:
      (grads, stats), rest = one_group(params, batch_stats, archs, x, y)
      return grads, *rest, stats
    run, rows = _by_rows(one_group, params, batch_stats, archs, x, y)
    rows = jax.tree.map(lambda a: a.reshape(-1, flight, *a.shape[1:]), rows)
    (grads, stats), (losses, hits) = _in_turn(run, rows)
    return grads, losses.reshape(-1), hits.reshape(-1), stats

  return in_turn


def _average(values: jax.Array, share: jax.Array | None) -> jax.Array:
  """Mean over images, or the part of it that this device's images make up."""
  return values.mean(-1) if share is None else (values * share).sum(-1)


def _by_rows(one_group, params, batch_stats, archs, x, y, share=None):
  """A function of what differs between paths, and these rows."""
  if x.ndim > 4:  # a batch for each path
    run = lambda row: one_group(params, batch_stats, *row, share)
    return run, (archs, x, y)
  run = lambda row: one_group(params, batch_stats, row[0], x, y, share)
  return run, (archs,)


def _in_turn(run: Callable, rows: Tree, number: Any = None) -> tuple:
  """Runs groups one after the other.

  Args:
    run: rows of one group to `(sums, own)`.
    rows: arrays `[n, g, ...]`.
    number: only the first so many groups count; None takes all.

  Returns:
    The sum of all `sums`, and `own` of each group.
  """
  first = jax.tree.map(lambda a: a[0], rows)
  n = len(jax.tree.leaves(rows)[0])
  if n == 1 and number is None:
    sums, own = run(first)
    return sums, jax.tree.map(lambda a: a[None], own)
  shapes = jax.eval_shape(run, first)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def body(total, step):
    i, row = step
    if number is None:
      sums, own = run(row)
    else:
      sums, own = jax.lax.cond(i < number, run, lambda _: zeros, row)
    return jax.tree.map(jnp.add, total, sums), own

  return jax.lax.scan(body, zeros[0], (jnp.arange(n), rows))


def _side_by_side(
  one_group: Callable, n: int, flight: int, placement: Placement
) -> PathGradients:
  """Deals groups out over `path`, and the images of each over `data`.

  Args:
    one_group: as above.
    n: groups; some devices may have one less than others.
    flight: paths of a group.
    placement: the mesh.
  """
  ways, along = placement.n_paths, placement.mesh.shape["data"]
  local = -(-n // ways)
  numbers = np.clip(n - local * np.arange(ways), 0, local).astype(np.int32)

  def device(params, batch_stats, archs, x, y, share, number):
    run, rows = _by_rows(one_group, params, batch_stats, archs, x, y, share)
    ragged = None if local * ways == n else number[0]
    with measuring(axis="data", weights=share):
      (grads, stats), own = _in_turn(run, rows, ragged)
    grads = jax.lax.psum(grads, ("data", "path"))
    return (
      grads,
      *jax.lax.psum(own, "data"),
      jax.lax.psum(stats, "path"),
    )

  def gradients(params, batch_stats, archs, x, y):
    images = x.shape[-4]
    spare = -images % along
    share = np.pad(np.full(images, 1 / images, np.float32), (0, spare))
    own = x.ndim == 5
    batch = P("path", None, "data") if own else P("data")

    def cut(a, paths, axis):
      """Padded with images, and with groups, that do not count."""
      a = jnp.pad(a, [(0, spare * (i == axis)) for i in range(a.ndim)])
      if not paths:
        return a
      a = a.reshape(n, flight, *a.shape[1:])
      return jnp.pad(a, [(0, local * ways - n)] + [(0, 0)] * (a.ndim - 1))

    grads, losses, hits, stats = jax.shard_map(
      device, mesh=placement.mesh,
      in_specs=(P(), P(), P("path"), batch, batch, P("data"), P("path")),
      out_specs=(P(), P("path"), P("path"), P()), check_vma=False,
    )(
      params, batch_stats, cut(archs, True, -1), cut(x, own, x.ndim - 4),
      cut(y, own, y.ndim - 1), share, numbers,
    )  # fmt: skip
    losses, hits = (a[:n].reshape(-1) for a in (losses, hits))
    return grads, losses, hits, stats

  return gradients
