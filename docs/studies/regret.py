"""Regret of searchers on NAS-Bench-Macro, evaluations counted.

    python docs/studies/regret.py --data PATH

PATH is `nas-bench-macro_cifar10.json`, the published table. Each searcher runs
over its 3,969 distinct networks, once for each seed; an evaluation is one
look-up, and no network is looked up twice. The regret after n evaluations is
the global best accuracy minus the best found so far, in percentage points.

Writes `regret.json` (every curve, and the evaluations each seed needed to come
within 0.05 points) and `regret.md` into `--workdir`, and a figure. Intervals
are 95 % percentile bootstraps over seeds.

NSGA-II looks for a whole front of accuracy and multiply-adds, so most of its
evaluations go to smaller networks, while the regret counts accuracy alone; a
second row gives it accuracy as its only objective.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

from jaxnas.config import PredictorConfig, SearchConfig, SegmentsConfig
from jaxnas.costs import Budget
from jaxnas.search import Searcher, make_searcher
from jaxnas.tables import Table, load_table
from jaxnas.writer import Progress, write_atomic, write_json

matplotlib.use("agg")
from matplotlib import pyplot as plt  # noqa: E402

CLOSE = 0.05  # points from the global best that count as having found it
RESAMPLES = 2000
REFERENCE = "evolution"
FIGURE = Path(__file__).parents[1] / "figures" / "regret_nasbench_macro.png"


def build(table: Table, **fields) -> Searcher:
  """A searcher of `jaxnas.search` on a table, without a budget."""
  budget = Budget.parse("", table.costs, table.space)
  config = SearchConfig(**fields)
  return make_searcher(config, table.space, budget, table.costs)


# What is compared: `table -> searcher`. A further searcher is one more row.
SEARCHERS: dict[str, Callable[[Table], Searcher]] = {
  "random": functools.partial(
    build, algorithm="random", population=20, objectives=("accuracy",)
  ),
  "evolution": functools.partial(
    build, algorithm="evolution", population=20, offspring=1, tournament=5,
    objectives=("accuracy",),
  ),
  "NSGA-II": functools.partial(
    build, algorithm="nsga2", population=20, objectives=("accuracy", "-macs"),
    objective_weights=(0.5, 0.5),
  ),
  "NSGA-II, accuracy only": functools.partial(
    build, algorithm="nsga2", population=20, objectives=("accuracy",),
    objective_weights=(1.0,),
  ),
  # 40 samples, then 160 candidates in parts, with a fit before each.
  "predictor (ours)": functools.partial(
    build, algorithm="segments", objectives=("accuracy",),
    segments=SegmentsConfig(
      top_k=1, samples=40, candidates=160, refits=10, batch=40
    ),
  ),
  "GCN": functools.partial(
    build, algorithm="segments", objectives=("accuracy",),
    predictor=PredictorConfig(kind="gcn", ensemble=2),
    segments=SegmentsConfig(
      top_k=1, samples=40, candidates=160, refits=5, batch=40
    ),
  ),
}  # fmt: skip

# Okabe-Ito colours, told apart by line style as well.
STYLES = (
  ("#000000", (0, (1, 1.2))),
  ("#0072B2", "-"),
  ("#D55E00", (0, (5, 1.5))),
  ("#009E73", (0, (5, 1.5, 1, 1.5))),
  ("#CC79A7", (0, (3, 1))),
  ("#56B4E9", "-"),
)


def search(
  searcher: Searcher, table: Table, seed: int, evaluations: int
) -> np.ndarray:
  """Accuracies in the order in which they were looked up, `[evaluations]`."""
  state = searcher.init(seed)
  found = 0
  while found < evaluations:
    archs = searcher.ask(state)[: evaluations - found]
    if not len(archs):
      raise RuntimeError(f"the search ended after {found} evaluations")
    state = searcher.tell(state, archs, table.objective(archs))
    found += len(archs)
  # Distinct by the network, not only by how it is written.
  rows = table.space.index(np.array(state["archive"]["archs"], np.int32))
  if len(np.unique(rows)) != evaluations:
    raise RuntimeError("a network was evaluated twice")
  return table.metrics["accuracy"][rows]


def regret(accuracies: np.ndarray, best: float) -> np.ndarray:
  """Best so far below the global best, in points; same shape."""
  return 100 * (best - np.maximum.accumulate(accuracies, axis=-1))


def evaluations_to(curves: np.ndarray, close: float) -> list[int | None]:
  """Evaluations each curve `[seeds, n]` needed to come within `close`."""
  return [
    int(np.argmax(reached)) + 1 if reached.any() else None
    for reached in curves <= close + 1e-9
  ]


def interval(values: np.ndarray, draws: np.ndarray, statistic) -> dict:
  """A statistic over seeds (axis 0) with its bootstrap interval.

  Args:
    values: `[seeds, ...]`.
    draws: resampled seeds, `[resamples, seeds]`.
    statistic: `np.mean` or `np.median`.
  """
  columns = values.reshape(len(values), -1).T
  resampled = [np.percentile(statistic(c[draws], 1), [2.5, 97.5])
               for c in columns]  # fmt: skip
  low, high = np.array(resampled).T.reshape(2, *values.shape[1:])
  return {
    "value": statistic(values, 0).tolist(),
    "low": low.tolist(),
    "high": high.tolist(),
  }


def study(
  table: Table,
  searchers: dict[str, Callable[[Table], Searcher]],
  seeds: int,
  evaluations: int,
) -> dict:
  """Runs every searcher and returns all figures as one JSON object."""
  best = float(table.metrics["accuracy"].max())
  draws = np.random.default_rng(0).integers(0, seeds, (RESAMPLES, seeds))
  result = {
    "table": table.name,
    "fingerprint": table.fingerprint,
    "networks": table.space.size,
    "best_accuracy": best,
    "seeds": seeds,
    "evaluations": evaluations,
    "close": CLOSE,
    "searchers": {},
  }
  needed = {}
  with Progress("regret", len(searchers) * seeds) as progress:
    for i, (name, make) in enumerate(searchers.items()):
      runs = []
      for seed in range(seeds):
        runs.append(search(make(table), table, seed, evaluations))
        progress.update(i * seeds + seed + 1)
      curves = regret(np.array(runs), best)
      reached = evaluations_to(curves, CLOSE)
      # A seed that never came close counts as all its evaluations.
      needed[name] = np.array([r or evaluations for r in reached], float)
      result["searchers"][name] = {
        "mean_regret": interval(curves, draws, np.mean),
        "median_regret": interval(curves, draws, np.median),
        "share_close": (curves <= CLOSE + 1e-9).mean(0).tolist(),
        "evaluations_to_close": reached,
        "restricted_mean_evaluations": interval(needed[name], draws, np.mean),
      }
  for name, row in result["searchers"].items():
    if REFERENCE in needed and name != REFERENCE:
      row[f"evaluations_minus_{REFERENCE}"] = interval(
        needed[name] - needed[REFERENCE], draws, np.mean
      )
  return result


def markdown(result: dict) -> str:
  """The figures at the end of the search as a table."""
  n = result["evaluations"]
  lines = [
    f"{result['table']}, {result['networks']:,} distinct networks, best"
    f" accuracy {100 * result['best_accuracy']:.3f} %, {n} evaluations,"
    f" {result['seeds']} seeds.",
    "",
    f"| searcher | mean regret after {n} [95 %] | median regret [95 %] | seeds"
    f" within {CLOSE} points | evaluations to get there, mean, {n} where it was"
    f" not [95 %] | minus {REFERENCE}'s [95 %] |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for name, row in result["searchers"].items():
    difference = row.get(f"evaluations_minus_{REFERENCE}")
    cells = [
      name,
      _cell({k: v[-1] for k, v in row["mean_regret"].items()}, 3),
      _cell({k: v[-1] for k, v in row["median_regret"].items()}, 3),
      f"{100 * row['share_close'][-1]:.0f} %",
      _cell(row["restricted_mean_evaluations"], 0),
      _cell(difference, 0) if difference else "",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _cell(row: dict, digits: int) -> str:
  low, high = (f"{row[k]:.{digits}f}" for k in ("low", "high"))
  return f"{row['value']:.{digits}f} [{low}, {high}]"


def figure(result: dict, path: Path) -> None:
  """Draws mean regret, and the share of seeds that found the best."""
  plt.rcParams.update({"font.size": 10, "axes.spines.top": False,
                       "axes.spines.right": False})  # fmt: skip
  drawing, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
  x = np.arange(1, result["evaluations"] + 1)
  floor = CLOSE / 5  # regret 0 has no place on a logarithmic axis
  for i, (name, row) in enumerate(result["searchers"].items()):
    colour, line = STYLES[i % len(STYLES)]
    mean = {k: np.maximum(v, floor) for k, v in row["mean_regret"].items()}
    style = {"color": colour, "linestyle": line, "drawstyle": "steps-post"}
    left.plot(x, mean["value"], label=name, **style)
    left.fill_between(
      x, mean["low"], mean["high"], color=colour, alpha=0.15, linewidth=0,
      step="post",
    )  # fmt: skip
    share = 100 * np.array(row["share_close"])
    right.plot(x, share, **style)
  left.axhline(CLOSE, color="0.5", linewidth=0.8)
  left.annotate(
    f"{CLOSE} points", (x[-1], CLOSE), (0, 3), textcoords="offset points",
    ha="right", color="0.35", fontsize=9,
  )  # fmt: skip
  left.set(yscale="log", xlabel="evaluations", xlim=(0, x[-1]))
  left.set_ylim(bottom=floor)
  left.set_title("Below the global best, points (mean)", loc="left")
  left.yaxis.set_major_formatter(
    lambda y, _: f"{y:g}" if y > floor * 1.01 else f"≤ {y:g}"
  )
  left.legend(frameon=False, loc="upper right", fontsize=9)
  right.set(xlabel="evaluations", xlim=(0, x[-1]), ylim=(-2, 102))
  right.set_title(f"Seeds within {CLOSE} points of the best, %", loc="left")
  drawing.suptitle(
    f"{result['table']}: {result['networks']:,} networks, {result['seeds']}"
    " seeds; bands are 95 % bootstrap intervals",
    fontsize=9, color="0.35", x=0.01, ha="left",
  )  # fmt: skip
  drawing.tight_layout()
  path.parent.mkdir(parents=True, exist_ok=True)
  drawing.savefig(path, dpi=160)
  plt.close(drawing)


def main() -> None:
  """Runs the study."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--data", required=True, help="the table's file")
  parser.add_argument("--seeds", type=int, default=30)
  parser.add_argument("--evaluations", type=int, default=200)
  parser.add_argument("--workdir", type=Path, default=Path("runs/regret"))
  parser.add_argument("--figure", type=Path, default=FIGURE)
  options = parser.parse_args()
  options.workdir.mkdir(parents=True, exist_ok=True)
  table = load_table(options.data)
  result = study(table, SEARCHERS, options.seeds, options.evaluations)
  write_json(options.workdir / "regret.json", result)
  write_atomic(options.workdir / "regret.md", markdown(result))
  figure(result, options.figure)
  print(markdown(result), end="")


if __name__ == "__main__":
  main()
