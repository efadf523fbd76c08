"""Sections on what dividing bought: winners, the claim on ranking, the cost.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from collections.abc import Mapping
from html import escape

from jaxnas.report import cluster_plots, plots
from jaxnas.report import statements as say
from jaxnas.report.block_guidance import accuracy_claim, apart
from jaxnas.report.clusters import archs_of, row_of, winner_of
from jaxnas.report.load import Run, number
from jaxnas.report.markup import figure, grid, paragraphs, shortened, table
from jaxnas.report.statements import Estimate

LONGER = "accuracy after the longer training"
ROWS = 30  # of the chart of survivors
LEVEL = 0.05  # of the test against random partitions


def _longer(run: Run, arch: str) -> float:
  """An arch's accuracy after the longer training, NaN if it had none."""
  if arch == run.searched.get("arch"):
    return number(run.searched.get("accuracy"))  # a vote may be of no cluster
  return number(row_of(run, arch).get("longer"))


def _images(run: Run) -> int:
  return run.manifest.get("data", {}).get("validation") or 0


# Conquer ---------------------------------------------------------------------


def conquered(run: Run) -> str:
  """What the longer training of the clusters' best bought."""
  rows = [a for a in archs_of(run) if math.isfinite(number(a.get("longer")))]
  winner = winner_of(run)
  if not rows or not winner:
    return ""
  said = [_origin(run, winner), _alike(run, winner, rows)]
  said += [_plain(run, winner), _other_merge(run, winner, rows)]
  if n := _images(run):
    text = f"Intervals are 95% Wilson intervals on {n:,} validation images"
    if not _voted(run, winner):
      text += "; the same images chose the winner, which flatters it"
    said.append(f"{text}.")
  rows.sort(key=lambda a: -number(a["longer"]))
  lines = [
    (f"cluster {a['cluster']}", number(a["early"]), number(a["longer"]),
     a["arch"] == winner) for a in rows[:ROWS]
  ]  # fmt: skip
  if winner not in [a["arch"] for a in rows]:
    lines.insert(0, ("vote", math.nan, _longer(run, winner), True))
  svg = cluster_plots.dumbbells(lines, run.scored, "after longer training")
  text = "Those that were trained longer, the best first."
  if len(rows) > ROWS:
    text = f"The best {ROWS} of {len(rows)} archs that were trained longer."
  items = "".join(f"<li>{escape(s)}</li>" for s in said if s)
  return f'<div class="pair"><ul>{items}</ul>{figure(svg, escape(text))}</div>'


def _voted(run: Run, winner: str) -> bool:
  """Whether a vote made the winner; one above the budget is not taken."""
  merge = run.clusters.get("merge") or {}
  return merge.get("mode") == "vote" and merge.get("vote") == winner


def _origin(run: Run, winner: str) -> str:
  row, name = row_of(run, winner), shortened(winner)
  early, all_early = number(row.get("early")), archs_of(run)
  after = f"{LONGER} is {say.percent(_longer(run, winner))}"
  text = f"The winner, {name}, comes from cluster {row.get('cluster')}."
  if _voted(run, winner):
    text = (
      f"The winner, {name}, is a vote: each layer takes the choice that most of"
      " the clusters' best made."
    )
    if row:
      text += f" It is also one of cluster {row['cluster']}."
  if math.isfinite(early):
    above = sum(number(a["early"]) > early for a in all_early)
    text += (
      f" It was number {above + 1:,} of {len(all_early):,} in {run.scored}"
      f" ({say.percent(early)})."
    )
  return f"{text} Its {after}."


def _alike(run: Run, winner: str, rows: list[dict]) -> str:
  """How many of the survivors the images cannot tell from the winner."""
  n, own = _images(run), _longer(run, winner)
  others = [number(a["longer"]) for a in rows if a["arch"] != winner]
  if not n or not others or not math.isfinite(own):
    return ""
  first = Estimate(own, *say.wilson(own, n))
  same = sum(not apart(first, Estimate(v, *say.wilson(v, n))) for v in others)
  return (
    f"The intervals of {same} of the other {len(others)} that were trained"
    " longer overlap with the winner's: no difference to those was shown."
  )


def _claim(run: Run, a: str, b: str, of_a: str, of_b: str) -> str:
  """What may be said of two archs after the longer training."""
  n, values = _images(run), [_longer(run, arch) for arch in (a, b)]
  if not all(math.isfinite(v) for v in values):
    return "It was not trained longer, so it is not compared."
  if not n:
    return (
      f"After the longer training, {of_a}: {say.percent(values[0])}; {of_b}:"
      f" {say.percent(values[1])}. No intervals are known, so no difference is"
      " claimed."
    )
  said = accuracy_claim(
    *(Estimate(v, *say.wilson(v, n)) for v in values), of_a, of_b
  )
  return f"After the longer training, {said}"


def _plain(run: Run, winner: str) -> str:
  """What plain early stopping would have chosen, and how that compares."""
  known = [a for a in archs_of(run) if math.isfinite(number(a["early"]))]
  if not known:
    return ""
  best = max(number(a["early"]) for a in known)
  equal = [a for a in known if number(a["early"]) == best]
  name = f"Plain early stopping (k = 1: the best {run.scored} of all)"
  plain = equal[0]  # of equals the first sampled, as inside a cluster
  if plain["arch"] == winner:
    return f"{name} would have chosen the same arch: no gain was shown."
  among = f", the first of {len(equal):,} equals" if len(equal) > 1 else ""
  return (
    f"{name} would have chosen {shortened(plain['arch'])} of cluster"
    f" {plain['cluster']} ({say.percent(best)}{among}). "
    + _claim(run, winner, plain["arch"], "the winner", "early stopping's arch")
  )


def _other_merge(run: Run, winner: str, rows: list[dict]) -> str:
  """The reading of merge that did not choose."""
  merge = run.clusters.get("merge") or {}
  if _voted(run, winner):
    best = max(rows, key=lambda a: number(a["longer"]))["arch"]
    name, how = best, "to compare the clusters' best and take the best"
    other = "the best of them"
  else:
    name, how = merge.get("vote"), "a vote of the clusters' best in each layer"
    other = "the vote"
  if not name:
    return ""
  lead = f"The other reading of merge, {how}, gives"
  if name == winner:
    return f"{lead} the same arch."
  return f"{lead} {shortened(name)}. " + _claim(
    run, winner, name, "the winner", other
  )


# The claim -------------------------------------------------------------------


def verdict(partition: Mapping) -> str:
  """Whether the ranking is better within clusters, by all that is known.

  Args:
    partition: of `ranking.json`.

  Returns:
    One sentence. It supports the claim only if the interval of the difference
    lies above zero and random parts of the same sizes do worse.
  """
  gain = Estimate.from_json(partition.get("difference"))
  p = number((partition.get("random") or {}).get("p"))
  n = number(partition.get("n"))
  random = f"p = {say.decimal(p)} against random parts of the same sizes"
  if gain.low > 0 and p < LEVEL:
    return (
      f"Supported by these {n:g} archs: the ranking is better within clusters;"
      f" the difference of Kendall τ-b, {gain}, lies above zero, and {random}."
    )
  why = []
  if gain.high < 0:
    why.append(f"within clusters the ranking is worse, by {gain}")
  elif not gain.low > 0:
    why.append(f"the interval of the difference, {gain}, does not exclude zero")
  if not math.isfinite(p):
    why.append("a comparison with random parts is missing")
  elif p >= LEVEL:
    why.append(f"{random} is not below {LEVEL:g}")
  return f"Not shown: {', and '.join(why)}."


def claim(run: Run) -> str:
  """Tau within clusters against tau over all pairs, and the baselines."""
  partition = (run.ranking or {}).get("partition")
  if not partition:
    return ""
  at = lambda value, *keys: (
    at((value or {}).get(keys[0]), *keys[1:]) if keys else value
  )
  part = lambda *keys: Estimate.from_json(at(partition, *keys))
  level = f"{100 * number(partition.get('confidence', 0.95)):g}%"
  said = [verdict(partition), _pairs(partition, run)]
  within, near = part("within"), part("macs", "within")
  beyond = part("macs", "beyond")
  if math.isfinite(beyond.value):
    better = "better" if beyond.value > 0 else "worse"
    said.append(
      f"Against parts of alike multiply-adds (τ-b {near}): clusters rank"
      f" {better}, by {beyond}."
      if beyond.low > 0 or beyond.high < 0
      else f"Parts of alike multiply-adds (τ-b {near}) cannot be told apart"
      f" from clusters: the difference is {beyond}, so nothing is claimed."
    )
  rows = {
    "within clusters": within, "all pairs": part("global"),
    "random parts": part("random"), "alike MACs": near,
  }  # fmt: skip
  gains = {
    "within clusters": part("difference"),
    "alike MACs": part("macs", "difference"),
  }
  figures = []
  for name, values, label, text in (
    ("within-tau", rows, "Kendall τ-b with stand-alone accuracy",
     f"Rank correlation of {run.scored}, {level} intervals. Random and alike"
     " parts are as large as the clusters."),
    ("within-gain", gains, "difference from all pairs",
     f"τ-b within parts minus τ-b over all pairs, {level} paired intervals."),
  ):  # fmt: skip
    known = {k: v for k, v in values.items() if math.isfinite(v.value)}
    if known:
      svg = plots.intervals(known, label, name)
      figures.append(figure(svg, escape(text)))
  return paragraphs(*said) + grid(figures)


def _pairs(partition: Mapping, run: Run) -> str:
  sizes = [int(s) for s in partition.get("sizes") or ()]
  inside = sum(s * (s - 1) // 2 for s in sizes)
  n = sum(sizes)
  if not n:
    return ""
  return (
    f"{run.scored[0].upper()}{run.scored[1:]} against stand-alone accuracy:"
    f" {inside:,} of {n * (n - 1) // 2:,} pairs of the {n} ranked archs lie"
    f" within one of {len(sizes)} clusters."
  )


# The cost --------------------------------------------------------------------


def spent(run: Run) -> str:
  """Image evaluations and seconds of each stage."""
  rows = run.clusters.get("cost") or ()
  if not rows:
    return ""
  figures, said, total = [], [], {}
  for key, write, what in (
    ("images", say.count, "image evaluations"),
    ("seconds", say.duration, "seconds"),
  ):
    values = {str(r["stage"]): number(r.get(key)) for r in rows}
    known = [v for v in values.values() if math.isfinite(v)]
    total[key] = sum(known)
    if not total[key]:
      continue
    texts = [
      f"{write(v)} ({v / total[key]:.0%})" if math.isfinite(v) else say.NONE
      for v in values.values()
    ]
    name = what[0].upper() + what[1:]
    svg = cluster_plots.bars(
      f"spent-{key}", values, texts, f"{name} of each stage"
    )
    figures.append(figure(svg, f"{name} of each stage."))
  shares = {
    key: sum(number(r.get(key)) for r in rows if r["stage"] == "represent")
    / total[key]
    for key in total if total[key]
  }  # fmt: skip
  if "images" in shares:
    also = ""
    if math.isfinite(shares.get("seconds", math.nan)):
      also = f" and {say.percent(shares['seconds'])} of the seconds"
    said.append(
      f"Representing the archs took {say.percent(shares['images'])} of"
      f" {say.count(total['images'])} image evaluations{also}."
    )
  if run.brief:
    said.append(
      "Plain early stopping pays for the same short trainings, so what dividing"
      " adds is what comes after them."
    )
  elif not any(r["stage"] == "train" for r in rows):
    said.append("The supernet's own training is not in these numbers.")
  head = ("stage", "networks", "epochs", "image evaluations", "time")
  lines = [
    (escape(str(r["stage"])), say.exact(r.get("networks")),
     f"{number(r.get('epochs')):g}" if r.get("epochs") is not None
     else say.NONE,
     say.exact(r.get("images")), say.duration(number(r.get("seconds"))))
    for r in rows
  ]  # fmt: skip
  note = (
    '<p class="note">An image evaluation is one image forward through one'
    " network; an image of training counts 3, for its gradient costs about two"
    " more.</p>"
  )
  return paragraphs(*said) + grid(figures) + table(head, lines) + note
