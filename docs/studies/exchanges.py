"""Reads from an optimised program what its devices exchange."""

import dataclasses
import re

KINDS = (
  "all-reduce", "all-gather", "reduce-scatter", "collective-permute",
  "all-to-all",
)  # fmt: skip
SIZES = {
  "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
  "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
LINE = re.compile(
  r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$"
)
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)? .*\{\s*$")
CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
  r"%?([\w.\-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange of a program.

  Attributes:
    kind: one of `KINDS`.
    bytes: of the whole array: what enters a reduction, what leaves a gather.
    group: devices that take part together.
    times: how often it runs in a step (loops).
    scope: `op_name` of the metadata.
  """

  kind: str
  bytes: int
  group: int
  times: int
  scope: str

  @property
  def wire(self) -> float:
    """Bytes that a device sends each time, by the ring algorithm."""
    share = (self.group - 1) / self.group
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(
      self.kind, share
    ) * self.bytes

  @property
  def reason(self) -> str:
    """What it is for: `gradient`, `batch norm` or `other`."""
    # Where several were combined, their scopes are joined.
    if all("bn" in part for part in self.scope.split(":")):
      return "batch norm"
    return "gradient" if "transpose(" in self.scope else "other"


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  shape: str
  op: str
  rest: str

  @property
  def operands(self) -> list[str]:
    depth, end = 1, 0
    while end < len(self.rest) and depth:
      depth += {"(": 1, ")": -1}.get(self.rest[end], 0)
      end += 1
    return re.findall(r"%([\w.\-]+)", self.rest[:end])

  @property
  def called(self) -> list[str]:
    found = CALLED.findall(self.rest)
    for names in BRANCHES.findall(self.rest):
      found += [n.strip().lstrip("%") for n in names.split(",")]
    return found


def parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
  """Splits a program into computations; returns also the entry's name."""
  found: dict[str, list[_Instruction]] = {}
  entry, now = "", None
  for line in text.splitlines():
    if now is None or not line.startswith(" "):
      head = HEAD.match(line)
      now = found.setdefault(head[2], []) if head else None
      entry = head[2] if head and head[1] else entry
    elif m := LINE.match(line):
      now.append(_Instruction(*m.groups()))
  return found, entry


def bytes_of(shape: str) -> int:
  """Bytes of an array or of a tuple of arrays, `(f32[8], s32[])`."""
  total = 0
  for kind, sizes in ARRAY.findall(shape):
    count = SIZES.get(kind, 0)
    for size in filter(None, sizes.split(",")):
      count *= int(size)
    total += count
  return total


def collectives(text: str, devices: int) -> tuple[list[Collective], int]:
  """Reads all exchanges of an optimised program.

  Args:
    text: `compiled.as_text()`.
    devices: that it is compiled for.

  Returns:
    The exchanges, and the longest chain of them in which each waits for the one
    before: what is left of their number if all others are sent together.
  """
  program, entry = parse(text)
  found, chains = [], {}

  def kind_of(op: str) -> str | None:
    op = op.removesuffix("-start")
    return op if op in KINDS else None

  def size_of(i: _Instruction, kind: str, group: int) -> int:
    size = bytes_of(i.shape)
    if i.op.endswith("-start") and kind != "all-reduce":
      # The result lists the operands as well: the larger part is the array.
      sizes = [bytes_of(s) for s in re.findall(r"\w+\[[\d,]*\]", i.shape)]
      size = max(sizes)
    return size * group if kind == "reduce-scatter" else size

  def visit(name: str, times: int) -> None:
    for i in program.get(name, []):
      if kind := kind_of(i.op):
        group = devices
        if m := IOTA.search(i.rest):
          group = int(m[2])
        elif (m := GROUPS.search(i.rest)) and m[1]:
          group = len(m[1].split(","))
        scope = SCOPE.search(i.rest)
        size = size_of(i, kind, group)
        if group > 1:
          found.append(
            Collective(kind, size, group, times, scope[1] if scope else "")
          )
        continue  # its `to_apply` is the sum
      trips = TRIPS.search(i.rest) if i.op == "while" else None
      for callee in i.called:
        visit(callee, times * (int(trips[1]) if trips else 1))

  def chain(name: str) -> int:
    if name not in chains:
      chains[name], ends = 0, {}
      for i in program.get(name, []):
        own = 1 if kind_of(i.op) else 0
        if not own:
          trips = TRIPS.search(i.rest) if i.op == "while" else None
          inner = max((chain(c) for c in i.called), default=0)
          own = inner * (int(trips[1]) if trips else 1)
        before = max((ends.get(o, 0) for o in i.operands), default=0)
        ends[i.name] = before + own
      chains[name] = max(ends.values(), default=0)
    return chains[name]

  visit(entry, 1)
  return found, chain(entry)
