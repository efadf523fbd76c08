"""Results as text for people; the command line's other half."""

from collections.abc import Callable
from pathlib import Path


def text(verb: str, result: dict, workdir: Path | None = None) -> str:
  """Writes what a command found.

  Args:
    verb: the command, such as `cost`.
    result: its JSON object.
    workdir: work directory of a command that has one.
  """
  if verb == "run":
    return _run_text(result, workdir)
  if verb in _WRITERS:
    return _WRITERS[verb](result)
  rows = {k: v for k, v in result.items() if not isinstance(v, list | dict)}
  return "\n".join(f"{k}: {v}" for k, v in rows.items())


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
  return (
    f"supernet metrics on {result['images']} validation images, batch norm:"
    f" {result['bn_mode']}\n{_table(result['archs'])}"
  )


def _table(rows: list[dict]) -> str:
  cells = [list(rows[0])] + [
    [f"{v:.4f}" if isinstance(v, float) else f"{v}" for v in row.values()]
    for row in rows
  ]
  widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
  return "\n".join(
    "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True))
    for row in cells
  )


def _cost_text(result: dict) -> str:
  keys = ("part", "index", "op", "in_size", "in_channels", "features", "stride",
          "params", "macs")  # fmt: skip
  rows = [{k: row[k] for k in keys} for row in result["layers"]]
  return (
    f"{_table(rows)}\n{result['space']} {result['arch']}:"
    f" {result['macs']:,} multiply-adds, {result['params']:,} parameters"
  )


def _interval(estimate: dict) -> str:
  return (
    f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
  )


def _rank_text(result: dict) -> str:
  lines = [
    f"{result['n']} networks ({result['selection']}), {result['pairs']} pairs,"
    f" batch norm: {result['bn_mode']},"
    f" {result['confidence']:.0%} bootstrap intervals",
    f"Kendall tau-b  {_interval(result['kendall_tau_b'])}"
    f"   (tau-a {result['kendall_tau_a']:.3f})",
    f"Spearman       {_interval(result['spearman'])}",
    f"top-{result['top_k']} overlap  {_interval(result['top_k_overlap'])}",
    f"regret         {result['regret']:.4f}",
  ]
  for name, row in result["baselines"].items():
    lines.append(
      f"{name} alone: tau-b {_interval(row)}; supernet minus it"
      f" {_interval(row['gain'])}"
    )
  return "\n".join(lines)


def _run_text(result: dict, workdir: Path) -> str:
  metrics = result["metrics"]
  spent = sum(v for k, v in result["seconds"].items() if k != "compile")
  return (
    f"chosen: {result['arch']} of space {result['space']}"
    f" ({metrics['macs']:,} multiply-adds, {metrics['params']:,} parameters,"
    f" budget {result['budget'] or 'none'})\n"
    f"accuracy: supernet {metrics['supernet_accuracy']:.4f},"
    f" stand-alone {metrics['standalone_accuracy']:.4f},"
    f" test {metrics['test_accuracy']:.4f}\n"
    f"time: {spent:.0f} s, of it {result['seconds']['compile']:.0f} s"
    f" compiling\nread {workdir / 'report.html'}; the network is in"
    f" {workdir / 'export'}"
  )


_WRITERS: dict[str, Callable[[dict], str]] = {
  "cost": _cost_text,
  "list": _list_text,
  "rank": _rank_text,
  "score": _score_text,
}
