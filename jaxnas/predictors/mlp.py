"""A multilayer perceptron on one-hot choices, the second baseline."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.predictors.features import offsets


@dataclasses.dataclass(frozen=True)
class Mlp:
  """Hidden layers with ReLU and one linear output.

  Attributes:
    n_choices: choices of each node.
    layers: hidden layers.
    width: features of each.
  """

  n_choices: tuple[int, ...]
  layers: int
  width: int

  def init(self, key: jax.Array) -> dict:
    """Draws He-normal weights; see `Network.init`."""
    keys = jax.random.split(key, self.layers + 1)
    # Only one slot of each node is 1.
    fan_in = [len(self.n_choices)] + [self.width] * self.layers
    rows = [sum(self.n_choices)] + [self.width] * self.layers
    columns = [self.width] * self.layers + [1]
    gains = [2.0] * self.layers + [1.0]
    return {
      "kernels": [
        jnp.sqrt(g / f) * jax.random.normal(k, (r, c))
        for k, g, f, r, c in zip(
          keys, gains, fan_in, rows, columns, strict=True
        )
      ],
      "biases": [jnp.zeros(c) for c in columns],
    }

  def apply(self, params: dict, archs: jax.Array) -> jax.Array:
    """Maps `int32[b, nodes]` to `float32[b]`."""
    slots = archs + offsets(np.array(self.n_choices))
    # The product of a one-hot and a matrix is a sum of its rows.
    x = params["kernels"][0][slots].sum(1) + params["biases"][0]
    for kernel, bias in zip(
      params["kernels"][1:], params["biases"][1:], strict=True
    ):
      x = jax.nn.relu(x) @ kernel + bias
    return x[:, 0]
