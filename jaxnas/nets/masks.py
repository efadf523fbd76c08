"""Masked networks: a graph whose products gate their input channels.

Masks are data. One network, compiled once, is trained with a relaxed mask for
each image and evaluated with hard masks, alone or vectorised over many. The
mask multiplies the *activations* that a product reads, so under `vmap` its
kernel stays one and the masks become more batch.
"""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.config import NetConfig
from jaxnas.nets.graphs import Noise, apply_node, draw_variables
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.nets.relaxation import Relaxation, relaxed_keep
from jaxnas.spaces.graph import IMAGES, Graph
from jaxnas.spaces.masks import MaskSpace


class MaskedNetwork(nn.Module):
  """A graph as a network whose gated inputs are multiplied by a mask.

  Attributes:
    graph: the network as data.
    net: numerics.
  """

  graph: Graph
  net: NetConfig = NetConfig()

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    keep: jax.Array | None = None,
    stored: bool = True,
    noise: Noise | None = None,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Classifies images.

    Args:
      images: `float32[B, H, W, C]`, normalised.
      keep: what the gated channels are multiplied by, `float32[L]` for all
        images or `[B, L]` for each; None leaves the network plain.
      stored: use stored batch-norm statistics, else the batch's own, which
        are then written to `batch_stats` if that is mutable.
      noise: of training; None in evaluation.

    Returns:
      Logits `float32[B, n_classes]`; in training (`noise` given) of a graph
      with an auxiliary classifier, a pair with its logits second.
    """
    dtype = dtype_of(self.net)
    values = {IMAGES: images.astype(dtype)}
    with_auxiliary = noise is not None or self.is_initializing()
    for number, node in enumerate(self.graph.nodes):
      if not with_auxiliary and node.name in self.graph.training_only:
        continue
      inputs = [values[i] for i in node.inputs]
      if keep is not None and node.name in self.graph.gates:
        gate = keep[..., self.graph.gates[node.name]].astype(inputs[0].dtype)
        if inputs[0].ndim == 4 and gate.ndim == 2:
          gate = gate[:, None, None, :]
        with jax.named_scope(f"{node.name}/mask"):
          inputs[0] = inputs[0] * gate
      values[node.name] = apply_node(self, node, inputs, stored, noise, number)
    logits = values[self.graph.output]
    if noise is None or not self.graph.auxiliary:
      return logits
    return logits, values[self.graph.auxiliary]


class MaskedSegment(nn.Module):
  """Some successive nodes of a graph, with the masks inside their kernels.

  Its variables are named as those of `MaskedNetwork`.

  Attributes:
    graph: the network as data.
    nodes: names of the nodes, in order.
    writes: whose outputs are returned.
    net: numerics.
  """

  graph: Graph
  nodes: tuple[str, ...]
  writes: tuple[str, ...]
  net: NetConfig = NetConfig()

  @nn.compact
  def __call__(
    self, values: dict[str, jax.Array], stored: bool
  ) -> dict[str, jax.Array]:
    """Applies the nodes.

    Args:
      values: outputs of earlier nodes that these read, `[B, ...]` each.
      stored: as in `MaskedNetwork`.

    Returns:
      The outputs named by `writes`.
    """
    values = dict(values)
    for name in self.nodes:
      node = self.graph[name]
      inputs = [values[i] for i in node.inputs]
      values[name] = apply_node(self, node, inputs, stored, None, 0)
    return {name: values[name] for name in self.writes}


@dataclasses.dataclass(frozen=True)
class MaskedSupernet:
  """A masked network with learned drop rates.

  `params["drop"]["logits"]`, `float32[G]`, are the logits of the drop rates in
  the order of `MaskSpace.groups`; all other variables are those of
  `MaskedNetwork`.

  Attributes:
    space: its masks.
    net: numerics.
  """

  space: MaskSpace
  net: NetConfig = NetConfig()

  @functools.cached_property
  def network(self) -> MaskedNetwork:
    """The network without rates."""
    return MaskedNetwork(self.space.graph, self.net)

  def init(self, key: jax.Array, rate: float = 0.1) -> Variables:
    """Draws all weights on the host (`initial.draw`).

    Args:
      key: PRNG key.
      rate: drop rate of every group, between 0 and 1; 0.1 (paper, authors).

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32.
    """
    variables = draw_variables(self.network, self.space.graph, key)
    logits = np.full(len(self.space.groups), np.log(rate / (1 - rate)))
    params = {**variables["params"], "drop": {"logits": np.float32(logits)}}
    return {**variables, "params": params}

  @jax.named_scope("forward")
  def apply(
    self,
    variables: Variables,
    images: jax.Array,
    keep: jax.Array | None,
    stored: bool,
    noise: Noise | None = None,
  ) -> tuple[jax.Array, Tree]:
    """Applies the network; arguments as in `MaskedNetwork`.

    Returns:
      Logits, in training those of the auxiliary classifier in a pair with
      them, and the measured statistics.
    """
    params = {k: v for k, v in variables["params"].items() if k != "drop"}
    own = {**variables, "params": params}
    if stored:
      return self.network.apply(own, images, keep, True, noise), {}
    y, measured = self.network.apply(
      own, images, keep, False, noise, mutable=["batch_stats"]
    )
    return y, measured.get("batch_stats", {})

  def draw_keep(
    self,
    variables: Variables,
    key: jax.Array,
    n: int,
    tau: float,
    relaxation: Relaxation = "concrete",
  ) -> jax.Array:
    """Draws relaxed masks of independent channels, `float32[n, L]`."""
    logits = variables["params"]["drop"]["logits"][self.space.group_of]
    r1, r2 = jax.random.uniform(key, (2, n, self.space.n_layers))
    return relaxed_keep(logits, r1, r2, tau, relaxation)

  @jax.named_scope("statistics")
  def blend_stats(self, old: Tree, measured: Tree) -> Tree:
    """Moves running statistics one step towards the measured ones."""
    m = self.net.bn_momentum
    moved = jax.tree.map(
      lambda o, new: m * o + (1 - m) * new,
      {name: old[name] for name in measured}, measured,
    )  # fmt: skip
    return {**old, **moved}


def drop_rates(variables: Variables) -> np.ndarray:
  """Drop rate of each group, `float64[G]`, 0..1."""
  logits = np.asarray(variables["params"]["drop"]["logits"], np.float64)
  return 1 / (1 + np.exp(-logits))


def group_squares(space: MaskSpace, params: Tree) -> jax.Array:
  """Sum of squared weights that each group's channels enter, `float32[G]`.

  Args:
    space: the masks.
    params: of the supernet.
  """
  per_channel = []
  for name in space.graph.gates:
    weights = params[name]["linear" if "linear" in params[name] else "kernel"]
    squares = jnp.square(weights)
    per_channel.append(squares.sum((*range(squares.ndim - 2), -1)))
  return jax.ops.segment_sum(
    jnp.concatenate(per_channel), space.group_of, len(space.groups),
    indices_are_sorted=True,
  )  # fmt: skip


def folded(
  variables: Variables, keep: jax.Array, gates: Mapping[str, slice]
) -> Variables:
  """Variables whose plain network is the masked one.

  One small product for a mask instead of one for each image. Not for masks that
  are vectorised: each would have kernels of its own.

  Args:
    variables: of `MaskedNetwork`.
    keep: `float32[L]`, or a part of it.
    gates: which of it gates the inputs of each node.
  """
  params = dict(variables.get("params", {}))
  for name, gate in gates.items():
    own = params[name]
    leaf = "linear" if "linear" in own else "kernel"
    params[name] = {**own, leaf: own[leaf] * keep[gate][:, None]}
  return {**variables, "params": params}
