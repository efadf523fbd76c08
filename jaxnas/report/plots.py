"""The charts of the report: matplotlib figures as inline SVG strings.

Charts are drawn for 430 px so that they stay readable on a phone, with real
text in the page's own font. Colours are placeholders that become CSS variables,
so that one chart serves light and dark pages and print.
"""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from jaxnas.costs import format_count
from jaxnas.report.statements import Estimate, duration

INK, MUTED, GRID = "#010101", "#010102", "#010103"
BLUE, ORANGE, GREEN, FAINT, CARD = (
  "#010104", "#010105", "#010106", "#010107", "#010108",
)  # fmt: skip
_VARIABLES = {
  INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange",
  GREEN: "green", FAINT: "faint", CARD: "card",
}  # fmt: skip
WIDTH = 430
STYLE = {
  "svg.fonttype": "none",
  "svg.hashsalt": "jaxnas",
  "font.family": "DejaVu Sans",
  "font.size": 12,
  # Names come from files; a dollar sign in one is no formula.
  "text.parse_math": False,
  "axes.unicode_minus": True,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.edgecolor": GRID,
  "axes.labelcolor": MUTED,
  "axes.labelsize": 12,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": GRID,
  "grid.linewidth": 0.8,
  "text.color": INK,
  "xtick.color": GRID,
  "ytick.color": GRID,
  "xtick.labelcolor": MUTED,
  "ytick.labelcolor": MUTED,
  "xtick.labelsize": 11,
  "ytick.labelsize": 11,
  "legend.frameon": False,
  "legend.fontsize": 11,
  "legend.labelcolor": INK,
  "lines.linewidth": 2,
}
PERCENT = PercentFormatter(xmax=1)
COUNT = FuncFormatter(lambda v, _: format_count(v))


def new_axes(height: int) -> tuple[Figure, matplotlib.axes.Axes]:
  """An empty chart, `WIDTH` x `height` px."""
  # 72 dots per inch make a point of the figure a unit of the viewBox.
  figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
  figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.05)
  figure.patch.set_visible(False)
  axes = figure.add_subplot()
  axes.patch.set_visible(False)
  return figure, axes


def to_svg(figure: Figure, name: str, label: str) -> str:
  """Renders to an `<svg>` element with unique ids, for use inside HTML."""
  FigureCanvasSVG(figure)
  buffer = io.StringIO()
  empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  figure.savefig(buffer, format="svg", metadata=empty)
  text = buffer.getvalue()
  # The prolog and its DTD address have no place inside a page.
  text = text[text.index("<svg") :]
  text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
  for colour, variable in _VARIABLES.items():
    text = text.replace(colour, f"var(--{variable})")
  text = re.sub(r'\bid="', f'id="{name}-', text)
  text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
  text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
  text = re.sub(
    r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
    '<svg xmlns="http://www.w3.org/2000/svg"'
    ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    rf' viewBox="\1" role="img" aria-label="{label}">',
    text,
    count=1,
  )
  return text.strip()


def legend(figure: Figure, axes: matplotlib.axes.Axes, columns: int) -> None:
  """Puts a legend above the chart, if anything in it has a label."""
  if axes.get_legend_handles_labels()[1]:
    figure.legend(
      loc="outside upper left", ncols=columns, handlelength=1.4,
      columnspacing=1.4, borderpad=0.1, handletextpad=0.5,
    )  # fmt: skip


def _one_per_pixel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Indices of points that do not share a cell of a 320 x 220 grid."""
  cells = [
    np.round((v - v.min()) / (np.ptp(v) or 1) * n)
    for v, n in ((x, 320), (y, 220))
  ]
  return np.unique(np.stack(cells, -1), axis=0, return_index=True)[1]


@matplotlib.rc_context(STYLE)
def pareto(
  cloud: np.ndarray,
  front: np.ndarray,
  winner: Sequence[float] | None,
  limit: float | None,
  y_label: str = "supernet accuracy (validation)",
) -> str:
  """Accuracy against MACs: all archs, the front, the winner, the budget.

  Args:
    cloud: `float[n, 2]`, MACs and accuracy of every evaluated arch.
    front: `float[m, 2]`, the same for the final front.
    winner: MACs and accuracy of the winner.
    limit: largest allowed MACs.
    y_label: which accuracy.
  """
  figure, axes = new_axes(330)
  cloud, front = (np.asarray(a, float).reshape(-1, 2) for a in (cloud, front))
  cloud, front = (a[np.isfinite(a).all(1)] for a in (cloud, front))
  if len(cloud):
    kept = cloud[_one_per_pixel(*cloud.T)]
    axes.scatter(
      *kept.T, s=12, color=FAINT, alpha=0.45, lw=0, label="evaluated"
    )
  if len(front):
    front = front[np.lexsort((-front[:, 1], front[:, 0]))]
    best = np.maximum.accumulate(front[:, 1])
    first = np.r_[True, best[1:] > best[:-1]]
    axes.step(*front[first].T, where="post", color=BLUE, lw=1.3, alpha=0.6)
    axes.scatter(
      *front.T, s=30, color=BLUE, lw=1, edgecolor=CARD, label="front",
      zorder=3,
    )  # fmt: skip
  if limit is not None:
    axes.axvline(limit, color=ORANGE, lw=1.5, ls=(0, (4, 3)), label="budget")
  if winner is not None and np.isfinite(winner).all():
    axes.scatter(
      [winner[0]], [winner[1]], marker="*", s=280, color=ORANGE,
      edgecolor=CARD, lw=1, zorder=4, label="winner",
    )  # fmt: skip
  axes.xaxis.set_major_formatter(COUNT)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.yaxis.set_major_formatter(PERCENT)
  axes.set_xlabel("multiply-adds (MACs)")
  axes.set_ylabel(y_label)
  legend(figure, axes, 4)
  label = f"{y_label[0].upper()}{y_label[1:]} against multiply-adds"
  return to_svg(figure, "pareto", label)


@matplotlib.rc_context(STYLE)
def curves(
  name: str,
  lines: Mapping[str, np.ndarray],
  y_label: str,
  x_label: str = "epoch",
  share: bool = False,
  band: np.ndarray | None = None,
) -> str:
  """Draws up to three lines over one axis.

  Args:
    name: prefix of the ids, unique on the page.
    lines: `float[n, 2]` by legend text; the first is the main one.
    y_label: name of the value.
    x_label: name of the axis.
    share: whether values are shares, shown in percent.
    band: `float[n, 3]`: x, lowest and highest value.
  """
  figure, axes = new_axes(260)
  if band is not None:
    axes.fill_between(
      *band.T, color=BLUE, alpha=0.18, lw=0, label="lowest to highest"
    )
  styles = ((BLUE, 2, 3), (ORANGE, 1.2, 2), (GREEN, 1.6, 2))
  for (label, points), (colour, width, order) in zip(
    lines.items(), styles, strict=False
  ):
    # A handful of points reads as points; a line alone could be empty.
    marker = "o" if len(points) <= 12 else None
    axes.plot(
      *np.asarray(points, float).T, color=colour, lw=width, marker=marker,
      ms=4, label=label, zorder=order,
    )  # fmt: skip
  if share:
    axes.yaxis.set_major_formatter(PERCENT)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  if len(lines) > 1 or band is not None:
    legend(figure, axes, 3)
  return to_svg(figure, name, f"{y_label} by {x_label}")


@matplotlib.rc_context(STYLE)
def fairness(counts: Sequence[Sequence[int]]) -> str:
  """Heat map of updates: one row per layer, one column per choice.

  Args:
    counts: updates of each choice of each layer; rows may differ in length.
  """
  figure, axes = new_axes(70 + 22 * len(counts))
  low = min(min(row) for row in counts)
  spread = max(max(row) for row in counts) - low
  for y, row in enumerate(counts):
    for c, value in enumerate(row):
      shade = 0.1 + 0.6 * (value - low) / max(spread, 1)
      axes.add_patch(Rectangle((c, y), 1, 1, fc=BLUE, alpha=shade, lw=0))
      axes.add_patch(Rectangle((c, y), 1, 1, fill=False, ec=CARD, lw=1.5))
      axes.text(
        c + 0.5, y + 0.5, f"{value:,}", ha="center", va="center", size=11
      )
  columns = max(len(row) for row in counts)
  axes.set(xlim=(0, columns), ylim=(len(counts), 0))
  axes.set_xticks(np.arange(columns) + 0.5, range(columns))
  axes.set_yticks(np.arange(len(counts)) + 0.5, range(len(counts)))
  axes.tick_params(length=0)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  axes.set_xlabel("choice")
  axes.set_ylabel("layer")
  return to_svg(figure, "fairness", "Updates of each choice of each layer")


@matplotlib.rc_context(STYLE)
def agreement(
  x: Sequence[float],
  y: Sequence[float],
  name: str = "agreement",
  labels: tuple[str, str] = (
    "supernet accuracy (inherited weights)", "stand-alone accuracy",
  ),
) -> str:  # fmt: skip
  """One accuracy against another, one point per arch.

  Args:
    x: such as validation accuracy with inherited weights, `[n]`.
    y: such as validation accuracy after training from scratch, `[n]`.
    name: prefix of the ids, unique on the page.
    labels: of the axes.
  """
  figure, axes = new_axes(300)
  axes.scatter(
    x, y, s=42 if len(x) <= 100 else 14, color=BLUE, alpha=0.75, lw=1,
    edgecolor=CARD,
  )  # fmt: skip
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(PERCENT)
    axis.set_major_locator(MaxNLocator(6))
  axes.set_xlabel(labels[0])
  axes.set_ylabel(labels[1])
  return to_svg(figure, name, f"{labels[1]} against {labels[0]}")


@matplotlib.rc_context(STYLE)
def lookup(cloud: np.ndarray, answers: Sequence[Sequence[float]]) -> str:
  """Predicted accuracy against MACs, and the answer to each budget.

  Args:
    cloud: `float[n, 2]`, MACs and predicted accuracy of every arch.
    answers: MACs and predicted accuracy of the best arch of each budget.
  """
  figure, axes = new_axes(330)
  kept = cloud[_one_per_pixel(*cloud.T)]
  axes.scatter(*kept.T, s=6, color=FAINT, alpha=0.35, lw=0, label="predicted")
  order = cloud[np.lexsort((-cloud[:, 1], cloud[:, 0]))]
  best = np.maximum.accumulate(order[:, 1])
  first = np.r_[True, best[1:] > best[:-1]]
  axes.step(*order[first].T, where="post", color=BLUE, lw=1.6, label="best")
  if len(answers):
    axes.scatter(
      *np.array(answers, float).T, marker="*", s=200, color=ORANGE,
      edgecolor=CARD, lw=1, zorder=4, label="answers",
    )  # fmt: skip
  axes.xaxis.set_major_formatter(COUNT)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.yaxis.set_major_formatter(PERCENT)
  axes.set_xlabel("multiply-adds (MACs)")
  axes.set_ylabel("predicted supernet accuracy")
  legend(figure, axes, 3)
  return to_svg(figure, "lookup", "Predicted accuracy against multiply-adds")


@matplotlib.rc_context(STYLE)
def intervals(
  rows: Mapping[str, Estimate], x_label: str, name: str = "intervals"
) -> str:
  """Estimates with their intervals and a line at zero; the first stands out.

  Args:
    rows: estimates by name, drawn from top to bottom.
    x_label: name of the statistic.
    name: prefix of the ids, unique on the page.
  """
  figure, axes = new_axes(80 + 36 * len(rows))
  for y, estimate in enumerate(rows.values()):
    colour = BLUE if y == 0 else FAINT
    axes.plot(
      [estimate.low, estimate.high], [y, y], color=colour, lw=3,
      solid_capstyle="round",
    )  # fmt: skip
    axes.plot([estimate.value], [y], "o", ms=9, color=colour, mec=CARD)
  axes.axvline(0, color=MUTED, lw=1, ls=(0, (3, 3)), zorder=1)
  axes.set_yticks(range(len(rows)), rows)
  axes.set_ylim(len(rows) - 0.4, -0.6)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.spines["left"].set_visible(False)
  axes.grid(axis="y", visible=False)
  axes.set_xlabel(x_label)
  return to_svg(figure, name, f"{x_label} with intervals")


@matplotlib.rc_context(STYLE)
def seconds(stages: Mapping[str, float], compile_time: float | None) -> str:
  """Time of each stage as horizontal bars, compilation apart at the bottom.

  Args:
    stages: seconds by stage, drawn from top to bottom.
    compile_time: seconds spent compiling, None if unknown.
  """
  bars = list(stages.items())
  places = [float(i) for i in range(len(bars))]
  colours = [BLUE] * len(bars)
  if compile_time is not None:
    bars.append(("compile", compile_time))
    places.append(len(stages) + 0.35)
    colours.append(FAINT)
  figure, axes = new_axes(30 + 34 * len(bars))
  values = [value for _, value in bars]
  axes.barh(places, values, height=0.62, color=colours)
  if compile_time is not None and stages:
    axes.axhline(len(stages) - 0.32, color=GRID, lw=1)
  for y, value in zip(places, values, strict=True):
    axes.annotate(
      duration(value), (value, y), xytext=(6, 0), va="center",
      textcoords="offset points", size=11,
    )  # fmt: skip
  axes.set_yticks(places, [name for name, _ in bars])
  axes.set_xlim(0, 1.22 * max([*values, 1e-9]))
  axes.set_ylim(places[-1] + 0.5, -0.5)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.xaxis.set_visible(False)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  return to_svg(figure, "seconds", "Time of each stage")
