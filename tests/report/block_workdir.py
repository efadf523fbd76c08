"""Writes a work directory of a search for blocks that looks like a real one."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np

from jaxnas import config as config_lib
from jaxnas.config import (
  BlocksConfig,
  ExperimentConfig,
  ExpertConfig,
  SpaceConfig,
)
from jaxnas.costs.block_budget import block_costs
from jaxnas.report.statements import wilson
from jaxnas.search.features import FeatureMap
from jaxnas.spaces import BlockSpace, expert, get_space, nsc
from jaxnas.writer import write_csv, write_json

VALIDATION = 360
ROUNDS = 12


def space_of(max_layers: int = 8) -> BlockSpace:
  """Blocks with the classes of digits."""
  space = get_space("blocks-digits", max_layers=max_layers)
  return space.replace(n_classes=10)


def write(
  folder: Path,
  guidances: tuple[float, ...] = (0.0, 0.3, 1.0),
  chosen: float = 0.3,
  experts: tuple[str, ...] = ("resnext-2",),
  evaluation: str = "interpreter",
  n: int = 60,
  max_layers: int = 8,
  seed: int = 0,
) -> Path:
  """Writes every file of a run, and returns the folder.

  Args:
    folder: made if missing.
    guidances: lambdas that are searched with.
    chosen: the run's own.
    experts: names.
    evaluation: where accuracies come from.
    n: blocks evaluated with each lambda.
    max_layers: of a block.
    seed: of all draws.
  """
  rng = np.random.default_rng(seed)
  space = space_of(max_layers)
  config = _config(guidances, chosen, experts, evaluation, max_layers)
  _begin(folder, space, config)
  known = {name: expert(name) for name in experts}
  irl, mirror_of = _learned(space, known, rng)
  write_json(folder / "irl.json", irl)
  rows, guidance_rows, best = [], [], {}
  for guidance in guidances:
    found = _searched(space, known, mirror_of, guidance, n, rng)
    found.sort(key=lambda r: r["round"])
    rows += found
    reward = lambda r, g=guidance: r["accuracy"] + g * r["mirror"]
    ranked = sorted(found, key=reward, reverse=True)
    best[guidance] = ranked
    guidance_rows.append(_guidance_row(ranked[0], found, guidance, chosen))
  if evaluation != "interpreter":
    rows = [{k: v for k, v in r.items() if k != "loss"} for r in rows]
  write_csv(folder / "archs.csv", rows)
  write_json(
    folder / "guidance.json", {"rows": guidance_rows, "n_images": VALIDATION}
  )
  search = _search(space, best[chosen], guidance_rows, evaluation)
  write_json(folder / "search.json", search)
  write_json(folder / "latency.json", _latency(best, guidance_rows, rng))
  _finish(folder, space, search, evaluation)
  _log(folder, guidances, rows, evaluation)
  return folder


def write_given(folder: Path, block: str = "resnext-2") -> Path:
  """Writes a run that takes a block and searches nothing."""
  space = space_of()
  config = dataclasses.replace(
    ExperimentConfig(), method="irlas", space=SpaceConfig("blocks-digits", {}),
    blocks=BlocksConfig(block=block),
  )  # fmt: skip
  _begin(folder, space, config)
  arch = space.from_string(block)
  costs = block_costs(space, arch[None])
  search = {
    "arch": space.to_string(arch),
    "choices": [nsc.to_text(c) for c in space.codes(arch)],
    "evaluated": 0, "evaluation": None, "accuracy": None, "bn_mode": None,
    "macs": int(costs["macs"][0]), "params": int(costs["params"][0]),
    "density": float(costs["density"][0]),
  }  # fmt: skip
  write_json(folder / "search.json", search)
  _finish(folder, space, search, None)
  (folder / "metrics.jsonl").write_text(_lines(_retraining()))
  return folder


def _config(
  guidances, chosen, experts, evaluation, max_layers
) -> ExperimentConfig:
  return dataclasses.replace(
    ExperimentConfig(), method="irlas",
    space=SpaceConfig("blocks-digits", {"max_layers": max_layers}),
    expert=ExpertConfig(blocks=experts),
    blocks=BlocksConfig(
      guidance=chosen, compare=tuple(g for g in guidances if g != chosen),
      evaluation=evaluation, table="t.csv" if evaluation == "table" else "",
    ),
  )  # fmt: skip


def _begin(folder: Path, space: BlockSpace, config: ExperimentConfig) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  write_json(folder / "config.json", config_lib.to_json(config))
  write_json(folder / "space.json", space.to_json())
  write_json(folder / "manifest.json", {
    "jaxnas": "0.1.0", "device": "cpu", "n_devices": 1, "seed": 0,
    "data": {"source": "digits", "train": 1077, "validation": VALIDATION,
             "test": 360, "n_classes": 10},
  })  # fmt: skip


def _learned(space, known, rng):
  """Stands in for the learning: the first step of the projection."""
  features = FeatureMap()
  goal = np.array([features.counts(codes) for codes in known.values()])
  pool = features.counts_of(space, space.canonical(space.sample(rng, 300)))
  w = goal.mean(0) - pool.mean(0)
  w /= np.linalg.norm(w)
  values = np.concatenate([pool @ w, goal @ w])
  low, high = values.min(), values.max()
  scale = lambda v: (v - low) / (high - low)
  margins = 0.6 * 0.6 ** np.arange(6) + rng.normal(0, 0.01, 6)
  irl = {
    "experts": [
      {"name": name, "arch": "-".join(map(nsc.to_text, codes))}
      for name, codes in known.items()
    ],
    "solver": "projection", "features": "onehot",
    "rows": [
      {"iteration": i, "margin": float(m), "gap": float(m * 1.1),
       "policy_value": 0.3, "expert_value": 0.5}
      for i, m in enumerate(margins)
    ],
    "weights": [
      {"name": name, "value": float(v)}
      for name, v in zip(features.names, w, strict=True)
    ],
    "random_values": scale(pool @ w).tolist(),
    "expert_values": scale(goal @ w).tolist(),
    "share_below": float((pool @ w < (goal @ w).min()).mean()),
  }  # fmt: skip
  return irl, lambda archs: scale(features.counts_of(space, archs) @ w)


def _searched(space, known, mirror_of, guidance, n, rng) -> list[dict]:
  """Blocks that lean towards a high F the more the higher lambda is."""
  pool = np.unique(space.canonical(space.sample(rng, 5 * n)), axis=0)
  mirror = mirror_of(pool)
  taste = np.exp(6 * guidance * mirror)
  picked = rng.choice(len(pool), n, replace=False, p=taste / taste.sum())
  picked = picked[np.argsort(mirror[picked])]
  archs, mirror = pool[picked], mirror[picked]
  costs = block_costs(space, archs)
  rows = []
  for i, arch in enumerate(archs):
    codes = space.codes(arch)
    size = np.log(costs["macs"][i] / costs["macs"].min())
    hits = rng.binomial(VALIDATION, min(0.97, 0.75 + 0.05 * size))
    away = min(nsc.edit_distance(codes, e) for e in known.values())
    rows.append({
      "arch": space.to_string(arch), "guidance": guidance,
      "round": 1 + i * ROUNDS // n, "accuracy": hits / VALIDATION,
      "loss": 1 - hits / VALIDATION, "macs": int(costs["macs"][i]),
      "params": int(costs["params"][i]),
      "density": float(costs["density"][i]), "mirror": float(mirror[i]),
      "distance": away, "seconds": 0.01,
    })  # fmt: skip
  return rows


def _guidance_row(best, found, guidance, chosen) -> dict:
  low, high = wilson(best["accuracy"], VALIDATION)
  names = ("arch", "accuracy", "mirror", "distance", "macs", "params")
  mean = lambda key: float(np.mean([r[key] for r in found]))
  return {
    "guidance": guidance, **{k: best[k] for k in names}, "low": low,
    "high": high, "evaluated": len(found), "mean_mirror": mean("mirror"),
    "mean_distance": mean("distance"), "chosen": guidance == chosen,
  }  # fmt: skip


def _search(space, ranked, guidance_rows, evaluation) -> dict:
  top = ranked[:10]
  codes = [space.codes(space.from_string(r["arch"])) for r in top]
  pairs = list(itertools.combinations(codes, 2))
  names = ("arch", "accuracy", "mirror", "distance", "macs")
  return {
    **{k: v for k, v in ranked[0].items() if k not in ("round", "seconds")},
    "choices": [nsc.to_text(c) for c in codes[0]],
    "evaluated": len(ranked), "algorithm": "qlearning",
    "evaluation": evaluation,
    "bn_mode": "recalibrate" if evaluation == "interpreter" else None,
    "top": [{k: r[k] for k in names} for r in top],
    "diversity": float(np.mean([nsc.edit_distance(*p) for p in pairs])),
  }  # fmt: skip


def _latency(best, guidance_rows, rng) -> dict:
  chosen = next(r for r in guidance_rows if r["chosen"])
  blocks = [
    {"kind": "chosen" if r["chosen"] else "compared", **r}
    for r in guidance_rows
  ]
  ranked = best[chosen["guidance"]][1:]
  ranked.sort(key=lambda r: abs(r["accuracy"] - chosen["accuracy"]))
  blocks += [{"kind": "random", **r, "guidance": None} for r in ranked[:5]]
  keys = ("kind", "arch", "guidance", "accuracy", "macs", "params")
  blocks = [{k: b[k] for k in keys} for b in blocks]
  for block in blocks:
    block["times"] = {}
    for batch in (1, 16):
      layers = block["arch"].count("@")
      ms = 0.05 * layers + batch**0.6 * block["macs"] / 4e6
      ms *= np.exp(rng.normal(0, 0.1))
      times = {"ms": ms, "low": 0.95 * ms, "high": 1.08 * ms}
      block["times"][str(batch)] = {k: float(v) for k, v in times.items()}
  return {
    "device": "cpu", "batches": [1, 16], "calls": 30, "blocks": blocks,
  }  # fmt: skip


def _finish(folder, space, search, evaluation) -> None:
  trained = {
    "arch": search["arch"], "retrained_from": "scratch",
    "standalone_accuracy": 0.9611, "test_accuracy": 0.9583,
  }  # fmt: skip
  write_json(folder / "retrain.json", trained)
  supernet = search["accuracy"] if evaluation == "interpreter" else None
  write_json(folder / "result.json", {
    "method": "irlas", "space": space.name, "arch": search["arch"],
    "metrics": {
      "supernet_accuracy": supernet, "standalone_accuracy": 0.9611,
      "test_accuracy": 0.9583, "macs": search["macs"],
      "params": search["params"],
    },
    "budget": "", "bn_mode": search["bn_mode"],
    "evaluated": search["evaluated"], "retrained_from": "scratch",
    "selected_from": "validation", "test_reads": 1,
    **{k: search.get(k) for k in
       ("choices", "evaluation", "guidance", "mirror", "distance")},
    "seed": 0,
    "seconds": {"train": 60.0, "search": 30.0, "retrain": 9.0,
                "compile": 20.0},
  })  # fmt: skip


def _log(folder: Path, guidances, rows, evaluation) -> None:
  lines = []
  for epoch in range(1, 21) if evaluation == "interpreter" else ():
    lines.append({
      "stage": "train", "step": 17 * epoch, "epoch": float(epoch),
      "loss": 2.3 / epoch, "accuracy": 1 - 0.9 / epoch,
    })  # fmt: skip
    if epoch % 5 == 0:
      lines.append({
        "stage": "train", "step": 17 * epoch, "epoch": float(epoch),
        "validation_accuracy": 0.8, "validation_accuracy_min": 0.4,
        "validation_accuracy_max": 0.93,
      })  # fmt: skip
  for guidance, round_ in itertools.product(guidances, range(1, ROUNDS + 1)):
    seen = [
      r["accuracy"] for r in rows
      if r["guidance"] == guidance and r["round"] <= round_
    ]  # fmt: skip
    lines.append({
      "stage": "search", "round": round_, "guidance": guidance,
      "evaluated": len(seen), "best_accuracy": max(seen),
    })  # fmt: skip
  (folder / "metrics.jsonl").write_text(_lines(lines + _retraining()))


def _retraining() -> list[dict]:
  return [
    {"stage": "retrain", "step": 17 * epoch, "epoch": float(epoch),
     "loss": 2.3 / epoch, "accuracy": 1 - 0.9 / epoch,
     "validation_accuracy": 1 - 0.8 / epoch}
    for epoch in range(1, 21)
  ]  # fmt: skip


def _lines(rows: list[dict]) -> str:
  return "".join(json.dumps(row) + "\n" for row in rows)
