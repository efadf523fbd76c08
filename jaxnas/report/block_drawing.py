"""One block as a graph from top to bottom, in SVG."""

import itertools
import re
from collections.abc import Mapping, Sequence
from html import escape

from jaxnas.report.block_layout import Key, Layout, layout
from jaxnas.spaces import BlockSpace, nsc
from jaxnas.spaces.blocks import Convs
from jaxnas.spaces.macro import Macro
from jaxnas.spaces.nsc import Code

BOX, HEIGHT, ROW = 94, 24, 52
LANE, GAP, MARGIN = 4, 12, 6  # width of a passing line, distances
OUTPUT = 116  # width of the output's box
_HUES = {1: ("faint", 0.22), 3: ("blue", 0.3), 5: ("orange", 0.32)}
# Of the light page, for pictures that stand alone.
_COLOURS = {
  "ink": "#1b1e23", "muted": "#5d646e", "faint": "#8a93a1",
  "blue": "#2b66c4", "orange": "#cb5a1c", "green": "#1f8a63",
  "card": "#ffffff",
}  # fmt: skip


def read_block(text: str) -> tuple[Code, ...]:
  """Reads a block's text, of any length, without knowing its space.

  Raises:
    UserError: if it is no block.
  """
  space = _space_for(text)
  return space.codes(space.from_string(text))


def canonical_block(text: str) -> tuple[Code, ...]:
  """As `read_block`, in the form in which trivially same blocks are equal."""
  space = _space_for(text)
  return space.codes(space.canonical(space.from_string(text))[0])


def _space_for(text: str) -> BlockSpace:
  return BlockSpace("of any size", 8, 1, 2, text.count("-") + 1, Macro())


def draw_block(
  codes: Sequence[Code],
  convs: Convs = "plain",
  width: float = 0,
  standalone: bool = False,
) -> str:
  """Draws a block: its input above, its layers, what leaves it below.

  A box is a layer, coloured by its operation, with its number at the left;
  lines run down from what a layer reads. Dashed lines lead from the leaves to
  the output, where they are concatenated.

  Args:
    codes: the layers, as of `BlockSpace.codes` or `read_block`.
    convs: what convolutions are, as in `BlockSpace`.
    width: least width of the picture in px; blocks drawn at one width have one
      scale.
    standalone: with colours and a font of its own, for an SVG file; else for a
      page that defines the colours.

  Returns:
    An `<svg>` element; every layer is a `<g class="block layer">`.
  """
  place = layout(codes, _size(len(codes) + 1), GAP)
  natural = _width(place, len(codes) + 1)
  shift = MARGIN + max(0.0, width - natural) / 2
  height = MARGIN * 2 + ROW * (len(place.rows) - 1) + HEIGHT
  body = _lines(place, codes, shift)
  body += [
    _box(key, row, place.x[key] + shift, codes, convs)
    for row, keys in enumerate(place.rows)
    for key in keys
    if isinstance(key, int)
  ]
  width = max(width, natural)
  label = f"Block {'-'.join(map(nsc.to_text, codes))}, layer by layer"
  svg = (
    '<svg xmlns="http://www.w3.org/2000/svg" class="block-graph" role="img"'
    f' viewBox="0 0 {width:.0f} {height:.0f}" aria-label="{escape(label)}"'
    f' style="max-width:{width:.0f}px">{"".join(body)}</svg>'
  )
  if not standalone:
    return svg
  svg = re.sub(r"var\(--(\w+)\)", lambda m: _COLOURS[m[1]], svg)
  size = f'width="{width:.0f}" height="{height:.0f}"'
  return svg.replace("<svg", f'<svg {size} font-family="sans-serif"', 1)


def draw_blocks(
  blocks: Mapping[str, Sequence[Code]], convs: Convs = "plain"
) -> dict[str, str]:
  """Draws several blocks at one scale: `<svg>` elements by name."""
  widths = [
    _width(layout(codes, _size(len(codes) + 1), GAP), len(codes) + 1)
    for codes in blocks.values()
  ]
  return {
    name: draw_block(codes, convs, max(widths))
    for name, codes in blocks.items()
  }


def name_of(code: Code, convs: Convs = "plain") -> str:
  """What a layer is called in a box: `conv 3×3`, `max 3×3`, `add`."""
  side = nsc.KERNELS[code.op]
  if code.op in nsc.CONVS:
    return f"{'sep' if convs == 'separable' else 'conv'} {side}×{side}"
  if code.op in nsc.POOLS:
    return f"{nsc.OPS[code.op][:3]} {side}×{side}"
  return nsc.OPS[code.op]


def _size(output: int):
  def size(key: Key) -> float:
    if isinstance(key, tuple):
      return LANE
    return OUTPUT if key == output else BOX

  return size


def _width(place: Layout, output: int) -> float:
  size = _size(output)
  return 2 * MARGIN + max(x + size(k) / 2 for k, x in place.x.items())


def _box(
  key: int, row: int, x: float, codes: Sequence[Code], convs: Convs
) -> str:
  y, end = MARGIN + ROW * row, len(codes) + 1
  width, number = (OUTPUT if key == end else BOX), ""
  fill, shade, stroke, extra = "card", 1.0, "muted", ""
  if key == 0:
    name, title, kind = "input", "the block's input", "block"
  elif key == end:
    kind, n = "block", len(nsc.leaves(tuple(codes)))
    name = "concat → output" if n > 1 else "output"
    title = f"the output: {n} leaf" if n == 1 else f"the output: {n} leaves"
  else:
    code, kind = codes[key - 1], "block layer"
    name = name_of(code, convs)
    read = " and ".join(
      f"layer {p}" if p else "the input" for p in nsc.reads(code)
    )
    title = f"layer {key}: {name}, reads {read}"
    fill, shade, stroke, extra = _look(code)
    number = _text(x - width / 2 + 6, y + 16, str(key), "start", 10, "muted")
  middle = x + (7 if number else 0)
  return (
    f'<g class="{kind}"><title>{escape(title)}</title>'
    f'<rect x="{x - width / 2:.1f}" y="{y}" width="{width}" height="{HEIGHT}"'
    f' rx="5" fill="var(--card)"/>'
    f'<rect x="{x - width / 2:.1f}" y="{y}" width="{width}" height="{HEIGHT}"'
    f' rx="5" fill="var(--{fill})" fill-opacity="{shade}"'
    f' stroke="var(--{stroke})"{extra}/>'
    f"{number}{_text(middle, y + 16, name, 'middle', 12, 'ink')}</g>"
  )


def _look(code: Code) -> tuple[str, float, str, str]:
  """Fill, its opacity, stroke and further attributes of a layer."""
  if code.op in nsc.CONVS:
    hue, shade = _HUES[nsc.KERNELS[code.op]]
    return hue, shade, hue, ""
  if code.op in nsc.POOLS:
    shade = 0.42 if nsc.OPS[code.op].startswith("max") else 0.16
    return "green", shade, "green", ""
  if code.op == nsc.IDENTITY:
    return "card", 1.0, "faint", ' stroke-dasharray="4 3"'
  return "card", 1.0, "ink", ""


def _text(x, y, text, anchor, size, colour) -> str:
  return (
    f'<text x="{x:.1f}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"'
    f' fill="var(--{colour})">{escape(text)}</text>'
  )


def _lines(place: Layout, codes: Sequence[Code], shift: float) -> list[str]:
  """Each stretch once, however many connections share it, and arrow heads."""
  row_of = {k: r for r, keys in enumerate(place.rows) for k in keys}
  ends, drawn = _ports(place, len(codes) + 1), {}
  for way in place.ways:
    last = way[-1] == len(codes) + 1
    for a, b in itertools.pairwise(way):
      start = place.x[a] + shift, MARGIN + ROW * row_of[a] + HEIGHT
      x = (ends[way] if b == way[-1] else place.x[b]) + shift
      drawn[a, b] = _line(start, (x, MARGIN + ROW * row_of[b]), b, last)
  return list(drawn.values())


def _ports(place: Layout, output: int) -> dict[tuple[Key, ...], float]:
  """Where connections end: side by side, ordered by where they come from."""
  found = {}
  for key in dict.fromkeys(way[-1] for way in place.ways):
    ways = [way for way in place.ways if way[-1] == key]
    ways.sort(key=lambda way: place.x[way[-2]])
    width = OUTPUT if key == output else BOX
    step = min(26.0, (width - 24) / max(1, len(ways) - 1))
    for i, way in enumerate(ways):
      found[way] = place.x[key] + step * (i - (len(ways) - 1) / 2)
  return found


def _line(start, end, key: Key, dashed: bool) -> str:
  (x0, y0), (x1, y1) = start, end
  arrow = isinstance(key, int)
  stop = y1 - 5 if arrow else y1
  bend = (stop - y0) * 0.55
  path = (
    f"M {x0:.1f} {y0:g} C {x0:.1f} {y0 + bend:.1f}, {x1:.1f}"
    f" {stop - bend:.1f}, {x1:.1f} {stop:g}"
  )
  if not arrow:
    path += f" V {y1 + HEIGHT:g}"  # past the boxes of a row, straight
  dash = ' stroke-dasharray="4 3"' if dashed else ""
  out = (
    f'<path class="edge" d="{path}" fill="none" stroke="var(--muted)"'
    f' stroke-width="1.4"{dash}/>'
  )
  if arrow:
    out += f'<path d="M {x1:.1f} {y1:g} l -3.5 -6 h 7 z" fill="var(--muted)"/>'
  return out
