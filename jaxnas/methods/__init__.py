"""Published methods, one page each. A new one: a file and a line here."""

from jaxnas.errors import unknown
from jaxnas.methods import fairnas, spos
from jaxnas.methods.base import (
  Method,
  Setup,
  fleet_batches,
  load_supernet,
  search_archs,
  supernet_batches,
  supernet_objective,
  train_fleet,
  train_supernet,
  write_fairness,
)

METHODS: dict[str, Method] = {m.name: m for m in (fairnas.METHOD, spos.METHOD)}


def get_method(name: str) -> Method:
  """Returns a method by name.

  Raises:
    UserError: for an unknown name.
  """
  if name not in METHODS:
    raise unknown("method", name, METHODS)
  return METHODS[name]


__all__ = [
  "METHODS", "Method", "Setup", "fleet_batches", "get_method",
  "load_supernet", "search_archs", "supernet_batches", "supernet_objective",
  "train_fleet", "train_supernet", "write_fairness",
]  # fmt: skip
