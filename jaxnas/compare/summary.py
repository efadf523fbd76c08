"""What the runs of a comparison say together: means, intervals, tests."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxnas.compare.arms import Arm
from jaxnas.compare.runs import SEARCH, STAGES
from jaxnas.costs import format_count
from jaxnas.errors import UserError
from jaxnas.scoring.paired import compare_pairs, student, tally
from jaxnas.search import parse_objective

CONFIDENCE = 0.95
TOLERANCE = 0.1  # share of the median that equal budgets may differ by

Rows = Mapping[str, list[dict]]


def compare_runs(arms: Sequence[Arm], seeds: Sequence[int], rows: Rows) -> dict:
  """Compares finished runs by their test accuracies.

  Args:
    arms: two or more.
    seeds: of the runs.
    rows: of `run_arms`.

  Returns:
    A JSON object: `kind`, `seeds`, `confidence`, `data`; `arms`, one object
    each with means and Student's intervals over seeds, costs by stage, how many
    others it beats, and its `runs`; `pairs` of `compare_pairs`, by paired t
    tests; `effort`, how far search budgets lie apart; and `warnings`.
  """
  pairs = compare_pairs(
    {k: _column(runs, "test_accuracy") for k, runs in rows.items()},
    "t", confidence=CONFIDENCE,
  )  # fmt: skip
  counts, table = tally(pairs), []
  for arm in arms:
    runs = rows[arm.name]
    row = {
      "name": arm.name,
      "method": runs[0]["method"],
      "space": runs[0]["space"],
      "budget": arm.config.budget,
    }
    for name in ("test_accuracy", "standalone_accuracy", "macs", "params"):
      values = _column(runs, name)
      known = np.isfinite(values).all()
      row[name] = student(values, CONFIDENCE) if known else None
    row["search_images"] = student(_spent(runs, "images"), CONFIDENCE)
    row["search_seconds"] = student(_spent(runs, "seconds"), CONFIDENCE)
    for unit, names in (("images", STAGES), ("seconds", (*STAGES, "compile"))):
      row[unit] = {
        k: float(np.mean([run[unit][k] for run in runs])) for k in names
      }
    table.append({**row, **counts[arm.name], "runs": runs})
  efforts = {
    unit: _apart({row["name"]: row[f"search_{unit}"]["value"] for row in table})
    for unit in ("images", "seconds")
  }
  return {
    "kind": "training",
    "seeds": [*seeds],
    "confidence": CONFIDENCE,
    "data": rows[arms[0].name][0]["data"],
    "arms": table,
    "pairs": pairs,
    "effort": efforts,
    "warnings": _warnings(seeds, efforts["images"], "image evaluations"),
  }


def compare_regrets(
  arms: Sequence[Arm], seeds: Sequence[int], rows: Rows
) -> dict:
  """Compares searches of a table by their regret after equally many look-ups.

  That is after as many as the shortest search made: the best of the table
  within the budget minus the best so far, in the unit of the first objective.

  Args:
    arms: two or more, with one budget and one first objective.
    seeds: of the searches.
    rows: of `search_arms`.

  Returns:
    As `compare_runs`, by signed-rank tests. Arms have `regret` with Student's
    interval, its `median`, `found`, the share of seeds that found the best, and
    `curve`: `mean` and quartiles of the regret after each look-up.

  Raises:
    UserError: if an arm has seen nothing by then.
  """
  first, sign = parse_objective(arms[0].config.search.objectives[0])
  found = {
    name: [_regrets(row, first, sign) for row in runs]
    for name, runs in rows.items()
  }
  n = min(len(curve) for curves in found.values() for curve in curves)
  curves = {k: np.array([c[:n] for c in v]) for k, v in found.items()}
  for name, curve in curves.items():
    if np.isnan(curve[:, -1]).any():
      raise UserError(
        f"arm {name!r} knows no {first} after {n} look-ups, as many as the"
        " shortest search makes; give all arms equally many."
      )
  pairs = compare_pairs(
    {name: curve[:, -1] for name, curve in curves.items()},
    "signed-rank", larger_is_better=False, confidence=CONFIDENCE,
  )  # fmt: skip
  counts, table = tally(pairs), []
  for arm in arms:
    runs, curve = rows[arm.name], curves[arm.name]
    low, median, high = np.percentile(curve, [25, 50, 75], axis=0).tolist()
    table.append(
      {
        "name": arm.name,
        "method": arm.config.method,
        "algorithm": runs[0]["algorithm"],
        "regret": student(curve[:, -1], CONFIDENCE),
        "median": median[-1],
        "found": float((curve[:, -1] <= 1e-12).mean()),
        "evaluated": float(np.mean([len(c) for c in found[arm.name]])),
        "seconds": float(np.mean([row["seconds"] for row in runs])),
        "curve": {
          "mean": curve.mean(0).tolist(), "low": low, "median": median,
          "high": high,
        },
        **counts[arm.name],
      }
    )  # fmt: skip
  one = rows[arms[0].name][0]
  effort = _apart({row["name"]: row["evaluated"] for row in table})
  return {
    "kind": "table",
    "seeds": [*seeds],
    "confidence": CONFIDENCE,
    "table": one["table"],
    "archs": one["of"],
    "budget": one["budget"],
    "objective": first,
    "evaluations": n,
    "arms": table,
    "pairs": pairs,
    "effort": {"evaluations": effort},
    "warnings": _warnings(seeds, effort, "look-ups"),
  }


def _column(runs: list[dict], name: str) -> np.ndarray:
  """A value of every run, NaN for None."""
  return np.array([run[name] for run in runs], float)


def _spent(runs: list[dict], unit: str) -> np.ndarray:
  """What finding the winner cost each run."""
  return np.array([sum(run[unit][k] for k in SEARCH) for run in runs], float)


def _regrets(row: dict, first: str, sign: int) -> np.ndarray:
  """Regret after each look-up; NaN while DC-NAS looks at early accuracies."""
  return sign * (row["best"][first] - np.array(row["curve"], float))


def _apart(spent: Mapping[str, float]) -> dict:
  """How far search budgets lie apart.

  Returns:
    `median`; `ratio`, the largest by the smallest, None if that is 0; and
    `unequal`, by arm the share of the median that it lies off, where that is
    more than a tenth.
  """
  values = np.array([*spent.values()])
  median = float(np.median(values))
  off = {k: v / median - 1 for k, v in spent.items()} if median else {}
  return {
    "median": median,
    "ratio": float(values.max() / values.min()) if values.min() else None,
    "unequal": {k: v for k, v in off.items() if abs(v) > TOLERANCE},
  }


def _warnings(seeds: Sequence[int], effort: dict, unit: str) -> list[str]:
  """Sentences on what a reader must know before any number."""
  out = []
  if effort["unequal"]:
    apart = ", ".join(f"{k} {v:+.0%}" for k, v in effort["unequal"].items())
    out.append(
      f"Search budgets are not equal: {apart} off the median of"
      f" {format_count(effort['median'])} {unit}."
    )
  if len(seeds) == 1:
    out.append("One seed has no spread: there are no intervals and no tests.")
  elif len(seeds) < 3:
    out.append(f"{len(seeds)} seeds are too few to tell methods apart; run 3.")
  return out
