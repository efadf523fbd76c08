"""The YAML latency tables of ProxylessNAS and Once-for-All.

A mapping from keys to `{mean: ms}`, other fields ignored (authors:
`ProxylessNASLatencyTable` and `MBv3LatencyTable` of mit-han-lab/once-for-all).
A key is a type and `field:value` pairs joined by dashes:

    Conv-input:224x224x3-output:112x112x32
    expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:3-stride:2-\
idskip:0

It knows shapes instead of layers, so one table serves many spaces. Once-for-All
adds `se` and `hs` (h-swish; here it stands for `swish`, its nearest kin); keys
with one of them hold the channels in between as `expand`, not the ratio. Its
pooling has an entry of its own. `Rest`, a time added to every network, and
`Identity`, for one that does not keep the shape, are ours.
"""

import math

import yaml

from jaxnas.costs.blocks import Block, milliseconds, sum_up
from jaxnas.costs.table import CostTable
from jaxnas.errors import UserError
from jaxnas.spaces import Conv, Identity, ListedSpace, MBConv, Space

REST = "Rest"


def _size(size: int, channels: int) -> str:
  return f"{size}x{size}x{channels}"


def _fields(block: Block, ofa: bool) -> tuple[str, dict[str, str]]:
  """The type of a block and the fields of its key, in order."""
  op, s = block.op, block.shape
  ends = {
    "input": _size(s.in_size, s.in_channels),
    "output": _size(s.out_size, s.features),
  }
  match op:
    case None:
      return "Logits", {**ends, "output": str(s.features)}
    case Identity():
      return "Identity", ends
    case Conv():
      kind = "Conv_1" if op.kernel == 1 else "Conv"
      return kind, {**ends, "kernel": str(op.kernel), "stride": str(s.stride)}
    case MBConv():
      return "expanded_conv", {
        **ends,
        "expand": str(op.expand * (s.in_channels if ofa else 1)),
        "kernel": str(op.kernel),
        "stride": str(s.stride),
        "idskip": str(int(op.residual and s.keeps)),
        "se": str(int(op.se_ratio > 0)),
        "hs": str(int(op.act == "swish")),
      }
  raise TypeError(f"no latency key for {op!r}")


# TF names its stem Conv and its head Conv_1 and says no more of them.
_KERNELS = {"Conv": "3", "Conv_1": "1"}


def yaml_key(block: Block) -> str:
  """The key of a block with a shape: ProxylessNAS's, where that can say all."""
  kind, fields = _fields(block, ofa=False)
  if kind != "expanded_conv":
    if fields.get("kernel") == _KERNELS.get(kind):
      fields = {k: fields[k] for k in ("input", "output")}
  elif fields["se"] == fields["hs"] == "0":
    fields = {k: v for k, v in fields.items() if k not in ("se", "hs")}
  else:
    _, fields = _fields(block, ofa=True)
  return "-".join([kind, *(f"{k}:{v}" for k, v in fields.items())])


def _fits(own: dict[str, str], block: Block) -> bool:
  """Whether the fields of an entry of the right type describe the block."""
  kind, wanted = _fields(block, ofa="se" in own or "hs" in own)
  # What a key means that lacks the field. Stride and skip follow from the
  # shapes, and activations take next to no time of their own.
  implied = {f: wanted.get(f) for f in ("stride", "idskip", "hs")}
  meant = {**implied, "se": "0", "kernel": _KERNELS.get(kind), **own}
  return all(meant.get(f) == v for f, v in wanted.items()) and (
    own.keys() <= wanted.keys()
  )


def dump(entries: dict[str, float]) -> str:
  """The text of a table from milliseconds by key."""
  mapping = {key: {"mean": ms} for key, ms in entries.items()}
  return yaml.safe_dump(mapping, width=math.inf)


def cost_of_yaml(
  text: str, space: Space | ListedSpace, name: str, where: str
) -> CostTable:
  """Reads a cost from the text of a table.

  Args:
    text: the file's content.
    space: of the archs to be costed.
    name: of the cost.
    where: the file, for messages.

  Raises:
    UserError: as `latency.read_latency`, or if two entries fit one block.
  """
  if isinstance(space, ListedSpace):
    raise UserError(
      f"{where}: keys of a YAML table are shapes, which space {space.name!r}"
      " does not have; write the table as .csv, one row per layer and choice."
    )
  entries = _entries(text, where)
  index: dict[tuple, list[tuple[str, dict[str, str]]]] = {}
  for key in entries:
    kind, fields = _parse_key(key)
    place = (kind, fields.get("input"), fields.get("output"))
    index.setdefault(place, []).append((key, fields))

  def look_up(block: Block) -> float | None:
    kind, wanted = _fields(block, ofa=False)
    place = (kind, wanted["input"], wanted["output"])
    keys = [k for k, own in index.get(place, ()) if _fits(own, block)]
    if len(keys) > 1:
      raise UserError(
        f"{where}: {block} of space {space.name!r} could be {keys[0]} or"
        f" {keys[1]}; remove one of them."
      )
    if not keys and block.part == "classifier":
      return _pool_and_logits(entries, block)
    return entries[keys[0]] if keys else None

  return sum_up(
    space, name, where, look_up, entries.get(REST), yaml_key,
    list(entries),
  )  # fmt: skip


def _pool_and_logits(entries: dict[str, float], block: Block) -> float | None:
  """The classifier of Once-for-All, whose pooling has an entry of its own."""
  s = block.shape
  small = _size(1, s.in_channels)
  keys = (
    f"AvgPool2D-input:{_size(s.in_size, s.in_channels)}-output:{small}",
    f"Logits-input:{small}-output:{s.features}",
  )
  if any(key not in entries for key in keys):
    return None
  return sum(entries[key] for key in keys)


def _parse_key(key: str) -> tuple[str, dict[str, str]]:
  kind, *fields = key.split("-")
  pairs = (field.partition(":") for field in fields)
  return kind, {name: value for name, _, value in pairs}


def _entries(text: str, where: str) -> dict[str, float]:
  try:
    content = yaml.safe_load(text)
  except yaml.YAMLError as error:
    reason = " ".join(str(error).split())
    raise UserError(f"{where} cannot be read as YAML: {reason}.") from error
  if not isinstance(content, dict):
    raise UserError(
      f"{where} is no latency table; legal: a mapping from keys such as"
      " Conv-input:224x224x3-output:112x112x32 to {mean: ms}."
    )
  entries = {}
  for key, value in content.items():
    mean = value.get("mean") if isinstance(value, dict) else None
    entries[str(key)] = milliseconds(mean, f"{where}: {key}", key == REST)
  return entries
