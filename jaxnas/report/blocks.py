"""Sections on a block: its drawing beside the experts', the best ones, sources.

Like all sections: `Run -> HTML`, empty where there is no source.
"""

import math
from html import escape

import numpy as np

from jaxnas.report import plots
from jaxnas.report import statements as say
from jaxnas.report.block_drawing import canonical_block, draw_blocks, read_block
from jaxnas.report.block_words import accuracy_name, evaluation
from jaxnas.report.load import Run, number
from jaxnas.report.markup import arch_text, figure, paragraphs, table
from jaxnas.report.outcome import cost_limits
from jaxnas.spaces import nsc

# What the numbers of a search are worth, by where its accuracies come from.
_ORIGINS = {
  "interpreter": (
    "accuracies of the search",
    "ours, not what BlockQNN did: one supernet, the interpreter, runs any block"
    " with shared weights. They are supernet accuracies; BlockQNN trained every"
    " block for some epochs (blocks.evaluation=children does).",
  ),
  "children": (
    "accuracies of the search",
    "each block's own network after a short training, as in BlockQNN; its"
    " recipe is from independent sources. They are no supernet accuracies.",
  ),
  "table": (
    "accuracies of the search",
    "read from a given file; what they measure, the file's author knows.",
  ),
}
_SOURCES = (
  (
    "BlockQNN (structure codes, Q-learning, epsilon schedule)",
    "from independent sources, four constants recalled.",
  ),
  (
    "IRLAS",
    "published network exact, IRL search reconstructed: features, solver,"
    " weight λ and the experts' codes are ours.",
  ),
)


def _arch(run: Run) -> str:
  """The chosen block as text, empty before the search has ended."""
  return run.winner or str(run.searched.get("arch") or "")


def drawn(run: Run) -> str:
  """Experts and the chosen block side by side, at one scale."""
  if not run.stacked:
    return ""
  experts = {
    str(e["name"]): str(e["arch"]) for e in run.irl.get("experts") or ()
  }
  arch = _arch(run)
  texts = {f"expert {name}": text for name, text in experts.items()}
  title = "given block" if run.config.blocks.block else "block found"
  if arch:
    texts[title] = arch
  if not texts:
    return ""
  codes = {name: read_block(text) for name, text in texts.items()}
  convs = run.blocks.convs if run.blocks else "plain"
  svgs = draw_blocks(codes, convs)
  body = paragraphs(*_drawn_statements(run, experts, arch))
  figures = []
  for name, svg in svgs.items():
    n = len(codes[name])
    text = f"{name[0].upper()}{name[1:]}: {n} layer{'s' * (n != 1)}"
    if arch and name != title:
      away = _distance(texts[name], arch)
      text += f", {away} away from the {title}"
    figures.append(figure(svg, escape(f"{text}.")))
  return f'{body}<div class="pair">{"".join(figures)}</div>{_key(run)}'


def _distance(a: str, b: str) -> int:
  return nsc.edit_distance(canonical_block(a), canonical_block(b))


def _drawn_statements(
  run: Run, experts: dict[str, str], arch: str
) -> list[str]:
  if run.config.blocks.block:
    return [
      "This block was given (blocks.block). Nothing was searched, so there is"
      " no expert to compare it with and no accuracy that chose it."
    ]
  if not arch:
    return ["The search has not ended yet: these are its experts."]
  said = []
  if experts:
    away = {name: _distance(text, arch) for name, text in experts.items()}
    nearest = min(away, key=away.get)
    n = away[nearest]
    said.append(
      f"The search found the very topology of {nearest}."
      if not n
      else f"The block found is {n} layer{'s' * (n > 1)} away from"
      f" {nearest}, the nearest expert, by edit distance: layers to insert,"
      " remove or change."
      if len(experts) > 1
      else f"The block found is {n} layer{'s' * (n > 1)} away from the expert"
      f" {nearest} by edit distance: layers to insert, remove or change."
    )
  return said


def _key(run: Run) -> str:
  convs = run.blocks.convs if run.blocks else "plain"
  name = "sep is a separable convolution, " if convs == "separable" else ""
  return (
    '<p class="note">Data flows down; numbers are places in the block.'
    f" {name}max and avg are pooling. Blue, orange and grey are convolutions"
    " of 3×3, 5×5 and 1×1, green is pooling. What no layer reads is"
    " concatenated into the output (dashed).</p>"
  )


# The best blocks -------------------------------------------------------------


def best(run: Run) -> str:
  """What was chosen among all blocks, and how the best ones differ."""
  if not run.stacked or not (run.archs or run.searched.get("top")):
    return ""
  name = accuracy_name(run)
  body = paragraphs(_reward(run), _standing(run, name), _alike(run, name))
  parts = []
  if run.archs:
    cloud = np.array([(e.macs, e.accuracy) for e in run.archs], float)
    point = [number(run.searched.get(k)) for k in ("macs", "accuracy")]
    svg = plots.pareto(
      cloud, np.zeros((0, 2)), point if _arch(run) else None,
      cost_limits(run).get("macs"),
      f"{name} (validation)" if evaluation(run) != "table" else name,
    )  # fmt: skip
    unique = len({e.arch for e in run.archs})
    text = f"{unique:,} evaluated blocks, of all values of λ."
    parts.append(figure(svg, text))
  parts.append(_top_table(run, name))
  return f'{body}<div class="pair">{"".join(parts)}</div>'


def _reward(run: Run) -> str:
  blocks = run.config.blocks
  text = (
    f"The chosen block has the highest reward: accuracy + {blocks.guidance:g} F"
  )
  if blocks.flops_penalty:
    text += f" − {blocks.flops_penalty / 100:g} ln(MACs)"
  if blocks.density_penalty:
    text += f" − {blocks.density_penalty / 100:g} ln(density)"
  return f"{text}, not necessarily the highest accuracy."


def _standing(run: Run, name: str) -> str:
  own = number(run.searched.get("accuracy"))
  mine = {
    e.arch: e.accuracy for e in run.archs
    if e.guidance == run.config.blocks.guidance and math.isfinite(e.accuracy)
  }  # fmt: skip
  if not mine or not math.isfinite(own):
    return ""
  above = sum(v > own for v in mine.values())
  what = f"{above:,} have a higher" if above != 1 else "1 has a higher"
  return (
    f"Of the {len(mine):,} blocks evaluated with its λ,"
    f" {what if above else 'none has a higher'} {name}"
    f" than its {say.percent(own)}."
  )


def _alike(run: Run, name: str) -> str:
  """How many of the best blocks the validation images tell apart."""
  n = run.manifest.get("data", {}).get("validation")
  values = [number(r.get("accuracy")) for r in run.searched.get("top") or ()]
  values = [v for v in values if math.isfinite(v)]
  if not n or len(values) < 2 or evaluation(run) == "table":
    return ""
  first = say.wilson(values[0], n)
  same = sum(
    low <= first[1] and high >= first[0]
    for low, high in (say.wilson(v, n) for v in values[1:])
  )
  return (
    f"On {n:,} validation images the 95% intervals of {same} of the other"
    f" {len(values) - 1} in the table overlap with the chosen one's: in {name}"
    " no difference to those was shown."
  )


def _top_table(run: Run, name: str) -> str:
  rows = run.searched.get("top") or ()
  if not rows:
    return ""
  arch = _arch(run)
  lines = []
  for r in rows:
    mine = r.get("arch") == arch
    star = ' <span class="star" title="chosen">★</span>' if mine else ""
    lines.append((
      arch_text(str(r.get("arch"))) + star, say.percent(r.get("accuracy")),
      say.decimal(r.get("mirror")), say.exact(r.get("distance")),
      say.count(r.get("macs")),
    ))  # fmt: skip
  short = "supernet" if name == "supernet accuracy" else "accuracy"
  body = table(("block", short, "F", "distance", "MACs"), lines)
  note = (
    f"The {len(rows)} blocks of the highest reward. Distance: layers to the"
    " nearest expert."
  )
  apart = number(run.searched.get("diversity"))
  if math.isfinite(apart):
    note += f" Diversity: two of them differ in {apart:.1f} layers on average."
  return f'<div>{body}<p class="note">{escape(note)}</p></div>'


# Where it comes from ---------------------------------------------------------


def sources(run: Run) -> str:
  """What is the papers', what is reconstructed, and what is ours."""
  if not run.stacked:
    return ""
  rows = list(_SOURCES)
  if found := _ORIGINS.get(evaluation(run)):
    rows.append(found)
  return "<dl class='glossary'>" + "".join(
    f"<dt>{escape(what)}</dt><dd>{escape(text)}</dd>" for what, text in rows
  ) + "</dl>"  # fmt: skip
