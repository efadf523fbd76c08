"""Published methods, one page each. A new one: a file and a line here."""

from jaxnas.config import ExperimentConfig
from jaxnas.errors import unknown
from jaxnas.methods import fairnas, gcn, pgnas, spos
from jaxnas.methods.base import (
  MaskMethod,
  Method,
  PathMethod,
  fleet_batches,
  load_supernet,
  search_archs,
  supernet_batches,
  supernet_objective,
  train_fleet,
  train_supernet,
  write_fairness,
)
from jaxnas.methods.compact_winner import (
  check_compact,
  compact_winner,
  tune_winner,
)
from jaxnas.methods.lookup import (
  answer,
  evidence,
  fitted_accuracies,
  read_lookup,
  write_lookup,
)
from jaxnas.methods.masked import (
  load_masked,
  mask_objective,
  mask_sizes,
  masked_batches,
  posterior,
  select_mask,
  train_masked,
  winning_mask,
  write_posterior,
)
from jaxnas.methods.ranking import (
  ranking_archs,
  read_truth,
  standalone_accuracies,
)
from jaxnas.methods.setup import (
  MaskSetup,
  PathSetup,
  Setup,
  make_mask_setup,
  make_setup,
  make_space,
)
from jaxnas.methods.winner import check_inherited, inherited, train_winner

METHODS: dict[str, Method] = {
  m.name: m for m in (fairnas.METHOD, spos.METHOD, gcn.METHOD, pgnas.METHOD)
}


def get_method(name: str) -> Method:
  """Returns a method by name.

  Raises:
    UserError: for an unknown name.
  """
  if name not in METHODS:
    raise unknown("method", name, METHODS)
  return METHODS[name]


def answers_budgets(config: ExperimentConfig) -> bool:
  """Whether a search leaves behind what budgets are looked up in."""
  method = get_method(config.method)
  return (
    isinstance(method, PathMethod)
    and method.search_config(config.search).algorithm == "segments"
  )


__all__ = [
  "METHODS", "MaskMethod", "MaskSetup", "Method", "PathMethod", "PathSetup",
  "Setup", "answer", "answers_budgets", "check_compact",
  "check_inherited", "compact_winner", "evidence", "fitted_accuracies",
  "fleet_batches", "get_method", "inherited",
  "load_masked", "load_supernet", "make_mask_setup", "make_setup",
  "make_space", "mask_objective", "mask_sizes", "masked_batches", "posterior",
  "ranking_archs", "read_lookup", "read_truth", "search_archs", "select_mask",
  "standalone_accuracies", "supernet_batches", "supernet_objective",
  "train_fleet", "train_masked", "train_supernet", "train_winner",
  "tune_winner", "winning_mask", "write_fairness", "write_lookup",
  "write_posterior",
]  # fmt: skip
