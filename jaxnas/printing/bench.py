"""What benchmarks found, as text."""

from collections.abc import Callable

from jaxnas.printing.tables import spread, table


def bench_text(result: dict) -> str:
  """Writes the result of a benchmark."""
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
        "serial s": spread(serial["seconds"]),
        "engine s": spread(engine["seconds"]),
        "archs/s": f"{engine['candidates_per_second']:.1f}",
        "ratio": spread(row["ratio"]),
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
    + table(rows),
    table(memory),
    _peak_of(result["sets"][0]["engine"]),
  ]
  if result["growth"]:
    growth = [
      {
        "set": row["set"],
        "n": row["n"],
        "of naive": f"{row['nodes_share']:.1%}",
        "engine s": spread(row["seconds"]),
        "archs/s": f"{row['candidates_per_second']:.1f}",
        "compiled": row["compilations"],
      }
      for row in result["growth"]
    ]
    parts.append(table(growth))
  return "\n\n".join(parts)


def _bench_blocks_text(result: dict) -> str:
  scores = result["scores"]
  rows = [
    {
      "arm": arm,
      "programs": result[arm]["programs"],
      "compiler s": f"{result[arm]['compile_seconds']:.1f}",
      "all blocks, from nothing, s": f"{result[arm]['total_seconds']:.1f}",
      "once more s": spread(result[arm]["seconds"]),
    }
    for arm in ("alone", "interpreter")
  ]
  return (
    f"{scores['compared']} blocks compared, losses differ by at most"
    f" {scores['largest_loss_difference']:.2g},"
    f" {scores['unequal_accuracies']} accuracies differ"
    + ("" if scores["agree"] else "; THE ARMS DISAGREE")
    + f"\n\n{table(rows)}\n\n"
    f"{result['n']} new blocks: {result['total_ratio']:.1f} times faster by the"
    f" interpreter; once all is compiled, ratio {spread(result['ratio'])};"
    f" compiled for {result['n']} other blocks:"
    f" {result['compilations_second_set']}"
  )


def _bench_masks_text(result: dict) -> str:
  scores, shared = result["scores"], result["beginnings"]
  memory = [
    {"arm": arm, **_costs(result[arm])} for arm in ("serial", "together")
  ]
  forms = [
    {
      "vectorised": row["vectorised"],
      "looped": row["looped"],
      "images at once": row["tile"],
      "seconds": spread(row["seconds"]),
      "ratio": spread(row["ratio"]),
      "compiler s": f"{row['compile_seconds']:.2f}",
      "": row["role"],
    }
    for row in result["forms"]
  ]
  return "\n\n".join(
    (
      f"{scores['compared']} masks of {scores['arms']} arms compared, losses"
      f" differ by at most {scores['largest_loss_difference']:.2g},"
      f" {scores['unequal_predictions']} predictions differ"
      + ("" if scores["agree"] else "; THE ARMS DISAGREE"),
      f"{result['n']} masks at rates {result['rates']}"
      f" ({result['kept_channels']:.1%} of {result['channels']:,} channels in"
      f" {result['groups']} groups kept), batch norm: {result['bn_mode']},"
      f" {result['validation_images']} images; serial is the faster loop that"
      f" scores one mask a call; all but the default form time"
      f" {result['serial']['timed']} masks, scaled\n"
      f"all masks: serial {spread(result['serial']['seconds'])} s, together"
      f" {spread(result['together']['seconds'])} s"
      f" ({result['together']['masks_per_second']:.1f} masks/s), ratio"
      f" {spread(result['ratio'])}, with compiling"
      f" {result['total_ratio']:.2f}; compiled for a second set:"
      f" {result['compilations_second_set']}",
      "the default form "
      + (
        "computes common beginnings once"
        if shared["shared"]
        else "computes every mask whole"
      )
      + f" (work without / with sharing {shared['work_ratio']:.2f})\n"
      "masks vectorised at once, such groups looped in a call, images at once\n"
      + table(forms),
      table(memory),
      _peak_of(result["together"]),
    )
  )


def _bench_train_text(result: dict) -> str:
  rows, memory, compared = [], [], []
  for row in result["batches"]:
    step, routed, serial = row["step"], row["routed"], row["serial"]
    rows.append(
      {
        "batch": row["batch_size"],
        "serial s": spread(serial["seconds"]),
        "routed s": spread(routed["seconds"]),
        "images/s": f"{routed['images_per_second']:.1f}",
        "ratio": spread(row["ratio"]),
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
      f" {'on' if result['remat'] else 'off'}\n{table(rows)}",
      table(memory),
      _peak_of(result["batches"][0]["routed"]),
    )
  )


def _bench_kernels_text(result: dict) -> str:
  rows = [
    {
      **{k: row[k] for k in ("kind", "size", "channels", "kernel", "stride",
                             "uses", "form")},
      "forward ms": spread(row["forward"], 1e3),
      "x xla": f"{row['forward_ratio']:.2f}",
      "both ms": spread(row["both"], 1e3),
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
    f"{table(rows)}\n\nall choices of all layers once\n{table(totals)}"
  )


def _bench_predict_text(result: dict) -> str:
  rows = [
    {
      "predictor": row["kind"],
      "fit s": f"{row['fit_seconds']:.2f}",
      "fit set-up s": f"{row['fit_setup']['seconds']:.2f}",
      "predict s": spread(row["seconds"]),
      "archs/s": spread(row["archs_per_second"]),
      "set-up s": f"{row['setup']['seconds']:.2f}",
    }
    for row in result["rows"]
  ]
  return (
    f"all {result['archs']:,} sub-archs of one segment, after a fit to"
    f" {result['labels']} labels\n{table(rows)}"
  )


def _bench_input_text(result: dict) -> str:
  step = result["step"]
  rows = [
    {
      "threads": row["threads"],
      "images/s": spread(row["images_per_second"]),
      "x the step": spread(row["ratio"]),
    }
    for row in result["streams"]
  ]
  return (
    f"{result['images']} images of {result['source']}\n"
    f"one strict-fair step on {result['batch_size']} images:"
    f" {spread(step['seconds'])} s, takes {spread(step['images_per_second'])}"
    f" images/s\n{table(rows)}"
  )


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
  "input": _bench_input_text,
  "kernels": _bench_kernels_text,
  "masks": _bench_masks_text,
  "blocks": _bench_blocks_text,
  "predict": _bench_predict_text,
  "score": _bench_score_text,
  "train": _bench_train_text,
}
