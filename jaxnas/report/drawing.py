"""One arch as a drawing: a chain of blocks from top to bottom, in SVG."""

import math
from html import escape

from jaxnas.costs import format_count, layer_rows
from jaxnas.spaces import Conv, Identity, MBConv, Op, Space

WIDTH, ROW, BLOCK, TOP = 470, 30, 22, 82
_LAYER = 68  # right edge of the layer numbers
_MIDDLE, _NARROW, _WIDE = 152, 92, 148  # centre and widths of blocks
_CHANNELS, _BAR, _BAR_WIDTH, _PARAMS = 298, 308, 62, WIDTH - 4
_KERNELS = {1: "faint", 3: "blue", 5: "orange"}
_SHADES = ((1, 0.14), (3, 0.32), (math.inf, 0.55))


def draw(space: Space, arch) -> str:
  """Draws one arch with the channels, resolution and cost of each block.

  A block's width grows with the square root of its output channels, its hue is
  the kernel and its shade the expansion ratio. A bow at its right is a residual
  connection. Layer numbers,
  and resolutions where they change, stand at the left.

  Args:
    space: the space, with the real number of classes.
    arch: choice indices `int32[L]`.

  Returns:
    An `<svg>` element; every searched block is a `<g class="block layer">`.
  """
  rows = layer_rows(space, arch)
  arch = space.validate(arch)[0]
  ops = [layer.choices[0] for layer in space.stem]
  ops += [layer.choices[c] for layer, c in zip(space.layers, arch, strict=True)]
  ops += [layer.choices[0] for layer in space.head]
  ops.append(None)  # the classifier
  height = TOP + ROW * len(rows) + 34
  widest = max(r["features"] for r in rows[:-1])
  most = max(r["macs"] for r in rows) or 1
  body = [_legend(ops), _headings()]
  size = None
  for i, (row, op) in enumerate(zip(rows, ops, strict=True)):
    y = TOP + ROW * i
    if row["in_size"] != size:
      size = row["in_size"]
      body.append(_resolution(y, size))
    body.append(_block(y, row, op, widest, most, last=op is None))
  y = TOP + ROW * len(rows)
  macs, params = (sum(r[k] for r in rows) for k in ("macs", "params"))
  body.append(
    f'<line class="rule" x1="0" x2="{WIDTH}" y1="{y + 4}" y2="{y + 4}"/>'
    + _text(_CHANNELS, y + 23, "total", "end", 12, bold=True)
    + _text(_BAR, y + 23, format_count(macs), "start", 12, bold=True)
    + _text(_PARAMS, y + 23, format_count(params), "end", 12, bold=True)
  )
  label = f"Architecture {escape(space.to_string(arch))}, block by block"
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img"'
    f' viewBox="0 0 {WIDTH} {height}" aria-label="{label}">'
    + "".join(body)
    + "</svg>"
  )


def _text(x, y, text, anchor, size=12, muted=False, bold=False) -> str:
  weight = ' font-weight="650"' if bold else ""
  colour = "muted" if muted else "ink"
  return (
    f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"'
    f' fill="var(--{colour})"{weight}>{escape(text)}</text>'
  )


def _colour(op: Op | None) -> tuple[str, float]:
  match op:
    case MBConv():
      shade = next(s for limit, s in _SHADES if op.expand <= limit)
      return _KERNELS.get(op.kernel, "green"), shade
    case Conv():
      return "faint", 0.22
  return "faint", 0.1


def _legend(ops: list[Op | None]) -> str:
  kernels = sorted({o.kernel for o in ops if isinstance(o, MBConv)})
  expands = sorted({o.expand for o in ops if isinstance(o, MBConv)})
  lines = (
    [(f"kernel {k}", _colour(MBConv(1, k))[0], 0.6) for k in kernels],
    [(f"expansion {e}", "muted", _colour(MBConv(e, 3))[1]) for e in expands],
  )
  text = []
  for y, line in zip((6, 28), lines, strict=True):
    for i, (label, colour, shade) in enumerate(line):
      x = 2 + 110 * i
      text.append(
        f'<rect x="{x}" y="{y}" width="14" height="14" rx="3"'
        f' fill="var(--{colour})" fill-opacity="{shade}"/>'
        + _text(x + 20, y + 11, label, "start", 11, muted=True)
      )
  return "".join(text)


def _headings() -> str:
  y = TOP - 14
  columns = (
    (0, "input", "start"), (_LAYER, "layer", "end"),
    (_MIDDLE, "block", "middle"),
    (_CHANNELS, "channels", "end"), (_BAR, "MACs", "start"),
    (_PARAMS, "params", "end"),
  )  # fmt: skip
  cells = [_text(x, y, text, a, 11, muted=True) for x, text, a in columns]
  rule = TOP - 6
  return "".join(cells) + (
    f'<line class="rule" x1="0" x2="{WIDTH}" y1="{rule}" y2="{rule}"/>'
  )


def _resolution(y: float, size: int) -> str:
  return _text(0, y + 16, f"{size}×{size}", "start", 11, muted=True)


def _block(y, row, op, widest, most, last) -> str:
  share = math.sqrt(min(row["features"], widest) / widest)
  width = _NARROW + (_WIDE - _NARROW) * share
  x, middle = _MIDDLE - width / 2, y + BLOCK / 2
  colour, shade = _colour(op)
  kept = (
    isinstance(op, Identity)
    and row["stride"] == 1
    and (row["in_channels"] == row["features"])
  )
  dash = ' stroke-dasharray="4 3"' if kept else ""
  name = "skip" if kept else row["op"]
  if row["stride"] > 1:
    name += " ÷2"
  parts = [
    f'<g class="block {row["part"]}"><title>{escape(_title(row))}</title>'
  ]
  if not last:
    below = y + BLOCK
    parts.append(
      f'<line class="chain" x1="{_MIDDLE}" x2="{_MIDDLE}" y1="{below}"'
      f' y2="{y + ROW}"/>'
    )
  residual = (
    isinstance(op, MBConv)
    and op.residual
    and row["stride"] == 1
    and row["in_channels"] == row["features"]
  )
  if residual:
    edge = x + width
    parts.append(
      f'<path class="residual" d="M {edge:.1f} {y + 4} C {edge + 11:.1f}'
      f" {y + 4}, {edge + 11:.1f} {y + BLOCK - 4}, {edge:.1f}"
      f' {y + BLOCK - 4}"/>'
    )
  if row["part"] == "layer":
    parts.append(
      _text(_LAYER, middle + 4, str(row["index"]), "end", 11, muted=True)
    )
  bar = _BAR_WIDTH * row["macs"] / most
  channels = f"{row['in_channels']}→{row['features']}"
  parts += [
    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BLOCK}" rx="5"'
    f' fill="var(--{colour})" fill-opacity="{shade}"'
    f' stroke="var(--{colour})"{dash}/>',
    _text(_MIDDLE, y + 15.5, name, "middle", 12),
    _text(_CHANNELS, middle + 4, channels, "end", 11, muted=True),
    f'<rect x="{_BAR}" y="{y + 4}" width="{bar:.2f}" height="{BLOCK - 8}"'
    f' rx="2" fill="var(--faint)" fill-opacity="0.45"/>',
    _text(_BAR + bar + 5, middle + 4, format_count(row["macs"]), "start", 11),
    _text(_PARAMS, middle + 4, format_count(row["params"]), "end", 11),
    "</g>",
  ]
  return "".join(parts)


def _title(row: dict) -> str:
  place = (
    row["part"]
    if row["part"] == "classifier"
    else (f"{row['part']} {row['index']}")
  )
  return (
    f"{place}: {row['op']}, {row['in_channels']} to {row['features']}"
    f" channels, {row['in_size']} to {row['out_size']} px,"
    f" {row['macs']:,} MACs, {row['params']:,} params"
  )
