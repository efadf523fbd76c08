"""Search spaces as data. A new space is one file here, or one of your own."""

from collections.abc import Callable
from pathlib import Path

from jaxnas.config import load_function
from jaxnas.errors import UserError, unknown
from jaxnas.spaces import nsc
from jaxnas.spaces.base import Layer, Space
from jaxnas.spaces.block_graphs import block_graph
from jaxnas.spaces.blocks import BlockSpace
from jaxnas.spaces.densenet import supnet_d121
from jaxnas.spaces.digits import digits
from jaxnas.spaces.enas import supnet_e, supnet_ei
from jaxnas.spaces.experts import EXPERTS, expert
from jaxnas.spaces.fairnas import fairnas, fairnas_cifar
from jaxnas.spaces.graph import Graph
from jaxnas.spaces.irlas import (
  blocks_cifar,
  blocks_digits,
  blocks_imagenet,
  irlas_mobile,
)
from jaxnas.spaces.listed import ListedSpace
from jaxnas.spaces.masks import MaskSpace
from jaxnas.spaces.mini import supnet_small
from jaxnas.spaces.nasbench_macro import nasbench_macro
from jaxnas.spaces.ops import Conv, Identity, MBConv, Op, Shape
from jaxnas.spaces.resnet import supnet_r50
from jaxnas.spaces.shake_shake import supnet_m, supnet_mi

# Chains of layers that are chosen, and networks whose channels are masked.
CHAINS: dict[str, Callable[..., Space]] = {
  "digits": digits,
  "fairnas": fairnas,
  "fairnas-cifar": fairnas_cifar,
  "nasbench-macro": nasbench_macro,
}
SUPERNETS: dict[str, Callable[..., MaskSpace]] = {
  "supnet-small": supnet_small,
  "supnet-m": supnet_m,
  "supnet-mi": supnet_mi,
  "supnet-e": supnet_e,
  "supnet-ei": supnet_ei,
  "supnet-r50": supnet_r50,
  "supnet-d121": supnet_d121,
}
# Blocks that are searched and stacked.
BLOCKS: dict[str, Callable[..., BlockSpace]] = {
  "blocks-digits": blocks_digits,
  "blocks-cifar": blocks_cifar,
  "blocks-imagenet": blocks_imagenet,
  "irlas-mobile": irlas_mobile,
}
AnySpace = Space | MaskSpace | BlockSpace
SPACES: dict[str, Callable[..., AnySpace]] = {**CHAINS, **SUPERNETS, **BLOCKS}


def get_space(name: str, **options) -> AnySpace:
  """Returns a space by name.

  Args:
    name: a registered name, or the path of a Python file that defines
      `get_space(**options)`.
    **options: arguments of the space, such as `se_ratio=0.5`.

  Raises:
    UserError: for an unknown name, file or option.
  """
  if name.endswith(".py"):
    build = load_function(Path(name), "get_space")
  elif name in SPACES:
    build = SPACES[name]
  else:
    raise unknown("space", name, SPACES)
  try:
    space = build(**options)
  except UserError:
    raise
  except Exception as error:  # a user's file may fail in any way
    reason = " ".join(str(error).split())
    raise UserError(f"space {name!r}: {reason}.") from error
  if not isinstance(space, AnySpace):
    raise UserError(
      f"get_space of {name} returns {type(space).__name__}, not Space,"
      " MaskSpace or BlockSpace."
    )
  return space


__all__ = [
  "BLOCKS", "CHAINS", "EXPERTS", "SPACES", "SUPERNETS", "AnySpace",
  "BlockSpace", "Conv", "Graph", "Identity", "Layer", "ListedSpace", "MBConv",
  "MaskSpace", "Op", "Shape", "Space", "block_graph", "expert", "get_space",
  "nsc",
]  # fmt: skip
