"""Results as text for people; the command line's other half."""

from collections.abc import Callable
from pathlib import Path

from jaxnas.printing.bench import bench_text
from jaxnas.printing.comparison import comparison_text
from jaxnas.printing.estimate import estimate_text
from jaxnas.printing.tables import interval, shorten, table


def text(verb: str, result: dict, workdir: Path | None = None) -> str:
  """Writes what a command found.

  Args:
    verb: the command, such as `cost`.
    result: its JSON object.
    workdir: work directory of a command that has one.
  """
  if "estimate" in result:
    return estimate_text(result)
  if verb == "run":
    return _run_text(result, workdir)
  if verb in _WRITERS:
    return _WRITERS[verb](result)
  return _lines(result)


def _lines(result: dict) -> str:
  """One line for each value that is no list or object."""
  return "\n".join(
    f"{k}: {shorten(v) if k == 'arch' else v}"
    for k, v in result.items()
    if not isinstance(v, list | dict)
  )


def _list_text(result: dict) -> str:
  (rows,) = result.values()
  return "\n".join(
    "  ".join(
      f"{v}" if k == "name" else f"{k}={v}"
      for k, v in row.items()
      if v not in ("", [])
    )
    for row in rows
  )


def _score_text(result: dict) -> str:
  race = _race_text(result["race"]) if "race" in result else ""
  if not result["bn_mode"]:  # short trainings, or a table
    return f"metrics of the search\n{table(result['archs'])}"
  return (
    f"supernet metrics on {result['images']} validation images, batch norm:"
    f" {result['bn_mode']}\n{race}{table(result['archs'])}"
  )


def _race_text(race: dict) -> str:
  rungs = ", ".join(
    f"{left} after {seen}"
    for seen, left in zip(race["rungs"], race["remaining"], strict=True)
  )
  return (
    f"race of {race['archs']} distinct archs; left: {rungs} images\n"
    f"{race['evaluations']:,} of {race['plain_evaluations']:,} evaluations"
    f" ({race['saved']:.1%} saved); the most accurate arch is dropped with a"
    f" probability of at most {race['error']:g}\n"
  )


def _cost_text(result: dict) -> str:
  if "kept_channels" in result:
    return _mask_cost_text(result)
  keys = ("part", "index", "op", "in_size", "in_channels", "features", "stride",
          "params", "macs")  # fmt: skip
  if "node" in result["layers"][0]:  # a graph's
    keys = ("node", "op", "kernel", "size", "in_channels", "features", "params",
            "macs")  # fmt: skip
  rows = [{k: row[k] for k in keys} for row in result["layers"]]
  return (
    f"{table(rows)}\n{result['space']} {result['arch']}:"
    f" {result['macs']:,} multiply-adds, {result['params']:,} parameters"
  )


def _mask_cost_text(result: dict) -> str:
  def counts(row: dict) -> dict:
    return {k: f"{row[k]:,}" for k in ("params", "macs")}

  layers = result["layers"]
  rows = [
    {
      "product": row["node"],
      "op": f"{row['op'].lower()} {row['kernel']}x{row['kernel']}",
      "size": row["size"],
      "inputs": f"{row['in_kept']}/{row['in_channels']}",
      "features": f"{row['features_kept']}/{row['features']}",
      **counts(row),
    }
    for row in layers
  ]
  rest = {
    k: result[k] - sum(row[k] for row in layers) for k in ("params", "macs")
  }
  blank = dict.fromkeys(rows[0], "")
  rows += [
    blank | {"product": "batch norms, constants"} | counts(rest),
    blank | {"product": "all"} | counts(result),
  ]
  return (
    f"{table(rows)}\n{result['space']} {shorten(result['arch'])}:"
    f" {result['macs']:,} multiply-adds, {result['params']:,} parameters,"
    f" {result['kept_channels']:.1%} of channels and"
    f" {result['kept_operations']:.1%} of operations kept"
  )


def _rank_text(result: dict) -> str:
  lines = [
    f"{result['n']} networks ({result['selection']}), {result['pairs']} pairs,"
    f" batch norm: {result['bn_mode']},"
    f" {result['confidence']:.0%} bootstrap intervals",
    f"Kendall tau-b  {interval(result['kendall_tau_b'])}"
    f"   (tau-a {result['kendall_tau_a']:.3f})",
    f"Spearman       {interval(result['spearman'])}",
    f"top-{result['top_k']} overlap  {interval(result['top_k_overlap'])}",
    f"regret         {result['regret']:.4f}",
  ]
  for name, row in result["baselines"].items():
    lines.append(
      f"{name} alone: tau-b {interval(row)}; supernet minus it"
      f" {interval(row['gain'])}"
    )
  for name, row in result.get("fits", {}).items():
    lines.append(
      f"{name} fitted to supernet accuracies: tau-b {interval(row)}; it minus"
      f" the supernet {interval(row['gain'])}"
    )
  return "\n".join(lines)


def _run_text(result: dict, workdir: Path) -> str:
  metrics = result["metrics"]
  spent = sum(v for k, v in result["seconds"].items() if k != "compile")
  alone = metrics["standalone_accuracy"]
  alone = "not trained" if alone is None else f"{alone:.4f}"
  supernet = metrics["supernet_accuracy"]
  supernet = "not used" if supernet is None else f"{supernet:.4f}"
  return (
    f"chosen: {shorten(result['arch'])} of space {result['space']}"
    f" ({metrics['macs']:,} multiply-adds, {metrics['params']:,} parameters,"
    f" budget {result['budget'] or 'none'})\n"
    f"accuracy: supernet {supernet}, stand-alone {alone},"
    f" test {metrics['test_accuracy']:.4f}\n"
    f"time: {spent:.0f} s, of it {result['seconds']['compile']:.0f} s"
    f" compiling\nread {workdir / 'report.html'}; the network is in"
    f" {workdir / 'export'}"
  )


def _search_text(result: dict) -> str:
  if "answers" in result:
    return "looked up, without a new score:\n" + table(result["answers"])
  if "table" in result:
    best = result["best"]
    (name,) = set(best) - {"arch"}
    return (
      f"{result['table']}, {result['algorithm']}: {result['evaluated']} of"
      f" {result['of']:,} archs evaluated,"
      f" budget {result['budget'] or 'none'}\n"
      f"found {result['arch']} with {name} {result[name]:.5g}; best of the"
      f" table {best['arch']} with {best[name]:.5g}, regret"
      f" {result['regret']:.3g}"
    )
  return _lines(result)


def _profile_text(result: dict) -> str:
  lines = [
    f"wrote {result['table']}: {result['rows']} rows from"
    f" {result['programs']} programs, compiled in"
    f" {result['compile']['seconds']:.1f} s and timed in"
    f" {result['measure_seconds']:.1f} s",
    "quartiles lie apart by (share of the median): blocks"
    f" {result['spread']['blocks']['median']:.1%}, at most"
    f" {result['spread']['blocks']['largest']:.1%}",
  ]
  if result["held_out"]:
    rows = [
      {
        "predicted by": step,
        "networks": e["n"],
        "R2": interval(e["r2"]),
        "tau-b": interval(e["kendall_tau_b"]),
        "mean error": f"{e['mean_relative_error']:.1%}",
        "largest": f"{e['largest_relative_error']:.1%}",
        "bias": f"{e['bias']:+.1%}",
      }
      for step, e in result["held_out"]["errors"].items()
    ]
    lines.append(
      "on whole networks that the table has not seen (measured: blocks added"
      " up; empty_call: less an empty call for each; calibrated: scale and"
      " offset fitted on other networks):\n" + table(rows)
    )
  return "\n".join(lines)


_WRITERS: dict[str, Callable[[dict], str]] = {
  "bench": bench_text,
  "compare": comparison_text,
  "cost": _cost_text,
  "list": _list_text,
  "profile": _profile_text,
  "rank": _rank_text,
  "score": _score_text,
  "search": _search_text,
}
