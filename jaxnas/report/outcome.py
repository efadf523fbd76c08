"""Sections on what was found: headline, choice, drawing.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from html import escape

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.costs import Budget, cost_tables
from jaxnas.costs.block_budget import BlockBudget, block_costs
from jaxnas.costs.mask_budget import MaskBudget
from jaxnas.costs.masks import mask_costs
from jaxnas.report import drawing, plots
from jaxnas.report import statements as say
from jaxnas.report.block_words import accuracy_name, evaluation
from jaxnas.report.load import Evaluated, Run, number
from jaxnas.report.markup import (
  arch_text,
  candidate_name,
  figure,
  paragraphs,
  shortened,
  table,
  warning,
)

FRONT_ROWS = 12


def _hint(value: float) -> str:
  """A short count that shows every digit on hover."""
  title = f"{say.exact(value)}"
  return f'<span title="{title}">{escape(say.count(value))}</span>'


def cost_limits(run: Run) -> dict[str, float]:
  """The bounds on MACs and params; latency tables are not in a workdir."""
  parts = (p.strip() for p in run.budget.split(","))
  known = [p for p in parts if p.lower().startswith(("macs", "params"))]
  if run.masks is not None:
    return dict(MaskBudget.parse(",".join(known), run.masks).limits)
  if run.blocks is not None:
    return dict(BlockBudget.parse(",".join(known), run.blocks).limits)
  if run.space is None:
    return {}
  costs = cost_tables(run.space)
  return dict(Budget.parse(",".join(known), costs, run.space).limits)


def _counted(run: Run) -> dict[str, int]:
  """MACs and params of the winner, counted anew from space.json."""
  if run.masks is not None:
    arch = run.masks.from_string(run.winner)[None]
    return {k: int(v[0]) for k, v in mask_costs(run.masks, arch).items()}
  if run.blocks is not None:
    costs = block_costs(run.blocks, run.blocks.from_string(run.winner)[None])
    return {k: int(costs[k][0]) for k in ("macs", "params")}
  if run.space is None:
    return {}
  arch = run.space.from_string(run.winner)[None]
  return {k: int(cost(arch)[0]) for k, cost in cost_tables(run.space).items()}


def _same(a: str, b: str) -> bool:
  """Whether two texts name one arch, `203` and `2-0-3` alike."""
  # A mask has one text only, and so has a block.
  if a == b or "x" in (a[:1], b[:1]) or "@" in a + b:
    return a == b
  return np.array_equal(arch_lib.from_string(a), arch_lib.from_string(b))


def headline(run: Run) -> str:
  """Title, facts, the winner and the stat tiles."""
  data = run.manifest.get("data", {})
  space = run.result.get("space") or run.config.space.name
  facts = [
    ("method", run.result.get("method") or run.config.method),
    ("space", space),
    ("data", data.get("source") or run.config.data.source),
    ("budget", run.budget or "none"),
    ("seed", str(run.result.get("seed", run.config.seed))),
  ]
  items = "".join(
    f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts
  )
  body = f'<dl class="facts">{items}</dl>'
  winner = run.winner
  if not winner:
    return body + warning(
      "This run has no result yet (no result.json): what follows is its state"
      " so far. Give the same command again and it goes on where it stopped."
    )
  space = run.space or run.masks or run.blocks
  presets = space.presets if space else ()
  same = [name for name, text in presets if _same(text, winner)]
  note = f" <small>the preset {escape(same[0])}</small>" if same else ""
  note = _drawn_as(run.result.get("candidate")) + note
  body += (
    '<p class="winner"><span>chosen architecture</span>'
    f"{arch_text(winner)}{note}</p>"
  )
  if winner != shortened(winner):
    what = (
      f"block, {winner.count('@')} layers"
      if "@" in winner
      else (f"mask, {len(winner):,} characters")
    )
    body += (
      f"<details><summary>the whole {what}"
      f'</summary><pre class="mask">{escape(winner)}</pre></details>'
    )
  return body + _tiles(run) + _checks(run)


def _drawn_as(candidate: int | None) -> str:
  """Which draw a mask is (HTML), empty where draws have no numbers."""
  if candidate is None:
    return ""
  return f" <small>{candidate_name(candidate)}</small>"


def _tiles(run: Run) -> str:
  metrics = run.result.get("metrics", {})
  n_test = run.manifest.get("data", {}).get("test")
  test = number(metrics.get("test_accuracy"))
  if not math.isfinite(test):
    test_note = "not read yet"
  elif n_test:
    low, high = say.wilson(test, n_test)
    test_note = (
      f"95% interval {say.percent(low)} to {say.percent(high)} (Wilson,"
      f" n = {n_test:,})"
    )
  else:
    test_note = "no interval: the number of test images is unknown"
  macs, params = (number(metrics.get(k)) for k in ("macs", "params"))
  limits = cost_limits(run)
  standalone = {
    "inherited": "trained on from inherited weights, validation split",
    "not retrained": "not trained: the winner keeps the supernet's weights",
  }.get(
    run.result.get("retrained_from"),
    "not trained yet"
    if (run.masked or run.stacked) and not run.result.get("retrained_from")
    else "trained from scratch, validation split",
  )
  inherited = "inherited weights, validation split"
  if run.masked:
    inherited += ", which chose it"
  elif run.stacked:
    inherited = _judged_by(run)
  elif run.brief:
    value = say.percent(_scored(run))
    inherited = f"none: the search had no supernet; early accuracy {value}"
  tiles = [
    ("test accuracy", say.percent(test), test_note, " main"),
    (
      "stand-alone accuracy", say.percent(metrics.get("standalone_accuracy")),
      standalone, "",
    ),
    (
      "supernet accuracy", say.percent(metrics.get("supernet_accuracy")),
      inherited, "",
    ),
    ("multiply-adds", say.count(macs), _cost_note(macs, "macs", limits), ""),
    (
      "parameters", say.count(params), _cost_note(params, "params", limits),
      "",
    ),
  ]  # fmt: skip
  return '<div class="tiles">' + "".join(
    f'<div class="tile{kind}"><span>{name}</span><strong>{escape(value)}'
    f"</strong><small>{escape(note)}</small></div>"
    for name, value, note, kind in tiles
  ) + "</div>"  # fmt: skip


def _scored(run: Run) -> float:
  """The winner's accuracy among those of all archs, NaN if it has none."""
  if not run.brief:
    return number(run.result.get("metrics", {}).get("supernet_accuracy"))
  found = [e.accuracy for e in run.archs if _same(e.arch, run.winner)]
  return found[-1] if found else math.nan


def _judged_by(run: Run) -> str:
  """What stands below the supernet accuracy of a block."""
  if run.config.blocks.block:
    return "none: the block was given, nothing was searched"
  if evaluation(run) != "interpreter":
    value = say.percent(run.searched.get("accuracy"))
    return f"none: the search had no supernet; {accuracy_name(run)} {value}"
  return "shared weights of the interpreter, on the images that chose it"


def _cost_note(value: float, name: str, limits: dict[str, float]) -> str:
  note = say.exact(value)
  if name in limits and math.isfinite(value):
    share = 100 * value / limits[name]
    note += f"; {share:.1f}% of the budget {say.count(limits[name])}"
  return note


def _checks(run: Run) -> str:
  """The statement on splits, and warnings where the files disagree."""
  text = ""
  reads, split = (run.result.get(k) for k in ("test_reads", "selected_from"))
  has_test = math.isfinite(
    number(run.result.get("metrics", {}).get("test_accuracy"))
  )
  if run.config.blocks.block and reads == 1:
    text += paragraphs(
      "The block was given, so nothing was selected; the test split was read"
      " once, at the end."
    )
  elif run.stacked and evaluation(run) == "table" and reads == 1:
    text += paragraphs(
      "Selection used the accuracies of a given table, whose images are not"
      " known here; the test split was read once, at the end."
    )
  elif split == "validation" and reads == 1:
    text += paragraphs(
      "Selection used the validation split only; the test split was read once,"
      " at the end."
    )
  elif split not in (None, "validation"):
    text += warning(
      f"Selection used the {split} split, not the validation split."
    )
  if reads is not None and reads > 1:
    text += warning(
      f"The test split was read {reads} times, so the test accuracy is no"
      " longer an unbiased estimate."
    )
  elif has_test and (reads is None or split is None):
    text += paragraphs(
      "By design selection uses the validation split only and test is read"
      " once, at the end; this result.json does not record the count."
    )
  metrics, limits = run.result.get("metrics", {}), cost_limits(run)
  for name, counted in _counted(run).items():
    stated, limit = number(metrics.get(name)), limits.get(name)
    if math.isfinite(stated) and stated != counted:
      text += warning(
        f"result.json states {stated:,.0f} {name}, but this arch adds up to"
        f" {counted:,} in space.json."
      )
    if limit is not None and counted > limit:
      text += warning(
        f"The chosen arch has {counted:,} {name}, above the budget"
        f" {say.count(limit)}."
      )
  return text


def chosen(run: Run) -> str:
  """The Pareto plot, what the numbers say of the choice, and the front."""
  if run.stacked or (not run.archs and not run.front):
    return ""  # blocks have sections of their own
  winner = run.winner
  metrics = run.result.get("metrics", {})
  point = [number(metrics.get("macs")), _scored(run) if winner else math.nan]
  points = [
    np.array([(e.macs, e.accuracy) for e in part], float).reshape(-1, 2)
    for part in (run.archs, run.front)
  ]
  limits = cost_limits(run)
  svg = plots.pareto(
    *points, point if winner else None, limits.get("macs"),
    f"{run.scored} (validation)",
  )  # fmt: skip
  caption = (
    f"{len(run.archs):,} evaluated archs and {len(run.front):,} on the front."
  )
  if run.masked:
    caption += (
      " The winner is the most accurate; the front shows what fewer MACs cost."
    )
  elif run.divided:
    caption += (
      f" {run.scored[0].upper()}{run.scored[1:]} chose which of each cluster"
      " were trained longer, not the winner."
    )
  else:
    objectives = ", ".join(
      f"{o.removeprefix('-')} {'↓' if o.startswith('-') else '↑'}"
      for o in run.config.search.objectives
    )
    caption += (
      f" Objectives of the search: {escape(objectives)}. The line joins those"
      " that are best in accuracy and MACs alone."
    )
  body = paragraphs(_standing(run, limits)) + '<div class="pair">'
  body += figure(svg, caption)
  return body + _front_table(run, winner, limits) + "</div>"


def _standing(run: Run, limits: dict[str, float]) -> str:
  winner = run.winner
  accuracy = _scored(run)
  if not winner or not run.archs or not math.isfinite(accuracy):
    return ""
  inside = {e.arch: e for e in run.archs if _keeps(e, limits)}
  unique = [e for e in inside.values() if math.isfinite(e.accuracy)]
  above = sum(e.accuracy > accuracy for e in unique)
  where = " that keep the budget" if limits else ""
  if len(unique) < len(inside):
    where += (
      " and were scored on all images"
      if where
      else (" that were scored on all images")
    )
  text = f"Of {len(unique):,} evaluated archs{where}, " + (
    f"{above:,} have a higher {run.scored} than the chosen one."
    if above
    else f"none has a higher {run.scored} than the chosen one."
  )
  equal = sum(e.accuracy == accuracy for e in unique) - 1
  if equal > 0 and not above:
    verb = "has" if equal == 1 else "have"
    among = "equals" if run.masked else "equals on the front"
    text += f" {equal:,} more {verb} the same"
    # In clusters the longer training decides, see there.
    if not run.divided:
      text += f"; among {among} the lowest validation loss decides"
    text += "."
  if run.front:
    on = any(_same(e.arch, winner) for e in run.front)
    text += (
      " It is on the final front." if on else " It is not on the final front."
    )
    if run.masked and equal > 0 and not on:
      text = text[:-1] + ": a mask as accurate has fewer MACs."
  return text


def _keeps(e: Evaluated, limits: dict[str, float]) -> bool:
  return all(getattr(e, name) <= limit for name, limit in limits.items())


def _front_table(run: Run, winner: str, limits: dict[str, float]) -> str:
  """The front, best accuracy first, archs over the budget after the others."""

  def chosen(e: Evaluated) -> bool:
    return bool(winner) and _same(e.arch, winner)

  def row(e: Evaluated) -> list[str]:
    star = ' <span class="star" title="chosen">★</span>' if chosen(e) else ""
    cells = [
      arch_text(e.arch) + _drawn_as(e.candidate) + star,
      escape(say.percent(e.accuracy)),
      _hint(e.macs),
      _hint(e.params),
    ]
    if _keeps(e, limits):
      return cells
    return [f'<span class="over">{cell}</span>' for cell in cells]

  if not run.front:
    return ""
  front = sorted(
    run.front,
    key=lambda e: (
      not _keeps(e, limits), -np.nan_to_num(e.accuracy, nan=-1), e.macs,
    ),
  )  # fmt: skip
  # The chosen arch stays in the table even if it is far down the front.
  shown = front[:FRONT_ROWS] + [e for e in front[FRONT_ROWS:] if chosen(e)]
  head = ("arch", run.scored.split()[0], "MACs", "params")
  body = table(head, (row(e) for e in shown))
  notes = []
  if not all(_keeps(e, limits) for e in shown):
    notes.append("Grey rows are over the budget.")
  if len(front) > len(shown):
    notes.append(f"{len(front) - len(shown):,} more on the front.")
  if notes:
    body += f'<p class="note">{" ".join(notes)}</p>'
  return f"<div>{body}</div>"


def architecture(run: Run) -> str:
  """The drawing of the chosen arch."""
  # Masks and blocks have sections of their own.
  if not run.winner or run.masked or run.stacked:
    return ""
  if run.space is None:
    return paragraphs(
      "No drawing: this work directory has no space.json of a chain of layers."
    )
  svg = drawing.draw(run.space, run.space.from_string(run.winner))
  return figure(
    svg,
    "Hue is the kernel and shade the expansion ratio; width grows with the"
    " output channels; a bow at the right is a residual connection, ÷2 a"
    " stride. Grey bars are multiply-adds.",
  )
