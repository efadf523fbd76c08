"""Sections on how it was found: training, fairness, trust, search, time."""

import math
from html import escape

import numpy as np

from jaxnas.report import block_plots, plots
from jaxnas.report import statements as say
from jaxnas.report.block_words import accuracy_name, evaluation
from jaxnas.report.load import Run, number
from jaxnas.report.markup import figure, grid, paragraphs, warning


def training(run: Run) -> str:
  """Curves of the supernet and of the stand-alone network."""
  figures, body = [], ""
  loss = run.series("train", "epoch", "loss")
  if loss:
    label = "cross-entropy" if run.masked else "loss (mean per path)"
    if run.stacked:
      label = "loss (one random block a step)"
    svg = plots.curves("loss", {"loss": loss}, label)
    figures.append(figure(svg, "Supernet: training loss."))
  keys = ["validation_accuracy" + k for k in ("", "_min", "_max")]
  values = run.series("train", "epoch", *keys)
  plain = run.series("train", "epoch", keys[0])
  batch = run.series("train", "epoch", "accuracy")
  if plain:
    band = np.array(values)[:, [0, 2, 3]] if values else None
    lines = {"drawn masks" if run.masked else "validation, mean": plain}
    if batch:
      lines["training batch"] = batch
    threshold = run.series("train", "epoch", "threshold_accuracy")
    if threshold:
      lines["threshold mask"] = threshold
    svg = plots.curves(
      "validation", lines, "supernet accuracy", share=True, band=band
    )
    caption = (
      "Supernet: validation accuracy of a fixed set of"
      f" {run.config.train.evaluate_archs} uniform archs, mean and range."
    )
    if run.stacked:
      caption = (
        "Interpreter supernet (ours, not what BlockQNN did): accuracy with"
        f" shared weights of a fixed set of {run.config.train.evaluate_archs}"
        " random blocks on the validation split, mean and range."
      )
    if run.masked:
      caption = (
        "Supernet: validation accuracy of a few masks drawn from the rates of"
        " that moment, and of the mask that drops a group if its rate exceeds"
        " 0.5; training batches see relaxed masks, one for each image."
      )
    figures.append(figure(svg, caption))
    body += _chance(run, plain[-1][1])
  for key, name, text in (
    ("loss", "retrain-loss", "training loss"),
    ("validation_accuracy", "retrain-accuracy", "validation accuracy"),
  ):
    points = run.series("retrain", "epoch", key)
    if points:
      share = key != "loss"
      label = "stand-alone accuracy" if share else "loss"
      svg = plots.curves(name, {text: points}, label, share=share)
      figures.append(figure(svg, f"Stand-alone network: {text}."))
  return body + grid(figures)


def _chance(run: Run, accuracy: float) -> str:
  data = run.manifest.get("data", {})
  n, classes = data.get("validation"), data.get("n_classes")
  if not n or not classes or not math.isfinite(accuracy):
    return ""
  if say.wilson(accuracy, n)[0] > 1 / classes:
    return ""
  return warning(
    f"The supernet's last validation accuracy, {say.percent(accuracy)}, cannot"
    f" be told apart from chance ({say.percent(1 / classes)}): nothing selected"
    " with it deserves trust."
  )


def fairness(run: Run) -> str:
  """Updates per choice: a sentence if equal, else a heat map."""
  if not run.fairness or not run.fairness.get("counts"):
    return ""
  counts = run.fairness["counts"]
  sampler, steps = run.fairness.get("sampler"), run.fairness.get("steps")
  values = sorted({v for row in counts for v in row})
  lead = f"Sampler {sampler}, {number(steps):,.0f} steps. "
  if run.fairness.get("strictly_fair") and len(values) > 1:
    return warning(
      "fairness.json claims strict fairness, but its counts differ."
    ) + figure(plots.fairness(counts), escape(lead))
  if len(values) == 1:
    strict = (
      "Training was strictly fair: every"
      if run.fairness.get("strictly_fair")
      else "Every"
    )
    return paragraphs(
      f"{lead}{strict} choice of every layer had exactly {values[0]:,} updates."
    )
  text = (
    f"{lead}A choice had {values[0]:,} to {values[-1]:,} updates; counts are"
    " written in the cells."
  )
  return figure(plots.fairness(counts), escape(text))


def trust(run: Run) -> str:
  """Whether the supernet's ranking agrees with stand-alone training."""
  ranking = run.ranking
  if not ranking and run.masked:
    return (
      "<p>There is no ranking to trust: the winner keeps the supernet's"
      " weights, so its accuracy is measured on the very network that is"
      " exported, and no arch is trained from scratch to compare with. What is"
      " in question is whether choosing among candidates was worth it"
      + (': see <a href="#selection">Was selection worth it?</a></p>'
         if run.selection or run.archs else ".</p>")
    )  # fmt: skip
  if not ranking and run.stacked and evaluation(run) != "interpreter":
    return ""  # no supernet, and nothing that a ranking could be of
  if not ranking and run.brief and not run.divided:
    return paragraphs(
      "Unknown for this run: its candidates were compared by early accuracy"
      " only, and none but the winner was trained to the end."
    )
  if not ranking:
    return (
      "<p>Unknown for this run: it has no ranking.json, so no archs were"
      f" trained {'to the end' if run.brief else 'from scratch'} to compare"
      " with. Run it with <code>--set ranking.n_archs=24</code>, or compare"
      " with accuracies that you have: <code>python -m jaxnas rank CONFIG"
      " --workdir DIR --truth FILE</code>.</p>"
    )
  judge = "early stopping" if run.brief else "the supernet"
  warnings, claims = say.ranking_claims(ranking, judge, run.scored)
  figures = []
  archs = ranking.get("archs") or []
  early = any("early_accuracy" in a for a in archs)
  pairs = [
    tuple(number(a.get(k)) for a in archs)
    for k in (
      "early_accuracy" if early else "supernet_accuracy", "standalone_accuracy",
    )
  ]  # fmt: skip
  if archs:
    where = "inherited weights"
    if run.brief:
      where = f"after {run.config.divide.epochs} epochs"
    labels = (f"{run.scored} ({where})", "stand-alone accuracy")
    svg = plots.agreement(*pairs, labels=labels)
    caption = f"{len(archs)} archs, both accuracies on the validation split."
    figures.append(figure(svg, caption))
  rows = {
    judge.removeprefix("the "): say.Estimate.from_json(
      ranking.get("kendall_tau_b")
    )
  }
  for name, value in (ranking.get("baselines") or {}).items():
    label = {"macs": "MACs"}.get(name, name)
    rows[f"{label} alone"] = say.Estimate.from_json(value)
  level = f"{100 * number(ranking.get('confidence', 0.95)):g}%"
  svg = plots.intervals(rows, "Kendall τ-b with stand-alone accuracy")
  figures.append(figure(svg, f"Rank correlation with {level} intervals."))
  items = "".join(f"<li>{escape(c)}</li>" for c in claims)
  notes = "".join(warning(w) for w in warnings)
  return f"{notes}<ul>{items}</ul>{grid(figures)}"


def progress(run: Run) -> str:
  """Best accuracy and hypervolume by round of the search."""
  if run.stacked:
    return _by_guidance(run)
  figures = []
  for key, name, label, share in (
    ("best_accuracy", "best", f"best {run.scored}", True),
    ("hypervolume", "hypervolume", "hypervolume", False),
  ):
    points = run.series("search", "round", key)
    if len(points) == 1 and run.masked:
      continue  # halving has one round; there is no progress to show
    if points:
      svg = plots.curves(
        name, {label: points}, label, x_label="round", share=share
      )
      last = say.percent(points[-1][1]) if share else f"{points[-1][1]:.4g}"
      text = f"{label[0].upper()}{label[1:]}; after the last round {last}."
      figures.append(figure(svg, escape(text)))
  return grid(figures)


def _by_guidance(run: Run) -> str:
  """Best accuracy by round, a line for each lambda."""
  lines: dict[float, dict[float, float]] = {}
  for row in run.metrics:  # a resumed run repeats rounds; the last one counts
    if row.get("stage") == "search" and "round" in row:
      guidance, best = (number(row.get(k)) for k in _OF_ROUND)
      if math.isfinite(guidance) and math.isfinite(best):
        lines.setdefault(guidance, {})[number(row["round"])] = best
  if not lines:
    return ""
  name = f"best {accuracy_name(run)}"
  svg = block_plots.rounds(
    {g: sorted(points.items()) for g, points in lines.items()},
    run.config.blocks.guidance,
    name,
  )
  text = (
    f"The {name} so far. The search maximises accuracy + λ F, so a λ above 0"
    " may leave the most accurate block for one that is more like the experts."
  )
  return grid([figure(svg, escape(text))])


_OF_ROUND = ("guidance", "best_accuracy")


def cost(run: Run) -> str:
  """Seconds by stage, compilation apart."""
  seconds = {k: number(v) for k, v in (run.result.get("seconds") or {}).items()}
  seconds = {k: v for k, v in seconds.items() if math.isfinite(v)}
  if not seconds:
    return ""
  compiling = seconds.pop("compile", None)
  svg = plots.seconds(seconds, compiling)
  text = f"Stages: {say.duration(sum(seconds.values()))}."
  if compiling is not None:
    text += f" Compilation, shown apart: {say.duration(compiling)}."
  if run.manifest.get("device"):
    text += (
      f" Device: {run.manifest.get('n_devices', 1)} × {run.manifest['device']}."
    )
  return figure(svg, escape(text))
