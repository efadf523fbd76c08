import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.costs import Budget, CostTable, cost_tables
from jaxnas.errors import UserError
from jaxnas.spaces import get_space

FAIRNAS = cost_tables(get_space("fairnas"))


def table(rows, fixed=0, name="macs") -> CostTable:
  """A cost table from rows of unequal length."""
  width = max(map(len, rows))
  padded = np.array([list(r) + [0] * (width - len(r)) for r in rows])
  return CostTable(name, fixed, padded, np.array([len(r) for r in rows]))


def all_archs(cost: CostTable) -> np.ndarray:
  ranges = [range(int(n)) for n in cost.n_choices]
  return np.array(list(itertools.product(*ranges)), np.int32)


@pytest.mark.parametrize(
  ("text", "limits"),
  [
    ("", ()),
    (" , ", ()),
    ("macs<=330M", (("macs", 330e6),)),
    ("MACS <= 330 m", (("macs", 330e6),)),
    ("macs<=0.4G,params<=5M", (("macs", 400e6), ("params", 5e6))),
    (" params<=4651352 , macs<=400000k,", (("params", 4651352), ("macs", 4e8))),
    ("macs<=3.3e8", (("macs", 330e6),)),
    ("macs<=330M,macs<=300M", (("macs", 330e6), ("macs", 300e6))),
    # Exact decimals: as floats these three fall below the integer.
    ("macs<=388.122848M", (("macs", 388_122_848),)),
    ("macs<=321.024992M", (("macs", 321_024_992),)),
    ("macs<=0.2471298561G", (("macs", 247_129_856.1),)),
  ],
)
def test_parse(text, limits):
  assert Budget.parse(text, FAIRNAS).limits == limits


@given(st.integers(247_129_856, 10**10), st.sampled_from([0, 3, 6, 9]))
def test_any_integer_bound_is_read_exactly(value, power):
  digits = f"{value:0{power + 1}d}"
  whole, part = digits[: len(digits) - power], digits[len(digits) - power :]
  unit = {0: "", 3: "k", 6: "M", 9: "G"}[power]
  budget = Budget.parse(f"macs<={whole}.{part or 0}{unit}", FAIRNAS)
  assert budget.limits == (("macs", value),)


@pytest.mark.parametrize(
  "text",
  [
    "macs", "macs<330M", "macs=330M", "macs>=330M", "330M", "macs<=", "<=3M",
    "macs<=-5", "macs<=5T", "macs<=nan", "macs<=inf", "macs<=330M params<=5M",
    "macs<=1.2.3M", "macs<=.",
  ],
)  # fmt: skip
def test_bad_texts_are_named(text):
  with pytest.raises(UserError) as caught:
    Budget.parse(f"params<=5M,{text}", FAIRNAS)
  assert repr(text) in str(caught.value)


def test_unknown_cost_offers_the_nearest():
  with pytest.raises(UserError, match="'parms'. Did you mean 'params'"):
    Budget.parse("parms<=5M", FAIRNAS)
  with pytest.raises(UserError, match="Legal values: macs, params"):
    Budget.parse("zzz<=5M", FAIRNAS)


def test_infeasible_names_the_nearest_reachable():
  with pytest.raises(UserError) as caught:
    Budget.parse("macs<=200M", FAIRNAS)
  message = str(caught.value)
  assert "'macs<=200M'" in message
  nearest = "macs<=247129856"
  assert nearest in message
  # The named one is indeed reachable, and one less is not.
  assert Budget.parse(nearest, FAIRNAS).allows(np.zeros((1, 19), np.int32))
  with pytest.raises(UserError):
    Budget.parse("macs<=247129855", FAIRNAS)


def test_allows_includes_the_bound_itself():
  space = get_space("fairnas")
  archs = np.stack([space.from_string(f"fairnas-{c}") for c in "abc"])
  for text, want in [
    ("", [True, True, True]),
    ("macs<=345297632", [False, True, True]),
    ("macs<=345.297631M", [False, False, True]),
    ("macs<=388122848,params<=4.5M", [False, False, True]),
  ]:
    assert Budget.parse(text, FAIRNAS).allows(archs).tolist() == want, text


BOUNDS = st.one_of(
  st.integers(10**9, 10**13).map(float),
  st.floats(6e8, 1e15, allow_nan=False),
  st.sampled_from([6e8, 330e6 * 2, 600_000_001.0, 1e9, 1e12]),
)


@given(st.lists(st.tuples(st.sampled_from(["macs", "params"]), BOUNDS)))
def test_text_round_trip_is_exact(limits):
  budget = Budget(tuple(limits), FAIRNAS)
  assert Budget.parse(str(budget), FAIRNAS).limits == budget.limits


def test_text_is_short():
  for text in (
    "macs<=330M,params<=5M", "macs<=400.5M", "macs<=1.2G",
    "macs<=388.122848M", "params<=10M",
  ):  # fmt: skip
    assert str(Budget.parse(text, FAIRNAS)) == text
  small = {"macs": table([[1, 2], [3, 5]])}
  assert str(Budget.parse("macs<=400k", small)) == "macs<=400k"
  assert str(Budget.parse("macs<=7", small)) == "macs<=7"
  assert str(Budget((("macs", 0.25), ("macs", 0.0)), small)) == (
    "macs<=0.25,macs<=0"
  )


ROWS = st.lists(
  st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(deadline=None)
@given(ROWS, st.integers(0, 9), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_repair_always_keeps_one_bound(rows, fixed, share, seed):
  cost = table(rows, fixed)
  archs = all_archs(cost)
  # From the tightest feasible bound (share 0) to one that binds nothing.
  limit = cost.smallest + int(share * (cost.largest - cost.smallest))
  budget = Budget.parse(f"macs<={limit}", {"macs": cost})
  before = archs.copy()
  fixed_archs = budget.repair(np.random.default_rng(seed), archs)
  np.testing.assert_array_equal(archs, before)  # the input is left alone
  assert fixed_archs.dtype == np.int32
  assert budget.allows(fixed_archs).all()
  assert (cost(fixed_archs) <= limit).all()
  assert ((fixed_archs >= 0) & (fixed_archs < cost.n_choices)).all()
  ok = budget.allows(archs)
  np.testing.assert_array_equal(fixed_archs[ok], archs[ok])
  # A repaired layer only ever became cheaper.
  layers = np.arange(len(rows))
  assert (cost.table[layers, fixed_archs] <= cost.table[layers, archs]).all()


@pytest.mark.parametrize("text", ["macs<=247129856", "macs<=300M"])
def test_sampling_under_tight_bounds(text):
  space = get_space("fairnas")
  budget = Budget.parse(text, FAIRNAS)
  archs = budget.sample(np.random.default_rng(0), space, 100)
  assert archs.shape == (100, 19)
  assert budget.allows(archs).all()
  again = budget.sample(np.random.default_rng(0), space, 100)
  np.testing.assert_array_equal(archs, again)


def test_several_bounds_hold_together():
  space = get_space("digits")
  costs = cost_tables(space)
  share = {
    n: int(c.smallest + 0.2 * (c.largest - c.smallest))
    for n, c in costs.items()
  }
  text = ",".join(f"{n}<={v}" for n, v in share.items())
  budget = Budget.parse(text, costs)
  archs = budget.sample(np.random.default_rng(1), space, 300)
  for name, limit in share.items():
    assert (costs[name](archs) <= limit).all()
  assert len(np.unique(archs, axis=0)) > 100


def test_bounds_that_exclude_each_other_are_named():
  costs = {
    "macs": table([[0, 9], [0, 9]]),
    "params": table([[9, 0], [9, 0]], name="params"),
  }
  budget = Budget.parse("macs<=0,params<=0", costs)
  with pytest.raises(UserError, match="macs<=0,params<=0 at once"):
    budget.repair(np.random.default_rng(0), np.zeros((1, 2), np.int32))
