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
  race = _race_text(result["race"]) if "race" in result else ""
  return (
    f"supernet metrics on {result['images']} validation images, batch norm:"
    f" {result['bn_mode']}\n{race}{_table(result['archs'])}"
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


def _table(rows: list[dict]) -> str:
  cells = [list(rows[0])] + [[_cell(v) for v in row.values()] for row in rows]
  widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
  return "\n".join(
    "  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True))
    for row in cells
  )


def _cell(value: object) -> str:
  if value is None:
    return "-"
  return f"{value:.4f}" if isinstance(value, float) else f"{value}"


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
  for name, row in result.get("fits", {}).items():
    lines.append(
      f"{name} fitted to supernet accuracies: tau-b {_interval(row)}; it minus"
      f" the supernet {_interval(row['gain'])}"
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


def _search_text(result: dict) -> str:
  if "answers" in result:
    return "looked up, without a new score:\n" + _table(result["answers"])
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
  rows = {k: v for k, v in result.items() if not isinstance(v, list | dict)}
  return "\n".join(f"{k}: {v}" for k, v in rows.items())


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
        "R2": _interval(e["r2"]),
        "tau-b": _interval(e["kendall_tau_b"]),
        "mean error": f"{e['mean_relative_error']:.1%}",
        "largest": f"{e['largest_relative_error']:.1%}",
        "bias": f"{e['bias']:+.1%}",
      }
      for step, e in result["held_out"]["errors"].items()
    ]
    lines.append(
      "on whole networks that the table has not seen (measured: blocks added"
      " up; empty_call: less an empty call for each; calibrated: scale and"
      " offset fitted on other networks):\n" + _table(rows)
    )
  return "\n".join(lines)


def _bench_text(result: dict) -> str:
  m = result["machine"]
  what = f"bench {result['bench']} on space {result['space']}"
  if "layers" in result:
    what += f" ({result['layers']} layers), {result['precision']}"
  title = (
    f"{what}\n"
    f"{m['n_devices']} x {m['device']}, {m['cores']} cores ({m['processor']}),"
    f" jax {m['jax']}; medians of {result['repeats']} rounds [min .. max]"
  )
  return f"{title}\n\n{_BENCHES[result['bench']](result)}"


def _bench_score_text(result: dict) -> str:
  rows, memory, compared = [], [], []
  for row in result["sets"]:
    serial, engine, scores = row["serial"], row["engine"], row["scores"]
    rows.append(
      {
        "set": row["set"],
        "n": row["n"],
        "nodes": f"{row['nodes']['computed']:,}",
        "of naive": f"{row['nodes']['share']:.1%}",
        "serial s": _spread(serial["seconds"]),
        "engine s": _spread(engine["seconds"]),
        "archs/s": f"{engine['candidates_per_second']:.1f}",
        "ratio": _spread(row["ratio"]),
        "with compiling": f"{row['total_ratio']:.2f}",
        "compiled for a 2nd set": row["compilations_second_set"],
      }
    )
    compared.append(
      f"{row['set']}: {scores['compared']} candidates compared, losses differ"
      f" by at most {scores['largest_loss_difference']:.2g},"
      f" {scores['unequal_accuracies']} accuracies differ"
      + ("" if scores["agree"] else "; THE ARMS DISAGREE")
    )
    memory += [
      {"set": row["set"], "arm": arm, **_costs(row[arm])}
      for arm in ("serial", "engine")
    ]
  parts = [
    "\n".join(compared),
    f"engine {result['engine']}, {result['calibration_images']} calibration and"
    f" {result['validation_images']} validation images; the serial arm times"
    f" {result['serial_sample']} random candidates of each set, scaled\n"
    + _table(rows),
    _table(memory),
    _peak_of(result["sets"][0]["engine"]),
  ]
  if result["growth"]:
    growth = [
      {
        "set": row["set"],
        "n": row["n"],
        "of naive": f"{row['nodes_share']:.1%}",
        "engine s": _spread(row["seconds"]),
        "archs/s": f"{row['candidates_per_second']:.1f}",
        "compiled": row["compilations"],
      }
      for row in result["growth"]
    ]
    parts.append(_table(growth))
  return "\n\n".join(parts)


def _bench_train_text(result: dict) -> str:
  rows, memory, compared = [], [], []
  for row in result["batches"]:
    step, routed, serial = row["step"], row["routed"], row["serial"]
    rows.append(
      {
        "batch": row["batch_size"],
        "serial s": _spread(serial["seconds"]),
        "routed s": _spread(routed["seconds"]),
        "images/s": f"{routed['images_per_second']:.1f}",
        "ratio": _spread(row["ratio"]),
      }
    )
    compared.append(
      f"batch {row['batch_size']}: loss {step['routed']['loss']:.6f} routed,"
      f" {step['serial']['loss']:.6f} serial; weights differ by at most"
      f" {step['largest_weight_difference']:.2g}"
      + ("" if step["agree"] else "; THE ARMS DISAGREE")
    )
    memory += [
      {"batch": row["batch_size"], "arm": arm, **_costs(row[arm])}
      for arm in ("serial", "routed")
    ]
  return "\n\n".join(
    (
      "\n".join(compared),
      f"one strict-fair step of {result['paths']} paths, remat"
      f" {'on' if result['remat'] else 'off'}\n{_table(rows)}",
      _table(memory),
      _peak_of(result["batches"][0]["routed"]),
    )
  )


def _bench_kernels_text(result: dict) -> str:
  rows = [
    {
      **{k: row[k] for k in ("kind", "size", "channels", "kernel", "stride",
                             "uses", "form")},
      "forward ms": _spread(row["forward"], 1e3),
      "x xla": f"{row['forward_ratio']:.2f}",
      "both ms": _spread(row["both"], 1e3),
      "both x xla": f"{row['both_ratio']:.2f}",
      "differs by": f"{row['largest_difference']:.1e}",
    }
    for row in result["rows"]
  ]  # fmt: skip
  totals = [
    {
      "kind": row["kind"],
      "form": row["form"],
      "forward ms": f"{row['forward'] * 1e3:.1f}",
      "x xla": f"{row['forward_ratio']:.2f}",
      "both ms": f"{row['both'] * 1e3:.1f}",
      "both x xla": f"{row['both_ratio']:.2f}",
    }
    for row in result["totals"]
  ]
  return (
    f"batch of {result['batch_size']}; both: forward and backward\n"
    f"{_table(rows)}\n\nall choices of all layers once\n{_table(totals)}"
  )


def _bench_predict_text(result: dict) -> str:
  rows = [
    {
      "predictor": row["kind"],
      "fit s": f"{row['fit_seconds']:.2f}",
      "fit set-up s": f"{row['fit_setup']['seconds']:.2f}",
      "predict s": _spread(row["seconds"]),
      "archs/s": _spread(row["archs_per_second"]),
      "set-up s": f"{row['setup']['seconds']:.2f}",
    }
    for row in result["rows"]
  ]
  return (
    f"all {result['archs']:,} sub-archs of one segment, after a fit to"
    f" {result['labels']} labels\n{_table(rows)}"
  )


def _spread(value: dict, scale: float = 1.0) -> str:
  median, low, high = (value[k] * scale for k in ("median", "min", "max"))
  return f"{median:.4g} [{low:.3g} .. {high:.3g}]"


def _costs(arm: dict) -> dict:
  """Columns for what an arm takes beyond its time."""
  setup, program = arm["setup"], arm["largest_program"]
  return {
    "set-up s": f"{setup['seconds']:.2f}",
    "of it compiler": f"{setup['compile_seconds']:.2f}",
    "programs": setup["compilations"],
    "largest program MiB": f"{program['total'] / 2**20:.1f}" if program else "",
    "peak MiB": f"{arm['peak']['bytes'] / 2**20:.1f}",
  }


def _peak_of(arm: dict) -> str:
  return (
    "set-up: tracing and compiling in the first call; largest program: its"
    " arguments, outputs and temporaries, if any was compiled; peak:"
    f" {arm['peak']['of']}."
  )


_BENCHES: dict[str, Callable[[dict], str]] = {
  "kernels": _bench_kernels_text,
  "predict": _bench_predict_text,
  "score": _bench_score_text,
  "train": _bench_train_text,
}
_WRITERS: dict[str, Callable[[dict], str]] = {
  "bench": _bench_text,
  "cost": _cost_text,
  "list": _list_text,
  "profile": _profile_text,
  "rank": _rank_text,
  "score": _score_text,
  "search": _search_text,
}
