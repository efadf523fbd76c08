"""What all searchers share: the contract, the archive, objectives, draws.

A searcher's state is a JSON object. Its archive holds every evaluated arch:

    {"seed": 0, "round": 2,
     "archive": {"archs": [[0, 2, 1], ...], "metrics": {"macs": [1e6, ...]}},
     ...}
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.costs import Budget
from jaxnas.errors import RunError, UserError, unknown
from jaxnas.spaces import Space

State = dict
Metrics = Mapping[str, np.ndarray]
Objective = Callable[[np.ndarray], Metrics]


class Searcher(Protocol):
  """Proposes archs, is told what they are worth, keeps all memory in `state`.

  Attributes:
    space: where the archs come from.
    budget: bounds that every proposed arch keeps.
    objectives: `name` to maximise, `-name` to minimise.
  """

  space: Space
  budget: Budget
  objectives: tuple[str, ...]

  def init(self, seed: int) -> State:
    """Returns the state of round 0, a JSON object."""

  def ask(self, state: State, n: int | None = None) -> np.ndarray:
    """Proposes archs that were never evaluated.

    A pure function: equal arguments give equal answers, and all randomness
    derives from the state's seed and round.

    Args:
      state: a state of this searcher.
      n: largest number of rows; None takes the size of a round.

    Returns:
      `int32[m, L]` with `m <= n`, no row twice, none from the archive, all
      within the budget. `m < n` only where no more are left (or where the
      budget is not `exact`, known).
    """

  def tell(self, state: State, archs: np.ndarray, metrics: Metrics) -> State:
    """Returns the state of the next round; `state` itself is left alone.

    Args:
      state: a state of this searcher.
      archs: evaluated archs `int32[n, L]`, none of them in the archive; they
        need not come from `ask`.
      metrics: values `[n]` by name, the objectives' among them. NaN and
        infinite values are kept, and can never win.

    Raises:
      UserError: if archs or metrics do not fit.
    """


def new_state(seed: int, **extra) -> State:
  """Returns the state of round 0 with an empty archive."""
  archive = {"archs": [], "metrics": {}}
  return {"seed": int(seed), "round": 0, "archive": archive, **extra}


def advance(
  state: State,
  searcher: Searcher,
  archs: np.ndarray,
  metrics: Metrics,
) -> State:
  """Appends a round to the archive; the common part of every `tell`.

  Args:
    state: left alone.
    searcher: gives the space and the objectives.
    archs: `int32[n, L]`.
    metrics: `[n]` by name, the same names in every round.

  Returns:
    A new state, one round further.

  Raises:
    UserError: for a missing metric, a wrong length, or an arch told twice.
  """
  archs = searcher.space.validate(archs)
  archive = state["archive"]
  for objective in searcher.objectives:
    name, _ = parse_objective(objective)
    if name not in metrics:
      raise unknown("metric in the objectives", name, metrics)
  if archive["metrics"] and set(metrics) != set(archive["metrics"]):
    raise UserError(
      f"the metrics {sorted(metrics)} differ from the archive's,"
      f" {sorted(archive['metrics'])}."
    )
  columns = {}
  for name, values in metrics.items():
    column = np.asarray(values, np.float64)
    if column.shape != (len(archs),):
      raise UserError(
        f"metric {name!r} has shape {column.shape} for {len(archs)} archs; it"
        " must hold one number for each."
      )
    columns[name] = archive["metrics"].get(name, []) + column.tolist()
  taken = _keys(archive["archs"])
  for row in archs:
    if row.tobytes() in taken:
      raise UserError(f"arch {arch_lib.to_string(row)} is told twice.")
    taken.add(row.tobytes())
  rows = archive["archs"] + archs.tolist()
  return {
    **state,
    "round": state["round"] + 1,
    "archive": {"archs": rows, "metrics": columns},
  }


def round_rng(state: State) -> np.random.Generator:
  """Returns the generator of the state's round, fresh at every call."""
  return np.random.default_rng([state["seed"], state["round"]])


def round_size(state: State, sizes: Any, n: int | None) -> int:
  """Returns the rows to propose: `n`, or by `population` and `offspring`.

  Args:
    state: its round tells the first population from the later ones.
    sizes: a searcher or a `SearchConfig`.
    n: wins unless None.
  """
  if n is not None:
    return n
  first = state["round"] == 0 or not sizes.offspring
  return sizes.population if first else sizes.offspring


def archive_archs(state: State, space: Space) -> np.ndarray:
  """Returns every evaluated arch in order: `int32[n, L]`."""
  rows = np.array(state["archive"]["archs"], np.int32)
  return rows.reshape(-1, space.n_layers)


def parse_objective(text: str) -> tuple[str, int]:
  """Splits `accuracy` or `-macs` into a metric's name and its sign.

  Raises:
    UserError: if no name is left.
  """
  name = text.strip().removeprefix("-")
  if not name or name.startswith("-"):
    raise UserError(
      f"objective {text!r} names no metric; write accuracy to maximise it or"
      " -macs to minimise it."
    )
  return name, -1 if text.strip().startswith("-") else 1


def utilities(
  metrics: Mapping[str, Sequence[float]], objectives: Sequence[str]
) -> np.ndarray:
  """Returns objective values with the sign that makes larger better.

  Args:
    metrics: values `[n]` by name.
    objectives: `m` objectives.

  Returns:
    `float64[n, m]`, rows with a value that is not finite all NaN.
  """
  signed = [parse_objective(o) for o in objectives]
  if not metrics:
    return np.zeros((0, len(signed)))
  values = np.stack(
    [sign * np.asarray(metrics[name], np.float64) for name, sign in signed], 1
  )
  return np.where(np.isfinite(values).all(1, keepdims=True), values, np.nan)


def single_best(
  archive: dict,
  objectives: Sequence[str],
  budget: Budget,
  among: Sequence[int] | None = None,
) -> np.ndarray:
  """Returns the evaluated arch that is best in the first objective.

  Args:
    archive: the archive of a state.
    objectives: `name` to maximise, `-name` to minimise; each further one only
      decides between archs that are equal in those before it. Accuracies on a
      small validation set are often equal.
    budget: archs outside it are left out.
    among: positions in the archive to choose from; default all.

  Returns:
    `int32[L]`; the one evaluated first among equals.

  Raises:
    RunError: if no arch within the budget has finite values.
  """
  archs = np.array(archive["archs"], np.int32)
  values = utilities(archive["metrics"], objectives)
  legal = np.isfinite(values).all(1)
  if len(archs):
    legal &= budget.allows(archs)
  if among is not None:
    legal &= np.isin(np.arange(len(archs)), among)
  rows = np.flatnonzero(legal)
  if not len(rows):
    names = ", ".join(parse_objective(o)[0] for o in objectives)
    raise RunError(
      f"none of {len(archs)} evaluated archs keeps the budget and has a finite"
      f" {names}."
    )
  # lexsort sorts by its last key first, and is stable.
  best_last = np.lexsort((-rows, *values[rows].T[::-1]))
  return archs[rows[best_last[-1]]]


def breed_unseen(
  rng: np.random.Generator,
  budget: Budget,
  seen: np.ndarray,
  n: int,
  propose: Callable[[], np.ndarray],
) -> np.ndarray:
  """Breeds unseen children within the budget: one proposal for each.

  Children over budget, seen or repeated are not thrown away but changed as
  little as that takes; see `Budget.repair`.

  Args:
    rng: NumPy generator, the one `propose` draws from.
    budget: bounds on every row.
    seen: archs to leave out, `int32[s, L]`.
    n: number of rows wanted.
    propose: returns one child `int32[L]`.

  Returns:
    `int32[m, L]`, no row twice; `m < n` only where fewer are left.
  """
  children = [propose() for _ in range(n)]
  children = np.array(children, np.int32).reshape(-1, seen.shape[1])
  return budget.repair(rng, children, seen)


def check_shares(what: str, shares: Sequence[float], n: int) -> None:
  """Checks that `shares` are `n` numbers, none negative, that sum to 1.

  Raises:
    UserError: if they are not.
  """
  legal = len(shares) == n and all(s >= 0 for s in shares)
  if not legal or not math.isclose(sum(shares), 1, abs_tol=1e-6):
    raise UserError(
      f"{what} {tuple(shares)} must be {n} numbers, none of them negative, that"
      " sum to 1."
    )


def check_sizes(sizes: Any) -> None:
  """Checks `population`, `offspring` and `objectives` of a searcher or config.

  Raises:
    UserError: for a size that is too small, or an objective without a name.
  """
  check_at_least("search.population", sizes.population, 1)
  check_at_least("search.offspring", sizes.offspring, 0)
  check_at_least("the number of search.objectives", len(sizes.objectives), 1)
  for objective in sizes.objectives:
    parse_objective(objective)


def check_at_least(what: str, value: int, least: int) -> None:
  """Checks one size.

  Raises:
    UserError: if it is too small.
  """
  if value < least:
    raise UserError(f"{what} is {value}; it must be at least {least}.")


def check_rate(what: str, value: float) -> None:
  """Checks a probability.

  Raises:
    UserError: if it is outside 0..1.
  """
  if not 0 <= value <= 1:
    raise UserError(f"{what} is {value}; it must lie between 0 and 1.")


def _keys(archs: Sequence | np.ndarray) -> set[bytes]:
  return {row.tobytes() for row in np.asarray(archs, np.int32)}
