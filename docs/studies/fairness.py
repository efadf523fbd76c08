"""Strict fairness beside uniform sampling: the study of docs/results.md.

    python docs/studies/fairness.py --workdir runs/fairness

For each of three seeds, four supernets are trained on digits: strictly fair;
SPOS with as many updates; SPOS at equal cost (six times the updates); and six
independent uniform paths a step (as many updates *and* equal cost). For each
seed 24 uniformly sampled networks are trained from scratch once, and all four
supernets rank the same ones. Then the protocol of the paper's Fig. 1, 13
networks evenly spaced in supernet accuracy, for the first and the third.

Writes `fairness.json` and `fairness.md` into the work directory, and the
curves to docs/fairness.svg. Finished parts are not repeated.
"""

import argparse
import dataclasses
import json
import logging
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np

from jaxnas.config import load_config
from jaxnas.experiment import Experiment, make_experiment
from jaxnas.scoring.ranking import bootstrap, kendall_tau_b
from jaxnas.writer import write_csv, write_json

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402

SEEDS = (0, 1, 2)
ARMS = {  # title: config, sampler, paths of a step
  "strict fairness": ("digits_fairnas", "fair", 6),
  "SPOS, equal updates": ("digits_spos", "spos", 1),
  "SPOS, equal cost": ("digits_spos:equal_cost", "spos", 1),
  "uniform-6, equal both": ("digits_spos", "uniform-k", 6),
}
EVEN = ("strict fairness", "SPOS, equal cost")


def experiment(arm: str, seed: int, root: Path, **ranking) -> Experiment:
  """The experiment of one arm and seed in its own folder."""
  name, sampler, _ = ARMS[arm]
  config = load_config(name)
  config = dataclasses.replace(
    config,
    seed=seed,
    train=dataclasses.replace(config.train, sampler=sampler),
    ranking=dataclasses.replace(config.ranking, **ranking),
  )
  folder = arm.replace(", ", "-").replace(" ", "-")
  kind = ranking.get("selection", "uniform")
  return make_experiment(config, root / f"{folder}-{kind}-s{seed}")


def curve(run: Experiment, paths: int) -> list[list[float]]:
  """Rows `[updates, path passes, validation accuracy]`."""
  return [
    [r["step"], r["step"] * paths, r["validation_accuracy"]]
    for r in run.setup.journal.rows()
    if r["stage"] == "train" and "validation_accuracy" in r
  ]


def pooled(taus: list[tuple], statistic, rng) -> dict:
  """Mean over seeds, networks resampled within each seed."""
  parts = [bootstrap(statistic, c, rng, 2000, 0.95) for c in taus]
  draws = []
  for _ in range(2000):
    values = []
    for columns in taus:
      rows = rng.integers(0, len(columns[0]), len(columns[0]))
      values.append(statistic(*(c[rows] for c in columns)))
    draws.append(np.mean(values))
  low, high = np.nanpercentile(draws, [2.5, 97.5])
  value = float(np.mean([p["value"] for p in parts]))
  return {"value": value, "low": float(low), "high": float(high)}


def study(root: Path) -> dict:
  """Runs everything and returns the figures."""
  curves: dict[str, list] = {arm: [] for arm in ARMS}
  scores: dict[str, list] = {arm: [] for arm in ARMS}
  truths, macs, even = [], [], {arm: [] for arm in EVEN}
  for seed in SEEDS:
    truth_file = root / f"truth-s{seed}.csv"
    for arm, (_, _, paths) in ARMS.items():
      run = experiment(arm, seed, root)
      run.train()
      curves[arm].append(curve(run, paths))
      ranking = run.rank(truth_file if truth_file.exists() else None)
      if not truth_file.exists():
        keys = ("arch", "standalone_accuracy")
        write_csv(truth_file, [{k: r[k] for k in keys}
                               for r in ranking["archs"]])  # fmt: skip
      rows = ranking["archs"]
      scores[arm].append([r["supernet_accuracy"] for r in rows])
    truths.append([r["standalone_accuracy"] for r in rows])
    macs.append([r["macs"] for r in rows])
    for arm in EVEN:
      run = experiment(
        arm, seed, root, selection="evenly-spaced", n_archs=13, together=13
      )
      trained = experiment(arm, seed, root).workdir / "checkpoints" / "train"
      copy = run.workdir / "checkpoints" / "train"
      if not copy.exists():  # the same supernet, ranked by another rule
        shutil.copytree(trained, copy)
      run.train()
      even[arm].append(run.rank()["kendall_tau_b"])
  rng = np.random.default_rng(0)
  truth = [np.array(t) for t in truths]
  columns = {
    a: [(np.array(s), t) for s, t in zip(rows, truth, strict=True)]
    for a, rows in scores.items()
  }
  fair = columns["strict fairness"]

  def gain(x, y, t):
    return kendall_tau_b(x, t) - kendall_tau_b(y, t)

  cost = [(np.array(m), t) for m, t in zip(macs, truth, strict=True)]
  return {
    "seeds": list(SEEDS),
    "curves": curves,
    "truth": truths,
    "scores": scores,
    "tau": {a: pooled(c, kendall_tau_b, rng) for a, c in columns.items()},
    "tau_by_seed": {
      a: [kendall_tau_b(*c) for c in rows] for a, rows in columns.items()
    },
    "tau_macs": pooled(cost, kendall_tau_b, rng),
    "minus_macs": {
      a: pooled(
        [(x, m[0], t) for (x, t), m in zip(rows, cost, strict=True)], gain, rng
      )
      for a, rows in columns.items()
    },
    "fair_minus": {
      a: pooled(
        [(f[0], c[0], f[1]) for f, c in zip(fair, rows, strict=True)], gain, rng
      )
      for a, rows in columns.items()
      if a != "strict fairness"
    },
    "even_13": even,
  }


def markdown(result: dict) -> str:
  """The tables of docs/results.md."""

  def text(e):
    return f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"

  lines = [
    "| supernet | updates | path passes | supernet accuracy | tau-b, mean of 3"
    " seeds [95 %] | tau-b by seed | strict fairness minus it [95 %]"
    " | it minus multiply-adds alone [95 %] |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for arm, rows in result["curves"].items():
    last = [r[-1] for r in rows]
    minus = result["fair_minus"].get(arm)
    lines.append(
      f"| {arm} | {last[0][0]:,} | {last[0][1]:,}"
      f" | {np.mean([r[2] for r in last]):.3f}"
      f" ({', '.join(f'{r[2]:.3f}' for r in last)})"
      f" | {text(result['tau'][arm])}"
      f" | {', '.join(f'{t:.3f}' for t in result['tau_by_seed'][arm])}"
      f" | {text(minus) if minus else ''}"
      f" | {text(result['minus_macs'][arm])} |"
    )
  lines += [
    f"| multiply-adds alone | | | | {text(result['tau_macs'])} | | | |",
    "",
    "| 13 evenly spaced (paper's rule) | seed 0 | seed 1 | seed 2 |",
    "| --- | --- | --- | --- |",
  ]
  for arm, taus in result["even_13"].items():
    lines.append(f"| {arm} | " + " | ".join(text(t) for t in taus) + " |")
  lines += [
    "",
    "| stand-alone accuracies | lowest | lower quartile | median"
    " | upper quartile | highest |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for seed, truth in zip(result["seeds"], result["truth"], strict=True):
    spread = np.percentile(truth, [0, 25, 50, 75, 100])
    cells = " | ".join(f"{v:.3f}" for v in spread)
    lines.append(f"| seed {seed} | {cells} |")
  return "\n".join(lines) + "\n"


def plot(result: dict, path: Path) -> None:
  """Convergence at equal updates and at equal cost."""
  plt.rcParams.update({"svg.hashsalt": "jaxnas", "font.size": 9})
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
  colours = ("#2a66c4", "#e0a03c", "#c4572a", "#7a7f87")
  for axis, column, title in zip(
    axes, (0, 1), ("optimiser updates", "path passes (cost)"), strict=True
  ):
    for (arm, rows), colour in zip(
      result["curves"].items(), colours, strict=True
    ):
      table = np.array(rows)
      x, y = table[0, :, column], table[:, :, 2]
      axis.plot(x, y.mean(0), color=colour, label=arm)
      axis.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.18, lw=0)
    axis.set_xlabel(title)
    axis.grid(alpha=0.25)
  axes[0].set_ylabel("supernet accuracy, 6 fixed archs")
  axes[1].legend(frameon=False, fontsize=8)
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})


def main() -> None:
  """Runs the study and writes its files."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=Path, required=True)
  root = parser.parse_args().workdir
  logging.basicConfig(stream=sys.stderr, format="%(message)s")
  root.mkdir(parents=True, exist_ok=True)
  result = study(root)
  write_json(root / "fairness.json", result)
  (root / "fairness.md").write_text(markdown(result))
  plot(result, Path(__file__).parents[1] / "fairness.svg")
  print(markdown(result))
  print(json.dumps(result["tau"]))


if __name__ == "__main__":
  main()
