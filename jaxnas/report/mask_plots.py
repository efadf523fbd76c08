"""The charts of a masked network's report; see `plots`."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxnas.report.plots import (
  BLUE,
  CARD,
  FAINT,
  INK,
  MUTED,
  ORANGE,
  PERCENT,
  STYLE,
  legend,
  new_axes,
  to_svg,
)

COLUMNS = 48  # of the heat map; more would be narrower than a pen stroke
# Upper ends of the shades, as shares of all groups: most groups share one cell,
# and those that are few are what there is to see.
SHADES = (
  (0.02, 0.12), (0.05, 0.28), (0.15, 0.48), (0.4, 0.72), (1.0, 1.0),
)  # fmt: skip


def _cells(cells: Sequence[tuple[float, float, float, float]]) -> Path:
  """Rectangles `(x, y, width, height)` as one path: a page stays small."""
  corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)])
  codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
  points = [np.array([x, y]) + corners * [w, h] for x, y, w, h in cells]
  return Path(np.concatenate(points), codes * len(points))


@matplotlib.rc_context(STYLE)
def rate_history(
  epochs: Sequence[float], counts: np.ndarray, rest: float | None
) -> str:
  """Heat map of drop rates over training.

  Args:
    epochs: when the rates were looked at, `[t]`, ascending.
    counts: groups in each interval of equal width of 0..1, `int[t, bins]`.
    rest: where a rate without weights ends, drawn as a line; None for none.
  """
  figure, axes = new_axes(290)
  rows = np.unique(np.linspace(0, len(epochs) - 1, COLUMNS).round().astype(int))
  epochs, counts = np.asarray(epochs, float)[rows], np.asarray(counts)[rows]
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  starts = np.r_[0.0, epochs[:-1]]  # a cell ends where it was looked at
  step, low = 1 / counts.shape[1], 0.0
  for high, alpha in SHADES:
    places = np.argwhere((shares > low) & (shares <= high))
    if len(places):
      cells = [(starts[t], b * step, epochs[t] - starts[t], step)
               for t, b in places]  # fmt: skip
      label = f"to {100 * high:g}%" if high < 1 else "more"
      axes.add_patch(
        PathPatch(_cells(cells), fc=BLUE, alpha=alpha, lw=0, label=label)
      )
    low = high
  if rest is not None:
    axes.axhline(rest, color=ORANGE, lw=1.5, ls=(0, (4, 3)))
  axes.set(xlim=(0, epochs[-1] or 1), ylim=(0, 1))
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.set_xlabel("epoch")
  axes.set_ylabel("drop rate")
  legend(figure, axes, 5)
  return to_svg(figure, "rate-history", "Drop rates of the groups by epoch")


@matplotlib.rc_context(STYLE)
def rate_bars(counts: Sequence[int], rest: float | None) -> str:
  """Histogram of the final drop rates, the numbers above the bars.

  Args:
    counts: groups in each interval of equal width of 0..1, an even number.
    rest: where a rate without weights ends, drawn as a line; None for none.
  """
  figure, axes = new_axes(290)
  step = 1 / len(counts)
  places = (np.arange(len(counts)) + 0.5) * step
  half = len(counts) // 2
  for part, colour, label in (
    (slice(None, half), BLUE, "threshold mask keeps"),
    (slice(half, None), FAINT, "threshold mask drops"),
  ):
    axes.bar(
      places[part], counts[part], width=0.84 * step, color=colour, label=label
    )
  for x, value in zip(places, counts, strict=True):
    if value:
      axes.annotate(
        f"{value:,}", (x, value), xytext=(0, 3), ha="center", size=10,
        textcoords="offset points",
      )  # fmt: skip
  if rest is not None:
    axes.axvline(rest, color=ORANGE, lw=1.5, ls=(0, (4, 3)))
  axes.set(xlim=(0, 1), ylim=(0, 1.1 * max([*counts, 1])))
  axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.grid(axis="x", visible=False)
  axes.set_xlabel("drop rate")
  axes.set_ylabel("groups")
  legend(figure, axes, 2)
  return to_svg(figure, "rate-bars", "Groups by final drop rate")


@matplotlib.rc_context(STYLE)
def selection(curve: Sequence[Mapping], mean: float) -> str:
  """Accuracy of the best of n against n: where it was chosen, and elsewhere.

  Args:
    curve: rows with `candidates`, `best` and `held_out`.
    mean: accuracy of the mean candidate.
  """
  figure, axes = new_axes(300)
  n = [row["candidates"] for row in curve]
  axes.axhline(mean, color=MUTED, lw=1.2, ls=(0, (4, 3)), label="mean mask")
  for key, colour, marker, label in (
    ("best", ORANGE, "s", "images that chose"),
    ("held_out", BLUE, "o", "images that did not"),
  ):
    values = [row[key] for row in curve]
    axes.plot(n, values, color=colour, marker=marker, ms=5, label=label)
  axes.set_xscale("log")
  axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
  axes.xaxis.set_minor_formatter(FuncFormatter(lambda v, _: ""))
  if len(n) > 1 and n[-1] < 100:
    axes.set_xticks(n, minor=False)
  axes.grid(axis="x", visible=False)
  axes.yaxis.set_major_formatter(PERCENT)
  axes.set_xlabel("candidates")
  axes.set_ylabel("accuracy of the best")
  legend(figure, axes, 3)
  label = "Accuracy of the best candidate by number of candidates"
  return to_svg(figure, "selection-curve", label)


@matplotlib.rc_context(STYLE)
def spread(
  accuracy: np.ndarray, winner: float, threshold: float, noise: float
) -> str:
  """Histogram of the candidates' accuracies beside their sampling noise.

  Args:
    accuracy: of each drawn mask, `float[n]`, finite.
    winner: accuracy of the winner, NaN for none.
    threshold: accuracy of the threshold mask, NaN for none.
    noise: standard error of one accuracy, NaN if unknown.
  """
  figure, axes = new_axes(300)
  shown = np.array([*accuracy, winner, threshold])
  shown = shown[np.isfinite(shown)]
  low, high = shown.min(), shown.max()
  margin = 0.06 * (high - low) or 0.005
  bins = int(np.clip(np.sqrt(len(accuracy)) * 1.5, 6, 30))
  counts, edges = np.histogram(accuracy, bins, (low - margin, high + margin))
  axes.bar(
    edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE,
    alpha=0.75, edgecolor=CARD, lw=1, label="drawn masks",
  )  # fmt: skip
  top = max(counts.max(), 1)
  mean = accuracy.mean()
  if np.isfinite(noise):
    y = 1.1 * top
    axes.plot(
      [mean - noise, mean + noise], [y, y], color=MUTED, lw=3,
      solid_capstyle="butt", label="± standard error of one",
    )  # fmt: skip
    axes.plot([mean], [y], "|", color=INK, ms=10, mew=2)
  for value, height, colour, marker, name in (
    (threshold, 0.2, INK, "D", "threshold mask"),
    (winner, 0.05, ORANGE, "*", "winner"),
  ):
    if np.isfinite(value):
      axes.plot(
        [value], [height * top], marker, color=colour, mec=CARD, clip_on=False,
        ms=17 if marker == "*" else 8, label=name, zorder=4,
      )  # fmt: skip
  axes.set_ylim(0, 1.22 * top)
  axes.xaxis.set_major_formatter(PERCENT)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.grid(axis="x", visible=False)
  axes.set_xlabel("supernet accuracy (validation)")
  axes.set_ylabel("candidates")
  legend(figure, axes, 2)
  return to_svg(figure, "spread", "Accuracies of the candidates")
