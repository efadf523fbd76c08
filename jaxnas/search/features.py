"""State feature codes: what a layer of a block looks like, as numbers.

That a linear function of such codes guides the search is the IRLAS paper's
(arXiv 1812.05285); what the codes hold is not known, so these are ours.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from jaxnas.errors import UserError, unknown
from jaxnas.spaces import BlockSpace, nsc
from jaxnas.spaces.nsc import Code

Kind = Literal["onehot", "code", "topology"]
# The types of BlockQNN in its order; the terminal's feature is always 0.
_TYPES = ("conv", "max", "avg", "identity", "add", "concat", "terminal")
_TYPE_OF = {
  name: next(k for k, t in enumerate(_TYPES) if name.startswith(t))
  for name in nsc.OPS[1:]
}
_KERNELS = (0, 1, 3, 5)
# Layers that read a layer: up to this many have a feature of their own.
_MOST_READERS = 3


@dataclasses.dataclass(frozen=True)
class FeatureMap:
  """phi, the features of a layer, and mu, their counts in a block (ours).

  `onehot`: type; kernel (none, 1, 3, 5); and for each of the two layers that
  are read, how far back it lies, or none. Far and near do not depend on the
  place in the block: wiring is described, not position.

  `topology`: as `onehot` without kernels, with one-hot degrees added: layers
  that are read, and layers that read this one (0, which is a leaf, to 3 and
  more). So convolutions of all sizes are alike.

  `code`: index, type, kernel and both layers read, scaled to 0..1. Index and
  layers read are divided by the block's own number of layers, so that a block
  has the same features in every space, and a place means a share of the block;
  type is divided by 7, kernel by 5.

  Attributes:
    kind: `onehot`, `code` or `topology`.
    offsets: D; what lies D or more layers back shares one feature.
  """

  kind: Kind = "onehot"
  offsets: int = 4

  def __post_init__(self) -> None:
    if self.kind not in get_args(Kind):
      raise unknown("features", self.kind, get_args(Kind))
    if self.offsets < 1:
      raise UserError(
        f"the offsets of features are {self.offsets}; legal: 1 or more."
      )

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """What each of the F features stands for; F is 21 by default."""
    if self.kind == "code":
      return "index", "type", "kernel", "pred1", "pred2"
    far = [str(k) for k in range(1, self.offsets)] + [f"{self.offsets}+"]
    preds = [
      f"{pred} {what}"
      for pred in ("pred1", "pred2")
      for what in [*(f"offset {k}" for k in far), "none"]
    ]
    types = [f"type {name}" for name in _TYPES]
    if self.kind == "onehot":
      return *types, *(f"kernel {k or 'none'}" for k in _KERNELS), *preds
    readers = [str(k) for k in range(_MOST_READERS)] + [f"{_MOST_READERS}+"]
    degrees = ["reads 1", "reads 2", *(f"read by {k}" for k in readers)]
    return *types, *preds, *degrees

  def of_layers(self, codes: Sequence[Code]) -> np.ndarray:
    """Features of each layer.

    Args:
      codes: the m layers of a block, without the terminal, which like the
        start state has no features.

    Returns:
      `float64[m, F]`.
    """
    if self.kind == "code":
      return _scaled(codes)
    parts = [_one_hot([_type(c) for c in codes], len(_TYPES))]
    if self.kind == "onehot":
      kernels = [_KERNELS.index(nsc.KERNELS[c.op]) for c in codes]
      parts.append(_one_hot(kernels, len(_KERNELS)))
    parts += [self._offsets_of(codes, k) for k in (0, 1)]
    if self.kind == "topology":
      parts.append(_degrees(codes))
    return np.concatenate(parts, axis=1)

  def counts(self, codes: Sequence[Code], discount: float = 1.0) -> np.ndarray:
    """Feature counts mu of one block.

    Args:
      codes: the m layers of a block.
      discount: 1 takes the mean over the layers, so that long and short blocks
        compare; a smaller one takes the sum over t = 1..m of `discount^t`
        times the features of layer t.

    Returns:
      `float64[F]`.

    Raises:
      UserError: for a block without layers, or a discount outside 0..1.
    """
    if not 0 < discount <= 1:
      raise UserError(
        f"the discount of feature counts is {discount}; legal: above 0, up to"
        " 1."
      )
    if not codes:
      raise UserError("a block without layers has no features.")
    layers = self.of_layers(codes)
    if discount == 1:
      return layers.mean(0)
    return discount ** np.arange(1, len(codes) + 1) @ layers

  def counts_of(
    self, space: BlockSpace, archs: np.ndarray, discount: float = 1.0
  ) -> np.ndarray:
    """Feature counts of several blocks.

    Args:
      space: the blocks.
      archs: `int32[n, L]`, taken as they are written (not made canonical).
      discount: as in `counts`.

    Returns:
      `float64[n, F]`.
    """
    rows = [self.counts(space.codes(arch), discount) for arch in archs]
    return np.array(rows).reshape(-1, len(self.names))

  def _offsets_of(self, codes: Sequence[Code], which: int) -> np.ndarray:
    """One-hot distance to the first (0) or second (1) layer that is read."""
    slots = []
    for index, code in enumerate(codes, 1):
      read = nsc.reads(code)
      near = index - read[which] if which < len(read) else None
      slots.append(
        self.offsets if near is None else min(near, self.offsets) - 1
      )
    return _one_hot(slots, self.offsets + 1)


def canonical(codes: Sequence[Code]) -> tuple[Code, ...]:
  """One form for blocks that are trivially the same.

  As `BlockSpace.canonical`, for blocks that may have more layers than a space
  takes.
  """
  rows = []
  for op, *preds in codes:
    op = nsc.IDENTITY if op in nsc.SAME_AS_IDENTITY else op
    rows.append(Code(op, *(sorted(preds) if op in nsc.TWO_INPUTS else preds)))
  return tuple(rows)


def _type(code: Code) -> int:
  return _TYPE_OF[nsc.OPS[code.op]]


def _one_hot(slots: Sequence[int], n: int) -> np.ndarray:
  return np.eye(n)[np.asarray(slots, int)]


def _degrees(codes: Sequence[Code]) -> np.ndarray:
  """One-hot number of layers read (1, 2), and of layers that read this one."""
  read = [nsc.reads(code) for code in codes]
  readers = np.bincount([p for r in read for p in r], minlength=len(codes) + 1)
  return np.concatenate(
    [
      _one_hot([len(r) - 1 for r in read], 2),
      _one_hot(np.minimum(readers[1:], _MOST_READERS), _MOST_READERS + 1),
    ],
    axis=1,
  )


def _scaled(codes: Sequence[Code]) -> np.ndarray:
  m = len(codes)
  rows = [
    (i / m, (_type(c) + 1) / 7, nsc.KERNELS[c.op] / 5, c.pred1 / m, c.pred2 / m)
    for i, c in enumerate(codes, 1)
  ]
  return np.array(rows).reshape(-1, 5)
