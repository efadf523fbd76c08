import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnas.costs import Budget, CostTable, cost_tables, feasible
from jaxnas.errors import UserError
from jaxnas.spaces import ListedSpace, get_space

SPACE = get_space("fairnas")
FAIRNAS = cost_tables(SPACE)


def table(rows, fixed=0, name="macs") -> CostTable:
  """A cost table from rows of unequal length."""
  width = max(map(len, rows))
  padded = np.array([list(r) + [0] * (width - len(r)) for r in rows])
  return CostTable(name, fixed, padded, np.array([len(r) for r in rows]))


def tables(**rows) -> tuple[dict[str, CostTable], SimpleNamespace]:
  """Costs by name, and what a budget asks of their space."""
  costs = {n.replace("_", "."): table(r, 0, n) for n, r in rows.items()}
  n_choices = next(iter(costs.values())).n_choices
  space = SimpleNamespace(n_choices=n_choices, n_layers=len(n_choices))
  return costs, space


def all_archs(space) -> np.ndarray:
  ranges = [range(int(n)) for n in space.n_choices]
  return np.array(list(itertools.product(*ranges)), np.int32)


def keys(archs) -> set[tuple]:
  return {tuple(row) for row in archs.tolist()}


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
    ("latency.pixel<=80ms", (("latency.pixel", 80.0),)),
    ("latency.pixel<=80", (("latency.pixel", 80.0),)),
    ("Latency.Pixel <= 0.0805 s", (("latency.pixel", 80.5),)),
    (
      "latency.pixel<=70500us,macs<=1G",
      (("latency.pixel", 70.5), ("macs", 1e9)),
    ),
    ("macs<=330M,macs<=300M", (("macs", 330e6), ("macs", 300e6))),
    # Exact decimals: as floats these three fall below the integer.
    ("macs<=388.122848M", (("macs", 388_122_848),)),
    ("macs<=321.024992M", (("macs", 321_024_992),)),
    ("macs<=0.2471298561G", (("macs", 247_129_856.1),)),
  ],
)
def test_parse(text, limits):
  pixel = table([[3.5, 3.6]] * 19, name="latency.pixel")
  costs = FAIRNAS | {"latency.pixel": pixel}
  assert Budget.parse(text, costs, SPACE).limits == limits


@given(st.integers(247_129_856, 10**10), st.sampled_from([0, 3, 6, 9]))
def test_any_integer_bound_is_read_exactly(value, power):
  digits = f"{value:0{power + 1}d}"
  whole, part = digits[: len(digits) - power], digits[len(digits) - power :]
  unit = {0: "", 3: "k", 6: "M", 9: "G"}[power]
  budget = Budget.parse(f"macs<={whole}.{part or 0}{unit}", FAIRNAS, SPACE)
  assert budget.limits == (("macs", value),)


@pytest.mark.parametrize(
  "text",
  [
    "macs", "macs<330M", "macs=330M", "macs>=330M", "330M", "macs<=", "<=3M",
    "macs<=-5", "macs<=5T", "macs<=nan", "macs<=inf", "macs<=330M params<=5M",
    "macs<=1.2.3M", "macs<=.", "macs<=300ms", "latency.pixel<=80M",
    "latency.pixel<=80m", "macs<=1e5e3",
  ],
)  # fmt: skip
def test_bad_texts_are_named(text):
  with pytest.raises(UserError) as caught:
    Budget.parse(f"params<=5M,{text}", FAIRNAS, SPACE)
  assert repr(text) in str(caught.value)


def test_unknown_cost_offers_the_nearest():
  with pytest.raises(UserError, match="'parms'. Did you mean 'params'"):
    Budget.parse("parms<=5M", FAIRNAS, SPACE)
  with pytest.raises(UserError, match="Legal values: macs, params"):
    Budget.parse("zzz<=5M", FAIRNAS, SPACE)


def test_infeasible_names_the_nearest_reachable():
  with pytest.raises(UserError) as caught:
    Budget.parse("macs<=200M", FAIRNAS, SPACE)
  message = str(caught.value)
  assert "'macs<=200M'" in message
  nearest = "macs<=247129856"
  assert nearest in message
  # The named one is indeed reachable, and one less is not.
  assert Budget.parse(nearest, FAIRNAS, SPACE).allows(
    np.zeros((1, 19), np.int32)
  )
  with pytest.raises(UserError):
    Budget.parse("macs<=247129855", FAIRNAS, SPACE)


def test_allows_includes_the_bound_itself():
  space = get_space("fairnas")
  archs = np.stack([space.from_string(f"fairnas-{c}") for c in "abc"])
  for text, want in [
    ("", [True, True, True]),
    ("macs<=345297632", [False, True, True]),
    ("macs<=345.297631M", [False, False, True]),
    ("macs<=388122848,params<=4.5M", [False, False, True]),
  ]:
    assert Budget.parse(text, FAIRNAS, SPACE).allows(archs).tolist() == want, (
      text
    )


BOUNDS = st.one_of(
  st.integers(10**9, 10**13).map(float),
  st.floats(6e8, 1e15, allow_nan=False),
  st.sampled_from([6e8, 330e6 * 2, 600_000_001.0, 1e9, 1e12]),
)


@given(st.lists(st.tuples(st.sampled_from(["macs", "params"]), BOUNDS)))
def test_text_round_trip_is_exact(limits):
  budget = Budget(tuple(limits), FAIRNAS, SPACE)
  assert Budget.parse(str(budget), FAIRNAS, SPACE).limits == budget.limits


def test_text_is_short():
  for text in (
    "macs<=330M,params<=5M", "macs<=400.5M", "macs<=1.2G",
    "macs<=388.122848M", "params<=10M",
  ):  # fmt: skip
    assert str(Budget.parse(text, FAIRNAS, SPACE)) == text
  small = tables(macs=[[1, 2], [3, 5]], latency_p=[[0.1, 2.5], [3.0, 5]])
  for text in ("macs<=400k", "macs<=7", "latency.p<=3.125ms,macs<=6"):
    assert str(Budget.parse(text, *small)) == text
  text = str(Budget.parse("latency.p<=1.5s", *small))
  assert text == "latency.p<=1500ms"
  assert str(Budget((("macs", 0.25), ("macs", 0.0)), *small)) == (
    "macs<=0.25,macs<=0"
  )


# Refusals -------------------------------------------------------------------


def refusal(text, costs, space) -> str:
  with pytest.raises(UserError) as caught:
    Budget.parse(text, costs, space)
  return str(caught.value)


def test_bounds_that_exclude_each_other_are_named():
  costs, space = tables(macs=[[0, 9], [1, 7]], params=[[9, 0], [8, 2]])
  message = refusal("macs<=7,params<=4", costs, space)
  assert "'macs<=7,params<=4'" in message and "at once" in message
  assert "with params<=4 the nearest reachable is macs<=16 (16)" in message
  assert "with macs<=7 the nearest reachable is params<=11 (11)" in message
  for text in ("macs<=16,params<=4", "macs<=7,params<=11"):
    assert Budget.parse(text, costs, space).count() > 0
  # A single bound that nothing keeps is named alone.
  message = refusal("params<=4,macs<=0", costs, space)
  assert "smallest network" in message and "macs<=1 (1)." in message
  assert "params" not in message
  budget = Budget((("macs", 7), ("params", 4)), costs, space)
  assert budget.count() == 0
  rng = np.random.default_rng(0)
  for call in (
    lambda: budget.sample(rng, 1), lambda: budget.draw(rng, 1),
    lambda: budget.repair(rng, np.zeros((1, 2), np.int32)),
    lambda: budget.sample_bins(rng, 1, "macs", 2),
    lambda: budget.complete(rng, np.zeros((1, 1), np.int32)),
  ):  # fmt: skip
    with pytest.raises(UserError, match="at once"):
      call()


def test_unreachable_latency_is_named_in_milliseconds():
  costs, space = tables(latency_p=[[0.1, 0.7]] * 3, macs=[[5, 1]] * 3)
  message = refusal("latency.p<=0.2ms", costs, space)
  assert "latency.p<=0.3" in message
  message = refusal("latency.p<=1ms,macs<=7", costs, space)
  assert "with latency.p<=1ms the nearest reachable is macs<=11" in message
  nearest = message.split("nearest reachable is ")[1].split(" ")[0]
  assert nearest.startswith("latency.p<=1.5") and nearest.endswith("ms")
  assert Budget.parse(f"{nearest},macs<=7", costs, space).count() == 3


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_feasibility_and_nearest_values_are_exact(data):
  rows = [
    data.draw(st.lists(st.integers(0, 9), min_size=k, max_size=k))
    for k in (2, 3, 1, 3) * 2
  ]
  costs, space = tables(macs=rows[:4], params=rows[4:])
  limits = {n: data.draw(st.integers(0, 30)) for n in costs}
  values = {n: c(all_archs(space)) for n, c in costs.items()}
  text = ",".join(f"{n}<={v}" for n, v in limits.items())
  kept = np.all([values[n] <= limits[n] for n in costs], 0)
  if kept.any():
    assert Budget.parse(text, costs, space).count() == kept.sum()
    return
  message = refusal(text, costs, space)
  for name, other in (("macs", "params"), ("params", "macs")):
    if f"with {other}" in message:
      best = values[name][values[other] <= limits[other]].min()
      assert f"nearest reachable is {name}<={best} " in message
    else:
      assert (
        "smallest network" in message
        or not (values[other] <= limits[other]).any()
      )


# Counting and drawing -------------------------------------------------------


def test_fairnas_draws_are_distinct_and_within_bounds():
  texts = {
    "macs<=247129856": True, "macs<=300M": True, "macs<=330M,params<=9M": True,
    "macs<=380M,params<=4M": False,
  }  # fmt: skip
  rng = np.random.default_rng(0)
  for text, exact in texts.items():
    budget = Budget.parse(text, FAIRNAS, SPACE)
    assert budget.exact == exact, text
    archs = budget.sample(rng, 1000)
    assert archs.shape == (1000, 19) and archs.dtype == np.int32
    for name, limit in budget.limits:
      assert (FAIRNAS[name](archs) <= limit).all()
    drawn = budget.draw(rng, 1000, archs)
    assert len(drawn) == min(1000, budget.count() - len(keys(archs)))
    assert len(keys(drawn) | keys(archs)) == len(drawn) + len(keys(archs))
    assert budget.allows(drawn).all()
  assert Budget.parse("", FAIRNAS, SPACE).count() == 6**19


def test_seeds_decide():
  budget = Budget.parse("macs<=300M", FAIRNAS, SPACE)
  children = SPACE.sample(np.random.default_rng(9), 40)
  for call in (
    lambda rng: budget.sample(rng, 50),
    lambda rng: budget.draw(rng, 50),
    lambda rng: budget.repair(rng, children, children[:3]),
    lambda rng: budget.sample_bins(rng, 50, "macs", 4),
    lambda rng: budget.complete(rng, children[:, :2] // 3),
  ):
    first, again, other = (call(np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


LATENCIES = [[0.25, 1.125, 2.0], [0.1, 0.7], [3.0, 0.3, 0.6, 0.9], [1.0, 1.1]]


def test_floats_are_counted_as_decimals():
  costs, space = tables(latency_p=LATENCIES)
  archs = all_archs(space)
  thousandths = np.rint(costs["latency.p"](archs) * 1000).astype(int)
  for limit in sorted(set(thousandths.tolist())):
    budget = Budget.parse(f"latency.p<={limit}us", costs, space)
    assert budget.exact
    assert budget.count() == (thousandths <= limit).sum()
    np.testing.assert_array_equal(budget.allows(archs), thousandths <= limit)


def test_arbitrary_floats():
  rng = np.random.default_rng(0)
  costs, space = tables(
    latency_a=rng.lognormal(size=(6, 4)), latency_b=rng.lognormal(size=(6, 4))
  )
  archs = all_archs(space)
  a, b = (cost(archs) for cost in costs.values())
  la, lb = np.quantile(a, 0.4), np.quantile(b, 0.4)
  budget = Budget((("latency.a", la), ("latency.b", lb)), costs, space)
  assert budget.exact
  assert budget.count() == ((a <= la) & (b <= lb)).sum()
  # The cost of an arch, as computed, is a bound that it keeps.
  for i in range(0, len(archs), 97):
    budget = Budget.parse(f"latency.a<={float(a[i])!r}", costs, space)
    assert budget.allows(archs[[i]])[0]
    assert budget.count() == (a <= a[i]).sum()


def test_a_large_float_space_is_conservative():
  # 9^22 archs whose sums are all distinct.
  rng = np.random.default_rng(0)
  costs, space = tables(latency_a=rng.lognormal(size=(22, 9)))
  cost = costs["latency.a"]
  limit = cost.smallest + 0.3 * (cost.largest - cost.smallest)
  budget = Budget((("latency.a", limit),), costs, space)
  assert not budget.exact and budget.count() > 2**60
  archs = budget.sample(rng, 500)
  assert (cost(archs) <= limit).all()
  # Hardly anything is left out: the share of plain draws within the bound.
  drawn = rng.integers(space.n_choices, size=(20_000, 22))
  share = (cost(drawn) <= limit).mean()
  assert budget.count() / 9**22 == pytest.approx(share, abs=0.02)
  # The tightest bound there is.
  budget = Budget((("latency.a", cost.smallest),), costs, space)
  assert budget.count() == 1
  np.testing.assert_array_equal(budget.sample(rng, 1)[0], cost.table.argmin(1))


def test_pareto_archs_stand_in_where_the_grid_leaves_nothing(monkeypatch):
  rng = np.random.default_rng(3)
  low = rng.integers(0, 10**6, (9, 3))
  costs, space = tables(macs=low, params=10**6 - low)
  total = costs["macs"](all_archs(space))
  middle = int(np.sort(total)[len(total) // 2])
  limits = (("macs", middle), ("params", 9 * 10**6 - middle))
  exact = Budget(limits, costs, space)
  assert exact.exact
  assert exact.count() == (total == middle).sum() == 1
  monkeypatch.setattr(feasible.build, "__defaults__", (20,))
  budget = Budget(limits, costs, space)
  assert not budget.exact and budget.count() == 1
  np.testing.assert_array_equal(budget.sample(rng, 1), exact.sample(rng, 1))
  np.testing.assert_array_equal(
    budget.sample_bins(rng, 2, "macs", 3), exact.sample(rng, 2)
  )


def test_completions():
  budget = Budget.parse("macs<=260M", FAIRNAS, SPACE)
  rng = np.random.default_rng(0)
  prefixes = SPACE.sample(rng, 200)[:, :3]
  can = budget.can_complete(prefixes)
  cheapest = np.zeros((200, 19), np.int32)
  cheapest[:, :3] = prefixes
  np.testing.assert_array_equal(can, budget.allows(cheapest))
  assert can.any() and not can.all()
  archs = budget.complete(rng, prefixes[can])
  assert budget.allows(archs).all()
  np.testing.assert_array_equal(archs[:, :3], prefixes[can])
  whole = budget.sample(rng, 5)
  np.testing.assert_array_equal(budget.complete(rng, whole), whole)
  with pytest.raises(UserError, match="keeps the budget macs<=260M"):
    budget.complete(rng, prefixes)


# Bins -----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["macs", "params"])
def test_bins_are_even_and_uniform_inside(by):
  costs, space = tables(
    macs=[[0, 3, 7], [2, 1], [5, 4, 5, 30]], params=[[1, 2, 3], [9, 1], [4] * 4]
  )
  budget = Budget.parse("macs<=38,params<=15", costs, space)
  archs = all_archs(space)
  archs = archs[budget.allows(archs)]
  cost = costs[by](archs)
  n_bins = 4
  edges = [
    int(cost.min() + (cost.max() - cost.min()) * b // n_bins)
    for b in range(1, n_bins)
  ]
  bins = np.searchsorted(edges, cost)
  filled = np.unique(bins)
  assert 1 < len(filled) < n_bins
  n = 3000 * len(filled) + 1
  drawn = budget.sample_bins(np.random.default_rng(0), n, by, n_bins)
  assert len(drawn) == n and budget.allows(drawn).all()
  place = {tuple(a): i for i, a in enumerate(archs.tolist())}
  counts = np.bincount(
    [place[tuple(a)] for a in drawn.tolist()], minlength=len(archs)
  )
  assert (np.diff(np.searchsorted(edges, costs[by](drawn))) >= 0).all()
  shares = [counts[bins == b].sum() for b in filled]
  assert sorted(shares) == [3000] * (len(filled) - 1) + [3001]
  for b in filled:
    if (bins == b).sum() > 1:
      assert stats.chisquare(counts[bins == b]).pvalue > 1e-3


def test_bins_of_fairnas():
  budget = Budget.parse("macs<=330M", FAIRNAS, SPACE)
  archs = budget.sample_bins(np.random.default_rng(0), 400, "macs", 4)
  macs = FAIRNAS["macs"](archs)
  edges = np.linspace(FAIRNAS["macs"].smallest, 330e6, 5)
  counts, _ = np.histogram(macs, edges)
  np.testing.assert_allclose(counts, 100, atol=1)  # 330M itself is not reached
  with pytest.raises(UserError, match="'mac'. Did you mean 'macs'"):
    budget.sample_bins(np.random.default_rng(0), 4, "mac", 4)
  with pytest.raises(UserError, match="bins is 0"):
    budget.sample_bins(np.random.default_rng(0), 4, "macs", 0)


# Repair ---------------------------------------------------------------------

ROWS = st.lists(
  st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=5
)


@settings(deadline=None)
@given(ROWS, st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_repair_keeps_all_bounds(rows, seed, share, other):
  rng = np.random.default_rng(seed)
  swapped = [rng.permutation(30 - np.array(row)) for row in rows]
  costs, space = tables(macs=rows, params=swapped)
  archs = all_archs(space)
  # A bound around one arch is feasible; shares widen it.
  arch = archs[rng.integers(len(archs))][None]
  limits = tuple(
    (n, c(arch)[0] + int(s * (c.largest - c(arch)[0])))
    for (n, c), s in zip(costs.items(), (share, other), strict=True)
  )
  budget = Budget(limits, costs, space)
  ok = budget.allows(archs)
  before = archs.copy()
  repaired = budget.repair(rng, archs)
  np.testing.assert_array_equal(archs, before)  # the input is left alone
  assert repaired.dtype == np.int32
  assert budget.allows(repaired).all()
  np.testing.assert_array_equal(repaired[ok], archs[ok])
  # With `seen`: distinct, unseen, and as many as there are.
  seen = archs[rng.random(len(archs)) < 0.5]
  twice = np.concatenate([archs, archs[::-1]])
  fresh = budget.repair(rng, twice, seen)
  assert keys(fresh) == keys(archs[ok]) - keys(seen)
  assert len(fresh) == len(keys(fresh))
  few = budget.repair(rng, archs[:3], seen)
  assert len(few) == min(3, len(archs), len(fresh))
  assert keys(few) <= keys(fresh)


def test_repair_stays_near():
  budget = Budget.parse("macs<=380M", FAIRNAS, SPACE)
  rng = np.random.default_rng(0)
  archs = SPACE.sample(rng, 300)
  over = ~budget.allows(archs)
  assert 50 < over.sum() < 290
  changed = (budget.repair(rng, archs) != archs).sum(1)
  assert not changed[~over].any() and changed[over].min() > 0
  assert changed.mean() < 6  # a random arch differs in 16 of 19
  seen = budget.sample(rng, 20)
  fresh = budget.repair(rng, seen, seen)
  assert ((fresh != seen).sum(1) == 1).all()


def test_repair_draws_uniformly_among_what_was_freed():
  costs, space = tables(macs=[[0, 1, 2, 3, 9]])
  budget = Budget.parse("macs<=3", costs, space)
  archs = budget.repair(
    np.random.default_rng(0), np.full((4000, 1), 4, np.int32)
  )
  assert stats.chisquare(np.bincount(archs[:, 0])).pvalue > 1e-3


# Listed spaces --------------------------------------------------------------


@pytest.fixture(scope="module")
def listed() -> tuple[dict, ListedSpace]:
  """12 rows; the last choice of layer 1 is a name for its first."""

  def fold(archs):
    archs = archs.copy()
    archs[:, 1][archs[:, 1] == 3] = 0
    return archs

  rows = np.array(list(itertools.product(range(2), range(3), range(3))))
  rows = rows[rows.sum(1) != 2].astype(np.int32)
  space = ListedSpace(
    "listed", (("a", "b"), ("c", "d", "e", "c2"), ("f", "g", "h")), rows, (),
    fold,
  )  # fmt: skip
  values = rows @ [9, 3, 1] * 1.0
  values[2] = np.nan

  def cost(archs):
    return values[space.index(archs)]

  return {"latency.x": cost, "macs": table([[1, 0], [0] * 4, [0] * 3])}, space


def test_listed_draws(listed):
  costs, space = listed
  budget = Budget.parse("latency.x<=12", costs, space)
  assert budget.exact
  values = costs["latency.x"](space.rows)
  legal = space.rows[values <= 12]
  assert budget.count() == len(legal) == 7
  rng = np.random.default_rng(0)
  place = {tuple(a): i for i, a in enumerate(legal.tolist())}
  for archs in (
    budget.sample(rng, 4000),
    np.concatenate([budget.draw(rng, 2) for _ in range(2000)]),
  ):
    counts = np.bincount([place[tuple(a)] for a in archs.tolist()])
    assert stats.chisquare(counts).pvalue > 1e-3
  alias = np.array([[0, 3, 1]], np.int32)  # is (0, 0, 1)
  drawn = budget.draw(rng, 99, alias)
  assert keys(drawn) == keys(legal) - {(0, 0, 1)} and len(drawn) == 6
  assert budget.draw(rng, 3, legal).shape == (0, 3)
  unlisted = np.array([[0, 1, 1], [0, 3, 1], [1, 2, 2]], np.int32)
  assert budget.allows(unlisted).tolist() == [False, True, False]
  prefixes = np.array([[0, 2], [1, 2]], np.int32)
  assert budget.can_complete(prefixes).tolist() == [True, False]
  archs = budget.complete(rng, np.repeat(prefixes[:1], 50, 0))
  assert keys(archs) == {(0, 2, 1), (0, 2, 2)}
  # Two rows without a cost or over the bound are in no bin.
  binned = budget.sample_bins(rng, 90, "latency.x", 3)
  low, high = 0, 11
  counts, _ = np.histogram(
    costs["latency.x"](binned) - 1e-9, np.linspace(low - 1e-6, high, 4)
  )
  assert counts.tolist() == [30, 30, 30]


def test_listed_repair(listed):
  costs, space = listed
  budget = Budget.parse("latency.x<=12,macs<=1", costs, space)
  rng = np.random.default_rng(0)
  grid = np.array(list(itertools.product(range(2), range(4), range(3))))
  grid = grid.astype(np.int32)
  legal = space.rows[budget.allows(space.rows)]
  repaired = budget.repair(rng, grid)
  folded = space.canonical(grid)
  far = (legal[None] != folded[:, None]).sum(-1).min(1)
  np.testing.assert_array_equal((repaired != folded).sum(1), far)
  assert keys(repaired) <= keys(legal)
  seen = legal[:3]
  fresh = budget.repair(rng, grid, seen)
  assert keys(fresh) == keys(legal) - keys(seen)
  assert len(fresh) == len(legal) - 3
  # Random among equally near rows.
  ends = [tuple(budget.repair(rng, [[1, 2, 2]])[0].tolist()) for _ in range(60)]
  assert len(set(ends)) > 1


def test_listed_refusals(listed):
  message = refusal("latency.x<=0.5s,latency.x<=-1", *listed)
  assert "cannot be read" in message
  message = refusal("macs<=0,latency.x<=3ms", *listed)
  assert "with macs<=0 the nearest reachable is latency.x<=9ms" in message
  message = refusal("latency.x<=0us,macs<=0", *listed)
  assert "at once" in message or "smallest" in message
