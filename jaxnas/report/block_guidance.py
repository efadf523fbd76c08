"""Sections on lambda and on latency: what guidance changed, what is faster.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape

from jaxnas.report import block_plots
from jaxnas.report import statements as say
from jaxnas.report.block_words import (
  accuracy_heading,
  accuracy_name,
  evaluation,
)
from jaxnas.report.load import Run, number
from jaxnas.report.markup import arch_text, figure, grid, paragraphs, table
from jaxnas.report.statements import Estimate

_BOUNDS = ("low", "high")
STAR = ' <span class="star" title="chosen">★</span>'


def guidance(run: Run) -> str:
  """Accuracy, F, distance and latency by lambda."""
  rows = sorted(run.guidance, key=lambda r: number(r["guidance"]))
  if not rows:
    return ""
  name = accuracy_name(run)
  if evaluation(run) == "table":
    # Of how many images the accuracies are, a table does not say.
    rows = [{k: v for k, v in r.items() if k not in _BOUNDS} for r in rows]
  body = paragraphs(
    "λ is the weight of F in the reward, accuracy + λ F; λ = 0 is BlockQNN."
  )
  if len(rows) == 1:
    body += paragraphs("One λ was searched with, so there is no comparison.")
    return body + _guidance_table(rows, run)
  body += _list(_accuracy_claims(rows, name)) + paragraphs(_means(rows))
  chosen = next((number(r["guidance"]) for r in rows if r.get("chosen")), None)
  chosen = math.nan if chosen is None else chosen
  figures = []
  points = {
    number(r["guidance"]): _estimate(r, "accuracy") for r in rows
    if math.isfinite(number(r.get("accuracy")))
  }  # fmt: skip
  if points:
    svg = block_plots.by_guidance(
      "by-accuracy", points, chosen, name, share=True
    )
    text = (
      f"{name[0].upper()}{name[1:]} of the block with the highest reward at"
      " each λ, and 95% Wilson intervals; orange is the λ of this run."
    )
    figures.append(figure(svg, escape(text)))
  figures += _latency_figures(run, chosen)
  for key, label, text in (
    ("mean_mirror", "mean F", "Mean F of all blocks evaluated with each λ."),
    (
      "mean_distance", "mean distance (layers)",
      "Mean distance of all blocks evaluated to the nearest expert.",
    ),
  ):  # fmt: skip
    points = {
      number(r["guidance"]): Estimate(number(r[key]), math.nan, math.nan)
      for r in rows if math.isfinite(number(r.get(key)))
    }  # fmt: skip
    if points:
      id_ = f"by-{key.replace('_', '-')}"
      svg = block_plots.by_guidance(id_, points, chosen, label)
      figures.append(figure(svg, text))
  return body + grid(figures) + _guidance_table(rows, run)


def _list(claims: Sequence[str]) -> str:
  items = "".join(f"<li>{escape(claim)}</li>" for claim in claims)
  return f"<ul>{items}</ul>" if items else ""


def _estimate(row: Mapping, key: str) -> Estimate:
  return Estimate(*(number(row.get(k)) for k in (key, *_BOUNDS)))


def apart(a: Estimate, b: Estimate) -> bool:
  """Whether two intervals do not overlap; unknown bounds do."""
  return a.low > b.high or a.high < b.low


def accuracy_claim(a: Estimate, b: Estimate, of_a: str, of_b: str) -> str:
  """What may be said of two accuracies, judged by their intervals.

  Args:
    a: an accuracy.
    b: another one.
    of_a: what `a` is of.
    of_b: what `b` is of.
  """
  first, second = (
    f"{say.percent(e.value)} ({say.percent(e.low)} to {say.percent(e.high)})"
    for e in (a, b)
  )
  lead = f"{of_a}: {first}; {of_b}: {second}."
  if not apart(a, b):
    return f"{lead} The intervals overlap: no difference was shown."
  better = of_a if a.value > b.value else of_b
  return f"{lead} The intervals do not overlap: {better} is more accurate."


def _accuracy_claims(rows: Sequence[dict], name: str) -> list[str]:
  """The chosen lambda against each other one."""
  chosen = [r for r in rows if r.get("chosen")]
  said = []
  if not all(math.isfinite(_estimate(r, "low").value) for r in rows):
    return [f"No intervals are known, so no difference in {name} is claimed."]
  for row in rows:
    if not chosen or row is chosen[0]:
      continue
    this, other = (f"λ = {number(r['guidance']):g}" for r in (chosen[0], row))
    if row.get("arch") == chosen[0].get("arch"):
      said.append(f"{this} and {other} found the same block.")
      continue
    said.append(
      accuracy_claim(
        _estimate(chosen[0], "accuracy"), _estimate(row, "accuracy"), this,
        other,
      )
    )  # fmt: skip
  if said:
    said.append(
      f"All of this is {name} on the validation images that chose these blocks"
      " from one search each: another seed may find other blocks."
    )
  return said


def _means(rows: Sequence[dict]) -> str:
  first, last = rows[0], rows[-1]
  parts = [
    f"mean {what} went from {say.decimal(first.get(key))} to"
    f" {say.decimal(last.get(key))}"
    for key, what in (
      ("mean_mirror", "F"), ("mean_distance", "distance to the nearest expert"),
    )
    if math.isfinite(number(first.get(key)) + number(last.get(key)))
  ]  # fmt: skip
  if not parts:
    return ""
  return (
    f"From λ = {number(first['guidance']):g} to {number(last['guidance']):g},"
    f" over all blocks evaluated, {' and the '.join(parts)}: where guidance"
    " pulled the search, described without an interval."
  )


def _guidance_table(rows: Sequence[dict], run: Run) -> str:
  head = (
    "λ", "best block", accuracy_heading(run), "95% interval", "F", "distance",
    "MACs", "evaluated", "mean F", "mean distance",
  )  # fmt: skip
  lines, name = [], accuracy_name(run)
  for r in rows:
    low, high = (say.percent(r.get(k)) for k in _BOUNDS)
    interval = f"{low} to {high}" if low != say.NONE else low
    lines.append((
      f"{number(r['guidance']):g}" + (STAR if r.get("chosen") else ""),
      arch_text(str(r.get("arch"))), say.percent(r.get("accuracy")),
      interval, say.decimal(r.get("mirror")),
      say.exact(r.get("distance")), say.count(r.get("macs")),
      say.exact(r.get("evaluated")), say.decimal(r.get("mean_mirror")),
      say.decimal(r.get("mean_distance")),
    ))  # fmt: skip
  note = (
    f"{name[0].upper()}{name[1:]}, F and distance are of the block with the"
    " highest reward; distance counts the layers to insert, remove or change to"
    " reach the nearest expert."
  )
  return table(head, lines) + f'<p class="note">{note}</p>'


# Latency ---------------------------------------------------------------------


def latency(run: Run) -> str:
  """The chosen block's latency beside random blocks of equal accuracy."""
  blocks = run.latency.get("blocks") or ()
  chosen = next((b for b in blocks if b.get("kind") == "chosen"), None)
  if chosen is None:
    return ""
  batches = [str(b) for b in run.latency.get("batches") or ()]
  others = [b for b in blocks if b.get("kind") == "random"]
  turns = run.latency.get("turns") or run.latency.get("calls")
  spread = f" of {turns} calls" if turns else ""
  body = paragraphs(
    f"Measured on {run.latency.get('device', 'the device at hand')}: the whole"
    f" network of each block, in turn with the others. Times are medians, their"
    f" spread is the quartiles{spread}; the reward does not hold latency, and"
    " another device may order them otherwise."
  )
  said = []
  for batch in batches:
    own, rest = _time(chosen, batch), [_time(b, batch) for b in others]
    rest = [time for time in rest if math.isfinite(time.value)]
    if rest and math.isfinite(own.value):
      size = "1 image" if batch == "1" else f"{batch} images"
      said.append(f"{size} a call: {speed_claim(own, rest)}")
  if not others:
    said.append("No random blocks were measured, so nothing is compared.")
  elif note := _equally_accurate(run, chosen, others):
    said.append(note)
  body += _list([*said, *_against_compared(blocks, chosen, batches)])
  return body + _latency_table(run, blocks, chosen, batches)


def _time(block: Mapping, batch: str) -> Estimate:
  """Milliseconds of a call; NaN where none were measured."""
  value = (block.get("times") or {}).get(batch) or {}
  return Estimate(*(number(value.get(k)) for k in ("ms", "low", "high")))


def ratio(a: Estimate, b: Estimate) -> Estimate:
  """A ratio of two times, with the bounds that their spreads allow."""
  return Estimate(a.value / b.value, a.low / b.high, a.high / b.low)


def speed_claim(own: Estimate, others: Sequence[Estimate]) -> str:
  """What may be said of the chosen block's time among random blocks'.

  Args:
    own: its time with its spread.
    others: those of the random blocks, one or more.
  """
  ratios = [ratio(own, other).value for other in others]
  n = len(others)
  faster = sum(own.high < other.low for other in others)
  slower = sum(own.low > other.high for other in others)
  lead = (
    f"the chosen block takes {_times(statistics.median(ratios))} the time of"
    " the random blocks (median of the ratios,"
    f" {_times(min(ratios))} to {_times(max(ratios))})."
  )
  if faster == n:
    each = f"each of the {n} random blocks" if n > 1 else "the random block"
    return f"{lead} It is faster than {each}: the spreads do not overlap."
  if slower == n:
    each = f"each of the {n} random blocks" if n > 1 else "the random block"
    return f"{lead} It is slower than {each}: the spreads do not overlap."
  if not faster and not slower:
    return f"{lead} All spreads overlap with its own: no difference was shown."
  parts = [
    f"{what} {k}"
    for k, what in ((faster, "faster than"), (slower, "slower than"))
    if k
  ]
  text = f"{lead} It is {' and '.join(parts)} of {n}"
  if left := n - faster - slower:
    verb = "overlap" if left > 1 else "overlaps"
    text += f"; the {'spreads' if left > 1 else 'spread'} of {left} {verb}"
  return f"{text}. It is not shown to be faster or slower than them in general."


def _times(value: float) -> str:
  return f"{value:.2f}×" if math.isfinite(value) else say.NONE


def _equally_accurate(run: Run, chosen: dict, others: Sequence[dict]) -> str:
  """Whether accuracies of the random blocks are close to the chosen one's."""
  n = run.manifest.get("data", {}).get("validation")
  own = number(chosen.get("accuracy"))
  values = [number(b.get("accuracy")) for b in others]
  if not n or not all(map(math.isfinite, (own, *values))):
    return ""
  error = math.sqrt(own * (1 - own) / n)
  far = sum(abs(v - own) > error for v in values)
  text = (
    f"The random blocks have {accuracy_name(run)} from"
    f" {say.percent(min(values))} to {say.percent(max(values))}; the chosen one"
    f" {say.percent(own)}, with a standard error of {100 * error:.2f} points."
  )
  if far:
    text += (
      f" {far} of {len(values)} lie further away than that, so they are not of"
      " equal accuracy."
    )
  return text


def _against_compared(
  blocks: Sequence[dict], chosen: dict, batches: Sequence[str]
) -> list[str]:
  said = []
  for block in blocks:
    if block.get("kind") != "compared":
      continue
    name = f"λ = {number(block.get('guidance')):g}"
    if block.get("arch") == chosen.get("arch"):
      continue
    parts = []
    for batch in batches:
      own, other = _time(chosen, batch), _time(block, batch)
      if not math.isfinite(own.value + other.value):
        continue
      verdict = "no difference was shown"
      if apart(own, other):
        verdict = "faster" if own.value < other.value else "slower"
      parts.append(f"{verdict} at batch {batch}")
    if parts:
      said.append(f"Beside the block found with {name}: {', '.join(parts)}.")
  return said


def _latency_figures(run: Run, chosen: float) -> list[str]:
  """Latency of the best block with each lambda, one chart for each batch."""
  blocks = run.latency.get("blocks") or ()
  figures = []
  for batch in map(str, run.latency.get("batches") or ()):
    points = {
      number(b["guidance"]): time for b in blocks
      if b.get("guidance") is not None
      and math.isfinite((time := _time(b, batch)).value)
    }  # fmt: skip
    if len(points) > 1:
      svg = block_plots.by_guidance(
        f"by-latency-{batch}", points, chosen, f"ms, batch {batch}"
      )
      text = (
        f"Latency of those blocks at batch {batch}, median and quartiles, on"
        f" {run.latency.get('device', 'the device at hand')}."
      )
      figures.append(figure(svg, escape(text)))
  return figures


def _latency_table(
  run: Run, blocks: Sequence[dict], chosen: dict, batches: Sequence[str]
) -> str:
  head = ["block", accuracy_heading(run), "MACs"]
  for batch in batches:
    head += [f"ms, batch {batch}", "chosen / this"]
  order = {"chosen": 0, "compared": 1, "random": 2}
  lines = []
  for b in sorted(blocks, key=lambda b: order.get(b.get("kind"), 3)):
    kind = str(b.get("kind"))
    if b.get("guidance") is not None:
      kind += f", λ = {number(b['guidance']):g}"
    star = STAR if b is chosen else ""
    cells = [
      f"{arch_text(str(b.get('arch')))}{star}<br>"
      f"<small>{escape(kind)}</small>",
      say.percent(b.get("accuracy")), say.count(b.get("macs")),
    ]  # fmt: skip
    for batch in batches:
      time = _time(b, batch)
      cells.append(_ms(time))
      cells.append("1" if b is chosen else _ratio(_time(chosen, batch), time))
    lines.append(cells)
  note = (
    "Brackets hold the quartiles, and for a ratio what they allow. A ratio"
    " below 1: the chosen block takes less time."
  )
  return table(head, lines) + f'<p class="note">{note}</p>'


def _ms(time: Estimate) -> str:
  if not math.isfinite(time.value):
    return say.NONE
  return f"{time.value:.3g} [{time.low:.3g}, {time.high:.3g}]"


def _ratio(own: Estimate, other: Estimate) -> str:
  if not math.isfinite(own.value + other.value):
    return say.NONE
  value = ratio(own, other)
  return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
