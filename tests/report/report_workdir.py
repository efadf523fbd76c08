"""Writes a work directory that looks like the real thing."""

import csv
import json
from pathlib import Path

import numpy as np

from jaxnas import config as config_lib
from jaxnas.arch import to_string
from jaxnas.costs import cost_tables
from jaxnas.spaces import get_space

COLUMNS = ("arch", "round", "accuracy", "loss", "macs", "params", "seconds")


def write(
  folder: Path,
  space_name: str = "digits",
  budget: str = "macs<=400k",
  n: int = 300,
  seed: int = 0,
  n_ranked: int = 24,
  noise: float = 0.01,
  **source,
) -> Path:
  """Writes every file of a work directory, and returns the folder."""
  rng = np.random.default_rng(seed)
  space = get_space(space_name)
  tables = cost_tables(space)
  folder.mkdir(parents=True, exist_ok=True)

  def dump(name: str, value) -> None:
    (folder / name).write_text(json.dumps(value))

  config = config_lib.override(
    config_lib.ExperimentConfig(),
    [f"space.name={space_name}", f"budget={budget}"],
  )
  dump("config.json", config_lib.to_json(config))
  dump("space.json", space.to_json())
  data = {
    "source": "digits", "fingerprint": "9f3c0a1b2c4d", "train": 1149,
    "validation": 288, "test": 360, "n_classes": space.n_classes,
    "class_names": [str(i) for i in range(10)], **source,
  }  # fmt: skip
  dump(
    "manifest.json",
    {
      "jaxnas": "0.1.0", "python": "3.11.9", "jax": "0.10.2",
      "flax": "0.12.8", "device": "cpu", "n_devices": 1,
      "platform": "Linux-x86_64", "seed": seed, "data": data,
      "config_fingerprint": config_lib.fingerprint(config),
    },
  )  # fmt: skip
  archs = space.sample(rng, n)
  costs = {k: tables[k](archs) for k in ("macs", "params")}
  size = (costs["macs"] - tables["macs"].smallest) / (
    tables["macs"].largest - tables["macs"].smallest
  )
  accuracy = 0.8 + 0.15 * np.sqrt(size) + rng.normal(0, noise, n)
  limit = float(budget[6:-1]) * {"k": 1e3, "M": 1e6}[budget[-1]]
  rows = [
    (
      to_string(archs[i]), i // 30, float(accuracy[i]),
      float(1 - accuracy[i]), int(costs["macs"][i]), int(costs["params"][i]),
      0.01,
    )
    for i in range(n)
  ]  # fmt: skip
  front = [
    r for r in rows
    if not any(
      o[2] >= r[2] and o[4] <= r[4] and o is not r for o in rows
    )
  ]  # fmt: skip
  for name, part in (("archs.csv", rows), ("pareto.csv", front)):
    with (folder / name).open("w", newline="") as file:
      writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
      writer.writerow(COLUMNS)
      writer.writerows(part)
  best = max((r for r in rows if r[4] <= limit), key=lambda r: r[2])
  dump("result.json", {
    "method": "fairnas", "space": space_name, "arch": best[0],
    "metrics": {
      "supernet_accuracy": best[2], "standalone_accuracy": 0.9653,
      "test_accuracy": 0.9722, "macs": best[4], "params": best[5],
    },
    "budget": budget,
    "seconds": {"data": 0.4, "train": 94.2, "search": 21.7, "rank": 210.5,
                "retrain": 48.1, "export": 0.9, "compile": 37.3},
    "seed": seed, "test_reads": 1, "selected_from": "validation",
    "front": [
      {"arch": r[0], "accuracy": r[2], "macs": r[4], "params": r[5]}
      for r in front
    ],
  })  # fmt: skip
  (folder / "metrics.jsonl").write_text(
    "".join(json.dumps(r) + "\n" for r in _metrics(rng))
  )
  layers, choices = space.n_layers, int(space.n_choices.max())
  dump("fairness.json", {
    "counts": [[1080] * choices] * layers, "strictly_fair": True,
    "sampler": "fair", "steps": 1080,
  })  # fmt: skip
  pick = rng.choice(n, n_ranked, replace=False)
  true = accuracy[pick] + 0.03 + rng.normal(0, noise, n_ranked)
  dump("ranking.json", {
    "n": n_ranked, "selection": "uniform", "bn_mode": "recalibrate",
    "pairs": n_ranked * (n_ranked - 1) // 2,
    "kendall_tau_b": {"value": 0.712, "low": 0.551, "high": 0.834},
    "kendall_tau_a": 0.709,
    "spearman": {"value": 0.871, "low": 0.702, "high": 0.943},
    "top_k": 5, "top_k_overlap": {"value": 0.6, "low": 0.2, "high": 1.0},
    "regret": 0.0035, "confidence": 0.95,
    "baselines": {
      "macs": {"value": 0.604, "low": 0.391, "high": 0.772},
      "params": {"value": 0.287, "low": 0.011, "high": 0.529},
    },
    "archs": [
      {"arch": to_string(archs[i]), "supernet_accuracy": float(accuracy[i]),
       "standalone_accuracy": float(t), "macs": int(costs["macs"][i]),
       "params": int(costs["params"][i])}
      for i, t in zip(pick, true, strict=True)
    ],
  })  # fmt: skip
  return folder


def _metrics(rng: np.random.Generator) -> list[dict]:
  rows = []
  for step in range(0, 1080, 10):
    epoch = step / 18
    share = 1 - np.exp(-epoch / 12)
    rows.append({
      "stage": "train", "step": step, "epoch": epoch,
      "loss": float(2.3 - 1.7 * share + rng.normal(0, 0.05)),
      "accuracy": float(0.1 + 0.85 * share + rng.normal(0, 0.02)),
      "learning_rate": 0.045, "grad_norm": 1.0,
    })  # fmt: skip
    if step % 180 == 170:
      mean = 0.1 + 0.8 * share
      rows.append({
        "stage": "train", "step": step, "epoch": epoch,
        "validation_accuracy": mean, "validation_accuracy_min": mean - 0.06,
        "validation_accuracy_max": mean + 0.04,
      })  # fmt: skip
  for i in range(10):
    rows.append({
      "stage": "search", "round": i, "evaluated": 30 * (i + 1),
      "best_accuracy": 0.95 - 0.05 * 0.6**i,
      "hypervolume": 0.7 - 0.1 * 0.7**i,
    })  # fmt: skip
  for epoch in range(40):
    share = 1 - np.exp(-epoch / 6)
    rows.append({
      "stage": "retrain", "step": 18 * epoch, "epoch": float(epoch),
      "loss": float(2.3 - 1.75 * share), "accuracy": float(share),
      "learning_rate": 0.05,
    })  # fmt: skip
    if epoch % 4 == 3:
      rows.append({
        "stage": "retrain", "step": 18 * epoch, "epoch": float(epoch),
        "validation_accuracy": float(0.1 + 0.865 * share),
      })  # fmt: skip
  return rows
