"""Every predictor on known networks: the study of docs/results.md.

    python docs/studies/predictors.py --data DATA --workdir runs/predictors

`--table macro` (NAS-Bench-Macro): independent noise of standard deviation
sigma, in points of accuracy, is added to the stand-alone accuracy; predictors
are fitted to n labels and rank all other networks by accuracy without noise.
`raw` ranks them by their own noisy labels. `--split canonical` counts each of
the 3,969 distinct networks once; `keys` is the protocol of the GCN's
specification, 6,561 keys with copies on both sides.

`--table accel` (Accel-NASBench, ImageNet) and `--table dynas` (paths of the OFA
MobileNetV3 supernet, accuracies under shared weights): labels carry their own
noise and nothing is added.

Reported are Kendall's tau-b over all test networks and over the top 10 % of
them by accuracy, as means over seeds with Student's interval of 95 %, and the
default's paired difference from the better of ridge and the reference GCN.
`gcn-reference` is the specification's (one network, trained to the end); `gcn`
and `mlp` are as in `PredictorConfig`.

Writes `TABLE.json` and `TABLE.md` into the work directory; what is there
already is not fitted again. DATA is the folder of the data sets.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
from scipy import stats

from jaxnas.config import PredictorConfig
from jaxnas.predictors import REFERENCE_GCN, make_predictor, tau_b
from jaxnas.tables import load_table
from jaxnas.writer import write_json

PATHS = {
  "macro": "nas-bench-macro/nas-bench-macro_cifar10.json",
  "accel": "accel-nasbench/accel-nasbench.csv.gz",
  "dynas": "dynas-ofa-mbv3",
}
SIZES = {
  "macro": (200, 500, 2000),
  "accel": (200, 1000, 4000),
  "dynas": (200, 500, 1500),
}
SIGMAS = (0.0, 0.5, 1.0, 2.0)
KINDS = {
  "ridge": PredictorConfig(kind="ridge"),
  "mlp": PredictorConfig(kind="mlp"),
  "gcn-reference": REFERENCE_GCN,
  "gcn": PredictorConfig(kind="gcn"),
  "default": PredictorConfig(),
}
RIVALS = ("ridge", "gcn-reference")

log = logging.getLogger("study")


def networks(args) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Choices of each node, archs and accuracies in percent."""
  table = load_table(args.data / PATHS[args.table])
  n_choices, archs = table.space.n_choices, table.space.rows
  if args.table == "macro" and args.split == "keys":
    archs = np.indices(n_choices).reshape(len(n_choices), -1).T
  return n_choices, archs, 100 * table.objective(archs)["accuracy"]


def judge(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
  """Tau over all, and over the top 10 % by truth."""
  top = truth >= np.quantile(truth, 0.9)
  return {
    "all": tau_b(scores, truth),
    "top": tau_b(scores[top], truth[top]),
  }


def measure(args, rows: list[dict], save) -> None:
  """Adds what is missing to `rows`."""
  n_choices, archs, accuracy = networks(args)
  key = lambda r: (r["sigma"], r["n"], r["seed"], r["kind"])
  done = {key(r) for r in rows}
  for sigma in args.sigmas:
    for n in args.sizes:
      for seed in range(args.first_seed, args.first_seed + args.seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(archs))
        labels = accuracy + sigma * rng.normal(size=len(archs))
        fit, test = order[:n], order[n:]
        for kind in args.kinds:
          if (sigma, n, seed, kind) in done:
            continue
          begin = time.perf_counter()
          if kind == "raw":
            scores, seconds = labels[test], 0.0
          else:
            fitted = make_predictor(KINDS[kind]).fit(
              n_choices, archs[fit], labels[fit], seed
            )
            seconds = time.perf_counter() - begin
            scores, _ = fitted.predict(archs[test])
          row = {"sigma": sigma, "n": n, "seed": seed, "kind": kind}
          row |= judge(scores, accuracy[test]) | {"fit_seconds": seconds}
          log.info("%s", row)
          rows.append(row)
          save()


def interval(values: list[float]) -> dict[str, float]:
  """Mean with Student's 95 % interval; no interval for one value."""
  mean, count = float(np.mean(values)), len(values)
  if count < 2:
    return {"mean": mean, "low": None, "high": None}
  half = stats.t.ppf(0.975, count - 1) * stats.sem(values)
  return {"mean": mean, "low": mean - half, "high": mean + half}


def summary(rows: list[dict]) -> list[dict]:
  """One row for each sigma and n."""
  out = []
  for sigma, n in sorted({(r["sigma"], r["n"]) for r in rows}):
    here = [r for r in rows if (r["sigma"], r["n"]) == (sigma, n)]
    kinds = {}
    for r in here:
      kinds.setdefault(r["kind"], {})[r["seed"]] = r
    row = {"sigma": sigma, "n": n, "seeds": len({r["seed"] for r in here})}
    for which in ("all", "top"):
      row[which] = {
        kind: interval([r[which] for r in by_seed.values()])
        for kind, by_seed in kinds.items()
      }
      rivals = [k for k in RIVALS if k in kinds]
      if "default" in kinds and rivals:
        best = max(rivals, key=lambda k, w=which: row[w][k]["mean"])
        shared = kinds["default"].keys() & kinds[best].keys()
        gain = [
          kinds["default"][s][which] - kinds[best][s][which] for s in shared
        ]
        row[which]["default minus " + best] = interval(gain)
    row["fit_seconds"] = {
      kind: float(np.median([r["fit_seconds"] for r in by_seed.values()]))
      for kind, by_seed in kinds.items()
    }
    out.append(row)
  return out


def markdown(args, rows: list[dict]) -> str:
  """Two tables, all and top 10 %, and the median seconds of a fit."""
  kinds = [k for k in ("raw", *KINDS) if k in args.kinds]
  text = []
  for which, title in (("all", "all test networks"), ("top", "top 10 %")):
    text += [f"### Kendall tau-b, {title}", ""]
    text += ["| sigma | n | " + " | ".join(kinds) + " | default's gain |"]
    text += ["|" + "---|" * (len(kinds) + 3)]
    for row in rows:
      cells = [_cell(row[which].get(k)) for k in kinds]
      gain = next(
        (
          f"{_cell(v, '+')} on {name.removeprefix('default minus ')}"
          for name, v in row[which].items()
          if name.startswith("default minus ")
        ),
        "",
      )
      text += [
        f"| {row['sigma']:g} | {row['n']} | {' | '.join(cells)} | {gain} |"
      ]
    text += [""]
  text += ["### Seconds of a fit, median", ""]
  text += ["| n | " + " | ".join(kinds) + " |", "|" + "---|" * (len(kinds) + 1)]
  for row in rows:
    cells = [f"{row['fit_seconds'].get(k, np.nan):.2f}" for k in kinds]
    text += [f"| {row['n']} | {' | '.join(cells)} |"]
  return "\n".join(text) + "\n"


def _cell(value: dict | None, sign: str = "") -> str:
  if value is None:
    return ""
  mean = format(value["mean"], sign + ".3f")
  if value["low"] is None:
    return mean
  return f"{mean} ± {value['high'] - value['mean']:.3f}"


def main() -> None:
  """Runs the study."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--data", type=Path, required=True)
  parser.add_argument("--workdir", type=Path, required=True)
  parser.add_argument("--table", choices=PATHS, default="macro")
  parser.add_argument("--split", choices=("canonical", "keys"),
                      default="canonical")  # fmt: skip
  parser.add_argument("--seeds", type=int, default=5)
  parser.add_argument("--first-seed", type=int, default=0)
  parser.add_argument("--sigmas", type=float, nargs="+")
  parser.add_argument("--sizes", type=int, nargs="+")
  parser.add_argument("--kinds", nargs="+", choices=("raw", *KINDS))
  args = parser.parse_args()
  logging.basicConfig(level=logging.INFO, format="%(message)s")
  macro = args.table == "macro"
  args.sigmas = args.sigmas or (SIGMAS if macro else (0.0,))
  args.sizes = args.sizes or SIZES[args.table]
  args.kinds = args.kinds or (("raw", *KINDS) if macro else tuple(KINDS))
  args.workdir.mkdir(parents=True, exist_ok=True)
  name = f"{args.table}-{args.split}" if macro else args.table
  path = args.workdir / f"{name}.json"
  rows = json.loads(path.read_text())["rows"] if path.exists() else []

  def save():
    write_json(path, {"rows": rows, "summary": summary(rows)})

  measure(args, rows, save)
  save()
  text = markdown(args, summary(rows))
  (args.workdir / f"{name}.md").write_text(text)
  print(text)


if __name__ == "__main__":
  main()
