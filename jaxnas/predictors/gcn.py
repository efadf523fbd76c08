"""The graph convolutional network that fits the search space.

    H <- ReLU(D^-1 (A + I) H W), several times; linear read-out     # spec 3.4

The idea is that of Chen et al., arXiv 2004.08423, which gives no formula:
graph, layer, read-out and constants are ours. `directed` and `readout="mean"`
follow the Neural Predictor (Wen et al., arXiv 1912.00848), the global node's
read-out follows BONAS.

One set of weights serves two forms: any `jraph.GraphsTuple`, and chains with a
fixed dense adjacency, which are faster.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jaxnas.predictors.graphs import Chain


@dataclasses.dataclass(frozen=True)
class Gcn:
  """A GCN on graphs stacked along a leading axis.

  Attributes:
    n_features: columns of the nodes.
    n_labels: columns of the edges; a label scales the features of messages
      along its edge, as an operator there works on what it is sent (ours).
    global_column: the feature that marks the global node.
    layers: graph convolutions.
    width: features of each.
    directed: also pass messages against the edges, with weights of their own,
      and average both.
    readout: `global` or `mean`.
  """

  n_features: int
  n_labels: int
  global_column: int
  layers: int
  width: int
  directed: bool = False
  readout: str = "global"

  @property
  def ways(self) -> int:
    """Weight matrices of each layer."""
    return 2 if self.directed else 1

  def init(self, key: jax.Array) -> dict:
    """Draws LeCun-normal weights; see `Network.init`."""
    sizes = [self.n_features] + [self.width] * self.layers
    params = {"kernels": [], "labels": []}
    *keys, last = jax.random.split(key, self.layers + 1)
    for size, key_t in zip(sizes, keys, strict=False):
      a, b = jax.random.split(key_t)
      shape = (self.ways, size, self.width)
      params["kernels"].append(jax.random.normal(a, shape) / size**0.5)
      shape = (self.ways, self.n_labels, self.width)
      params["labels"].append(jax.random.normal(b, shape))
    params["out"] = jax.random.normal(last, (self.width,)) / self.width**0.5
    params["bias"] = jnp.zeros(())
    return params

  def apply(self, params: dict, graphs: jraph.GraphsTuple) -> jax.Array:
    """Maps `b` stacked graphs to `float32[b]`."""
    return jax.vmap(lambda g: self._one(params, g))(graphs)

  def _one(self, params: dict, graph: jraph.GraphsTuple) -> jax.Array:
    h, n = graph.nodes, len(graph.nodes)
    ways = [(graph.senders, graph.receivers), (graph.receivers, graph.senders)]
    for kernels, labels in zip(
      params["kernels"], params["labels"], strict=True
    ):
      sums = []
      for kernel, label, (senders, receivers) in zip(
        kernels, labels, ways[: self.ways], strict=True
      ):
        messages = (h @ kernel)[senders] * (1 + graph.edges @ label)
        # The mean over what a node receives is D^-1 A.
        sums.append(jraph.segment_mean(messages, receivers, n))
      h = jax.nn.relu(sum(sums) / self.ways)
    if self.readout == "mean":
      real = (graph.nodes != 0).any(-1).astype(h.dtype)
      pooled = real @ h / real.sum()
    else:
      pooled = graph.nodes[:, self.global_column] @ h
    return pooled @ params["out"] + params["bias"]


@dataclasses.dataclass(frozen=True)
class ChainGcn:
  """The same network on chains, as dense products.

  Attributes:
    chain: the graph.
    layers: see `Gcn`.
    width: see `Gcn`.
    readout: see `Gcn`.
  """

  chain: Chain
  layers: int
  width: int
  readout: str = "global"

  @property
  def general(self) -> Gcn:
    """The form for any graph, with the same weights."""
    c = self.chain
    return Gcn(
      c.n_features, 0, c.n_slots + 3, self.layers, self.width, c.directed,
      self.readout,
    )  # fmt: skip

  def init(self, key: jax.Array) -> dict:
    """See `Gcn.init`."""
    return self.general.init(key)

  def apply(self, params: dict, archs: jax.Array) -> jax.Array:
    """Maps `int32[b, cells]` to `float32[b]`."""
    ways = [self.chain.adjacency, self.chain.reverse_adjacency]
    ways = ways[: self.general.ways]
    h = None
    for t, kernels in enumerate(params["kernels"]):
      # Of the last layer only the global node may be read.
      only = t == self.layers - 1 and self.readout == "global"
      rows = slice(-1 if only else 0, None)
      sums = [
        _receive(a[rows], self._first(kernel, archs))
        if h is None
        else _receive(a[rows], h) @ kernel
        for a, kernel in zip(ways, kernels, strict=True)
      ]
      h = jax.nn.relu(sum(sums) / len(ways))
    return h.mean(0) @ params["out"] + params["bias"]

  def _first(self, kernel: jax.Array, archs: jax.Array) -> jax.Array:
    """Features times the first kernel, `[nodes, b, width]`."""
    chain = self.chain
    most = max(chain.n_choices)
    slots = chain.first_slots[:, None] + np.arange(most)
    rows = kernel[np.minimum(slots, chain.n_slots - 1)]
    chosen = jnp.einsum("blk,lkf->lbf", jax.nn.one_hot(archs, most), rows)
    fixed = jnp.asarray(chain.fixed_features) @ kernel
    return jnp.pad(chosen, [(0, 3), (0, 0), (0, 0)]) + fixed[:, None]


def _receive(adjacency: np.ndarray, h: jax.Array) -> jax.Array:
  """Mean of what each receiver gets, `[receivers, b, width]`."""
  return jnp.einsum("rs,sbf->rbf", adjacency, h)
