"""The blocks of a space, and a cost summed up from times of some of them."""

import dataclasses
import difflib
import logging
import math
from collections.abc import Callable

import numpy as np

from jaxnas.costs.table import CostTable
from jaxnas.errors import UserError
from jaxnas.spaces import Identity, ListedSpace, Op, Shape, Space

log = logging.getLogger("jaxnas")

SHAPE = ("in_size", "in_channels", "out_size", "features")


@dataclasses.dataclass(frozen=True)
class Block:
  """An operation at its place in a space.

  Attributes:
    part: `stem`, `layer`, `head` or `classifier`.
    layer: index within the part.
    choice: index within the layer.
    name: of the operation, `Linear` for the classifier.
    op: the operation; None for the classifier.
    shape: its place; None in a space that is a list of archs.
  """

  part: str
  layer: int
  choice: int
  name: str
  op: Op | None
  shape: Shape | None

  @property
  def free(self) -> bool:
    """Whether nothing is computed."""
    if self.shape is None:
      return False
    return isinstance(self.op, Identity) and self.shape.keeps

  def row(self, ms: float, **more: object) -> dict:
    """The CSV row of this block."""
    shape = {f: getattr(self.shape, f) for f in SHAPE} if self.shape else {}
    own = {"part": self.part, "layer": self.layer, "choice": self.choice}
    return {**own, "op": self.name, "ms": ms, **shape, **more}

  def __str__(self) -> str:
    if self.part == "classifier":
      return "the classifier"
    if self.part != "layer":
      return f"{self.part} {self.layer} ({self.name})"
    return f"layer {self.layer}, choice {self.choice} ({self.name})"


def blocks(space: Space | ListedSpace) -> list[Block]:
  """All blocks of a space in forward order; a list of archs has no shapes."""
  if isinstance(space, ListedSpace):
    return [
      Block("layer", l, c, name, None, None)
      for l, names in enumerate(space.choices)
      for c, name in enumerate(names)
    ]
  found = []
  parts = (("stem", space.stem), ("layer", space.layers), ("head", space.head))
  for (part, layers), shapes in zip(parts, space.shapes, strict=True):
    for l, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
      for c, op in enumerate(layer.choices):
        found.append(Block(part, l, c, op.name, op, shape))
  size = found[-1].shape.out_size
  pooled = Shape(size, space.out_features, 1, space.n_classes, 1)
  return [*found, Block("classifier", 0, 0, "Linear", None, pooled)]


def sum_up(
  space: Space | ListedSpace,
  name: str,
  where: str,
  look_up: Callable[[Block], float | None],
  rest: float | None,
  key_of: Callable[[Block], str],
  keys: list[str],
) -> CostTable:
  """Builds a cost in ms from a source that knows the times of blocks.

  Args:
    space: of the archs to be costed.
    name: of the cost.
    where: the source, for messages.
    look_up: milliseconds of a block, None if the source has none.
    rest: milliseconds that every network takes on top; None if unknown.
    key_of: what `look_up` looks for, for messages.
    keys: what the source has, for messages.

  Raises:
    UserError: for a searched block that the source lacks, unless it is free.
  """
  table = np.zeros((space.n_layers, int(space.n_choices.max())))
  fixed, absent, parts = rest or 0.0, [], 0
  for block in blocks(space):
    ms = look_up(block)
    if ms is None and block.free:
      ms = 0.0
    if block.part == "layer":
      if ms is None:
        raise _missing(where, space, block, key_of(block), keys)
      table[block.layer, block.choice] = ms
    elif ms is None:
      absent.append(f"{block} ({key_of(block)})")
    else:
      parts += 1
      fixed += ms
  # A `rest` without any other fixed part stands for all of them.
  if (absent or isinstance(space, ListedSpace)) and (rest is None or parts):
    log.warning(
      "%s: no entry for %s of space %r; they are left out of %s.",
      where, "; ".join(absent) or "what is not searched", space.name, name,
    )  # fmt: skip
  return CostTable(name, fixed, table, space.n_choices)


def _missing(where, space, block, key, keys) -> UserError:
  near = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
  hint = f"the nearest is {near[0]}" if near else "the table is empty"
  return UserError(
    f"{where} has no entry for {block} of space {space.name!r}: looked for"
    f" {key}, {hint}."
  )


def milliseconds(
  value: object, where: str, may_be_negative: bool = False
) -> float:
  """Reads a time; `where` names it in the message of a `UserError`."""
  try:
    if isinstance(value, bool):
      raise ValueError
    ms = float(value)
  except (TypeError, ValueError):
    ms = math.nan
  if not math.isfinite(ms) or (ms < 0 and not may_be_negative):
    raise UserError(
      f"{where} has {value!r} as its time; legal: milliseconds, 0 or more."
    )
  return ms
