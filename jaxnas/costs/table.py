"""Additive costs: every arch costs a fixed part plus one entry per layer.

Counting convention: multiply-adds (MACs) of convolution and linear weights
only; parameters include BN scale and shift, and the biases of the classifier
and of squeeze-and-excitation.
"""

import dataclasses
import math

import numpy as np

from jaxnas.spaces import Conv, Identity, Layer, MBConv, Op, Shape, Space


@dataclasses.dataclass(frozen=True)
class CostTable:
  """One additive cost of a space.

  Attributes:
    name: `"macs"`, `"params"` or the name of a latency table.
    fixed: cost of the parts that are not searched.
    table: cost of each choice, `[L, K]`; entries past a layer's last choice
      are never read and hold 0.
    n_choices: legal choices of each layer, `int32[L]`.
  """

  name: str
  fixed: int | float
  table: np.ndarray
  n_choices: np.ndarray

  def __call__(self, archs: np.ndarray) -> np.ndarray:
    """Costs of `archs` `int32[n, L]`: `[n]`, exact integers for counts."""
    layers = np.arange(self.table.shape[0])
    return self.fixed + self.table[layers, archs].sum(-1)

  def _bound(self, pick) -> int | float:
    rows = zip(self.table, self.n_choices, strict=True)
    return self.fixed + sum(pick(row[:k]).item() for row, k in rows)

  @property
  def smallest(self) -> int | float:
    """Cost of the cheapest arch."""
    return self._bound(np.min)

  @property
  def largest(self) -> int | float:
    """Cost of the dearest arch."""
    return self._bound(np.max)


def count_op(op: Op, shape: Shape, se_pooling: bool = False) -> tuple[int, int]:
  """Counts one operation at one place.

  Args:
    op: the operation.
    shape: its place in the chain.
    se_pooling: also count the pooling of squeeze-and-excitation as one
      multiply-add per element, as some published tables do.

  Returns:
    Parameters and multiply-adds.
  """
  cin, cout, area = shape.in_channels, shape.features, shape.out_size**2
  match op:
    case Conv():
      weights = op.kernel**2 * cin * cout
      return weights + 2 * cout, weights * area
    case Identity():
      if shape.keeps:
        return 0, 0
      return cin * cout + 2 * cout, cin * cout * area
    case MBConv():
      wide = cin * op.expand
      params, macs = 0, 0
      if op.expand != 1:
        params += cin * wide + 2 * wide
        macs += cin * wide * shape.in_size**2
      params += op.kernel**2 * wide + 2 * wide + wide * cout + 2 * cout
      macs += (op.kernel**2 * wide + wide * cout) * area
      if op.se_ratio:
        narrow = squeeze_width(op, shape)
        params += 2 * wide * narrow + narrow + wide
        macs += 2 * wide * narrow + (wide * area if se_pooling else 0)
      return params, macs
  raise TypeError(f"no cost rule for {op!r}")


def squeeze_width(op: MBConv, shape: Shape) -> int:
  """Inner channels of squeeze-and-excitation (authors: timm model files)."""
  return max(1, int(shape.in_channels * op.se_ratio))


def cost_tables(space: Space, se_pooling: bool = False) -> dict[str, CostTable]:
  """Returns the `params` and `macs` tables of a space.

  Args:
    space: the space; its `n_classes` sets the size of the classifier.
    se_pooling: see `count_op`.
  """
  rows = np.zeros((2, space.n_layers, int(space.n_choices.max())), np.int64)
  for l, (layer, shape) in enumerate(
    zip(space.layers, space.layer_shapes, strict=True)
  ):
    for c, op in enumerate(layer.choices):
      rows[:, l, c] = count_op(op, shape, se_pooling)
  stem, _, head = space.shapes
  fixed = np.array([0, 0], np.int64)
  for layer, shape in zip(space.stem + space.head, stem + head, strict=True):
    fixed += count_op(layer.choices[0], shape, se_pooling)
  linear = space.out_features * space.n_classes
  fixed += np.array([linear + space.n_classes, linear])
  return {
    name: CostTable(name, int(fixed[i]), rows[i], space.n_choices)
    for i, name in enumerate(("params", "macs"))
  }


def layer_rows(space: Space, arch: np.ndarray) -> list[dict]:
  """Lists every block of one arch with its cost, for tables and drawings.

  Returns:
    One dict per block in order, with `part` (`stem`, `layer`, `head` or
    `classifier`), `index`, `op`, `in_size`, `out_size`, `in_channels`,
    `features`, `stride`, `params` and `macs`.
  """
  arch = space.validate(arch)[0]
  chosen = tuple(
    Layer((layer.choices[c],), layer.features, layer.stride)
    for layer, c in zip(space.layers, arch, strict=True)
  )
  parts = (("stem", space.stem), ("layer", chosen), ("head", space.head))
  rows = []
  for (part, layers), shapes in zip(parts, space.shapes, strict=True):
    for i, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
      params, macs = count_op(layer.choices[0], shape)
      rows.append(
        dict(
          part=part, index=i, op=layer.choices[0].name, in_size=shape.in_size,
          out_size=shape.out_size, in_channels=shape.in_channels,
          features=shape.features, stride=shape.stride, params=params,
          macs=macs,
        )
      )  # fmt: skip
  size = rows[-1]["out_size"]
  linear = space.out_features * space.n_classes
  rows.append(
    dict(
      part="classifier", index=0, op="Linear", in_size=size, out_size=1,
      in_channels=space.out_features, features=space.n_classes, stride=1,
      params=linear + space.n_classes, macs=linear,
    )
  )  # fmt: skip
  return rows


def supernet_params(space: Space) -> int:
  """Parameters of the whole supernet: every choice has its own weights."""
  params = cost_tables(space)["params"]
  return params.fixed + int(params.table.sum())


def format_count(value: float) -> str:
  """Writes a count for people: `388.12M`, `4.65M`, `940`."""
  if not math.isfinite(value):
    return str(value)
  for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
    if abs(value) >= scale:
      return f"{value / scale:.4g}{unit}"
  return f"{value:.4g}"
