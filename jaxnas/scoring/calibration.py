"""Batch-norm statistics of one path, recomputed from fixed images."""

import jax
import jax.numpy as jnp

from jaxnas.nets import PathSupernet
from jaxnas.nets.paths import Tree, Variables
from jaxnas.scoring.images import Images


def merge_stats(batches: Tree) -> Tree:
  """Joins statistics of several batches, leaves `[b, ...]`, into the whole's.

  The variance of the whole is the mean of the variances plus the variance of
  the means (law of total variance); leaving the second out, as is often done,
  makes it too small.
  """

  def norm(node):
    mean = node["mean"].mean(0)
    spread = jnp.square(node["mean"] - mean).mean(0)
    return {"mean": mean, "var": node["var"].mean(0) + spread}

  def walk(node):
    if set(node) == {"mean", "var"}:
      return norm(node)
    return {k: walk(v) for k, v in node.items()}

  return walk(batches)


def recalibrated(
  supernet: PathSupernet,
  variables: Variables,
  arch: jax.Array,
  calibration: Images,
) -> Variables:
  """Variables whose BN statistics on one path are those of fixed images.

  Args:
    supernet: the network.
    variables: of the supernet; left alone.
    arch: `int32[L]`, may be traced.
    calibration: each batch is normalised by its own statistics on the way, and
      statistics are merged over batches.

  Returns:
    Variables with new statistics for the choices of `arch`; those of other
    choices are meaningless.
  """

  def batch(x, _):
    return supernet.apply_path(variables, arch, x, stored=False)[1]

  stats = merge_stats(calibration.map(batch))
  return {**variables, "batch_stats": {**variables["batch_stats"], **stats}}
