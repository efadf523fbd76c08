"""The charts of a block search's report; see `plots`."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxnas.report.plots import (
  BLUE,
  CARD,
  FAINT,
  GREEN,
  INK,
  MUTED,
  ORANGE,
  PERCENT,
  STYLE,
  legend,
  new_axes,
  to_svg,
)
from jaxnas.report.statements import Estimate

BINS = 24  # of the histogram of F
# Colours and dashes of lambdas other than the chosen one, in turn.
_OTHERS = (
  (BLUE, (0, ())), (GREEN, (0, (5, 2))), (INK, (0, (1, 1.5))),
  (MUTED, (0, (5, 2, 1, 2))), (FAINT, (0, ())),
)  # fmt: skip


@matplotlib.rc_context(STYLE)
def mirror_values(
  random: Sequence[float], experts: Sequence[float], found: float
) -> str:
  """Histogram of F of random blocks, with lines at experts and the block found.

  Args:
    random: F of random blocks, `[n]`, one or more.
    experts: F of each expert.
    found: F of the block found, NaN for none.
  """
  figure, axes = new_axes(300)
  shown = np.array([*random, *experts, found], float)
  shown = shown[np.isfinite(shown)]
  margin = 0.04 * (np.ptp(shown) or 1)
  span = shown.min() - margin, shown.max() + margin
  counts, edges = np.histogram(random, BINS, span)
  axes.bar(
    edges[:-1], counts, width=np.diff(edges), align="edge", color=FAINT,
    alpha=0.6, edgecolor=CARD, lw=1, label="random blocks",
  )  # fmt: skip
  for i, value in enumerate(experts):
    axes.axvline(
      value, color=BLUE, lw=2, label=None if i else "expert", zorder=3
    )
  if np.isfinite(found):
    axes.axvline(
      found, color=ORANGE, lw=2, ls=(0, (4, 2)), label="found", zorder=4
    )
  axes.set_xlim(*span)
  axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
  axes.grid(axis="x", visible=False)
  axes.set_xlabel("F, mirror stimuli function")
  axes.set_ylabel("random blocks")
  legend(figure, axes, 3)
  label = "F of random blocks, of experts and of the block found"
  return to_svg(figure, "mirror", label)


@matplotlib.rc_context(STYLE)
def weights(names: Sequence[str], values: Sequence[float]) -> str:
  """Learned weights as bars to both sides of zero, from top to bottom.

  Args:
    names: of the features.
    values: their weights.
  """
  figure, axes = new_axes(60 + 19 * len(names))
  places = np.arange(len(names))
  values = np.asarray(values, float)
  colours = [BLUE if v >= 0 else ORANGE for v in values]
  axes.barh(places, values, height=0.68, color=colours)
  axes.axvline(0, color=MUTED, lw=1)
  axes.set_yticks(places, names)
  axes.set_ylim(len(names) - 0.4, -0.6)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.grid(axis="y", visible=False)
  axes.spines["left"].set_visible(False)
  axes.set_xlabel("weight")
  return to_svg(figure, "weights", "Learned weight of each feature")


@matplotlib.rc_context(STYLE)
def by_guidance(
  name: str,
  points: Mapping[float, Estimate],
  chosen: float,
  y_label: str,
  share: bool = False,
) -> str:
  """A value with its interval at each lambda; lambdas evenly spaced.

  Args:
    name: prefix of the ids, unique on the page.
    points: by lambda; bounds may be NaN, then there is no bar.
    chosen: the lambda of the run, which stands out.
    y_label: name of the value.
    share: whether values are shares, shown in percent.
  """
  figure, axes = new_axes(250)
  for x, guidance in enumerate(sorted(points)):
    estimate = points[guidance]
    colour = ORANGE if guidance == chosen else BLUE
    bounds = [estimate.low, estimate.high]
    axes.plot([x, x], bounds, "_-", color=colour, lw=2, ms=16, mew=2)
    axes.plot([x], [estimate.value], "o", ms=7, color=colour, mec=CARD)
  axes.set_xticks(range(len(points)), [f"{g:g}" for g in sorted(points)])
  axes.set_xlim(-0.5, len(points) - 0.5)
  axes.margins(y=0.15)
  if share:
    axes.yaxis.set_major_formatter(PERCENT)
  axes.yaxis.set_major_locator(MaxNLocator(6))
  axes.grid(axis="x", visible=False)
  axes.set_xlabel("λ")
  axes.set_ylabel(y_label)
  return to_svg(figure, name, f"{y_label} by lambda")


@matplotlib.rc_context(STYLE)
def rounds(
  lines: Mapping[float, Sequence[Sequence[float]]], chosen: float, y_label: str
) -> str:
  """One line by round for each lambda; the chosen one stands out.

  Args:
    lines: `float[n, 2]`, round and share, by lambda.
    chosen: the lambda of the run.
    y_label: name of the value.
  """
  figure, axes = new_axes(280)
  others = 0
  for guidance, points in sorted(lines.items()):
    if guidance == chosen:
      colour, dash, width, order = ORANGE, (0, ()), 2.4, 4
    else:
      (colour, dash), width, order = _OTHERS[others % len(_OTHERS)], 1.6, 3
      others += 1
    axes.plot(
      *np.asarray(points, float).T, color=colour, ls=dash, lw=width,
      zorder=order, marker="o" if len(points) <= 12 else None, ms=4,
      label=f"λ = {guidance:g}",
    )  # fmt: skip
  axes.yaxis.set_major_formatter(PERCENT)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  axes.set_xlabel("round")
  axes.set_ylabel(y_label)
  if len(lines) > 1:
    legend(figure, axes, 4)
  return to_svg(figure, "rounds", f"{y_label} by round")
