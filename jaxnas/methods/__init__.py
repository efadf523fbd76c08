"""Published methods, one page each. A new one: a file and a line here."""

from jaxnas.errors import unknown
from jaxnas.methods import fairnas, gcn, spos
from jaxnas.methods.base import (
  Method,
  fleet_batches,
  load_supernet,
  search_archs,
  supernet_batches,
  supernet_objective,
  train_fleet,
  train_supernet,
  write_fairness,
)
from jaxnas.methods.lookup import (
  answer,
  evidence,
  fitted_accuracies,
  read_lookup,
  write_lookup,
)
from jaxnas.methods.ranking import (
  ranking_archs,
  read_truth,
  standalone_accuracies,
)
from jaxnas.methods.setup import Setup, make_setup, make_space
from jaxnas.methods.winner import check_inherited, inherited, train_winner

METHODS: dict[str, Method] = {
  m.name: m for m in (fairnas.METHOD, spos.METHOD, gcn.METHOD)
}


def get_method(name: str) -> Method:
  """Returns a method by name.

  Raises:
    UserError: for an unknown name.
  """
  if name not in METHODS:
    raise unknown("method", name, METHODS)
  return METHODS[name]


__all__ = [
  "METHODS", "Method", "Setup", "answer", "check_inherited", "evidence",
  "fitted_accuracies", "fleet_batches", "get_method", "inherited",
  "load_supernet", "make_setup",
  "make_space", "ranking_archs", "read_lookup", "read_truth", "search_archs",
  "standalone_accuracies", "supernet_batches", "supernet_objective",
  "train_fleet", "train_supernet", "train_winner", "write_fairness",
  "write_lookup",
]  # fmt: skip
