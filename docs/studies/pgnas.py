"""PGNAS beside fixed dropout and uniform sampling, at equal kept size.

    python docs/studies/pgnas.py digits_pgnas --seeds 0 1 2 3 4 --out FILE

The paper's table 3 on small data. For each seed:

* `guided`: drop rates are learned, candidates are drawn from them.
* `fixed`: one predefined rate for all groups, such that the expected share of
  kept weights is that of the guided winner; trained and drawn with that rate.
  Its weight term is the better of the guided one's and a tenth of it, judged by
  the validation accuracy of its winner.
* `uniform`: the guided supernet, candidates drawn with that one rate.

Each winner is taken as it is, and tuned. All arms draw equally many candidates,
choose on the validation split, and read the test split once for each network
that they deliver. Intervals are bootstraps over seeds of paired differences.
"""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np

from jaxnas.config import ExperimentConfig, OptimizerConfig, load_config
from jaxnas.experiment import MaskExperiment, make_experiment
from jaxnas.methods import (
  compact_winner,
  load_masked,
  mask_objective,
  select_mask,
  winning_mask,
)
from jaxnas.scoring import NetworkEvaluator
from jaxnas.search import PosteriorSampler
from jaxnas.writer import Journal, read_json, write_json

ARMS = ("guided", "fixed", "uniform")


def with_masks(config: ExperimentConfig, **masks) -> ExperimentConfig:
  """The config with some fields of `masks` changed."""
  changed = dataclasses.replace(config.masks, **masks)
  return dataclasses.replace(config, masks=changed)


def tuned(config: ExperimentConfig, epochs: int) -> ExperimentConfig:
  """The config with a fine-tuning of the winner."""
  optimizer = OptimizerConfig(
    learning_rate=0.01, nesterov=True, weight_decay=5e-4, clip_norm=5.0
  )
  retrain = dataclasses.replace(
    config.retrain, epochs=epochs, label_smoothing=0.0, optimizer=optimizer,
    batch_size=config.train.batch_size, checkpoint_every=epochs,
  )  # fmt: skip
  return dataclasses.replace(config, retrain=retrain)


def deliver(run: MaskExperiment, epochs: int) -> dict:
  """Winner of a finished selection as it is, and tuned."""
  found = read_json(run.workdir / "search.json")
  as_is = run.retrain()
  # A copy, for a work directory belongs to one config.
  folder = run.workdir.with_name(run.workdir.name + "-tuned")
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(
    run.workdir / "checkpoints" / "train", folder / "checkpoints" / "train"
  )
  shutil.copy(run.workdir / "search.json", folder)
  after = make_experiment(tuned(run.config, epochs), folder).retrain()
  keys = ("params", "macs", "kept_weights", "kept_channels", "kept_operations")
  return {
    "validation": found["accuracy"],
    "test": as_is["test_accuracy"],
    "tuned_test": after["test_accuracy"],
    **{k: found[k] for k in keys},
    "candidates": read_json(run.workdir / "selection.json"),
  }


def uniform(run: MaskExperiment, rate: float) -> dict:
  """Candidates at one rate from the guided supernet; its best, as it is."""
  folder = run.workdir / "uniform"
  folder.mkdir(exist_ok=True)
  journal = Journal(folder / "metrics.jsonl")
  setup = dataclasses.replace(run.setup, workdir=folder, journal=journal)
  variables = load_masked(run.setup).variables
  masks = run.config.masks
  sampler = PosteriorSampler(
    setup.space, np.full(len(setup.space.groups), rate), setup.budget.allows,
    masks.candidates, masks.batch, False,
  )  # fmt: skip
  objective = mask_objective(setup, variables)
  state, _ = select_mask(setup, sampler, objective)
  row, arch = winning_mask(sampler, state)
  network, weights = compact_winner(setup, variables, arch)
  judge = NetworkEvaluator(
    network, setup.data, setup.data.test, run.config.score.batch_size,
    setup.placement,
  )  # fmt: skip
  metrics = {k: v[row] for k, v in state["archive"]["metrics"].items()}
  keys = ("params", "macs", "kept_weights", "kept_channels", "kept_operations")
  return {
    "validation": metrics["accuracy"],
    "test": judge(weights)["accuracy"],
    **{k: metrics[k] for k in keys},
  }


def one_seed(base: ExperimentConfig, root: Path, tune: int) -> dict:
  """All arms for one seed."""
  start = time.monotonic()
  run = make_experiment(base, root / "guided")
  run.train()
  guided = run.search()
  rate = 1 - guided["kept_weights"]
  out = {"rate": rate, "guided": deliver(run, tune)}
  out["uniform"] = uniform(run, rate)
  fixed = []
  for factor in (1.0, 0.1):
    config = with_masks(
      base, rates="fixed", initial_rate=rate, threshold=False,
      length_scale=base.masks.length_scale * factor,
    )  # fmt: skip
    each = make_experiment(config, root / f"fixed-{factor:g}")
    each.train()
    fixed.append((each.search()["accuracy"], factor, each))
  accuracy, factor, best = max(fixed, key=lambda row: row[:2])
  out["fixed"] = deliver(best, tune) | {"weight_term": factor}
  out["seconds"] = time.monotonic() - start
  return out


def differences(rows: list[dict], arms: dict[str, tuple]) -> dict:
  """Mean paired differences over seeds with 95 % bootstrap intervals."""
  rng, found = np.random.default_rng(0), {}
  for name, ((a, key_a), (b, key_b)) in arms.items():
    d = np.array([r[a][key_a] - r[b][key_b] for r in rows])
    means = d[rng.integers(0, len(d), (10_000, len(d)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    found[name] = {
      "mean": d.mean(),
      "low": low,
      "high": high,
      "each": d.tolist(),
    }
  return found


def main() -> None:
  """Runs the study and prints it as JSON."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("config")
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument("--tune", type=int, default=20, help="epochs of tuning")
  parser.add_argument("--workdir", type=Path, default=Path("runs/study_pgnas"))
  parser.add_argument("--out", type=Path, required=True)
  args = parser.parse_args()
  config, rows = load_config(args.config), []
  for seed in args.seeds:
    root = args.workdir / args.config.replace("/", "_") / f"seed{seed}"
    done = root / "row.json"
    if not done.is_file():
      base = dataclasses.replace(config, seed=seed)
      write_json(done, one_seed(base, root, args.tune))
    rows.append(read_json(done))
    print(f"seed {seed}: {json.dumps(rows[-1])[:400]}", flush=True)
  result = {
    "config": args.config,
    "seeds": args.seeds,
    "rows": rows,
    "differences": differences(
      rows,
      {
        "guided - fixed, not tuned": (("guided", "test"), ("fixed", "test")),
        "guided - fixed, tuned": (
          ("guided", "tuned_test"), ("fixed", "tuned_test"),
        ),
        "guided not tuned - fixed tuned": (
          ("guided", "test"), ("fixed", "tuned_test"),
        ),
        "guided - uniform, not tuned": (
          ("guided", "test"), ("uniform", "test"),
        ),
      },
    ),
  }  # fmt: skip
  write_json(args.out, result)
  for name, d in result["differences"].items():
    print(f"{name}: {d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]")


if __name__ == "__main__":
  main()
