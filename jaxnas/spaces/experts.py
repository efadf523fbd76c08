"""Blocks of networks that people designed, as network structure codes.

Which encodings the IRLAS paper uses is not known; these are ours.
"""

from collections.abc import Callable

from jaxnas.errors import UserError, unknown
from jaxnas.spaces.nsc import OPS, Code, to_text

_CONV1, _CONV3, _ADD, _CONCAT = (
  OPS.index(name) for name in ("conv1", "conv3", "add", "concat")
)


def resnet_basic() -> tuple[Code, ...]:
  """ResNet basic block (arXiv 1512.03385): 3x3, 3x3, sum with the input."""
  return Code(_CONV3, 0, 0), Code(_CONV3, 1, 0), Code(_ADD, 0, 2)


def resnet_bottleneck() -> tuple[Code, ...]:
  """ResNet bottleneck: 1x1, 3x3, 1x1, sum with the input."""
  return (
    Code(_CONV1, 0, 0), Code(_CONV3, 1, 0), Code(_CONV1, 2, 0),
    Code(_ADD, 0, 3),
  )  # fmt: skip


def resnext(branches: int) -> tuple[Code, ...]:
  """ResNeXt (arXiv 1611.05431) with its branches drawn apart.

  Each branch is 1x1, 3x3, 1x1; their sum is added to the input: 4 C codes.
  (The grouped form is the bottleneck with a grouped 3x3; codes have no groups,
  but with separable convolutions `resnet-bottleneck` is that form at its most
  grouped, one channel a group.)

  Args:
    branches: C, 2 or more.
  """
  if branches < 2:
    raise UserError(f"ResNeXt with {branches} branches; legal: 2 or more.")
  codes, ends = [], []
  for _ in range(branches):
    first = len(codes) + 1
    codes += [
      Code(_CONV1, 0, 0), Code(_CONV3, first, 0), Code(_CONV1, first + 1, 0)
    ]  # fmt: skip
    ends.append(first + 2)
  total = ends[0]
  for end in ends[1:]:
    codes.append(Code(_ADD, *sorted((total, end))))
    total = len(codes)
  codes.append(Code(_ADD, 0, total))
  return tuple(codes)


def densenet(layers: int = 3) -> tuple[Code, ...]:
  """DenseNet (arXiv 1608.06993): each 3x3 reads all that came before it."""
  codes, joined = [Code(_CONV3, 0, 0)], 0
  for _ in range(layers - 1):
    last = len(codes)
    codes.append(Code(_CONCAT, joined, last))
    joined = len(codes)
    codes.append(Code(_CONV3, joined, 0))
  codes.append(Code(_CONCAT, joined, len(codes)))
  return tuple(codes)


def mobilenet_v2() -> tuple[Code, ...]:
  """MobileNetV2 (arXiv 1801.04381): 1x1, 3x3, 1x1, sum with the input.

  Its wiring is the bottleneck's; widths, which differ, are not in the codes.
  """
  return resnet_bottleneck()


EXPERTS: dict[str, Callable[[], tuple[Code, ...]]] = {
  "resnet-basic": resnet_basic,
  "resnet-bottleneck": resnet_bottleneck,
  "resnext-grouped": resnet_bottleneck,
  "resnext-2": lambda: resnext(2),
  "resnext-3": lambda: resnext(3),
  "resnext-4": lambda: resnext(4),
  "resnext-5": lambda: resnext(5),
  "densenet": densenet,
  "mobilenet-v2": mobilenet_v2,
}


def expert(name: str) -> tuple[Code, ...]:
  """Returns the codes of an expert by name.

  Raises:
    UserError: for an unknown name.
  """
  if name not in EXPERTS:
    raise unknown("expert", name, EXPERTS)
  return EXPERTS[name]()


def presets(max_layers: int) -> list[tuple[str, str]]:
  """Experts of at most so many layers, `(name, text)`."""
  found = []
  for name, build in EXPERTS.items():
    if len(codes := build()) <= max_layers:
      found.append((name, "-".join(map(to_text, codes))))
  return found
