"""Sections on clusters of archs: how they divide, and what is whose.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from collections.abc import Mapping
from html import escape

import numpy as np

from jaxnas.report import cluster_plots
from jaxnas.report import statements as say
from jaxnas.report.block_guidance import STAR
from jaxnas.report.load import Run, number
from jaxnas.report.markup import (
  arch_text,
  figure,
  paragraphs,
  table,
  warning,
)
from jaxnas.report.statements import Estimate

ENCODED = 0.5  # share of the ranks of multiply-adds that calls for a warning
STABLE = 0.5  # adjusted Rand index below which seeds disagree
_FEATURES = {
  "change": "how much each layer's parameters {changed}",
  "outputs": "the outputs of each layer on fixed images",
  "both": "how much each layer's parameters {changed}, and its outputs on fixed"
  " images",
}  # fmt: skip
_PARTITIONS = {
  "kmeans": "k-means",
  "random": "random parts of the same sizes (a baseline)",
  "macs": "neighbours in multiply-adds in parts of the same sizes (a baseline)",
}


def winner_of(run: Run) -> str:
  """The chosen arch as text, empty before the search has ended."""
  merged = run.clusters.get("merge") or {}
  found = merged.get("vote" if merged.get("mode") == "vote" else "winner")
  return run.winner or str(run.searched.get("arch") or found or "")


def archs_of(run: Run) -> list[dict]:
  """Rows of the sampled archs, empty without clusters."""
  return list(run.clusters.get("archs") or ())


def row_of(run: Run, arch: str) -> dict:
  """What is known of an arch, `{}` if it was not sampled."""
  return next((a for a in archs_of(run) if a["arch"] == arch), {})


# Divide ----------------------------------------------------------------------


def divided(run: Run) -> str:
  """How k was chosen, what the clusters encode, and which archs they hold."""
  found = run.clusters
  if not found:
    return ""
  body = "".join(warning(w) for w in _warnings(found))
  body += paragraphs(_made(run), _number(found), _encoded(found), _seeds(found))
  aside = ""
  curve = [(number(r["k"]), number(r["value"])) for r in _curve(found)]
  if len(curve) > 1:
    svg = cluster_plots.silhouette(curve, number(found.get("k")))
    text = (
      "Mean silhouette by k: 1 is archs much nearer to their own cluster than"
      " to the next one, 0 no difference."
    )
    aside = figure(svg, text)
  aside += _table(run)
  return f'{body}<div class="pair">{_plane(run)}<div>{aside}</div></div>'


def _curve(found: Mapping) -> list[Mapping]:
  rows = found.get("silhouette") or ()
  return [r for r in rows if math.isfinite(number(r.get("value")))]


def _encoded_by_macs(found: Mapping) -> bool:
  # A partition by multiply-adds encodes them by design.
  by_design = found.get("partition") == "macs"
  return number(found.get("macs_explained")) > ENCODED and not by_design


def _rand(found: Mapping) -> Estimate:
  stability = found.get("stability") or {}
  return Estimate.from_json(stability.get("adjusted_rand"))


def _warnings(found: Mapping) -> list[str]:
  said = []
  if _encoded_by_macs(found):
    said.append(
      "Clusters mostly encode multiply-adds:"
      f" {say.percent(found['macs_explained'])} of the variance of their ranks"
      " lies between clusters. A partition by multiply-adds, which needs no"
      " training, may do as well."
    )
  if _rand(found).value < STABLE:
    said.append(
      "Another seed of k-means would have divided otherwise: the mean adjusted"
      f" Rand index over seeds is {say.decimal(_rand(found).value)}."
    )
  return said


def _made(run: Run) -> str:
  found, n = run.clusters, len(archs_of(run))
  how = _PARTITIONS.get(found.get("partition"), str(found.get("partition")))
  k = number(found.get("k"))
  text = f"{n:,} archs were put into {k:g} cluster{'s' * (k != 1)} by"
  if found.get("partition") in ("random", "macs"):
    return f"{text} {how}, not by their features."
  what = _FEATURES.get(found.get("features"), str(found.get("features")))
  changed, where = "would change by a gradient", "on a supernet's weights"
  if run.brief:
    changed = "changed"
    where = f"in a training of {run.config.divide.epochs} epochs each"
  what = what.format(changed=changed)
  return (
    f"{text} {how} with {found.get('distance')} distance. Features: {what},"
    f" {where}."
  )


def _number(found: Mapping) -> str:
  rows, k = _curve(found), number(found.get("k"))
  if not rows:
    return f"k = {k:g} was given."
  ks = [number(r["k"]) for r in rows]
  own = next((number(r["value"]) for r in rows if r["k"] == k), math.nan)
  best = max(number(r["value"]) for r in rows)
  what = "the largest" if own == best else "a"
  return (
    f"k = {k:g} has {what} mean silhouette, {say.decimal(own)}, of k ="
    f" {min(ks):g} to {max(ks):g}."
  )


def _encoded(found: Mapping) -> str:
  share = number(found.get("macs_explained"))
  n, k = len(found.get("archs") or ()), number(found.get("k"))
  if not math.isfinite(share):
    return ""
  text = (
    f"Of the variance of the ranks of multiply-adds, {say.percent(share)} lies"
    " between clusters"
  )
  if n > 1 and math.isfinite(k):
    # The expected share of k random groups of n values.
    text += f"; of random clusters it would be about {(k - 1) / (n - 1):.0%}"
  return f"{text}."


def _seeds(found: Mapping) -> str:
  rand, stability = _rand(found), found.get("stability") or {}
  if not math.isfinite(rand.value):
    return ""
  return (
    f"Stability: over {number(stability.get('seeds')):g} seeds of k-means, on"
    " these features, the mean adjusted Rand index of two partitions is"
    f" {rand}; 1 is the same partition, 0 is chance."
  )


def _plane(run: Run) -> str:
  found = run.clusters
  rows = [
    a for a in archs_of(run)
    if all(math.isfinite(number(a.get(k))) for k in ("x", "y", "macs"))
  ]  # fmt: skip
  if not rows:
    return ""
  column = lambda key: np.array([number(a[key]) for a in rows])
  shares = [number(v) for v in found.get("explained") or ()][:2]
  names = []
  for i, name in enumerate(("first", "second")):
    known = i < len(shares) and math.isfinite(shares[i])
    share = f" ({shares[i]:.0%} of variance)" if known else ""
    names.append(f"{name} component{share}")
  winner = next(
    (i for i, a in enumerate(rows) if a["arch"] == winner_of(run)), None
  )
  svg = cluster_plots.plane(
    np.stack([column("x"), column("y")], 1),
    [int(a["cluster"]) for a in rows], column("macs"),
    [bool(a.get("survivor")) for a in rows], winner, names,
  )  # fmt: skip
  text = (
    f"{len(rows):,} archs in the plane of the first two principal components"
    " of the features. The number is the cluster; orange rings were trained"
    " longer."
  )
  if winner is not None:
    text += " The star marks the winner."
  elif winner_of(run):
    text += " The winner is none of them, so there is no star."
  return figure(svg, text)


def _table(run: Run) -> str:
  rows = run.clusters.get("clusters") or ()
  if not rows:
    return ""
  own = row_of(run, winner_of(run)).get("cluster")
  lines = []
  for r in rows:
    star = STAR if own is not None and r["cluster"] == own else ""
    lines.append((
      f"{r['cluster']}{star}", f"{r['size']:,}",
      arch_text(str(r.get("winner") or say.NONE)), say.percent(r.get("early")),
      say.percent(r.get("longer")), say.count(r.get("macs")),
    ))  # fmt: skip
  head = (
    "cluster", "archs", "best arch", escape(run.scored), "after longer", "MACs",
  )  # fmt: skip
  note = "Accuracies and MACs are the best arch's, on the validation split."
  if own is not None:
    note += " The star marks the winner's cluster."
  return table(head, lines) + f'<p class="note">{note}</p>'


# Where it comes from ---------------------------------------------------------


def sources(run: Run) -> str:
  """What is the paper's, and what is ours."""
  if not run.divided:
    return ""
  divide = run.config.divide
  rows = [
    (
      "the paper's abstract (DC-NAS, arXiv 2005.14456)",
      "five steps: features of each sampled network from changes in parameters"
      " or output features of each layer; similarity of networks by these;"
      " k-means; evaluation in each cluster separately; the best of each"
      " cluster merged.",
    ),
    (
      "jaxnas's design",
      "everything else, for the abstract does not say it: the features"
      f" ({divide.features}), {divide.distance} distance, the number of"
      " clusters, epochs, how many of a cluster are trained longer, and merging"
      f" ({divide.merge}). Nothing here repeats an experiment of the paper.",
    ),
  ]
  if not run.brief:
    rows.append((
      "shared weights",
      "jaxnas's variant: one supernet in place of short trainings. The abstract"
      " does not speak of it.",
    ))  # fmt: skip
  return "<dl class='glossary'>" + "".join(
    f"<dt>{escape(what)}</dt><dd>{escape(text)}</dd>" for what, text in rows
  ) + "</dl>"  # fmt: skip
