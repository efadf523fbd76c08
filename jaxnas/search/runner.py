"""The loop of a search: ask, evaluate, tell."""

from collections.abc import Callable

import numpy as np

from jaxnas.errors import UserError
from jaxnas.profiling import watch_rounds
from jaxnas.search.base import Metrics, Objective, Searcher, State


def run_search(
  searcher: Searcher,
  objective: Objective,
  rounds: int,
  state: State,
  on_round: Callable[[State, np.ndarray, Metrics], None] | None = None,
) -> State:
  """Runs a search up to a round, from its start or from any state.

  Args:
    searcher: proposes the archs.
    objective: `archs[n, L] -> dict[str, float[n]]`.
    rounds: rounds in total, those that `state` has behind it included; the
      first one evaluates the initial population.
    state: `searcher.init(seed)`, or the state after any round; the result is
      the same.
    on_round: called after each round with its new state, archs and metrics,
      to save and to report.

  Returns:
    The final state; early when nothing is left to evaluate.

  Raises:
    UserError: if the objective does not return a metric for every arch.
  """
  run = watch_rounds("search", rounds - state["round"])
  while state["round"] < rounds:
    archs = searcher.ask(state)
    if not len(archs):
      break
    metrics = run(objective, archs)
    if not isinstance(metrics, dict):
      raise UserError(
        "an objective returns a dict of metrics by name, not"
        f" {type(metrics).__name__}."
      )
    state = searcher.tell(state, archs, metrics)
    if on_round is not None:
      on_round(state, archs, metrics)
  return state
