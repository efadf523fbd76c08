"""Sections on a masked network: learned drop rates, what the winner keeps.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from collections import Counter
from html import escape

import numpy as np

from jaxnas.config import MasksConfig
from jaxnas.costs.masks import mask_costs, mask_layer_rows
from jaxnas.report import mask_plots, plots
from jaxnas.report import statements as say
from jaxnas.report.load import Run, number
from jaxnas.report.markup import (
  candidate_name,
  figure,
  grid,
  paragraphs,
  table,
  warning,
)
from jaxnas.report.mask_drawing import Part, Row, draw_kept, gather

BINS = 20  # of a histogram of final rates
PILE = 0.1  # width of the band below the resting rate
NAMED = 8  # removed operations that a sentence lists
LISTED = 1000  # groups in the table of all


def resting_rate(masks: MasksConfig) -> float | None:
  """Where the loss leaves the drop rate of a group whose weights are zero.

  Nothing but the entropy is left there: 1/2, or 1/e with its printed form (the
  minimum of p log p), moved by the odds of the prior.

  Returns:
    The rate, or None where something else moves it (a target for the size) or
    nothing does.
  """
  if masks.rates == "fixed" or masks.target != "none":
    return None
  if not masks.entropy_weight:
    return None
  u = masks.prior_drop or 0.5  # odds 1 change nothing
  if masks.entropy == "full":
    return u
  return min(1.0, u / (1 - u) / math.e)


# Learned drop rates ----------------------------------------------------------


def rates(run: Run) -> str:
  """How the drop rates moved, where they ended, and what that means."""
  if not run.masked:
    return ""
  masks = run.config.masks
  if masks.rates == "fixed":
    return paragraphs(
      f"All drop rates were fixed at {masks.initial_rate:g}: the baseline of"
      " predefined dropout. Nothing was learned that tells one group from"
      " another."
    )
  history = _histories(run)
  final = np.array([g["rate"] for g in run.groups], float)
  if not history and not len(final):
    return ""
  rest = resting_rate(masks)
  body = paragraphs(*_rate_statements(run, final, rest))
  figures = []
  dashed = "" if rest is None else f" Dashed: {rest:.2g}, no weights left."
  if history:
    epochs, counts = zip(*sorted(history.items()), strict=True)
    svg = mask_plots.rate_history(epochs, np.array(counts), rest)
    text = "Drop rates over training; shades are shares of all groups." + dashed
    figures.append(figure(svg, escape(text)))
  if len(final):
    bars = np.histogram(final, BINS, (0, 1))[0].tolist()
    when = "Final drop rates"
  else:
    bars, when = counts[-1], f"Drop rates after epoch {epochs[-1]:g}"
  text = f"{when} of {sum(bars):,} groups." + dashed
  figures.append(figure(mask_plots.rate_bars(bars, rest), escape(text)))
  lines = {}
  if points := run.series("train", "epoch", "mean_rate"):
    lines["over groups"] = points
  if points := run.series("train", "epoch", "kept_channels"):
    lines["over channels"] = [(x, 1 - kept) for x, kept in points]
  if lines:
    svg = plots.curves("mean-rate", lines, "mean drop rate")
    text = f"Mean drop rate; every rate began at {masks.initial_rate:g}."
    figures.append(figure(svg, text))
  if points := run.series("train", "epoch", "regulariser"):
    svg = plots.curves("regulariser", {"regulariser": points}, "regulariser")
    text = "Weight term plus entropy term, nats per image."
    figures.append(figure(svg, text))
  return body + grid(figures)


def _histories(run: Run) -> dict[float, list[int]]:
  """Histograms of the rates by epoch; a resumed run repeats some of them."""
  return {
    float(row["epoch"]): row["rate_histogram"]
    for row in run.metrics
    if row.get("stage") == "train" and {"epoch", "rate_histogram"} <= set(row)
  }


def _rate_statements(
  run: Run, final: np.ndarray, rest: float | None
) -> list[str]:
  said = []
  if len(final):
    said += [_bands(final, rest), _piled_up(run, final, rest)]
    channels = np.array([g["channels"] for g in run.groups])
    differ = float((channels * 2 * final * (1 - final)).sum())
    share = differ / channels.sum()
    text = (
      f"Two masks drawn from these rates differ, on average, in {differ:,.1f}"
      f" of {channels.sum():,} channels ({say.percent(share)})."
    )
    if share < 0.01:
      text += " All candidates are almost one network."
    said.append(text)
  points = run.series("train", "epoch", "mean_rate")
  if len(points) > 1:
    late = next(p for p in points if p[0] >= 0.9 * points[-1][0])
    change = say.decimal(points[-1][1] - late[1])
    said.append(
      f"The mean rate over groups went from {run.config.masks.initial_rate:g}"
      f" to {say.decimal(points[-1][1])}; over the last tenth of training it"
      f" changed by {change}."
    )
  return said


def _bands(final: np.ndarray, rest: float | None) -> str:
  """How many groups lie where."""
  edges = [0.1, 0.5]
  if rest is not None and rest - PILE > 0.1:
    edges = [0.1, rest - PILE, rest]
  counts = [int((final < edges[0]).sum())]
  names = [f"below {edges[0]:g}"]
  for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
    last = i == len(edges) - 2
    below = final <= high if last else final < high
    counts.append(int(((final >= low) & below).sum()))
    names.append(f"from {low:.2g} to {high:.2g}")
  counts.append(int((final > edges[-1]).sum()))
  names.append(f"above {edges[-1]:.2g}")
  parts = [f"{n:,} {w}" for n, w in zip(counts, names, strict=True)]
  return (
    f"Final rates of the {len(final):,} groups: {', '.join(parts[:-1])} and"
    f" {parts[-1]}."
  )


def _piled_up(run: Run, final: np.ndarray, rest: float | None) -> str:
  """What a rate just under the resting rate means."""
  dropped = int((final > 0.5).sum())
  text = (
    f"The threshold mask drops the {dropped:,} above 0.5."
    if dropped
    else "None exceeds 0.5, so the threshold mask is the full network."
  )
  if rest is None:
    return text
  pile = (final >= rest - PILE) & (final <= rest)
  where = f"just under {rest:.2g}"
  if not pile.any():
    return (
      f"No group lies {where}, where the loss leaves one whose weights have"
      f" shrunk to zero. {text}"
    )
  channels = sum(
    g["channels"] for g, p in zip(run.groups, pile, strict=True) if p
  )
  coin = "a coin flip" if rest == 0.5 else "left to chance"
  return (
    f"The {pile.sum():,} groups {where} ({channels:,} channels) lie where the"
    " loss leaves a group whose weights have shrunk to zero: there only the"
    f" entropy is left, and its optimum is {rest:.2g}, not 1. Whether a"
    f" candidate keeps such a channel is {coin}, and should hardly matter."
    f" {text}"
  )


# What the winner keeps -------------------------------------------------------


def kept(run: Run) -> str:
  """The winner product by product, in network order."""
  if not run.winner or not run.groups or "kept" not in run.groups[0]:
    return ""
  rows = _products(run)
  shown = gather(rows)
  body = paragraphs(*_kept_statements(run, rows))
  if number(run.result.get("metrics", {}).get("macs")) == 0:
    body = (
      warning(
        "This mask cuts every way from the image to the classifier: the logits"
        " are constants, whatever the image."
      )
      + body
    )
  caption = (
    "In network order. The full width of a bar is all input channels of the"
    " product, the coloured part what the winner keeps."
  )
  if len(shown) < len(rows):
    caption = (
      f"{len(rows)} products, those whose names begin alike in one line. The"
      " full width of a bar is all their input channels, the coloured part"
      " what the winner keeps."
    )
  if any(row.total.groups > 1 for row in shown):
    caption += " Ops: operations that keep a channel, of all."
  pair = figure(draw_kept(shown), escape(caption))
  pair += f"<div>{_by_kernel(run)}{_all_groups(run)}</div>"
  return f'{body}<div class="pair">{pair}</div>'


def _products(run: Run) -> list[Row]:
  """One row for each gated product."""
  costs = {}
  if run.masks is not None:
    arch = run.masks.from_string(run.winner)
    costs = {r["node"]: r for r in mask_layer_rows(run.masks, arch)}
  parts: dict[str, Part] = {}
  for g in run.groups:
    part = Part(
      g["kernel"], g["channels"], g["kept"], g["kept"],
      g["channels"] * (1 - g["rate"]), 1, int(not g["kept"]),
    )  # fmt: skip
    name = g["node"]
    parts[name] = parts[name] + part if name in parts else part
  rows = []
  for name, part in parts.items():
    cost = costs.get(name, {})
    values = vars(part) | {"used": cost.get("in_kept", part.kept)}
    rows.append(Row(name, (Part(**values),), number(cost.get("macs"))))
  return rows


def _kept_statements(run: Run, rows: list[Row]) -> list[str]:
  groups, result = run.groups, run.result
  total, left = (sum(g[k] for g in groups) for k in ("channels", "kept"))
  gone = [g for g in groups if not g["kept"]]
  name = result.get("candidate")
  who = "The winner" + ("" if name is None else f", {candidate_name(name)},")
  text = (
    f"{who} keeps {left:,} of {total:,} gated input channels"
    f" ({say.percent(left / total)}) and {len(groups) - len(gone):,} of"
    f" {len(groups):,} operations"
  )
  if result.get("kept_weights") is not None:
    text += (
      f"; {say.percent(result['kept_weights'])} of the weights belong to a"
      " channel that is kept"
    )
  said = [text + "."]
  if gone:
    counts = Counter(g["node"] for g in groups)
    names = [
      g["node"] + (f" from {g['source']}" if counts[g["node"]] > 1 else "")
      for g in gone
    ]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    said.append(f"Removed: {', '.join(names[:NAMED])}{more}.")
  else:
    said.append("No operation is removed altogether.")
  if run.masks is not None:
    full = mask_costs(run.masks, np.ones((1, run.masks.n_layers), np.int32))
    parts = []
    for key, what in (("macs", "multiply-adds"), ("params", "parameters")):
      now, before = number(result["metrics"].get(key)), int(full[key][0])
      if math.isfinite(now):
        parts.append(
          f"{say.count(now)} of {say.count(before)} {what}"
          f" ({say.percent(now / before)})"
        )
    if parts:
      said.append(
        f"As a compact network it has {' and '.join(parts)} of the full one;"
        " its logits are the same as under the mask."
      )
    spare = left - sum(row.total.used for row in rows)
    if spare:
      said.append(
        f"{spare:,} channels are kept by the mask, but nothing depends on"
        " them: the compact network leaves them out too."
      )
  return said


def _by_kernel(run: Run) -> str:
  """Channels and rates by kernel size."""
  found: dict[int, list[dict]] = {}
  for g in run.groups:
    found.setdefault(g["kernel"], []).append(g)
  rows = []
  for kernel, groups in sorted(found.items()):
    total, left = (sum(g[k] for g in groups) for k in ("channels", "kept"))
    mean = sum(g["rate"] for g in groups) / len(groups)
    removed = sum(not g["kept"] for g in groups)
    rows.append(
      (
        f"{kernel}×{kernel}", f"{len(groups):,}", f"{removed:,}",
        f"{say.percent(left / total)}", say.decimal(mean),
      )
    )  # fmt: skip
  head = ("kernel", "groups", "removed", "channels kept", "mean rate")
  return table(head, rows)


def _all_groups(run: Run) -> str:
  rows = [
    (
      escape(g["node"]), escape(g["source"]),
      f"{g['kept']:,}/{g['channels']:,}", say.decimal(g["rate"]),
    )
    for g in run.groups[:LISTED]
  ]  # fmt: skip
  more = ""
  if len(run.groups) > LISTED:
    more = (
      f'<p class="note">{len(run.groups) - LISTED:,} more in posterior.json.'
      "</p>"
    )
  body = table(("product", "reads", "kept", "rate"), rows)
  return f"<details><summary>all groups</summary>{body}{more}</details>"
