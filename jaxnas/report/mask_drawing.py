"""What a mask keeps as a drawing: a bar for each product or block, in SVG."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape

from jaxnas.costs import format_count

WIDTH, ROW, BAR_HEIGHT, TOP = 500, 20, 12, 74
MOST = 72  # rows that a reader still takes in
_NAME, _BAR, _BAR_WIDTH = 92, 172, 100
_KEPT, _RATE, _OPS, _MACS = 362, 397, 448, WIDTH - 2  # right edges
KERNELS = {1: "faint", 3: "blue", 5: "orange"}
_OTHER = "green"


@dataclasses.dataclass(frozen=True)
class Part:
  """Input channels of one kernel size in a row.

  Attributes:
    kernel: side of the kernel.
    channels: in the full network.
    kept: by the mask.
    used: by the compact network, which leaves out what nothing depends on.
    expected: kept by a mask drawn from the rates, on average.
    groups: drop rates.
    removed: groups of which the mask keeps no channel.
  """

  kernel: int
  channels: int
  kept: int
  used: int
  expected: float
  groups: int
  removed: int

  def __add__(self, other: "Part") -> "Part":
    fields = (f.name for f in dataclasses.fields(self))
    rest = {
      n: getattr(self, n) + getattr(other, n) for n in fields if n != "kernel"
    }
    return Part(self.kernel, **rest)


@dataclasses.dataclass(frozen=True)
class Row:
  """A product, or all products of a block.

  Attributes:
    name: of the node, or what the names of the block's nodes begin with.
    parts: one for each kernel size, smallest first.
    macs: multiply-adds of the compact network, NaN if unknown.
  """

  name: str
  parts: tuple[Part, ...]
  macs: float

  @property
  def total(self) -> Part:
    """All parts together."""
    first, *rest = self.parts
    return sum(rest, first)


def gather(rows: Sequence[Row], most: int = MOST) -> list[Row]:
  """Joins rows by what their dotted names begin with until few enough are left.

  Args:
    rows: one for each product, in network order.
    most: rows that are allowed, unless there are more first names.

  Returns:
    At most that many rows, in the same order.
  """
  depth = max(row.name.count(".") for row in rows) + 1
  while True:
    found: dict[str, list[Row]] = {}
    for row in rows:
      name = ".".join(row.name.split(".")[:depth])
      found.setdefault(name, []).append(row)
    if len(found) <= most or depth == 1:
      return [_join(name, some) for name, some in found.items()]
    depth -= 1


def _join(name: str, rows: list[Row]) -> Row:
  parts: dict[int, Part] = {}
  for part in (p for row in rows for p in row.parts):
    before = parts.get(part.kernel)
    parts[part.kernel] = part if before is None else before + part
  ordered = tuple(parts[k] for k in sorted(parts))
  return Row(name, ordered, sum(row.macs for row in rows))


def draw_kept(rows: Sequence[Row]) -> str:
  """Draws one line for each row: kept share, rate, removed groups, MACs.

  Args:
    rows: in network order.

  Returns:
    An `<svg>` element; every row is a `<g class="row">`.
  """
  costed = all(math.isfinite(row.macs) for row in rows)
  many = any(row.total.groups > 1 for row in rows)
  height = TOP + ROW * len(rows) + 6
  body = [_legend(rows), _headings(costed, many)]
  prefix = None
  for i, row in enumerate(rows):
    *before, last = row.name.rsplit(".", 1)
    before = before[0] if before else ""
    y = TOP + ROW * i
    if i and before != prefix:
      body.append(f'<line class="rule" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>')
    body.append(
      _row(y, row, before if before != prefix else "", last, costed, many)
    )
    prefix = before
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img"'
    f' viewBox="0 0 {WIDTH} {height}" aria-label="Channels that the winner'
    f' keeps, in network order">' + "".join(body) + "</svg>"
  )


def _text(x, y, text, anchor, size=11, colour="ink") -> str:
  return (
    f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"'
    f' fill="var(--{colour})">{escape(text)}</text>'
  )


def _clip(text: str, length: int) -> str:
  return text if len(text) <= length else f"…{text[1 - length :]}"


def _rect(x, y, width, colour, extra) -> str:
  return (
    f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{BAR_HEIGHT}"'
    f' fill="var(--{colour})" {extra}/>'
  )


_SOLID = 'fill-opacity="0.8"'
_UNUSED = 'fill-opacity="0.25"'
_TRACK = 'fill-opacity="0.55"'


def _legend(rows: Sequence[Row]) -> str:
  kernels = sorted({p.kernel for row in rows for p in row.parts})
  shown = {}
  for k in kernels:  # one swatch for each hue
    shown.setdefault(KERNELS.get(k, _OTHER), []).append(str(k))
  x, out = 2, []
  for hue, names in shown.items():
    label = f"kernel {', '.join(names)}"
    out.append(_rect(x, 4, 14, hue, _SOLID + ' rx="2"'))
    out.append(_text(x + 19, 14, label, "start", colour="muted"))
    x += 34 + round(6.4 * len(label))
  x = 2
  if any(row.total.used < row.total.kept for row in rows):
    label = "kept, but nothing depends on it"
    out.append(_rect(x, 24, 14, "blue", _UNUSED + ' rx="2"'))
    out.append(_text(x + 19, 34, label, "start", colour="muted"))
    x += 34 + round(6.4 * len(label))
  out.append(_tick(x + 7, 22, 16))
  out.append(
    _text(x + 19, 34, "expected from the rates", "start", colour="muted")
  )
  return "".join(out)


def _tick(x: float, y: float, height: float) -> str:
  return (
    f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{y:g}" y2="{y + height:g}"'
    ' stroke="var(--ink)" stroke-width="1.5"/>'
  )


def _headings(costed: bool, many: bool) -> str:
  columns = [
    (0, "input channels of", "start"), (_BAR, "kept share", "start"),
    (_KEPT, "kept", "end"), (_RATE, "rate", "end"),
  ]  # fmt: skip
  if many:
    columns.append((_OPS, "ops", "end"))
  if costed:
    columns.append((_MACS, "MACs", "end"))
  y = TOP - 12
  cells = [_text(x, y, text, a, colour="muted") for x, text, a in columns]
  return "".join(cells) + (
    f'<line class="rule" x1="0" x2="{WIDTH}" y1="{TOP - 5}" y2="{TOP - 5}"/>'
  )


def _row(y, row: Row, prefix, last, costed: bool, many: bool) -> str:
  total, base, top = row.total, y + 14, y + 4
  rate = 1 - total.expected / total.channels
  removed = total.removed == total.groups
  title = (
    f"{row.name}: keeps {total.kept:,} of {total.channels:,} input channels,"
    f" mean drop rate {rate:.3f}, {total.removed:,} of {total.groups:,}"
    " operations removed"
  )
  if total.used < total.kept:
    title += f"; the compact network reads {total.used:,}"
  parts = [
    f'<g class="row"><title>{escape(title)}</title>',
    _text(0, base, _clip(prefix, 13), "start", colour="muted")
    if prefix
    else "",
    _text(_NAME, base, _clip(last, 11), "start"),
    _rect(_BAR, top, _BAR_WIDTH, "grid", _TRACK),
  ]
  x = float(_BAR)
  for part in row.parts:
    hue = KERNELS.get(part.kernel, _OTHER)
    for size, look in ((part.used, _SOLID), (part.kept - part.used, _UNUSED)):
      width = _BAR_WIDTH * size / total.channels
      if width:
        parts.append(_rect(x, top, width, hue, look))
      x += width
  if removed:
    parts.append(_text(_BAR + 5, base, "removed", "start", 10, "muted"))
  elif not total.used:
    parts.append(_text(_BAR + 5, base, "superfluous", "start", 10))
  parts.append(
    _tick(_BAR + _BAR_WIDTH * total.expected / total.channels, y + 2, 16)
  )
  kept = f"{total.kept:,}/{total.channels:,}"
  if len(kept) > 13:  # wider than its column
    kept = f"{100 * total.kept / total.channels:.1f}%"
  parts.append(_text(_KEPT, base, kept, "end"))
  parts.append(_text(_RATE, base, f"{rate:.2f}", "end"))
  if many:
    ops = f"{total.groups - total.removed}/{total.groups}"
    parts.append(_text(_OPS, base, ops, "end"))
  if costed:
    parts.append(_text(_MACS, base, format_count(row.macs), "end"))
  return "".join(parts) + "</g>"
