"""What a search with a predictor leaves behind, and what it is worth."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxnas.costs import Budget
from jaxnas.errors import UserError
from jaxnas.methods.setup import PathSetup
from jaxnas.predictors import compare_predictors
from jaxnas.scoring.ranking import bootstrap, kendall_tau_b
from jaxnas.search import SegmentSearch
from jaxnas.writer import is_file, read_arrays, read_csv, write_arrays

FILE = "lookup.npz"


def write_lookup(folder: Path, searcher: SegmentSearch, state: dict) -> None:
  """Writes every arch of the last segment with its predicted accuracy."""
  table = searcher.table(state)
  write_arrays(
    folder / FILE,
    {
      "archs": table["archs"].astype(np.int16),
      "predicted": table["predicted"].astype(np.float32),
      "spread": table["spread"].astype(np.float32),
    },
  )


def read_lookup(folder: Path) -> dict[str, np.ndarray]:
  """Reads the table: `archs` `int32[m, L]`, `predicted` and `spread` `[m]`.

  Raises:
    UserError: if no search with a predictor has been finished there.
  """
  path = folder / FILE
  if not is_file(path):
    raise UserError(
      f"{folder} holds no finished search with a predictor"
      " (search.algorithm=segments, the method gcn), so there is no table to"
      " look a budget up in."
    )
  table = read_arrays(path)
  return {**table, "archs": table["archs"].astype(np.int32)}


def answer(
  table: dict[str, np.ndarray],
  budgets: Sequence[str],
  parse: Callable[[str], Budget],
  to_string: Callable[[np.ndarray], str],
) -> list[dict]:
  """Finds the best predicted arch under each budget; scores nothing.

  Args:
    table: of `read_lookup`.
    budgets: such as `macs<=60M,params<=5M`.
    parse: reads one of them.
    to_string: writes an arch.

  Returns:
    One JSON object for each: `budget`, `arch`, `predicted`, `spread` and every
    cost.

  Raises:
    UserError: for a budget that no arch of the table keeps, with the nearest
      one that is kept.
  """
  rows = []
  for text in budgets:
    budget = parse(text)
    legal = np.flatnonzero(budget.allows(table["archs"]))
    if not len(legal):
      raise UserError(
        f"budget {text!r} cannot be looked up: of the {len(table['archs']):,}"
        " archs that the search predicted none keeps it; the smallest has"
        f" {_nearest(budget, table['archs'])}. Search again with"
        " search.segments.cost_bins above 1, which keeps small archs, or with"
        " the budget itself."
      )
    best = legal[np.argmax(table["predicted"][legal])]
    arch = table["archs"][best]
    costs = {n: c(arch[None])[0].item() for n, c in budget.costs.items()}
    rows.append(
      {
        "budget": text,
        "arch": to_string(arch),
        "predicted": float(table["predicted"][best]),
        "spread": float(table["spread"][best]),
        **costs,
      }
    )
  return rows


def _nearest(budget: Budget, archs: np.ndarray) -> str:
  """The least value of a cost that stands in the way, the other bounds kept."""
  costs = {name: budget.costs[name](archs) for name, _ in budget.limits}
  for name, _ in budget.limits:
    kept = np.ones(len(archs), bool)
    for other, bound in budget.limits:
      kept &= (other == name) | (costs[other] <= bound)
    if kept.any():
      others = [f"{n}<={v:.15g}" for n, v in budget.limits if n != name]
      least = f"{name}<={costs[name][kept].min():.15g}"
      return f"{least} with {', '.join(others)}" if others else least
  return ", ".join(f"{n}<={c.min():.15g}" for n, c in costs.items()) + " apart"


def fitted_accuracies(
  setup: PathSetup, archs: np.ndarray
) -> dict[str, np.ndarray]:
  """Predicts archs from everything that the search scored.

  Args:
    setup: of a run whose search is finished.
    archs: `int32[n, L]`.

  Returns:
    Predictions `float64[n]` of each predictor, and nothing if the search did
    not fit any.
  """
  path = setup.workdir / "archs.csv"
  if not is_file(setup.workdir / FILE):
    return {}
  rows = read_csv(path)
  known = np.stack([setup.space.from_string(row["arch"]) for row in rows])
  accuracy = np.array([float(row["accuracy"]) for row in rows])
  good = np.isfinite(accuracy)
  return compare_predictors(
    setup.space.n_choices, known[good], accuracy[good], archs,
    setup.config.search.predictor, setup.seed("fit"),
  )  # fmt: skip


def evidence(
  searcher: SegmentSearch,
  state: dict,
  rng: np.random.Generator,
  resamples: int,
  confidence: float,
) -> list[dict]:
  """How well each predictor ranks what it has not seen, segment by segment.

  Fitted to four fifths of the samples, each predictor ranks the last fifth;
  fitted to all of them, it ranks the candidates, whose scores came later.

  Args:
    searcher: of a finished search.
    state: its last state.
    rng: of the split and the bootstrap.
    resamples: of the bootstrap.
    confidence: coverage of the intervals.

  Returns:
    One JSON object for each segment, with `held_out` and `candidates` if they
    are at least 3: the number of archs, `observed` scores and, by predictor,
    `predicted` and tau-b with its interval.
  """
  out = []
  for number, (start, stop) in enumerate(searcher.bounds):
    ends = [r for r in state["log"] if r["phase"] != "refine"]
    sampled = next(
      r["begin"]
      for r in ends
      if r["segment"] == number and r["phase"] == "candidates"
    )
    nodes, values, _ = searcher.labels(state, number, end=sampled)
    order = rng.permutation(len(nodes))
    held = order[: len(order) // 5]
    fitted = order[len(order) // 5 :]
    n_choices = searcher.segment(state, number).n_choices

    def judge(train, train_y, test, test_y, n_choices=n_choices):
      found = compare_predictors(
        n_choices, train, train_y, test, searcher.config.predictor,
        state["seed"],
      )  # fmt: skip
      return {
        "n": len(test),
        "observed": test_y.tolist(),
        "predictors": {
          name: {
            "predicted": p.tolist(),
            "kendall_tau_b": bootstrap(
              kendall_tau_b, (p, test_y), rng, resamples, confidence
            ),
          }
          for name, p in found.items()
        },
      }

    row = {"start": start, "stop": stop, "labels": len(nodes)}
    if len(held) > 2:  # a rank correlation needs as many
      row["held_out"] = judge(
        nodes[fitted], values[fitted], nodes[held], values[held]
      )
    later = [
      r["begin"]
      for r in state["log"]
      if r["begin"] > sampled
      and (r["segment"], r["phase"]) != (number, "candidates")
    ]
    end = min(later, default=None)
    again, observed, _ = searcher.labels(state, number, sampled, end)
    if len(again) > 2:
      row["candidates"] = judge(nodes, values, again, observed)
    out.append(row)
  return out
