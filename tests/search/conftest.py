import dataclasses

import numpy as np
import pytest

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget, CostTable, cost_tables
from jaxnas.search import SEARCHERS, Searcher, make_searcher
from jaxnas.spaces import Layer, MBConv, Space, get_space


def chain(*n_choices: int) -> Space:
  """A small space whose layer `i` has `n_choices[i]` choices."""
  ops = tuple(MBConv(e, k) for e in (1, 3, 6) for k in (3, 5))
  return Space(
    name="chain",
    image_size=8,
    image_channels=1,
    n_classes=10,
    stem=(),
    layers=tuple(Layer(ops[:n], 8) for n in n_choices),
  )


@dataclasses.dataclass(frozen=True)
class Case:
  """A searcher with a cheap objective that rewards what costs a lot."""

  searcher: Searcher
  costs: dict[str, CostTable]
  weights: np.ndarray
  holes: bool = False

  def objective(self, archs: np.ndarray) -> dict[str, np.ndarray]:
    layers = np.arange(archs.shape[1])
    accuracy = np.tanh(self.weights[layers, archs].sum(-1) / archs.shape[1])
    if self.holes:  # about a third of all archs fails, the best among them
      accuracy = np.where(archs.sum(1) % 3 == 0, np.nan, accuracy)
    return {
      "accuracy": accuracy,
      "macs": self.costs["macs"](archs),
      "params": self.costs["params"](archs),
    }


def build(
  algorithm: str, space: Space, budget: str = "", holes=False, **fields
) -> Case:
  costs = cost_tables(space)
  config = SearchConfig(
    algorithm=algorithm, **{"population": 12, "offspring": 8} | fields
  )
  searcher = make_searcher(
    config, space, Budget.parse(budget, costs, space), costs
  )
  rng = np.random.default_rng(5)
  table = costs["macs"].table
  weights = rng.normal(size=table.shape) + table / table.max()
  return Case(searcher, costs, weights, holes)


@pytest.fixture(name="chain", scope="session")
def chain_fixture():
  return chain


@pytest.fixture(name="build", scope="session")
def build_fixture():
  return build


# The rounds and sizes of segments are their own; see test_segments.py.
@pytest.fixture(params=sorted(set(SEARCHERS) - {"segments"}))
def algorithm(request) -> str:
  return request.param


@pytest.fixture(params=["listed", "drawn"])
def case(request, algorithm) -> Case:
  """Every searcher, on a space it can list and on one it cannot."""
  if request.param == "listed":
    return build(algorithm, chain(4, 3, 1, 6, 5), "macs<=90k")
  return build(algorithm, get_space("digits"), "macs<=500k,params<=40k")
