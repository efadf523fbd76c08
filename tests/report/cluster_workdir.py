"""Writes a work directory of DC-NAS, or of evolution, like a real one."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from jaxnas import config as config_lib
from jaxnas.config import DivideConfig, ExperimentConfig, SpaceConfig
from jaxnas.costs import cost_tables
from jaxnas.spaces import Space, get_space
from jaxnas.writer import write_csv, write_json

VALIDATION = 360
TRAIN = 1077


def write(
  folder: Path,
  method: str = "dcnas",
  n: int = 64,
  n_ranked: int = 24,
  seed: int = 0,
  **divide,
) -> Path:
  """Writes every file of a run, and returns the folder.

  Args:
    folder: made if missing.
    method: `dcnas`; or `evolution`, which has no clusters.
    n: sampled archs.
    n_ranked: archs with a stand-alone accuracy; 0 writes no ranking.
    seed: of all draws.
    **divide: fields of the config's section.
  """
  rng = np.random.default_rng(seed)
  space = get_space("digits")
  config = dataclasses.replace(
    ExperimentConfig(), method=method, space=SpaceConfig("digits", {}),
    divide=DivideConfig(samples=n, **divide),
  )  # fmt: skip
  _begin(folder, space, config)
  archs = _sampled(space, config.divide, n, rng)
  winner = max(
    (a for a in archs if a["survivor"]), key=lambda a: a["longer"]
  )  # fmt: skip
  vote = dict(_voted(space, archs), longer=0.9333)
  if method == "dcnas":
    found = _clusters(config.divide, archs, winner, vote)
    write_json(folder / "clusters.json", found)
    winner = vote if config.divide.merge == "vote" else winner
  else:
    winner = max(archs, key=lambda a: a["early"])
  rows = [
    {"arch": a["arch"], "round": i // 16, "accuracy": a["early"],
     "loss": 1 - a["early"], "macs": a["macs"], "params": a["params"],
     "seconds": 0.5} for i, a in enumerate(archs)
  ]  # fmt: skip
  write_csv(folder / "archs.csv", rows)
  front = [
    r for r in rows
    if not any(o["accuracy"] > r["accuracy"] and o["macs"] <= r["macs"]
               for o in rows)
  ]  # fmt: skip
  write_csv(folder / "pareto.csv", front)
  if n_ranked and method == "dcnas":
    brief = config.divide.source == "short-training"
    ranking = _ranking(archs[:n_ranked], brief, rng)
    write_json(folder / "ranking.json", ranking)
  _finish(folder, space, config, winner, front)
  return folder


def _begin(folder: Path, space: Space, config: ExperimentConfig) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  write_json(folder / "config.json", config_lib.to_json(config))
  write_json(folder / "space.json", space.to_json())
  write_json(folder / "manifest.json", {
    "jaxnas": "0.1.0", "device": "cpu", "n_devices": 1, "seed": 0,
    "data": {"source": "digits", "train": TRAIN, "validation": VALIDATION,
             "test": 360, "n_classes": 10},
  })  # fmt: skip


def _sampled(space: Space, divide: DivideConfig, n: int, rng) -> list[dict]:
  """Archs around centres that mean a speed of learning."""
  archs = np.unique(space.sample(rng, 2 * n), axis=0)
  archs = rng.permutation(archs)[:n]
  tables = cost_tables(space)
  costs = {k: tables[k](archs) for k in ("macs", "params")}
  k = min(divide.clusters or 5, n)
  # Every cluster has an arch.
  labels = np.r_[np.arange(k), rng.integers(k, size=n - k)]
  places = rng.normal(0, 2.2, (k, 2))[labels] + rng.normal(0, 0.7, (n, 2))
  size = np.log(costs["macs"] / costs["macs"].min())
  speed = rng.normal(0, 0.03, k)[labels]
  early = np.clip(0.7 + 0.08 * size + speed + rng.normal(0, 0.01, n), 0, 0.97)
  longer = np.clip(0.88 + 0.04 * size + rng.normal(0, 0.006, n), 0, 1)
  rows = []
  for i, arch in enumerate(archs):
    rows.append({
      "arch": space.to_string(arch), "cluster": int(labels[i]),
      "x": float(places[i, 0]), "y": float(places[i, 1]),
      "early": round(early[i] * VALIDATION) / VALIDATION,
      "macs": int(costs["macs"][i]), "params": int(costs["params"][i]),
      "survivor": False, "longer": None,
    })  # fmt: skip
  for c in range(k):
    mine = [i for i in range(n) if labels[i] == c]
    for i in sorted(mine, key=lambda i: -rows[i]["early"])[: divide.keep]:
      rows[i]["survivor"] = True
      rows[i]["longer"] = round(longer[i] * VALIDATION) / VALIDATION
  return rows


def _voted(space: Space, archs: list[dict]) -> dict:
  best = [space.from_string(a["arch"]) for a in archs if a["survivor"]]
  arch = np.array([np.bincount(layer).argmax() for layer in np.stack(best).T])
  tables = cost_tables(space)
  return {
    "arch": space.to_string(arch), "early": None,
    **{k: int(tables[k](arch[None])[0]) for k in ("macs", "params")},
  }  # fmt: skip


def _clusters(divide: DivideConfig, archs, best, vote) -> dict:
  ks = sorted({a["cluster"] for a in archs})
  rows = []
  for c in ks:
    mine = [a for a in archs if a["cluster"] == c]
    own = max(mine, key=lambda a: (a["longer"] or 0, a["early"]))
    names = ("early", "longer", "macs")
    rows.append({"cluster": c, "size": len(mine), "winner": own["arch"],
                 **{k: own[k] for k in names}})  # fmt: skip
  curve = []
  if not divide.clusters:
    values = 0.35 - 0.02 * np.abs(np.arange(2, 13) - len(ks))
    curve = [
      {"k": k, "value": float(v)}
      for k, v in zip(range(2, 13), values, strict=True)
    ]
  survivors = sum(a["survivor"] for a in archs)
  brief = divide.source == "short-training"
  return {
    "source": divide.source, "features": divide.features,
    "distance": divide.distance, "partition": divide.partition,
    "k": len(ks), "silhouette": curve,
    "merge": {"mode": divide.merge, "winner": best["arch"],
              "vote": vote["arch"]},
    "archs": archs, "clusters": rows, "macs_explained": 0.183,
    "stability": {
      "seeds": 10, "adjusted_rand": {"value": 0.71, "low": 0.62, "high": 0.8},
    },
    "explained": [0.413, 0.172],
    "cost": [
      {"stage": "represent", "networks": len(archs),
       "epochs": divide.epochs if brief else 0,
       "images": len(archs) * (3 * divide.epochs * TRAIN + VALIDATION)
       if brief else len(archs) * 3 * TRAIN, "seconds": 61.5},
      {"stage": "conquer", "networks": survivors,
       "epochs": divide.conquer_epochs,
       "images": survivors * (3 * divide.conquer_epochs * TRAIN + VALIDATION),
       "seconds": 40.25},
    ],
  }  # fmt: skip


def _ranking(archs: list[dict], brief: bool, rng) -> dict:
  sizes = np.bincount([a["cluster"] for a in archs])
  name = "early_accuracy" if brief else "supernet_accuracy"
  return {
    "n": len(archs), "selection": "the first of the sampled",
    "bn_mode": "running" if brief else "recalibrate",
    "pairs": len(archs) * (len(archs) - 1) // 2,
    "kendall_tau_b": {"value": 0.512, "low": 0.331, "high": 0.684},
    "spearman": {"value": 0.671, "low": 0.442, "high": 0.843},
    "top_k": 5, "top_k_overlap": {"value": 0.6, "low": 0.2, "high": 1.0},
    "regret": 0.0035, "confidence": 0.95,
    "baselines": {"macs": {"value": 0.604, "low": 0.391, "high": 0.772}},
    "archs": [
      {"arch": a["arch"], name: a["early"],
       "standalone_accuracy": 0.6 + 0.4 * a["early"] + rng.normal(0, 0.01),
       "macs": a["macs"], "params": a["params"]} for a in archs
    ],
    "partition": {
      "n": len(archs), "confidence": 0.95,
      "global": {"value": 0.512, "low": 0.331, "high": 0.684},
      "within": {"value": 0.633, "low": 0.407, "high": 0.812},
      "difference": {"value": 0.121, "low": 0.013, "high": 0.242},
      "random": {"value": 0.508, "low": 0.391, "high": 0.622, "p": 0.021},
      "macs": {"within": {"value": 0.447, "low": 0.192, "high": 0.679},
               "difference": {"value": -0.065, "low": -0.21, "high": 0.074},
               "beyond": {"value": 0.197, "low": -0.02, "high": 0.41}},
      "sizes": sizes[sizes > 0].tolist(),
    },
  }  # fmt: skip


def _finish(folder, space, config, winner, front) -> None:
  shared = config.method == "dcnas" and config.divide.source == "shared-weights"
  costs = {k: winner[k] for k in ("macs", "params")}
  searched = winner["longer"] if config.method == "dcnas" else winner["early"]
  names = space.choice_names(space.from_string(winner["arch"]))
  write_json(folder / "search.json", {
    "arch": winner["arch"], "choices": names, "accuracy": searched,
    "early": winner["early"], "evaluated": config.divide.samples, **costs,
    "bn_mode": "recalibrate" if shared else "running", "front": front,
  })  # fmt: skip
  trained = {
    "arch": winner["arch"], "retrained_from": "scratch",
    "standalone_accuracy": 0.9611, "test_accuracy": 0.9583,
  }  # fmt: skip
  write_json(folder / "retrain.json", trained)
  write_json(folder / "result.json", {
    "method": config.method, "space": space.name, "arch": winner["arch"],
    "metrics": {
      "supernet_accuracy": winner["early"] if shared else None,
      "standalone_accuracy": 0.9611, "test_accuracy": 0.9583, **costs,
    },
    "budget": "", "evaluated": config.divide.samples, "choices": names,
    "retrained_from": "scratch", "selected_from": "validation",
    "test_reads": 1, "seed": 0, "front": front,
    "seconds": {"train": 60.0, "search": 101.8, "retrain": 9.0,
                "compile": 20.0},
  })  # fmt: skip
  if shared:
    layers, choices = space.n_layers, int(space.n_choices.max())
    write_json(folder / "fairness.json", {
      "counts": [[340] * choices] * layers, "strictly_fair": True,
      "sampler": "fair", "steps": 340,
    })  # fmt: skip
  lines = []
  for epoch in range(1, 21):
    if shared:
      lines.append({"stage": "train", "step": 17 * epoch,
                    "epoch": float(epoch), "loss": 2.3 / epoch})  # fmt: skip
    lines.append({
      "stage": "retrain", "step": 17 * epoch, "epoch": float(epoch),
      "loss": 2.3 / epoch, "validation_accuracy": 1 - 0.8 / epoch,
    })  # fmt: skip
  if config.method == "evolution":
    lines += [
      {"stage": "search", "round": i, "evaluated": 16 * (i + 1),
       "best_accuracy": 0.8 + 0.01 * i} for i in range(4)
    ]  # fmt: skip
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)
