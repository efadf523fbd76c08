"""The space of blocks that are stacked into a network (BlockQNN, IRLAS).

An arch is `int32[3 T]`: `(op, pred1, pred2)` of each of at most T layers (see
`spaces.nsc`), zeros behind the last one. Written `conv3@0-conv3@1-add@0+2`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError, unknown
from jaxnas.spaces import nsc
from jaxnas.spaces.macro import Macro
from jaxnas.spaces.nsc import Code
from jaxnas.spaces.ops import is_count

# Plain: rectifier, convolution, batch norm. Separable: rectifier, depthwise
# convolution, 1x1 convolution, batch norm.
Convs = Literal["plain", "separable"]


@dataclasses.dataclass(frozen=True)
class BlockSpace:
  """All blocks of at most T layers, in one macro-architecture.

  Attributes:
    name: registered name.
    image_size: height and width of the images, in pixels.
    image_channels: 1 for grey, 3 for colour.
    n_classes: outputs of the classifier.
    max_layers: T.
    macro: how blocks are stacked.
    convs: what `conv1`, `conv3` and `conv5` stand for.
    presets: named blocks, `((name, text), ...)`.
  """

  name: str
  image_size: int
  image_channels: int
  n_classes: int
  max_layers: int
  macro: Macro
  convs: Convs = "plain"
  presets: tuple[tuple[str, str], ...] = ()

  def __post_init__(self) -> None:
    for field in ("image_size", "image_channels", "n_classes", "max_layers"):
      if not is_count(getattr(self, field)):
        raise UserError(
          f"space {self.name!r}: {field} is {getattr(self, field)!r}; legal: a"
          " whole number, 1 or more."
        )
    if self.convs not in ("plain", "separable"):
      raise unknown(
        f"convs of space {self.name!r}", self.convs, ("plain", "separable")
      )

  @property
  def n_layers(self) -> int:
    """Number of decisions L = 3 T."""
    return 3 * self.max_layers

  @functools.cached_property
  def n_choices(self) -> np.ndarray:
    """Operations, and layers that may be read, of each layer: `int32[L]`."""
    each = [(len(nsc.OPS), i, i) for i in range(1, self.max_layers + 1)]
    return np.array(each, np.int32).reshape(-1)

  @functools.cached_property
  def size(self) -> int:
    """Exact number of archs: of sequences of 1 to T legal codes."""
    total, prefixes = 0, 1
    for i in range(1, self.max_layers + 1):
      prefixes *= len(nsc.next_codes(i)) - (i > 1)
      total += prefixes
    return total

  def replace(self, **fields) -> "BlockSpace":
    """Returns a copy with some fields changed, such as `n_classes`."""
    return dataclasses.replace(self, **fields)

  # Codes ---------------------------------------------------------------------

  def codes(self, arch: Sequence[int] | np.ndarray) -> tuple[Code, ...]:
    """The codes of one arch, the terminal left out."""
    rows = self.validate(arch)[0].reshape(-1, 3).tolist()
    return tuple(Code(*row) for row in rows if row[0] != nsc.NONE)

  def from_codes(self, codes: Sequence[Sequence[int]]) -> np.ndarray:
    """The arch `int32[L]` of some codes.

    Raises:
      UserError: for more than T codes or an illegal one.
    """
    if not 0 < len(codes) <= self.max_layers:
      raise UserError(
        f"a block of {len(codes)} layers; space {self.name!r} takes 1 to"
        f" {self.max_layers}."
      )
    arch = np.zeros((self.max_layers, 3), np.int32)
    arch[: len(codes)] = codes
    return self.validate(arch.reshape(-1))[0]

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws `n` archs as BlockQNN's agent explores: `int32[n, L]`.

    Each code is uniform among the legal ones, the terminal among them, so
    blocks are not uniform: short ones are rare.
    """
    archs = np.zeros((n, self.max_layers, 3), np.int32)
    for arch in archs:
      for i in range(1, self.max_layers + 1):
        legal = nsc.next_codes(i)
        code = legal[rng.integers(len(legal))]
        if code == nsc.TERMINAL:
          break
        arch[i - 1] = code
    return archs.reshape(n, -1)

  def canonical(self, archs: np.ndarray) -> np.ndarray:
    """One form for blocks that are trivially the same, `int32[n, L]`.

    Pooling over one pixel becomes the identity, and the two inputs of a sum or
    of a concatenation are put in ascending order.

    Raises:
      UserError: as `validate`.
    """
    table = self.validate(archs).reshape(-1, self.max_layers, 3).copy()
    ops = table[..., 0]
    ops[np.isin(ops, nsc.SAME_AS_IDENTITY)] = nsc.IDENTITY
    pairs = np.isin(ops, nsc.TWO_INPUTS)
    table[pairs, 1:] = np.sort(table[pairs, 1:], axis=-1)
    return table.reshape(-1, self.n_layers)

  def validate(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Checks archs and returns them as `int32[n, L]`.

    Raises:
      UserError: for a wrong length or an illegal code, naming layer and code.
    """
    archs = arch_lib.as_archs(archs)
    if archs.shape[1] != self.n_layers:
      raise UserError(
        f"a block of {archs.shape[1]} numbers; space {self.name!r} has three"
        f" for each of {self.max_layers} layers, {self.n_layers}."
      )
    table = archs.reshape(-1, self.max_layers, 3)
    op, first, second = table[..., 0], table[..., 1], table[..., 2]
    index = np.arange(1, self.max_layers + 1)
    pair = np.isin(op, nsc.TWO_INPUTS)
    used = op != nsc.NONE
    for bad, why in (
      ((op < 0) | (op >= len(nsc.OPS)), "operations are 0 to 10"),
      (
        np.where(used, (table[..., 1:] < 0).any(-1) | (first >= index), False)
        | (pair & (second >= index)),
        "a layer reads earlier ones only, 0 being the block's input",
      ),
      (pair & (first == second), "add and concat read two different layers"),
      (used & ~pair & (second != 0), "this operation has one input"),
      (~used & (table[..., 1:] != 0).any(-1), "unused layers are zeros"),
      (
        used & (np.cumsum(~used, 1) > 0),
        "a layer follows the end of the block",
      ),
      (~used & (index == 1), "a block has at least one layer"),
    ):
      if len(where := np.argwhere(bad)):
        row, l = where[0]
        raise UserError(
          f"code {tuple(table[row, l].tolist())} at layer {l + 1} of a block of"
          f" space {self.name!r} is not legal: {why}."
        )
    return archs

  # Text ----------------------------------------------------------------------

  def to_string(self, arch: Sequence[int] | np.ndarray) -> str:
    """Writes one arch as text, `conv3@0-conv3@1-add@0+2`."""
    return "-".join(map(nsc.to_text, self.codes(arch)))

  def from_string(self, text: str) -> np.ndarray:
    """Reads one arch, `int32[L]`, from text or from a preset's name.

    Raises:
      UserError: if it is neither.
    """
    presets = {name.lower(): text for name, text in self.presets}
    key = text.strip().lower()
    if "@" not in key and key not in presets:
      known = f", or a preset: {', '.join(presets)}" if presets else ""
      raise UserError(
        f"block {text!r} is not written as conv3@0-conv3@1-add@0+2 (operation"
        f" and the layers that it reads, 0 being the input){known}."
      )
    codes = [self._read_code(part) for part in presets.get(key, key).split("-")]
    return self.from_codes(codes)

  def _read_code(self, text: str) -> Code:
    name, _, preds = text.strip().partition("@")
    if name not in nsc.OPS[1:]:
      raise unknown(f"operation in {text!r}", name, nsc.OPS[1:])
    op, parts = nsc.OPS.index(name), preds.split("+")
    count = 1 + (op in nsc.TWO_INPUTS)
    if len(parts) != count or not all(
      p.isascii() and p.isdigit() and len(p) < 10 for p in parts
    ):
      example = f"{name}@{'+'.join('01'[:count])}"
      raise UserError(
        f"layer {text!r} of a block: {name} reads {count} layer"
        f"{'s' * (count > 1)}, written as in {example}."
      )
    return Code(op, *map(int, parts), *[0] * (2 - count))

  # JSON ----------------------------------------------------------------------

  def to_json(self) -> dict:
    """Returns the whole space as a JSON object."""
    value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    value["macro"] = self.macro.to_json()
    value["presets"] = [list(p) for p in self.presets]
    return value

  @classmethod
  def from_json(cls, value: dict) -> "BlockSpace":
    """Inverse of `to_json`."""
    fields = dict(value)
    fields["macro"] = Macro.from_json(fields["macro"])
    fields["presets"] = tuple(tuple(p) for p in fields["presets"])
    return cls(**fields)
