import numpy as np
import pytest

from jaxnas.config import SearchConfig
from jaxnas.costs import Budget
from jaxnas.errors import UserError
from jaxnas.search import make_searcher, run_search, single_best
from jaxnas.tables import load_table

ALGORITHMS = ("evolution", "nsga2", "random")


def searcher_on(table, algorithm, budget="", objectives=("accuracy", "-macs")):
  config = SearchConfig(
    algorithm=algorithm, population=10, offspring=6, objectives=objectives,
    objective_weights=(1 / len(objectives),) * len(objectives),
  )  # fmt: skip
  bounds = Budget.parse(budget, table.costs, table.space)
  return make_searcher(config, table.space, bounds, table.costs)


def search(table, algorithm, rounds, seed=0, **how):
  searcher = searcher_on(table, algorithm, **how)
  state = run_search(searcher, table.objective, rounds, searcher.init(seed))
  return searcher, state


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_evaluates_distinct_networks_within_the_budget(
  algorithm, macro_file
):
  table = load_table(macro_file)
  how = {"budget": "macs<=40M,params<=1.5M"}
  searcher, state = search(table, algorithm, 12, **how)
  archs = np.array(state["archive"]["archs"], np.int32)
  assert len(archs) == 10 + 11 * 6
  rows = table.space.index(archs)
  assert len(set(rows.tolist())) == len(rows)
  np.testing.assert_array_equal(table.space.rows[rows], archs)
  metrics = state["archive"]["metrics"]
  assert max(metrics["macs"]) <= 40e6 and max(metrics["params"]) <= 1.5e6
  np.testing.assert_array_equal(
    metrics["accuracy"], table.metrics["accuracy"][rows]
  )
  best = single_best(state["archive"], ("accuracy",), searcher.budget)
  found = table.objective(best[None])["accuracy"][0]
  assert found == max(metrics["accuracy"])
  _, again = search(table, algorithm, 12, **how)
  assert again == state


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_can_exhaust_a_table(algorithm, text_table):
  rng = np.random.default_rng(3)
  archs = np.unique(rng.integers(0, 3, (60, 4)), axis=0)
  lines = "".join(
    f"{''.join(map(str, a))},{rng.random():.4f},{a.sum() + 1}\n" for a in archs
  )
  table = load_table(text_table("arch,accuracy,macs\n" + lines))
  kept = table.costs["macs"].values <= 6
  _, state = search(table, algorithm, 100, budget="macs<=6")
  seen = table.space.index(np.array(state["archive"]["archs"], np.int32))
  assert sorted(seen.tolist()) == np.flatnonzero(kept).tolist()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_that_were_not_measured_never_win(algorithm, text_table):
  lines = ""
  for i in range(4):
    for j in range(8):
      accuracy = "" if (i + j) % 2 else i + j / 10
      lines += f"{i}{j},{accuracy},{'' if i == 3 else i + j + 1}\n"
  table = load_table(text_table("arch,accuracy,latency.pixel\n" + lines))
  searcher, state = search(
    table, algorithm, 20, budget="latency.pixel<=8ms",
    objectives=("accuracy", "-latency.pixel"),
  )  # fmt: skip
  latency = np.array(state["archive"]["metrics"]["latency.pixel"])
  assert len(latency) > 15 and latency.max() <= 8
  best = single_best(state["archive"], ("accuracy",), searcher.budget)
  assert best.tolist() == [2, 4]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_table_without_accuracies(algorithm, fbnet_arrays, tmp_path):
  path = tmp_path / "f.npz"
  np.savez(path, **fbnet_arrays)
  table = load_table(path)
  objectives = ("-latency.dev0", "-latency.dev1")
  _, state = search(table, algorithm, 3, objectives=objectives)
  assert len(state["archive"]["archs"]) == 22
  with pytest.raises(UserError, match="unknown metric in the objectives"):
    search(table, algorithm, 1, objectives=("accuracy",))


def test_a_budget_below_every_row_names_the_nearest(macro_file):
  table = load_table(macro_file)
  with pytest.raises(UserError, match="7,713,280"):
    searcher_on(table, "random", budget="macs<=1M")
