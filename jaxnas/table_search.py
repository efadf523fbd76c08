"""Searches a benchmark table: every searcher, no network, no training."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxnas.config import ExperimentConfig, SearchConfig, to_json
from jaxnas.costs import Budget
from jaxnas.errors import UserError
from jaxnas.methods import (
  DivideMethod,
  PathMethod,
  divide_table,
  get_method,
)
from jaxnas.search import (
  finalists,
  make_searcher,
  parse_objective,
  planned_rounds,
  run_search,
  single_best,
)
from jaxnas.tables import Table, load_table
from jaxnas.writer import (
  Progress,
  as_folder,
  is_file,
  make_folder,
  write_csv,
  write_json,
)

# What a search without a config is: 200 evaluations of evolution (ours).
DEFAULT = ExperimentConfig(
  search=SearchConfig(
    algorithm="evolution",
    population=40,
    offspring=10,
    generations=16,
    objectives=("accuracy",),
    tournament=10,
  )
)


def search_table(
  config: ExperimentConfig, path: Path, workdir: Path | None = None
) -> dict:
  """Searches a table of known results instead of a trained supernet.

  Args:
    config: its `search`, `budget` and `seed` count, and its method where
      `search.algorithm` is `auto`.
    path: file or folder of the table; its space takes the config's place.
    workdir: also gets `archs.csv`, `search.json` and `config.json`.

  Returns:
    The winner with its metrics, what the best arch of the table within the
    budget has (`best`), the difference (`regret`), and `curve`: the best so
    far after each number of evaluations.

  Raises:
    UserError: for a file that is no known table, or an objective or cost that
      the table lacks.
  """
  if workdir is not None:
    workdir = as_folder(workdir)
    _check_new(workdir)
  table = load_table(path)
  budget = Budget.parse(config.budget, table.costs, table.space)
  if isinstance(get_method(config.method), DivideMethod):
    return _divide(config, table, budget, workdir)
  searcher = _searcher(config, table, budget)
  rounds = planned_rounds(searcher, config.search)
  start = time.monotonic()
  with Progress("search", rounds, 0) as progress:

    def on_round(state, archs, metrics):
      progress.update(state["round"], evaluated=len(state["archive"]["archs"]))

    state = run_search(
      searcher, table.objective, rounds, searcher.init(config.seed), on_round
    )
  seconds = time.monotonic() - start
  archive = state["archive"]
  first, _ = parse_objective(searcher.objectives[0])
  rows = finalists(state, table.space, searcher.objectives[:1])
  winner = single_best(archive, searcher.objectives, budget, rows)
  result = {
    "algorithm": type(searcher).__name__,
    "evaluated": len(archive["archs"]),
    **_judged(config, table, budget, winner, archive["metrics"][first]),
    "seconds": round(seconds, 3),
  }
  if workdir is not None:
    _write(workdir, config, table, archive["archs"], result)
  return result


def _divide(
  config: ExperimentConfig, table: Table, budget: Budget, workdir: Path | None
) -> dict:
  """The same by DC-NAS; looks at early accuracies count as they cost."""
  start = time.monotonic()
  found = divide_table(config, table, budget)
  result = {
    "algorithm": "DivideAndConquer",
    "evaluated": len(found["finals"]),
    **_judged(config, table, budget, found["winner"], found["finals"]),
    "divide": found["divide"],
    "seconds": round(time.monotonic() - start, 3),
  }
  if workdir is not None:
    _write(workdir, config, table, found["archs"].tolist(), result)
  return result


def _judged(
  config: ExperimentConfig,
  table: Table,
  budget: Budget,
  winner: np.ndarray,
  seen: Sequence[float],
) -> dict:
  """The winner beside the best of the table; see `search_table`.

  Args:
    config: of the search.
    table: all that is known.
    budget: of the search.
    winner: `int32[L]`.
    seen: values of the first objective, in order of evaluation.
  """
  first, sign = parse_objective(config.search.objectives[0])
  legal = table.space.rows[budget.allows(table.space.rows)]
  everything = sign * np.asarray(table.objective(legal)[first], float)
  best = int(np.nanargmax(everything))
  so_far = np.fmax.accumulate(sign * np.array(seen))
  found = {k: v[0].item() for k, v in table.objective(winner[None]).items()}
  return {
    "stage": "search",
    "table": table.name,
    "fingerprint": table.fingerprint,
    "budget": str(budget),
    "seed": config.seed,
    "arch": table.space.to_string(winner),
    **found,
    "of": len(legal),
    "best": {
      "arch": table.space.to_string(legal[best]),
      first: sign * float(everything[best]),
    },
    "regret": float(everything[best] - sign * found[first]),
    "curve": (sign * so_far).tolist(),
  }


def _searcher(config: ExperimentConfig, table: Table, budget: Budget):
  method = get_method(config.method)
  if not isinstance(method, PathMethod):
    raise UserError(
      f"method {method.name} draws masks of a network and searches no table;"
      " set method to one that searches archs, such as fairnas."
    )
  known = {*table.metrics, *table.costs}
  for objective in config.search.objectives:
    if (name := parse_objective(objective)[0]) not in known:
      raise UserError(
        f"objective {objective!r}: table {table.name} has no {name};"
        f" set search.objectives to some of {', '.join(sorted(known))}."
      )
  search = method.search_config(config.search)
  return make_searcher(search, table.space, budget, table.costs)


def _check_new(workdir: Path) -> None:
  if is_file(workdir / "config.json"):
    raise UserError(
      f"{workdir} already holds a run; a search of a table takes seconds and"
      " is not resumed: use another --workdir."
    )
  make_folder(workdir)


def _write(workdir, config, table, archs, result) -> None:
  metrics = table.objective(np.array(archs))
  rows = [
    {
      "arch": table.space.to_string(np.array(arch)),
      **{k: v[i] for k, v in metrics.items()},
    }
    for i, arch in enumerate(archs)
  ]
  write_csv(workdir / "archs.csv", rows)
  write_json(workdir / "search.json", result)
  write_json(workdir / "config.json", to_json(config))
