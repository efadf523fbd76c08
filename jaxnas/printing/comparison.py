"""A comparison as text."""

from jaxnas.costs import format_count
from jaxnas.printing.tables import table


def comparison_text(result: dict) -> str:
  """Writes the table of a comparison, and what its tests support."""
  rows = [_rows[result["kind"]](arm) for arm in result["arms"]]
  lines = [_title(result), table(rows), *_verdicts(result), *_apart(result)]
  lines += [f"{row['arm']} is left out: {row['why']}"
            for row in result["left_out"]]  # fmt: skip
  lines += [f"warning: {text}" for text in result["warnings"]]
  lines.append(f"read {result['path']}")
  return "\n".join(lines)


def _title(result: dict) -> str:
  level = f"{result['confidence']:.0%} Student intervals over"
  seeds = f"{level} {len(result['seeds'])} seeds"
  if result["kind"] == "table":
    return (
      f"{result['table']}: {result['archs']:,} archs, regret in"
      f" {result['objective']} after {result['evaluations']:,} look-ups;"
      f" {seeds}"
    )
  data = result["data"]
  return (
    f"{data['source']}: {data['train']:,} / {data['validation']:,} /"
    f" {data['test']:,} images; {seeds}"
  )


def _training_row(arm: dict) -> dict:
  return {
    "arm": arm["name"],
    "test accuracy": _interval(arm["test_accuracy"], ".4f"),
    "stand-alone": _interval(arm["standalone_accuracy"], ".4f"),
    "macs": format_count(arm["macs"]["value"]),
    "params": format_count(arm["params"]["value"]),
    "search images": format_count(arm["search_images"]["value"]),
    "search s": f"{arm['search_seconds']['value']:.0f}",
    "retrain s": f"{arm['seconds']['retrain']:.0f}",
    **_counts(arm),
  }


def _table_row(arm: dict) -> dict:
  return {
    "arm": arm["name"],
    "search": arm["algorithm"],
    "regret": _interval(arm["regret"], ".5f"),
    "median": f"{arm['median']:.5f}",
    "best found": f"{arm['found']:.0%}",
    **_counts(arm),
  }


_rows = {"training": _training_row, "table": _table_row}


def _interval(value: dict | None, form: str) -> str | None:
  if value is None:
    return None
  text = f"{value['value']:{form}}"
  if value["low"] is None:
    return text
  return f"{text} [{value['low']:{form}}, {value['high']:{form}}]"


def _counts(arm: dict) -> dict:
  return {
    f"{what} w/t/l": "/".join(
      str(arm[what][k]) for k in ("wins", "ties", "losses")
    )
    for what in ("tests", "seeds")
  }


def _verdicts(result: dict) -> list[str]:
  """Pairs that the tests tell apart."""
  sure = [pair for pair in result["pairs"] if pair["verdict"] != "undecided"]
  test = "signed-rank" if result["kind"] == "table" else "t"
  head = f"paired {test} tests, Holm over {len(result['pairs'])} pairs: "
  if not sure:
    return [f"{head}no pair can be told apart"]
  claims = [
    f"{pair['a']} {pair['verdict']} than {pair['b']} (p = {pair['p_holm']:.2g})"
    for pair in sure
  ]
  return [head + "; ".join(claims)]


def _apart(result: dict) -> list[str]:
  """How far search budgets lie apart."""
  parts = [
    f"{value['ratio']:.2f} x in {unit}"
    for unit, value in result["effort"].items()
    if value["ratio"] is not None
  ]
  return [f"largest search budget by smallest: {', '.join(parts)}"] * bool(
    parts
  )
