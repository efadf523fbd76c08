"""Tables and figures as text."""

LONGEST = 80  # characters of an arch that are shown in full


def table(rows: list[dict]) -> str:
  """Rows, which have the same keys, under their keys; right-aligned."""
  cells = [list(rows[0])] + [
    [_cell(*item) for item in row.items()] for row in rows
  ]
  widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
  return "\n".join(
    "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True))
    for row in cells
  )


def _cell(name: str, value: object) -> str:
  if value is None:
    return "-"
  if name == "arch":
    return shorten(value)
  return f"{value:.4f}" if isinstance(value, float) else f"{value}"


def shorten(arch: str) -> str:
  """An arch to look at: a mask has thousands of digits."""
  if len(arch) <= LONGEST:
    return arch
  return f"{arch[:16]}...{arch[-8:]} ({len(arch):,} characters, see --json)"


def interval(estimate: dict) -> str:
  """An estimate with its bounds."""
  return (
    f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
  )


def spread(value: dict, scale: float = 1.0) -> str:
  """Median, smallest and largest value, times `scale`."""
  median, low, high = (value[k] * scale for k in ("median", "min", "max"))
  return f"{median:.4g} [{low:.3g} .. {high:.3g}]"
