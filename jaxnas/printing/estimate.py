"""An estimate as text."""

from jaxnas.printing.tables import table


def estimate_text(result: dict) -> str:
  """Writes what a dry run found.

  Args:
    result: the JSON object of `estimate.dry_run`.
  """
  mesh, data, rate = result["mesh"], result["data"], result["rate"]
  where = "streamed" if data["streamed"] else "held on every device"
  rows = [
    {
      "stage": row["name"],
      "steps": f"{row['steps']:,}" if row["steps"] else "-",
      "batch": f"{row['batch']:,}",
      "images": _short(row["images"]),
      "FLOP/step/device": _short(row["flops_per_step_and_device"]),
      "FLOP": _short(row["flops"]),
      "by tables": _short(row["flops_by_tables"]),
      "GB/device": _gigabytes(row["memory"]),
      "hours": f"{row['hours']:.3g}",
      "share": f"{row['share']:.1%}",
    }
    for row in result["stages"]
  ]
  lines = [
    f"{result['method']} in space {result['space']}, an estimate: nothing was"
    " run",
    f"mesh data {mesh['data']} x path {mesh['path']}, compiled for"
    f" {result['compiled_for']} in the form for accelerators",
    f"data {data['source']} ({data['sizes']}): {data['train']:,} /"
    f" {data['validation']:,} / {data['test']:,} images, {data['classes']:,}"
    f" classes, training images {where}",
    table(rows) if rows else "nothing to do",
  ]
  lines += [
    f"{row['name']}: {row['what']}; memory {_memory(row['memory'])}"
    + (f"; {row['note']}" if row["note"] else "")
    for row in result["stages"]
  ]
  lines += [
    f"hours: FLOP per device at {_short(rate['flops'])}FLOP/s"
    f" ({rate['from']}), of which {rate['efficiency']:.0%} are assumed to be"
    " reached (--efficiency)",
    f"in all {result['hours']:.3g} hours, {result['device_hours']:.3g} device"
    f" hours; estimated in {result['seconds']:.0f} s",
  ]
  return "\n".join(lines)


def _gigabytes(memory: dict | None) -> str:
  return f"{memory['total'] / 1e9:.3g}" if memory else "-"


def _memory(memory: dict | None) -> str:
  if not memory:
    return "not compiled"
  parts = ("arguments", "temporaries", "outputs")
  return " + ".join(f"{memory[k] / 1e9:.3g} GB {k}" for k in parts)


def _short(value: float | None) -> str:
  if value is None:
    return "-"
  for unit, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9),
                      ("M", 1e6), ("k", 1e3)):  # fmt: skip
    if value >= scale:
      return f"{value / scale:.4g} {unit}"
  return f"{value:.4g} "
