"""Do networks rank truer within clusters? The claim of DC-NAS, tested.

    python docs/studies/dcnas.py --table nas-bench-macro_cifar10.json
    python docs/studies/dcnas.py digits_dcnas --seeds 0 1 2 --workdir DIR

For each seed archs are sampled, represented and put into clusters; then tau-b
of early against final accuracy over pairs within clusters, less that over all
pairs, and the same for random clusters of equal sizes and for neighbours in
multiply-adds. Means over seeds with 95 % Student intervals. On a table all is
looked up; on images every sampled network is trained in full besides, in
`DIR/seed-SEED`, which resumes.
"""

import argparse
from pathlib import Path

import numpy as np

from jaxnas.config import ExperimentConfig, load_config, override
from jaxnas.experiment import make_experiment
from jaxnas.scoring.paired import student
from jaxnas.table_search import search_table
from jaxnas.writer import read_json, write_json


def on_table(config: ExperimentConfig, path: Path) -> dict:
  """The `partition` of one search in a table, and how clusters encode cost."""
  found = search_table(config, path)["divide"]
  return {**found["partition"], "macs_explained": found["macs_explained"]}


def on_images(config: ExperimentConfig, workdir: Path) -> dict:
  """The same of one run, every sampled network trained."""
  experiment = make_experiment(config, workdir)
  experiment.train()
  experiment.search()
  found = experiment.rank()["partition"]
  clusters = read_json(workdir / "clusters.json")
  return {**found, "macs_explained": clusters["macs_explained"]}


def summary(rows: list[dict]) -> dict:
  """Means over seeds with intervals."""
  figures = {
    "global": [r["global"]["value"] for r in rows],
    "within clusters": [r["within"]["value"] for r in rows],
    "within - global": [r["difference"]["value"] for r in rows],
    "within random clusters - global": [
      r["random"]["value"] - r["global"]["value"] for r in rows
    ],
    "within neighbours in multiply-adds - global": [
      r["macs"]["difference"]["value"] for r in rows
    ],
    "within - within random clusters": [
      r["within"]["value"] - r["random"]["value"] for r in rows
    ],
    "multiply-adds explained": [r["macs_explained"] for r in rows],
  }
  return {
    "seeds": len(rows),
    "beyond chance (p < 0.05)": sum(r["random"]["p"] < 0.05 for r in rows),
    **{name: student(np.array(v, float)) for name, v in figures.items()},
  }


def main() -> None:
  """Runs the study and prints it."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("config", nargs="?", default="nasbench_macro_dcnas:table")
  parser.add_argument("--table", type=Path)
  parser.add_argument("--seeds", type=int, nargs="+")
  parser.add_argument("--set", action="append", default=[])
  parser.add_argument("--workdir", type=Path)
  parser.add_argument("--out", type=Path)
  given = parser.parse_args()
  if not given.table and not given.workdir:
    parser.error("give --table FILE, or CONFIG and --workdir DIR")
  seeds = given.seeds or range(30 if given.table else 3)
  config = override(load_config(given.config), given.set)
  rows = []
  for seed in seeds:
    seeded = override(config, [f"seed={seed}"])
    if given.table:
      rows.append(on_table(seeded, given.table))
    else:
      rows.append(on_images(seeded, given.workdir / f"seed-{seed}"))
    found = rows[-1]
    print(
      f"seed {seed}: global {found['global']['value']:.3f}, within"
      f" {found['within']['value']:.3f}, random {found['random']['value']:.3f}"
      f" (p {found['random']['p']:.3f})",
      flush=True,
    )
  found = summary(rows)
  for name, value in found.items():
    if isinstance(value, dict):
      value, low, high = (value[k] for k in ("value", "low", "high"))
      value = f"{value:.3f}"
      if low is not None:  # one seed has no interval
        value += f" [{low:.3f}, {high:.3f}]"
    print(f"{name}: {value}")
  if given.out:
    write_json(given.out, {"summary": found, "rows": rows})


if __name__ == "__main__":
  main()
