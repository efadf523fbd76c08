"""The charts of a comparison; names stand at what they name."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from jaxnas.costs import format_count
from jaxnas.report import plots
from jaxnas.report.plots import (
  BLUE,
  CARD,
  COUNT,
  FAINT,
  GREEN,
  INK,
  MUTED,
  ORANGE,
  PERCENT,
  STYLE,
)
from jaxnas.report.statements import duration

# Arms differ in shape or dashes as well as in colour, and bear their names.
COLOURS = (BLUE, ORANGE, GREEN, INK)
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
LETTER, LINE = 6.6, 14  # px of a label
# Where a label may stand: steps away from its point, the nearest first.
_AWAY = [
  (x, y, r)
  for r in (9, 20, 34, 50)
  for x, y in (
    (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1),
  )
]  # fmt: skip


def _style(i: int) -> tuple[str, str]:
  return COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]


def _box(x, y, width, away) -> np.ndarray:
  """Left, lower, right and upper side of a label beside a point."""
  dx, dy, r = away
  left = x + dx * r - width * (1 - dx) / 2
  low = y + dy * r - LINE / 2
  return np.array([left, low, left + width, low + LINE])


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
  size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  return float(np.prod(size)) if (size > 0).all() else 0.0


def _name_points(
  figure: Figure,
  axes: matplotlib.axes.Axes,
  points: Mapping[str, np.ndarray],
  lines: Sequence[Sequence[Sequence[float]]],
) -> None:
  """Writes names beside points, clear of each other, of points and of lines."""
  figure.draw_without_rendering()  # fixes where everything is
  places = {k: axes.transData.transform(p) for k, p in points.items()}
  taken = [np.array([*(p - 5), *(p + 5)]) for p in places.values()]
  for line in lines:
    low, high = axes.transData.transform(line)
    taken.append(np.array([*(low - 2), *(high + 2)]))
  inside = np.array(axes.bbox.extents)
  for i, (name, place) in enumerate(places.items()):
    width = LETTER * len(name)

    def badness(away, place=place, width=width):
      box = _box(*place, width, away)
      outside = width * LINE - _overlap(box, inside)
      return outside + away[2] + sum(_overlap(box, o) for o in taken)

    away = min(_AWAY, key=badness)
    taken.append(_box(*place, width, away))
    dx, dy, r = away
    axes.annotate(
      name, points[name], (dx * r, dy * r), textcoords="offset points",
      ha={1: "left", 0: "center", -1: "right"}[dx], va="center", size=11,
      arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.7, "shrinkA": 0}
      if r > 9 else None,
      color=_style(i)[0], zorder=6, annotation_clip=False,
    ).set_in_layout(False)  # fmt: skip


@matplotlib.rc_context(STYLE)
def tradeoff(arms: Sequence[Mapping]) -> str:
  """Test accuracy against multiply-adds: seeds small, means as crosses.

  Args:
    arms: of `comparison.json`, of training.
  """
  figure, axes = plots.new_axes(360)
  points, lines = {}, []
  for i, arm in enumerate(arms):
    colour, marker = _style(i)
    x, y = (arm[k] for k in ("macs", "test_accuracy"))
    seeds = [(run["macs"], run["test_accuracy"]) for run in arm["runs"]]
    axes.scatter(*np.array(seeds).T, s=9, color=colour, alpha=0.5, lw=0)
    here = x["value"], y["value"]
    if x["low"] is not None:
      ends = ((x["low"], here[1]), (x["high"], here[1]))
      lines += [ends, ((here[0], y["low"]), (here[0], y["high"]))]
      for line in lines[-2:]:
        axes.plot(*np.array(line).T, color=colour, lw=1.3)
    points[arm["name"]] = np.array(here)
    axes.scatter(
      *points[arm["name"]], s=55, marker=marker, color=colour, edgecolor=CARD,
      lw=1, zorder=5,
    )  # fmt: skip
  macs = [run["macs"] for arm in arms for run in arm["runs"]]
  if min(macs) > 0 and max(macs) > 8 * min(macs):
    # An interval may reach below zero, where there is no logarithm.
    axes.set_xscale("log")
    axes.set_xlim(min(macs) / 1.6, max(macs) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
  axes.xaxis.set_major_formatter(COUNT)
  axes.yaxis.set_major_formatter(PERCENT)
  axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
  axes.set_xlabel("multiply-adds (MACs)")
  axes.set_ylabel("test accuracy")
  _name_points(figure, axes, points, lines)
  return plots.to_svg(figure, "tradeoff", "Test accuracy against multiply-adds")


@matplotlib.rc_context(STYLE)
def stages(arms: Sequence[Mapping], unit: str) -> str:
  """What each stage of each arm cost, as stacked bars.

  Args:
    arms: of `comparison.json`, of training.
    unit: `images` or `seconds`.
  """
  figure, axes = plots.new_axes(60 + 30 * len(arms))
  write = format_count if unit == "images" else duration
  starts = np.zeros(len(arms))
  for stage, colour in (
    ("train", BLUE),
    ("search", ORANGE),
    ("retrain", FAINT),
  ):
    values = np.array([arm[unit][stage] for arm in arms], float)
    axes.barh(
      range(len(arms)), values, left=starts, height=0.62, color=colour,
      label=stage,
    )  # fmt: skip
    starts = starts + values
  for y, value in enumerate(starts):
    axes.annotate(
      write(value), (value, y), xytext=(6, 0), va="center",
      textcoords="offset points", size=11,
    )  # fmt: skip
  axes.set_yticks(range(len(arms)), [arm["name"] for arm in arms])
  axes.set_xlim(0, 1.25 * max(starts.max(), 1e-9))
  axes.set_ylim(len(arms) - 0.5, -0.5)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.xaxis.set_visible(False)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  plots.legend(figure, axes, 3)
  title = {"images": "Image evaluations", "seconds": "Seconds"}[unit]
  return plots.to_svg(figure, f"stages-{unit}", f"{title} of each stage")


@matplotlib.rc_context(STYLE)
def regrets(arms: Sequence[Mapping]) -> str:
  """Mean regret after each look-up, on a logarithmic axis.

  Args:
    arms: of `comparison.json`, of a table.
  """
  figure, axes = plots.new_axes(340)
  curves = [np.array(arm["curve"]["mean"], float) for arm in arms]
  above = [c[c > 0].min() for c in curves if (c > 0).any()]
  floor = min(above, default=1e-4) / 2  # 0 has no place on the axis
  x = np.arange(1, len(curves[0]) + 1)
  for i, curve in enumerate(curves):
    axes.plot(
      x, np.maximum(curve, floor), color=_style(i)[0], lw=1.6,
      ls=DASHES[(i // len(COLOURS)) % len(DASHES)], drawstyle="steps-post",
    )  # fmt: skip
  axes.set_yscale("log")
  axes.set_ylim(bottom=floor * 0.9)
  axes.set_xlim(1, max(2, len(x)))
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.yaxis.set_major_formatter(
    lambda y, _: f"{y:g}" if y > 1.01 * floor else ""
  )
  axes.yaxis.set_minor_formatter(lambda y, _: "")
  axes.set_xlabel("look-ups")
  axes.set_ylabel("mean regret")
  ends = [max(curve[-1], floor) for curve in curves]
  figure.draw_without_rendering()
  heights = axes.transData.transform([(1, end) for end in ends])[:, 1]
  order = np.argsort(heights, kind="stable")
  spread, last = heights.copy(), -np.inf
  for i in order:
    spread[i] = last = max(heights[i], last + LINE)
  for i, arm in enumerate(arms):
    axes.annotate(
      arm["name"], (len(x), ends[i]), (6, spread[i] - heights[i]),
      textcoords="offset points", va="center", size=11, color=_style(i)[0],
      annotation_clip=False,
    )  # fmt: skip
  return plots.to_svg(figure, "regrets", "Mean regret after each look-up")
