"""The page of a comparison, from what `comparison.json` says."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from jaxnas.report import comparison_plots, markup
from jaxnas.report import statements as say
from jaxnas.report.page import PAGE
from jaxnas.report.statements import NONE, Estimate
from jaxnas.writer import write_atomic

_STYLE = Path(__file__).with_name("page.css")
_SIGNS = {"better": "▲ ", "worse": "▼ ", "undecided": ""}


def write_comparison(folder: Path, result: Mapping) -> Path:
  """Writes `comparison.html`, self-contained, and its main chart as SVG.

  Args:
    folder: where to; it exists.
    result: the content of `comparison.json`.

  Returns:
    The path of the page.
  """
  arms = _sorted(result)
  if result["kind"] == "table":
    chart = comparison_plots.regrets(arms)
  else:
    chart = comparison_plots.tradeoff(arms)
  write_atomic(folder / "comparison.svg", standalone_svg(chart))
  path = folder / "comparison.html"
  write_atomic(path, _page(result, arms, chart))
  return path


def standalone_svg(svg: str) -> str:
  """A chart of a page as a file of its own: light colours, a ground, a font."""
  css = _STYLE.read_text(encoding="utf-8")
  light = css[: css.index("@media")]
  for name, colour in re.findall(r"--([a-z]+): (#\w+)", light):
    svg = svg.replace(f"var(--{name})", colour)
  ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
  opening = svg.index(">") + 1
  font = ' font-family="system-ui, sans-serif">'
  return f"{svg[: opening - 1]}{font}{ground}{svg[opening:]}\n"


def _sorted(result: Mapping) -> list[Mapping]:
  """Arms from the best down."""
  if result["kind"] == "table":
    return sorted(result["arms"], key=lambda a: a["regret"]["value"])
  return sorted(result["arms"], key=lambda a: -a["test_accuracy"]["value"])


def _page(result: Mapping, arms: Sequence[Mapping], chart: str) -> str:
  if result["kind"] == "table":
    title = f"{len(arms)} searches of {result['table']}"
    caption = (
      "Best of the table within the budget minus the best so far, mean over"
      " seeds; at the lower edge stands 0."
    )
    costs = ""
  else:
    title = f"{len(arms)} methods on {result['data']['source']}"
    caption = (
      "Small points are seeds, large ones their means; lines are"
      f" {_level(result)} Student intervals over seeds, of both. {_noise(arms)}"
    )
    costs = markup.grid(
      [
        markup.figure(comparison_plots.stages(arms, unit), caption)
        for unit, caption in (
          (
            "images",
            "Image evaluations: one image through one network once; a training"
            " image counts 3. Train and search find the winner, retrain trains"
            " it.",
          ),
          ("seconds", "Seconds on this machine, compilation included."),
        )
      ]
    )
  parts = [
    ("table", "Side by side", _table(result, arms) + _left_out(result)),
    ("figure", "The figure", markup.figure(chart, caption)),
    ("cost", "Cost of each stage", costs),
    ("pairs", "Wins, ties, losses", _matrix(result, arms)),
    ("seeds", "Every run", _runs(arms) if "runs" in arms[0] else ""),
  ]
  shown = [part for part in parts if part[2]]
  return PAGE.substitute(
    title=escape(title),
    style=_STYLE.read_text(encoding="utf-8"),
    headline=_headline(result),
    links="".join(f'<a href="#{n}">{escape(t)}</a>' for n, t, _ in shown),
    body="\n".join(markup.section(*part) for part in shown),
  )


def _noise(arms: Sequence[Mapping]) -> str:
  """What the interval over seeds leaves out."""
  run = arms[0]["runs"][0]
  low, high = say.wilson(run["test_accuracy"], run["data"]["test"])
  return (
    f"They say nothing of other images: one accuracy on {run['data']['test']:,}"
    f" test images, as {say.percent(run['test_accuracy'])}, has a 95% interval"
    f" (Wilson) of {say.percent(low)} to {say.percent(high)}; all arms were"
    " judged on the same images."
  )


def _level(result: Mapping) -> str:
  return f"{100 * result['confidence']:g}%"


def _headline(result: Mapping) -> str:
  seeds = result["seeds"]
  facts = [("seeds", f"{len(seeds)} ({_range(seeds)})")]
  if result["kind"] == "table":
    facts += [
      ("table", result["table"]),
      ("archs within the budget", f"{result['archs']:,}"),
      ("budget", result["budget"] or "none"),
      ("compared after", f"{result['evaluations']:,} look-ups"),
    ]
  else:
    data = result["data"]
    facts += [
      ("data", data["source"]),
      *((f"{k} images", f"{data[k]:,}")
        for k in ("train", "validation", "test")),
    ]  # fmt: skip
  items = "".join(
    f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts
  )
  warnings = "".join(markup.warning(text) for text in result["warnings"])
  return f'<dl class="facts">{items}</dl>{warnings}'


def _range(seeds: Sequence[int]) -> str:
  if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
    return f"{seeds[0]} to {seeds[-1]}"
  return ", ".join(map(str, seeds))


def _ranged(value: Mapping | None, write) -> str:
  """An estimate and its interval, HTML; without bounds the value alone."""
  estimate = Estimate.from_json(value)
  text = escape(write(estimate.value))
  if value is None or value["low"] is None:
    return text
  low, high = (escape(write(v)) for v in (estimate.low, estimate.high))
  if low == high:
    return text
  return f"{text}<br><small>{low} to {high}</small>"


def _counts(value: Mapping[str, int]) -> str:
  return " / ".join(str(value[k]) for k in ("wins", "ties", "losses"))


def _table(result: Mapping, arms: Sequence[Mapping]) -> str:
  counted = ("tests won / open / lost", "seeds won / tied / lost")
  if result["kind"] == "table":
    head = ["arm", "search", f"regret, {_level(result)}", "median regret",
            "seeds that found the best", "look-ups in all", "time",
            *counted]  # fmt: skip
    rows = [
      [
        escape(arm["name"]), escape(arm["algorithm"]),
        _ranged(arm["regret"], lambda v: f"{v:.5f}"), f"{arm['median']:.5f}",
        say.percent(arm["found"]), say.exact(arm["evaluated"]),
        say.duration(arm["seconds"]), _counts(arm["tests"]),
        _counts(arm["seeds"]),
      ]
      for arm in arms
    ]  # fmt: skip
  else:
    head = ["arm", "space", f"test accuracy, {_level(result)}",
            "stand-alone accuracy", "multiply-adds", "parameters",
            "search: images", "search: time", "retrain: time",
            *counted]  # fmt: skip
    rows = [
      [
        escape(arm["name"]), escape(arm["space"]),
        _ranged(arm["test_accuracy"], say.percent),
        _ranged(arm["standalone_accuracy"], say.percent),
        _ranged(arm["macs"], say.count), _ranged(arm["params"], say.count),
        say.count(arm["search_images"]["value"]),
        say.duration(arm["search_seconds"]["value"]),
        say.duration(arm["seconds"]["retrain"]), _counts(arm["tests"]),
        _counts(arm["seeds"]),
      ]
      for arm in arms
    ]  # fmt: skip
  return markup.table(head, rows) + markup.paragraphs(_budgets(result))


def _budgets(result: Mapping) -> str:
  """How far search budgets lie apart."""
  names = {
    "images": "image evaluations", "seconds": "seconds",
    "evaluations": "look-ups",
  }  # fmt: skip
  parts = [
    f"{value['ratio']:.2f} times in {names[unit]}"
    for unit, value in result["effort"].items()
    if value["ratio"] is not None
  ]
  if not parts:
    return ""
  return f"The largest search budget is the smallest {' and '.join(parts)}."


def _left_out(result: Mapping) -> str:
  rows = [f"{r['arm']} is left out: {r['why']}." for r in result["left_out"]]
  return markup.paragraphs(*rows)


def _matrix(result: Mapping, arms: Sequence[Mapping]) -> str:
  cells = {}
  turned = {"better": "worse", "worse": "better", "undecided": "undecided"}
  for pair in result["pairs"]:
    counts = (pair["wins"], pair["ties"], pair["losses"])
    cells[pair["a"], pair["b"]] = pair["verdict"], counts
    cells[pair["b"], pair["a"]] = turned[pair["verdict"]], counts[::-1]
  names = [arm["name"] for arm in arms]
  rows = []
  for a in names:
    row = [escape(a)]
    for b in names:
      if a == b:
        row.append(NONE)
        continue
      verdict, counts = cells[a, b]
      text = f"{_SIGNS[verdict]}{' / '.join(map(str, counts))}"
      row.append(f'<span title="{verdict}">{text}</span>')
    rows.append(row)
  return markup.table(["", *map(escape, names)], rows) + _claims(result)


def _claims(result: Mapping) -> str:
  """What the matrix shows, and what the tests support."""
  table = result["kind"] == "table"
  test = "signed-rank tests" if table else "t tests"
  pairs, level = result["pairs"], 1 - result["confidence"]
  text = markup.paragraphs(
    "Each cell counts the seeds that the row's arm won, tied and lost against"
    " the column's, ties being equal"
    f" {'regrets' if table else 'test accuracies'}. ▲ and ▼ mark verdicts of"
    f" paired {test} over seeds, better and worse, at {level:.2g} after"
    f" Holm's correction for all pairs ({len(pairs)})."
  )
  sure = [pair for pair in pairs if pair["verdict"] != "undecided"]
  if not sure:
    return text + markup.paragraphs(
      "No pair can be told apart: nothing is claimed of who is better."
    )
  lines = "".join(f"<li>{escape(_claim(pair, table))}</li>" for pair in sure)
  return f"{text}<ul>{lines}</ul>"


def _claim(pair: Mapping, table: bool) -> str:
  value = Estimate.from_json(pair["difference"])
  scale, digits = (1, 5) if table else (100, 2)
  parts = (value.value, value.low, value.high)
  mean, low, high = (f"{scale * v:+.{digits}f}".replace("-", "−")
                     for v in parts)  # fmt: skip
  unit = "regret" if table else "points"
  return (
    f"{pair['a']} is {pair['verdict']} than {pair['b']}: {mean} {unit}"
    f" [{low}, {high}], p = {pair['p_holm']:.2g}."
  )


def _runs(arms: Sequence[Mapping]) -> str:
  head = ["arm", "seed", "test accuracy", "stand-alone", "multiply-adds",
          "parameters", "search: images", "compiling", "arch"]  # fmt: skip
  rows = [
    [
      escape(arm["name"]), str(run["seed"]), say.percent(run["test_accuracy"]),
      say.percent(run["standalone_accuracy"]), say.exact(run["macs"]),
      say.exact(run["params"]),
      say.exact(run["images"]["train"] + run["images"]["search"]),
      say.duration(run["seconds"]["compile"]), markup.arch_text(run["arch"]),
    ]
    for arm in arms for run in arm["runs"]
  ]  # fmt: skip
  return markup.table(head, rows)
