"""The charts of a report on clusters; see `plots`."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from jaxnas.costs import format_count
from jaxnas.report.plots import (
  BLUE,
  CARD,
  FAINT,
  INK,
  ORANGE,
  PERCENT,
  STYLE,
  legend,
  new_axes,
  to_svg,
)

# One hue from light to full: readable on light and dark pages, in print and
# without colour vision. Steps, so that a shade can be found in the scale.
SHADES = (0.08, 0.25, 0.45, 0.75, 1.0)
_DARK = 0.6  # a number stands in the page's colour on shades above


def shade_of(values: np.ndarray) -> np.ndarray:
  """Step of each value in equal steps from the smallest to the largest.

  Args:
    values: `float[n]`, finite.

  Returns:
    `int[n]`, 0 to `len(SHADES) - 1`; the middle one if all are equal.
  """
  low, spread = values.min(), np.ptp(values)
  if not spread:
    return np.full(len(values), len(SHADES) // 2)
  steps = ((values - low) / spread * len(SHADES)).astype(int)
  return np.minimum(steps, len(SHADES) - 1)


@matplotlib.rc_context(STYLE)
def plane(
  places: np.ndarray,
  labels: Sequence[int],
  macs: np.ndarray,
  survives: Sequence[bool],
  winner: int | None,
  axis_labels: Sequence[str],
) -> str:
  """Archs as numbered dots; the number is the cluster, the shade the MACs.

  Args:
    places: `float[n, 2]`, principal components.
    labels: cluster of each.
    macs: multiply-adds of each, `float[n]`.
    survives: whether it gets a ring.
    winner: index of the one with a star, None for none.
    axis_labels: of the two components.
  """
  figure, axes = new_axes(410)
  steps = shade_of(macs)
  small = len(places) > 120
  # What stands out is drawn last, so that nothing hides it.
  order = sorted(range(len(places)), key=lambda i: (bool(survives[i]), -i))
  for rank, i in enumerate(order):
    x, y = places[i]
    alpha, z = SHADES[steps[i]], 3 + rank / len(order)
    style = {"ms": 9 if small else 14, "ls": "", "zorder": z}
    ring, width = (ORANGE, 2.6) if survives[i] else (BLUE, 0.8)
    axes.plot([x], [y], "o", color=CARD, mec=ring, mew=width, **style)
    axes.plot([x], [y], "o", color=BLUE, alpha=alpha, mew=0, **style)
    axes.text(
      x, y, f"{labels[i]}", size=7 if small else 9.5, ha="center",
      va="center_baseline", color=CARD if alpha > _DARK else INK, zorder=z,
    )  # fmt: skip
  if winner is not None:
    # Beside its dot, whose number stays readable.
    aside = ScaledTranslation(11 / 72, 11 / 72, figure.dpi_scale_trans)
    axes.plot(
      *places[winner], "*", ms=16, color=ORANGE, mec=CARD, zorder=5,
      transform=axes.transData + aside, clip_on=False,
    )  # fmt: skip
  axes.margins(0.09)
  for axis, label in zip((axes.xaxis, axes.yaxis), axis_labels, strict=True):
    axis.set_major_locator(MaxNLocator(6))
    axis.set_label_text(label)
  _scale(axes, macs)
  return to_svg(figure, "plane", "Archs by principal components of features")


def _scale(axes: matplotlib.axes.Axes, macs: np.ndarray) -> None:
  """What the shades mean, above the chart."""
  strip = axes.inset_axes((0.3, 1.09, 0.7, 0.035))
  low, high = macs.min(), macs.max()
  strip.set(xlim=(0, len(SHADES)), ylim=(0, 1))
  strip.axis("off")
  strip.text(
    -0.15, 0.5, "multiply-adds", ha="right", va="center", size=11, color=INK
  )
  same = low == high
  for i, alpha in enumerate(SHADES):
    if same and i != len(SHADES) // 2:
      continue
    strip.add_patch(Rectangle((i, 0), 1, 1, fc=BLUE, alpha=alpha, lw=0))
    strip.add_patch(Rectangle((i, 0), 1, 1, fill=False, ec=BLUE, lw=0.8))
  edges = [len(SHADES) / 2] if same else range(len(SHADES) + 1)
  for edge in edges:
    value = low if same else low + (high - low) * edge / len(SHADES)
    strip.text(
      edge, -0.45, format_count(float(value)), ha="center", va="top", size=9.5
    )


@matplotlib.rc_context(STYLE)
def silhouette(curve: Sequence[tuple[float, float]], chosen: float) -> str:
  """Mean silhouette by the number of clusters; the chosen one stands out.

  Args:
    curve: k and value, ascending.
    chosen: k.
  """
  figure, axes = new_axes(220)
  axes.plot(*np.asarray(curve, float).T, color=BLUE, marker="o", ms=4)
  own = [point for point in curve if point[0] == chosen]
  if own:
    axes.plot(*own[0], "o", ms=9, color=ORANGE, mec=CARD, label="chosen")
  axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
  axes.yaxis.set_major_locator(MaxNLocator(5))
  axes.margins(y=0.15)
  axes.set_xlabel("number of clusters k")
  axes.set_ylabel("mean silhouette")
  legend(figure, axes, 1)
  return to_svg(figure, "silhouette", "Mean silhouette by number of clusters")


@matplotlib.rc_context(STYLE)
def dumbbells(
  rows: Sequence[tuple[str, float, float, bool]], early: str, longer: str
) -> str:
  """Two accuracies of each survivor, joined; top to bottom.

  Args:
    rows: name, early accuracy, accuracy after the longer training, and whether
      it won; NaN is left out.
    early: what the first accuracy is called.
    longer: what the second one is called.
  """
  figure, axes = new_axes(92 + 24 * len(rows))
  for y, (_, first, last, won) in enumerate(rows):
    axes.plot([first, last], [y, y], color=FAINT, lw=2, zorder=2)
    label = {} if y else {"label": early}
    axes.plot([first], [y], "o", ms=8, mew=1.8, mfc=CARD, mec=BLUE, **label)
    label = {} if y else {"label": longer}
    axes.plot([last], [y], "o", ms=8, color=BLUE, mec=CARD, **label)
    if won:
      axes.plot(
        [last], [y], "*", ms=17, color=ORANGE, mec=CARD, zorder=4,
        label="winner",
      )  # fmt: skip
  axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
  axes.set_ylim(len(rows) - 0.4, -0.6)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.spines["left"].set_visible(False)
  axes.grid(axis="y", visible=False)
  axes.margins(x=0.06)
  axes.xaxis.set_major_formatter(PERCENT)
  axes.xaxis.set_major_locator(MaxNLocator(6))
  axes.set_xlabel("accuracy (validation)")
  legend(figure, axes, 3)
  return to_svg(figure, "dumbbells", f"{early} and {longer} of each survivor")


@matplotlib.rc_context(STYLE)
def bars(
  name: str, values: Mapping[str, float], texts: Sequence[str], label: str
) -> str:
  """Horizontal bars with what they mean written beside them.

  Args:
    name: prefix of the ids, unique on the page.
    values: lengths by name, drawn from top to bottom; NaN has no bar.
    texts: beside each bar.
    label: what the chart shows.
  """
  figure, axes = new_axes(30 + 34 * len(values))
  lengths = np.nan_to_num(np.array(list(values.values()), float))
  places = np.arange(len(lengths))
  axes.barh(places, lengths, height=0.62, color=BLUE)
  for y, value, text in zip(places, lengths, texts, strict=True):
    axes.annotate(
      text, (value, y), xytext=(6, 0), va="center",
      textcoords="offset points", size=11,
    )  # fmt: skip
  axes.set_yticks(places, list(values))
  axes.set_xlim(0, 1.4 * max([*lengths, 1e-9]))
  axes.set_ylim(len(lengths) - 0.5, -0.5)
  axes.tick_params(axis="y", length=0, labelcolor=INK)
  axes.xaxis.set_visible(False)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  return to_svg(figure, name, label)
