"""Search spaces as data. A new space is one file here, or one of your own."""

from collections.abc import Callable
from pathlib import Path

from jaxnas.config import load_function
from jaxnas.errors import UserError, unknown
from jaxnas.spaces.base import Layer, Space
from jaxnas.spaces.digits import digits
from jaxnas.spaces.fairnas import fairnas, fairnas_cifar
from jaxnas.spaces.listed import ListedSpace
from jaxnas.spaces.nasbench_macro import nasbench_macro
from jaxnas.spaces.ops import Conv, Identity, MBConv, Op, Shape

SPACES: dict[str, Callable[..., Space]] = {
  "digits": digits,
  "fairnas": fairnas,
  "fairnas-cifar": fairnas_cifar,
  "nasbench-macro": nasbench_macro,
}


def get_space(name: str, **options) -> Space:
  """Returns a space by name.

  Args:
    name: a registered name, or the path of a Python file that defines
      `get_space(**options) -> Space`.
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
  if not isinstance(space, Space):
    raise UserError(
      f"get_space of {name} returns {type(space).__name__}, not Space."
    )
  return space


__all__ = [
  "SPACES", "Conv", "Identity", "Layer", "ListedSpace", "MBConv", "Op", "Shape",
  "Space", "get_space",
]  # fmt: skip
