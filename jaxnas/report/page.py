"""The page: sections in reading order inside one template."""

from html import escape
from pathlib import Path
from string import Template

from jaxnas.report import (
  about,
  block_guidance,
  block_learning,
  blocks,
  cluster_worth,
  clusters,
  fitted,
  masks,
  outcome,
  process,
  selected,
)
from jaxnas.report.load import Run
from jaxnas.report.markup import section

SECTIONS = (
  ("chosen", "What was chosen and why", outcome.chosen),
  ("blocks", "The block and its experts", blocks.drawn),
  ("best", "The best blocks", blocks.best),
  ("expert", "What the experts teach", block_learning.expert),
  ("guidance", "What guidance changed", block_guidance.guidance),
  ("latency", "Is it faster?", block_guidance.latency),
  ("divide", "Divide: the clusters", clusters.divided),
  ("conquer", "Conquer: was it worth it?", cluster_worth.conquered),
  ("architecture", "The chosen architecture", outcome.architecture),
  ("kept", "What the winner keeps", masks.kept),
  ("training", "Training", process.training),
  ("rates", "Learned drop rates", masks.rates),
  ("fairness", "Fairness", process.fairness),
  ("selection", "Was selection worth it?", selected.selection),
  ("trust", "Can the ranking be trusted?", process.trust),
  ("within", "Is the ranking better within clusters?", cluster_worth.claim),
  (
    "predictors",
    "Does the predictor see through the noise?",
    fitted.predictors,
  ),
  ("lookup", "Budgets looked up", fitted.looked_up),
  ("progress", "Search", process.progress),
  ("spent", "What it cost", cluster_worth.spent),
  ("cost", "Time", process.cost),
  # A run is of blocks or of clusters, so one of these two is empty.
  ("sources", "What is whose", blocks.sources),
  ("sources", "What is whose", clusters.sources),
  ("glossary", "The accuracies", about.glossary),
  ("provenance", "Provenance", about.provenance),
  ("own-data", "Run it on your own data", about.own_data),
)
PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<p class="kicker">jaxnas report</p>
<h1>$title</h1>
$headline
<nav>$links</nav>
</header>
<main>
$body
</main>
</body>
</html>
""")


def page(run: Run) -> str:
  """Returns the whole page as HTML text."""
  parts = [(name, title, build(run)) for name, title, build in SECTIONS]
  shown = [(name, title, body) for name, title, body in parts if body]
  method = run.result.get("method") or run.config.method
  space = run.result.get("space") or run.config.space.name
  return PAGE.substitute(
    title=escape(f"{method} on {space}"),
    style=Path(__file__).with_name("page.css").read_text(encoding="utf-8"),
    headline=outcome.headline(run),
    links="".join(f'<a href="#{n}">{escape(t)}</a>' for n, t, _ in shown),
    body="\n".join(section(*part) for part in shown),
  )
