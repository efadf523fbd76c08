"""Sections on a search with a predictor: how well it fits, what it answers.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

from html import escape

import numpy as np

from jaxnas.costs import cost_tables
from jaxnas.report import plots
from jaxnas.report import statements as say
from jaxnas.report.load import Run, number
from jaxnas.report.markup import figure, grid, paragraphs, table

NAMES = {
  "gcn": "GCN", "ridge": "ridge", "mlp": "MLP", "default": "default",
  "raw": "raw supernet",
}  # fmt: skip
PARTS = {
  "held_out": "a fifth of the samples, not fitted to",
  "candidates": "the candidates, scored after the fit",
}


def predictors(run: Run) -> str:
  """Predicted against observed, and tau-b of each predictor."""
  if not run.predictors:
    return ""
  used = run.predictors.get("predictor", "default")
  level = f"{100 * number(run.predictors.get('confidence', 0.95)):g}%"
  body = paragraphs(
    "A fit to supernet accuracies can average out their random error, not what"
    f" they have wrong in common. The search used the predictor {used!r}; the"
    " others are fitted to the same accuracies."
  )
  figures = []
  for number_, segment in enumerate(run.predictors["segments"]):
    layers = f"layers {segment['start']} to {segment['stop'] - 1}"
    for part, what in PARTS.items():
      found = segment.get(part)
      if not found:
        continue
      # The first row stands out.
      order = sorted(found["predictors"], key=lambda name: name != used)
      rows = {
        NAMES.get(name, name): say.Estimate.from_json(
          found["predictors"][name]["kendall_tau_b"]
        )
        for name in order
      }
      name = f"fit-{number_}-{part}"
      svg = plots.intervals(
        rows, "Kendall τ-b with observed supernet accuracy", name
      )
      text = f"{layers}: {what} ({found['n']}). {level} bootstrap intervals."
      figures.append(figure(svg, escape(text)))
  last = run.predictors["segments"][-1]
  for part, what in PARTS.items():
    found = last.get(part)
    if found and used in found["predictors"]:
      svg = plots.agreement(
        found["predictors"][used]["predicted"], found["observed"],
        f"observed-{part}",
        ("predicted", "observed supernet accuracy"),
      )  # fmt: skip
      figures.append(figure(svg, escape(f"Last segment, {what}.")))
  return body + grid(figures) + _against_truth(run)


def _against_truth(run: Run) -> str:
  """Raw supernet and fits against stand-alone accuracies."""
  fits = (run.ranking or {}).get("fits")
  if not fits:
    return ""
  raw = say.Estimate.from_json(run.ranking.get("kendall_tau_b"))
  rows = [(NAMES["raw"], str(raw), "")]
  for name, value in fits.items():
    gain = say.Estimate.from_json(value.get("gain"))
    verdict = "nothing is claimed"
    if gain.excludes_zero:
      verdict = "better" if gain.low > 0 else "worse"
    rows.append(
      (
        NAMES.get(name, name), str(say.Estimate.from_json(value)),
        f"{gain}: {verdict}",
      )
    )  # fmt: skip
  n = run.ranking.get("n")
  head = ("", f"τ-b with stand-alone accuracy ({n} archs)", "minus raw")
  return table(head, ([escape(c) for c in row] for row in rows))


def looked_up(run: Run) -> str:
  """The look-up: every predicted arch, and the answers to budgets."""
  if run.lookup is None or run.space is None:
    return ""
  archs, predicted = run.lookup["archs"], run.lookup["predicted"]
  macs = np.asarray(cost_tables(run.space)["macs"](archs), float)
  answers = run.answers
  svg = plots.lookup(
    np.stack([macs, predicted], 1),
    [(number(a["macs"]), number(a["predicted"])) for a in answers],
  )
  text = (
    f"All {len(archs):,} archs of the last segment, as predicted from"
    f" {run.result.get('evaluated', 'the')} scored ones."
  )
  body = figure(svg, escape(text))
  if answers:
    head = ("budget", "arch", "predicted", "MACs", "params")
    body += table(
      head,
      (
        [
          escape(a["budget"]), f"<code>{escape(a['arch'])}</code>",
          escape(say.percent(a["predicted"])), escape(say.exact(a["macs"])),
          escape(say.exact(a["params"])),
        ]
        for a in answers
      ),
    )  # fmt: skip
  else:
    body += paragraphs(
      "No budget was looked up yet: python -m jaxnas search CONFIG --workdir"
      " DIR --budget BUDGET, as often as you like; nothing is scored again."
    )
  return body
