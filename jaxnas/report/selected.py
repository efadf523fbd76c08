"""The section on choosing one of many masks: what it bought, how sure that is.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from collections import Counter

import numpy as np

from jaxnas.report import mask_plots
from jaxnas.report import statements as say
from jaxnas.report.load import Evaluated, Run, number
from jaxnas.report.markup import figure, grid, paragraphs, table


def selection(run: Run) -> str:
  """What choosing among candidates bought, and how sure that is."""
  drawn = [e for e in run.archs if (e.candidate or 0) >= 0]
  found = run.selection or {}
  if not run.masked or not (found or drawn):
    return ""
  accuracy = np.array([e.accuracy for e in drawn if math.isfinite(e.accuracy)])
  n_images = run.manifest.get("data", {}).get("validation")
  noise, body, figures = number(found.get("noise")), "", []
  if not math.isfinite(noise) and len(accuracy) and n_images:
    mean = accuracy.mean()
    noise = math.sqrt(mean * (1 - mean) / n_images)
  body += paragraphs(_draws(run))
  halved = any(math.isfinite(e.images) for e in drawn)
  if halved:
    body += _halving(run, n_images)
  elif curve := found.get("curve"):
    gain = say.Estimate.from_json(found.get("gain"))
    level = f"{100 * number(found['gain'].get('confidence', 0.95)):g}%"
    body += paragraphs(gain_claim(gain, curve[-1]["candidates"], level))
    flattered = curve[-1]["best"] - curve[-1]["held_out"]
    body += paragraphs(
      f"On the images that chose it the best reaches"
      f" {say.percent(curve[-1]['best'])}, on images that did not"
      f" {say.percent(curve[-1]['held_out'])}: choosing flatters the winner's"
      f" validation accuracy by {points(flattered)}."
    )
    svg = mask_plots.selection(curve, number(found.get("mean")))
    text = (
      "Expected accuracy of the best of so many candidates. Each tenth of the"
      " validation images judges what the other nine tenths chose."
    )
    figures.append(figure(svg, text))
  threshold = _threshold(run)
  if len(accuracy) > 1:
    body += paragraphs(_spread(accuracy, noise, n_images, halved))
    winner = number(run.result.get("metrics", {}).get("supernet_accuracy"))
    own = threshold.accuracy if threshold else math.nan
    svg = mask_plots.spread(accuracy, winner, own, noise)
    text = f"{len(accuracy):,} drawn masks, each on all validation images."
    figures.append(figure(svg, text))
  body += paragraphs(_threshold_claim(run, threshold, noise))
  body += grid(figures)
  if not halved and found.get("curve"):
    body += _curve_table(found["curve"])
  return body


def points(difference: float) -> str:
  """Writes a difference of shares as `0.52 points`, with a real minus sign."""
  return f"{100 * difference:.2f} points".replace("-", "−")


def gain_claim(gain: say.Estimate, n: int, level: str) -> str:
  """What may be said of a held-out gain.

  Args:
    gain: held-out accuracy of the best of n minus the mean candidate's.
    n: candidates.
    level: coverage of the interval, as text.
  """
  if not math.isfinite(gain.value):
    return "The gain of choosing is unknown, so nothing is claimed."
  low, high = (points(v) for v in (gain.low, gain.high))
  interval = f"{level} interval {low} to {high}"
  of = f"the best of {n:,} candidates"
  if not gain.excludes_zero:
    return (
      f"On images that did not choose it, {of} differs from the mean candidate"
      f" by {points(gain.value)} ({interval}). The interval includes 0, so"
      " nothing is claimed: any candidate may be as good."
    )
  size = points(abs(gain.value))
  if gain.low > 0:
    return (
      f"Selection was worth it: on images that did not choose it, {of} is"
      f" {size} better than the mean candidate ({interval})."
    )
  return (
    f"Selection did harm: on images that did not choose it, {of} is {size}"
    f" worse than the mean candidate ({interval})."
  )


def _draws(run: Run) -> str:
  """How many candidates there were, and why others were passed over."""
  drawn = run.config.masks.candidates
  scored = sum((e.candidate or 0) >= 0 for e in run.archs)
  if not run.searched or not scored:
    return ""
  over = int(run.searched.get("over_budget") or 0)
  text = f"Of {drawn:,} draws, {scored:,} were scored"
  passed = []
  if over:
    passed.append(f"{over:,} exceeded the budget")
  if repeats := drawn - scored - over:
    passed.append(f"{repeats:,} had been drawn before")
  return text + (f"; {' and '.join(passed)}." if passed else ".")


def _halving(run: Run, n_images: int | None) -> str:
  """What halving saved, and what it leaves unknown."""
  seen = Counter(int(e.images) for e in run.archs if math.isfinite(e.images))
  most = n_images or max(seen)
  spent = sum(images * n for images, n in seen.items())
  whole = most * sum(seen.values())
  body = paragraphs(
    f"Halving (masks.halving={run.config.masks.halving}) scored {spent:,}"
    f" images instead of {whole:,} ({say.percent(spent / whole)}):"
    f" {seen.get(most, 0):,} of {sum(seen.values()):,} candidates saw all"
    f" {most:,}. The gain of choosing is measured on candidates that all saw"
    " the same images, so here it is unknown and nothing is claimed; run with"
    " masks.halving=0 to measure it."
  )
  rows, alive = [], sum(seen.values())
  for images in sorted(seen):
    rows.append((f"{images:,}", f"{alive:,}", f"{seen[images]:,}"))
    alive -= seen[images]
  return body + table(("images", "candidates scored", "seen last here"), rows)


def _spread(
  accuracy: np.ndarray, noise: float, n_images: int | None, halved: bool
) -> str:
  std = float(accuracy.std(ddof=1))
  survivors = " that saw all images" if halved else ""
  text = (
    f"The {len(accuracy):,} drawn masks{survivors} have a mean accuracy of"
    f" {say.percent(accuracy.mean())} with a standard deviation of"
    f" {points(std)}, from {say.percent(accuracy.min())} to"
    f" {say.percent(accuracy.max())}."
  )
  if not math.isfinite(noise):
    return text
  which = "less" if std < noise else "more"
  on = f" on {n_images:,} images" if n_images else ""
  return text + (
    f" That is {which} than the standard error of one accuracy{on},"
    f" {points(noise)}"
    + (
      ": other images might well prefer another mask. (All masks see the same"
      " images, so differences between two are known better than either.)"
      if std < noise
      else "."
    )
  )


def _threshold(run: Run) -> Evaluated | None:
  """The threshold mask's result; an accuracy that halving left out is NaN."""
  for e in run.archs:
    if e.candidate == -1:
      return e
  value = (run.selection or {}).get("threshold")
  if not value:
    return None
  numbers = (number(value.get(k)) for k in ("accuracy", "macs", "params"))
  return Evaluated("", *numbers, candidate=-1)


def _threshold_claim(
  run: Run, threshold: Evaluated | None, noise: float
) -> str:
  if threshold is None:
    return ""
  lead = "The threshold mask, which drops a group if its rate exceeds 0.5,"
  sizes = f"{say.count(threshold.macs)} MACs"
  if not math.isfinite(threshold.accuracy):
    return (
      f"{lead} was dropped by halving"
      f" after {say.exact(threshold.images)} images ({sizes})."
    )
  text = f"{lead} scores {say.percent(threshold.accuracy)} at {sizes}"
  if run.result.get("candidate") == -1:
    return text + ", and is the winner: no draw did better."
  best = number(run.result.get("metrics", {}).get("supernet_accuracy"))
  if math.isfinite(best):
    below = best - threshold.accuracy
    text += (
      ", as the winner does"
      if not below
      else (f", {points(below)} below the winner")
    )
    if 0 < below < noise:
      text += " and within one standard error of it"
    if below < noise:
      text += "; it needs no selection"
  return text + "."


def _curve_table(curve: list[dict]) -> str:
  rows = (
    (
      f"{row['candidates']:,}", say.percent(row["best"]),
      say.percent(row["held_out"]),
    )
    for row in curve
  )  # fmt: skip
  head = ("candidates", "images that chose", "images that did not")
  return (
    "<details><summary>the curve as a table</summary>"
    f"{table(head, rows)}</details>"
  )
