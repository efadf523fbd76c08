"""Features of archs for clustering, from shared weights or trained networks.

The shared-weight variant is ours: one gradient, or one pass over probe images,
stands for the short training of DC-NAS (arXiv 2005.14456).
"""

import functools
from typing import Literal

import jax
import numpy as np

from jaxnas.nets import PathSupernet
from jaxnas.nets.change import Change, changes_of_gradients
from jaxnas.nets.losses import cross_entropy
from jaxnas.nets.paths import Variables
from jaxnas.nets.probe import pooled
from jaxnas.scoring.engine import on_device
from jaxnas.scoring.nodes import Place, chain, own_variables
from jaxnas.scoring.trie import Trie, sort_archs


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def gradient_changes(
  supernet: PathSupernet,
  variables: Variables,
  archs: jax.Array,
  x: jax.Array,
  y: jax.Array,
  rate: float,
  kind: Change,
  label_smoothing: float,
) -> jax.Array:
  """How far one step of gradient descent would move each layer of each arch.

  Every arch starts from the shared weights, on one batch with statistics of
  its own. All sets of n archs share one compiled program.

  Args:
    supernet: the network.
    variables: of the supernet.
    archs: `int32[n, L]`.
    x: `float32[B, H, W, C]`, normalised.
    y: `int32[B]`.
    rate: learning rate of the step.
    kind: as in `nets.change.change_of`.
    label_smoothing: of the loss.

  Returns:
    `float32[n, L]`, 0 for choices without parameters.
  """

  def loss(params, arch):
    own = {**variables, "params": params}
    logits, _ = supernet.apply_path(own, arch, x, stored=False)
    return cross_entropy(logits, y, label_smoothing).mean()

  def changes(arch):
    params = variables["params"]
    slope = jax.grad(loss)(params, arch)
    return changes_of_gradients(supernet.space, arch, params, slope, rate, kind)

  return jax.lax.map(changes, archs)


@functools.cache
def _node(place: Place):
  """Program: one node of a place, and its pooled output."""

  def run(own, choice, x):
    y = place.apply("batch", own, choice, x, None)
    return y, pooled(y)[0]

  return jax.jit(run)


def probe_outputs(
  supernet: PathSupernet,
  variables: Variables,
  archs: np.ndarray,
  images: jax.Array,
) -> np.ndarray:
  """Pooled outputs of the searched layers of archs under shared weights.

  With the batch-norm statistics of these images. What archs have in common is
  computed once: depth first, one node at a time, so that the activations of a
  single path are all that is kept. No set of archs compiles anything new.

  Args:
    supernet: the network.
    variables: of the supernet.
    archs: `int32[n, L]`; any order, repeats allowed.
    images: `float32[B, H, W, C]`, normalised.

  Returns:
    `float32[n, L, B, 2]`, as `nets.probe.layer_outputs` on each arch.
  """
  stem = len(supernet.stem)
  places = chain(supernet)[: stem + supernet.space.n_layers]
  distinct, rows = sort_archs(supernet.space.validate(archs))
  trie = Trie(np.pad(distinct, [(0, 0), (stem, 0)]))  # the stem's only choice
  own = own_variables(supernet, variables)[: len(places)]
  own, images = on_device((own, images), jax.local_devices()[0])
  x = [supernet.cast(images)[None], *[None] * len(places)]
  found = [[] for _ in places]
  for step in trie.walk([1] * len(places)):
    l, (choice,) = step.layer, step.choices
    x[l + 1], summary = _node(places[l])(own[l], choice, x[l])
    found[l].append(summary)
  # A node's parents, from the last layer up, give the nodes of each arch.
  nodes, out = np.arange(len(distinct)), []
  for l in reversed(range(stem, len(places))):
    out.append(np.stack(jax.device_get(found[l]))[nodes][rows])
    nodes = trie.parents[l][nodes]
  return np.stack(out[::-1], 1)


def features(
  changes: np.ndarray | None,
  outputs: np.ndarray | None,
  present: np.ndarray,
  kind: Literal["change", "outputs", "both"],
) -> np.ndarray:
  """Joins features of archs in one matrix (ours).

  The changes, and the outputs, are one block each, with the presence bits:
  standardised over archs, and scaled so that the variances of a block's columns
  add up to 1. So neither block dominates. Columns that do not tell archs apart
  are 0. Archs whose values are not finite have no part in that, and stay NaN.

  Args:
    changes: `float[n, L]`; None where `kind` does without.
    outputs: projected, `float[n, L, q]`; the same.
    present: whether the layers have parameters, `bool[n, L]`; the values of
      others become 0.
    kind: the blocks.

  Returns:
    `float64[n, d]`: of the changes L values and L bits, then of the outputs
    L q values and L bits.
  """
  n, blocks = len(present), []
  if kind != "outputs":
    blocks.append(np.where(present, changes, 0))
  if kind != "change":
    blocks.append(np.where(present[:, :, None], outputs, 0).reshape(n, -1))
  return np.concatenate(
    [_standardised(np.concatenate([b, present], 1)) for b in blocks], 1
  )


def _standardised(block: np.ndarray) -> np.ndarray:
  finite = np.isfinite(block).all(1)
  known, out = block[finite].astype(np.float64), np.full(block.shape, np.nan)
  if len(known):
    spread = known.std(0)
    # Roundings of float32 are no differences.
    varies = spread > 1e-6 * np.abs(known).max(0)
    spread = np.where(varies, spread, 1) * np.sqrt(max(1, varies.sum()))
    out[finite] = np.where(varies, known - known.mean(0), 0) / spread
  return out
