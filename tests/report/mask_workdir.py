"""Writes a work directory of a masked network that looks like a real one."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np

from jaxnas import config as config_lib
from jaxnas.config import ExperimentConfig, MasksConfig, SpaceConfig
from jaxnas.costs.masks import kept_weights, mask_costs
from jaxnas.scoring.selection import fold_hits, selection_curve
from jaxnas.spaces import MaskSpace, get_space
from jaxnas.writer import write_csv, write_json

VALIDATION = 360


def space_of(name: str, **options) -> MaskSpace:
  """A supernet with the classes of digits."""
  return get_space(name, **options).replace(n_classes=10)


def write(
  folder: Path,
  space: MaskSpace,
  final: np.ndarray,
  name: str = "supnet-small",
  options: dict | None = None,
  n: int = 40,
  halving: int = 0,
  skill: float = 0.0,
  retrained: str = "not retrained",
  seed: int = 0,
  **masks,
) -> Path:
  """Writes every file of a run, and returns the folder.

  Args:
    folder: made if missing.
    space: the masks.
    final: drop rates after training, `float[G]`.
    name: of the space in the config.
    options: of the space in the config.
    n: candidates drawn.
    halving: as in the config.
    skill: how much accuracies of candidates really differ.
    retrained: where the final weights come from.
    seed: of draws and accuracies.
    **masks: further fields of `masks`.
  """
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True, exist_ok=True)
  config = dataclasses.replace(
    ExperimentConfig(), method="pgnas", space=SpaceConfig(name, options or {}),
    masks=MasksConfig(candidates=n, halving=halving, **masks),
  )  # fmt: skip
  write_json(folder / "config.json", config_lib.to_json(config))
  write_json(folder / "space.json", space.to_json())
  write_json(folder / "manifest.json", {
    "jaxnas": "0.1.0", "device": "cpu", "n_devices": 1, "seed": seed,
    "data": {"source": "digits", "train": 1077, "validation": VALIDATION,
             "test": 360, "n_classes": 10},
  })  # fmt: skip
  threshold = (final <= 0.5).astype(np.int32)[space.group_of]
  archs = np.concatenate([threshold[None], space.draw(rng, final, n)])
  chance = 0.9 + skill * rng.standard_normal(n + 1)
  correct = rng.random((n + 1, VALIDATION)) < chance[:, None]
  accuracy = correct.mean(1)
  images = np.full(n + 1, VALIDATION)
  if halving:
    images[: n // 2] = VALIDATION // 4
    accuracy[: n // 2] = math.nan
  costs = mask_costs(space, archs)
  weights = kept_weights(space, archs)
  operations = space.kept_operations(archs)
  rows = []
  for i in range(n + 1):
    row = {
      "arch": space.to_string(archs[i]), "candidate": i - 1, "round": 1,
      "accuracy": float(accuracy[i]), "loss": float(1 - accuracy[i]),
    } | ({"images": int(images[i])} if halving else {})  # fmt: skip
    rows.append(row | {
      "macs": int(costs["macs"][i]), "params": int(costs["params"][i]),
      "kept_weights": float(weights[i]),
      "kept_channels": float(archs[i].mean()),
      "kept_operations": float(operations[i]), "seconds": 0.01,
    })  # fmt: skip
  write_csv(folder / "archs.csv", rows)
  best = max(
    range(n + 1), key=lambda i: np.nan_to_num(accuracy[i], nan=-1)
  )  # fmt: skip
  winner = rows[best]
  write_csv(folder / "pareto.csv", [winner])
  write_json(folder / "search.json", {
    "arch": winner["arch"], "evaluated": n + 1, "over_budget": 0,
  })  # fmt: skip
  write_json(folder / "result.json", {
    "method": "pgnas", "space": space.name, "arch": winner["arch"],
    "metrics": {
      "supernet_accuracy": winner["accuracy"],
      "standalone_accuracy": (
        None if retrained == "not retrained" else 0.95
      ),
      "test_accuracy": 0.9417, "macs": winner["macs"],
      "params": winner["params"],
    },
    "budget": "", "bn_mode": "running", "evaluated": n + 1,
    "retrained_from": retrained, "selected_from": "validation",
    "test_reads": 1, "candidate": winner["candidate"],
    **{k: winner[k] for k in
       ("kept_weights", "kept_channels", "kept_operations")},
    "front": [], "seed": seed,
    "seconds": {"train": 60.0, "search": 3.0, "compile": 9.0},
  })  # fmt: skip
  groups = []
  for g, rate in zip(space.groups, final, strict=True):
    kept = archs[best][g.offset : g.offset + g.channels].sum()
    groups.append({
      "node": g.node, "kernel": g.kernel, "source": g.source,
      "channels": g.channels, "features": g.features, "rate": float(rate),
      "kept": int(kept),
    })  # fmt: skip
  write_json(folder / "posterior.json", {"groups": groups})
  found: dict = {"candidates": n + 1}
  if not halving:
    found |= selection_curve(fold_hits(correct[1:]), VALIDATION)
  names = ("accuracy", "loss", "macs", "params")
  found["threshold"] = {k: rows[0][k] for k in names}
  write_json(folder / "selection.json", found)
  lines = []
  for epoch in range(1, 21):
    now = 0.1 + (final - 0.1) * epoch / 20
    lines.append({
      "stage": "train", "step": 18 * epoch, "epoch": float(epoch),
      "loss": 2.3 / epoch, "accuracy": 1 - 0.9 / epoch,
      "regulariser": 0.3 - 0.01 * epoch, "mean_rate": float(now.mean()),
    })  # fmt: skip
    if epoch % 5 == 0:
      lines.append({
        "stage": "train", "step": 18 * epoch, "epoch": float(epoch),
        "validation_accuracy": 0.9, "threshold_accuracy": 0.91,
        "kept_channels": float(1 - now[space.group_of].mean()),
        "rate_histogram": np.histogram(now, 20, (0, 1))[0].tolist(),
      })  # fmt: skip
  lines.append({
    "stage": "search", "round": 1, "evaluated": n + 1, "best_accuracy": 0.93,
  })  # fmt: skip
  (folder / "metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in lines)
  )
  return folder
