"""Operations as data: what a block computes, without weights or tracing.

An operation says nothing of widths and sizes: its place in the chain (a
`Shape`) does. `costs` counts it and `nets` builds it from the same two values.
"""

import dataclasses
import typing

import numpy as np

from jaxnas.errors import UserError, unknown

ACTIVATIONS = ("relu", "relu6", "swish", "none")


@dataclasses.dataclass(frozen=True)
class Shape:
  """The place of a block in the chain.

  Attributes:
    in_size: height and width of the square input, in pixels.
    in_channels: channels of the input.
    out_size: height and width of the output, `ceil(in_size / stride)`.
    features: channels of the output.
    stride: 1 or 2.
  """

  in_size: int
  in_channels: int
  out_size: int
  features: int
  stride: int

  @property
  def keeps(self) -> bool:
    """Whether the output has the shape of the input."""
    return self.stride == 1 and self.in_channels == self.features


@dataclasses.dataclass(frozen=True)
class Conv:
  """Convolution without bias, batch norm, activation."""

  kernel: int = 3
  act: str = "relu6"

  def __post_init__(self) -> None:
    _check_conv("Conv", self.kernel, self.act)

  @property
  def name(self) -> str:
    """Short name, unique among the choices of a layer."""
    return f"Conv{self.kernel}"


@dataclasses.dataclass(frozen=True)
class MBConv:
  """MobileNetV2 inverted bottleneck.

  1x1 expansion (absent if `expand` is 1), depthwise convolution, optional
  squeeze-and-excitation, linear 1x1 projection; batch norm after each
  convolution; a residual if the shape is kept and `residual` is true.

  Attributes:
    expand: expansion ratio.
    kernel: kernel of the depthwise convolution, odd.
    act: activation after expansion and depthwise convolution.
    se_ratio: squeeze width as a share of the block's *input* channels; 0
      leaves squeeze-and-excitation out.
    residual: whether to add the input where shapes allow.
  """

  expand: int
  kernel: int
  act: str = "relu6"
  se_ratio: float = 0.0
  residual: bool = True

  def __post_init__(self) -> None:
    _check_conv("MBConv", self.kernel, self.act)
    if not is_count(self.expand):
      raise UserError(
        f"MBConv: expand is {self.expand!r}; legal: a whole number, 1 or more."
      )
    ratio = self.se_ratio
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
      raise UserError(f"MBConv: se_ratio is {ratio!r}; legal: a number.")
    if not 0 <= ratio < float("inf"):
      raise UserError(f"MBConv: se_ratio is {ratio}; legal: 0 or more.")

  @property
  def name(self) -> str:
    """Short name, unique among the choices of a layer."""
    se = f"SE{self.se_ratio:g}".replace(".", "p") if self.se_ratio else ""
    return f"E{self.expand}K{self.kernel}{se}"


@dataclasses.dataclass(frozen=True)
class Identity:
  """Nothing if the shape is kept, else a strided 1x1 convolution + BN."""

  @property
  def name(self) -> str:
    """Short name, unique among the choices of a layer."""
    return "Id"


def is_count(value: object) -> bool:
  """Whether `value` is a whole number, 1 or more."""
  whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
  return whole and value >= 1


def _check_conv(op: str, kernel: int, act: str) -> None:
  # Padding by kernel // 2 keeps the size of the image for odd kernels only.
  if not is_count(kernel) or kernel % 2 == 0:
    raise UserError(f"{op}: kernel is {kernel!r}; legal: 1, 3, 5 and so on.")
  if act not in ACTIVATIONS:
    raise unknown(f"activation of {op}", str(act), ACTIVATIONS)


Op = Conv | MBConv | Identity
OPS: dict[str, type] = {op.__name__: op for op in typing.get_args(Op)}


def op_to_json(op: Op) -> dict:
  """Returns the operation as a JSON object with its type under `op`."""
  return {"op": type(op).__name__, **dataclasses.asdict(op)}


def op_from_json(value: dict) -> Op:
  """Inverse of `op_to_json`."""
  fields = dict(value)
  return OPS[fields.pop("op")](**fields)
