"""IRLAS beside BlockQNN and random search, at equal numbers of blocks drawn.

    python docs/studies/irlas.py digits_irlas --seeds 0 1 2 --out FILE

For each seed one interpreter is trained, and one expert learned from. Then each
arm draws equally many blocks: every algorithm (Q-learning with lambda 0 is
BlockQNN) with every lambda of the config, and random search. The block with the
best reward of each arm (random search: the best accuracy) is trained from
scratch, and the latencies of all of them are measured turn about. The
validation split chooses and judges; the test split is not read. Differences to
lambda 0 of the same algorithm are paired over seeds, with Student intervals.
`--ranking N` also trains N random blocks of the first seed from scratch, and
compares the interpreter's ranking with theirs.
"""

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
from scipy import stats

from jaxnas.bench.networks import network_latencies
from jaxnas.config import ExperimentConfig, load_config, override
from jaxnas.experiment import BlockExperiment, make_experiment
from jaxnas.methods import (
  BlockObjective,
  block_network,
  child_accuracy,
  expert_guide,
  fresh_network,
  load_interpreter,
)
from jaxnas.search import make_block_searcher, run_search
from jaxnas.writer import read_json, write_json

BATCHES, TURNS = (1, 16), 100
MEASURES = (
  "evaluated", "searched", "standalone", "mirror", "distance", "mean_mirror",
  "mean_distance", "macs", "ms_1", "ms_16",
)  # fmt: skip


def random_best(e: BlockExperiment) -> dict:
  """The best block of a random search that draws as many blocks."""
  setup, blocks = e.setup, e.config.blocks
  variables = load_interpreter(setup)
  objective = BlockObjective(setup, expert_guide(setup), variables)
  searcher = make_block_searcher(
    "random", e.config.search, blocks, 0.0, setup.space, setup.budget
  )
  state = run_search(
    searcher, objective, blocks.rounds,
    searcher.init(setup.seed("random-search")),
  )  # fmt: skip
  archive = state["archive"]
  best = int(np.nanargmax(archive["metrics"]["accuracy"]))
  row = {name: values[best] for name, values in archive["metrics"].items()}
  arch = setup.space.to_string(np.array(archive["archs"][best]))
  return {"arch": arch, "evaluated": len(archive["archs"]), **row}


def judged(e: BlockExperiment, arms: dict[str, dict]) -> list[dict]:
  """Stand-alone accuracy and latency of each arm's block."""
  setup, networks = e.setup, {}
  for name, row in arms.items():
    network = block_network(setup, setup.space.from_string(row["arch"]))
    networks[name] = network, fresh_network(setup, network, "latency")
  times = network_latencies(networks, BATCHES, TURNS)
  out = []
  for name, row in arms.items():
    # One key for all: equal blocks get equal accuracies.
    accuracy = child_accuracy(
      setup, networks[name][0], e.config.retrain, setup.key("standalone")
    )
    out.append(
      {
        "arm": name, "arch": row["arch"], "evaluated": row["evaluated"],
        "searched": row["accuracy"], "standalone": accuracy,
        **{k: row[k] for k in ("mirror", "distance", "macs", "params")},
        "mean_mirror": row.get("mean_mirror", float("nan")),
        "mean_distance": row.get("mean_distance", float("nan")),
        **{f"ms_{b}": times[name][b].ms for b in BATCHES},
      }
    )  # fmt: skip
  return out


def one_seed(
  config: ExperimentConfig, root: Path, algorithms: list[str]
) -> list[dict]:
  """All arms of one seed."""
  arms, first = {}, root / algorithms[0]
  for algorithm in algorithms:
    settings = [f"search.algorithm={algorithm}"]
    if algorithm == "evolution":  # its first round draws a population
      settings.append(f"search.population={config.blocks.per_round}")
    e = make_experiment(override(config, settings), root / algorithm)
    if algorithm != algorithms[0]:  # one training serves all
      shutil.copytree(
        first / "checkpoints" / "train", e.workdir / "checkpoints" / "train",
        dirs_exist_ok=True,
      )  # fmt: skip
    e.train()
    e.search()
    for row in read_json(e.workdir / "guidance.json")["rows"]:
      arms[f"{algorithm}, lambda {row['guidance']:g}"] = row
  arms["random"] = random_best(e)
  return judged(e, arms)


def interval(values: np.ndarray) -> dict:
  """Mean with its 95 % Student interval."""
  mean = float(np.mean(values))
  half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
  return {"mean": mean, "low": mean - float(half), "high": mean + float(half)}


def summary(seeds: list[list[dict]]) -> list[dict]:
  """Each arm's means, and its differences to lambda 0, over seeds."""
  out = []
  for i, arm in enumerate(row["arm"] for row in seeds[0]):
    own = {m: np.array([s[i][m] for s in seeds], float) for m in MEASURES}
    # Random search beside the first algorithm.
    algorithm = (seeds[0][0]["arm"] if arm == "random" else arm).split(",")[0]
    plain = f"{algorithm}, lambda 0"
    base = {
      m: np.array(
        [next(r[m] for r in s if r["arm"] == plain) for s in seeds], float
      )
      for m in MEASURES
    }
    row = {"arm": arm}
    for m in MEASURES:
      row[m] = interval(own[m])
      if arm == plain:
        continue
      if m.startswith("ms"):
        # Latencies compare as ratios.
        logs = interval(np.log(own[m] / base[m]))
        row[f"{m} ratio"] = {k: float(np.exp(v)) for k, v in logs.items()}
      else:
        row[f"{m} minus"] = interval(own[m] - base[m])
    out.append(row)
  return out


def main() -> None:
  """Runs the study and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("config")
  parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
  parser.add_argument(
    "--algorithms", nargs="+", default=["qlearning", "evolution"]
  )
  parser.add_argument("--ranking", type=int, default=0)
  parser.add_argument("--set", nargs="*", default=[])
  parser.add_argument("--workdir", type=Path, default=None)
  parser.add_argument("--out", type=Path, required=True)
  o = parser.parse_args()
  root = o.workdir or Path(tempfile.mkdtemp())
  config = override(load_config(o.config), o.set)
  config = dataclasses.replace(
    config, ranking=dataclasses.replace(config.ranking, n_archs=o.ranking)
  )
  seeds, found = [], {}
  for seed in o.seeds:
    mine = dataclasses.replace(config, seed=seed)
    seeds.append(one_seed(mine, root / f"seed{seed}", o.algorithms))
    found = {"seeds": seeds, "device": jax.devices()[0].device_kind}
    if len(seeds) > 1:
      found["summary"] = summary(seeds)
    write_json(o.out, found)
  if o.ranking:
    first = override(
      dataclasses.replace(config, seed=o.seeds[0]),
      [f"search.algorithm={o.algorithms[0]}"],
    )
    workdir = root / f"seed{o.seeds[0]}" / o.algorithms[0]
    ranking = make_experiment(first, workdir).rank()
    write_json(o.out, {**found, "ranking": ranking})
  for row in found.get("summary", []):
    cells = [
      f"{name} {v['mean']:.4g} [{v['low']:.4g}, {v['high']:.4g}]"
      for name, v in row.items() if name != "arm"
    ]  # fmt: skip
    print(row["arm"] + ": " + "; ".join(cells))


if __name__ == "__main__":
  main()
