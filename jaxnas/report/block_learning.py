"""The section on what a search for blocks learned from experts.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from html import escape

import numpy as np

from jaxnas.report import block_plots, plots
from jaxnas.report import statements as say
from jaxnas.report.load import Run, number
from jaxnas.report.markup import figure, grid, paragraphs

NAMED = 3  # features that a sentence lists
SOLVERS = {
  "projection": "the projection method",
  "max-margin": "the max-margin programme with slack",
  "max-entropy": "maximum entropy over random blocks",
}


def expert(run: Run) -> str:
  """How the mirror stimuli function was learned, and how it ranks blocks."""
  irl = run.irl
  if not irl:
    return ""
  names = ", ".join(str(e.get("name")) for e in irl.get("experts") or ())
  solver = irl.get("solver")
  body = paragraphs(
    f"F, the mirror stimuli function, is linear in features of layers:"
    f" F = w · μ, with μ the feature counts of a block. Its weights w were"
    f" learned from {names or 'the experts'} by"
    f" {SOLVERS.get(solver, solver)}, from topology alone: no network was"
    " trained for it. That such a function is learned by inverse reinforcement"
    " learning is the paper's; features and solver are our reconstruction."
  )
  body += paragraphs(*_margin_statements(irl), _ranks(irl), _found(run))
  body += paragraphs(_heaviest(irl))
  figures = [_margins(irl), _histogram(run), _weights(irl)]
  return body + grid([f for f in figures if f])


def _rows(irl: dict, key: str) -> list[tuple[float, float]]:
  rows = [
    (number(r.get("iteration")), number(r.get(key)))
    for r in irl.get("rows") or ()
  ]
  return [r for r in rows if all(map(math.isfinite, r))]


def _margin_statements(irl: dict) -> list[str]:
  margins, said = _rows(irl, "margin"), []
  if not margins:
    return said
  n = len(margins)
  against = "the best policy so far"
  if irl.get("solver") == "max-entropy":
    against = "random blocks on average"
  text = (
    "Margin: by how much the experts' value w · μ exceeds that of"
    f" {against}, for a w of length 1."
  )
  if n == 1:
    said.append(f"{text} It is {say.decimal(margins[0][1])}.")
  else:
    said.append(
      f"{text} Over {n} iterations it went from {say.decimal(margins[0][1])} to"
      f" {say.decimal(margins[-1][1])}: a small margin means that policies have"
      " learned to write blocks with the experts' features."
    )
  below = sum(value <= 0 for _, value in margins)
  if below:
    said.append(
      f"In {below} of {n} iterations it is not above 0: there some policy does"
      " as well as the experts, and w does not single them out."
    )
  gaps = _rows(irl, "gap")
  if len(gaps) > 1:
    said.append(
      "Gap: the distance from the experts' feature counts to the nearest"
      " mixture of policies; it went from"
      f" {say.decimal(gaps[0][1])} to {say.decimal(gaps[-1][1])}."
    )
  return said


def _ranks(irl: dict) -> str:
  """The share of random blocks below the experts, with its interval."""
  values = irl.get("random_values") or ()
  share = number(irl.get("share_below"))
  if not len(values) or not math.isfinite(share):
    return ""
  low, high = say.wilson(share, len(values))
  many = len(irl.get("expert_values") or ()) > 1
  who = "every expert" if many else "the expert"
  return (
    f"Under the learned F, {say.percent(share)} of {len(values):,} random"
    f" blocks, not those it was learned from, lie below {who} (95% interval"
    f" {say.percent(low)} to {say.percent(high)}). This says that F tells the"
    " experts from random wiring, not that blocks with a high F are accurate."
  )


def _found(run: Run) -> str:
  mirror = number(run.searched.get("mirror"))
  values = np.array(run.irl.get("random_values") or (), float)
  if not math.isfinite(mirror) or not len(values):
    return ""
  return (
    f"The block found has F = {say.decimal(mirror)}, above"
    f" {say.percent(float((values < mirror).mean()))} of them. F is scaled so"
    " that random blocks and experts span 0 to 1."
  )


def _heaviest(irl: dict) -> str:
  rows = [(number(r["value"]), r["name"]) for r in irl.get("weights") or ()]
  up = sorted((r for r in rows if r[0] > 0), reverse=True)[:NAMED]
  down = sorted(r for r in rows if r[0] < 0)[:NAMED]
  parts = [
    f"{what} {', '.join(f'{name} ({say.decimal(v)})' for v, name in some)}"
    for what, some in (("most rewarded:", up), ("most punished:", down))
    if some
  ]
  if not parts:
    return ""
  text = "; ".join(parts)
  return (
    f"Layers of a kind that the experts use more than policies do raise F."
    f" {text[0].upper()}{text[1:]}."
  )


def _margins(irl: dict) -> str:
  lines = {key: _rows(irl, key) for key in ("margin", "gap")}
  lines = {key: points for key, points in lines.items() if points}
  if not lines:
    return ""
  which = " and gap" if "gap" in lines else ""
  svg = plots.curves("irl-margin", lines, f"margin{which}", "iteration")
  return figure(svg, f"Margin{which} at each iteration.")


def _histogram(run: Run) -> str:
  values = run.irl.get("random_values") or ()
  if not len(values):
    return ""
  mirror = number(run.searched.get("mirror"))
  svg = block_plots.mirror_values(
    values, run.irl.get("expert_values") or (), mirror
  )
  share = say.percent(run.irl.get("share_below"))
  text = (
    f"F of {len(values):,} random blocks. {share} of them lie below the lowest"
    " expert."
  )
  return figure(svg, escape(text))


def _weights(irl: dict) -> str:
  rows = irl.get("weights") or ()
  if not rows:
    return ""
  svg = block_plots.weights(
    [str(r["name"]) for r in rows], [number(r["value"]) for r in rows]
  )
  text = (
    "Learned weight of each feature of a layer; offset k is what lies k layers"
    " back."
    if irl.get("features") != "code"
    else "Learned weight of each number of a layer's code, scaled to 0 to 1."
  )
  return figure(svg, text)
