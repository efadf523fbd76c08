"""Candidates from learned rates: one mask for a number, whatever the rest."""

import dataclasses
import json

import numpy as np
import pytest
from graphs import SPACES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxnas.errors import UserError
from jaxnas.search import PosteriorSampler, best_number

SPACE = SPACES["shake"]
GROUPS = len(SPACE.groups)
RATES = np.linspace(0.05, 0.95, GROUPS)


def everything(archs):
  return np.ones(len(archs), bool)


def sampler(**fields):
  default = dict(
    space=SPACE, rates=RATES, allows=everything, candidates=30, batch=7
  )
  return PosteriorSampler(**(default | fields))


def metrics_of(archs):
  return {
    "accuracy": archs.mean(1), "loss": archs[:, 0] + 0.5,
    "macs": archs.sum(1),
  }  # fmt: skip


def run(search, seed=3):
  """All rounds; the end state, and the masks of each."""
  state, rounds = search.init(seed), []
  while len(archs := search.ask(state)):
    state = search.tell(state, archs, metrics_of(archs))
    rounds.append(archs)
  return state, rounds


# Masks -----------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_a_candidate_depends_on_seed_and_number_only(batch, candidates, seed):
  search = sampler(batch=batch, candidates=candidates)
  state, rounds = run(search, seed)
  archs = np.concatenate(rounds)
  numbers = state["archive"]["numbers"]
  # No two of 53 channels' masks are equal here, so none is passed over.
  assert numbers == list(range(-1, candidates))
  reference = sampler()
  for number, arch in zip(numbers, archs, strict=True):
    np.testing.assert_array_equal(arch, reference.mask(seed, number))
  assert max(map(len, rounds)) <= batch
  assert [len(r) for r in rounds[:-1]] == [batch] * (len(rounds) - 1)
  assert state["next"] == candidates
  assert len(search.ask(state)) == 0


def test_seeds_and_numbers_give_different_masks():
  search = sampler()
  drawn = {
    search.mask(seed, n).tobytes() for seed in range(20) for n in range(20)
  }
  assert len(drawn) == 400


def test_masks_are_the_spaces_own_draw():
  mask = sampler().mask(3, 5)
  assert (mask.dtype, mask.shape) == (np.int32, (SPACE.n_layers,))
  u = np.random.default_rng([3, 5]).random(SPACE.n_layers)
  expected = 1 - np.floor(u + RATES[SPACE.group_of])
  np.testing.assert_array_equal(mask, expected)


def test_channels_are_dropped_at_their_rates_and_alone():
  n = 4000
  masks = np.array([sampler().mask(0, c) for c in range(n)])
  for l, dropped in enumerate((1 - masks).sum(0)):
    p = RATES[SPACE.group_of[l]]
    assert stats.binomtest(int(dropped), n, p).pvalue > 1e-6, l
  unit = (masks - masks.mean(0)) / masks.std(0)
  across = unit.T @ unit / n - np.eye(SPACE.n_layers)
  assert np.abs(across).max() < 5 / np.sqrt(n)
  assert np.abs((unit[1:] * unit[:-1]).mean(0)).max() < 5 / np.sqrt(n)


def test_rates_of_zero_and_one_are_certain():
  rates = (np.arange(GROUPS) % 2).astype(float)
  for c in range(20):
    mask = sampler(rates=rates).mask(0, c)
    np.testing.assert_array_equal(mask, 1 - rates[SPACE.group_of])


def test_the_threshold_mask_drops_above_one_half_only():
  rates = np.linspace(0, 1, GROUPS)
  rates[3] = 0.5
  rates[4] = np.nextafter(0.5, 1)
  search = sampler(rates=rates)
  mask = search.mask(0, -1)
  assert mask.dtype == np.int32
  for g, rate in zip(SPACE.groups, rates, strict=True):
    part = mask[g.offset : g.offset + g.channels]
    assert (part == (0 if rate > 0.5 else 1)).all()
  np.testing.assert_array_equal(search.ask(search.init(0))[0], mask)
  assert run(search)[0]["archive"]["numbers"][0] == -1
  without = sampler(rates=rates, threshold=False)
  state, rounds = run(without)
  assert state["archive"]["numbers"] == list(range(30))
  np.testing.assert_array_equal(rounds[0][0], search.mask(3, 0))


# Ask and tell ----------------------------------------------------------------


def test_ask_and_tell_are_pure():
  search = sampler()
  state = search.init(3)
  for _ in range(3):
    before = json.dumps(state)
    first, second = search.ask(state), search.ask(state)
    np.testing.assert_array_equal(first, second)
    new = search.tell(state, first, metrics_of(first))
    again = search.tell(state, first, metrics_of(first))
    assert json.dumps(state) == before
    assert new == again
    state = new


def test_a_state_survives_json():
  search = sampler(allows=lambda a: a[:, 0] == 1)
  state, through = search.init(3), search.init(3)
  while len(archs := search.ask(state)):
    np.testing.assert_array_equal(search.ask(through), archs)
    state = search.tell(state, archs, metrics_of(archs))
    through = search.tell(through, archs, metrics_of(archs))
    through = json.loads(json.dumps(through))
    assert through == json.loads(json.dumps(state)) == state
  assert state["round"] > 2


def test_metrics_are_kept_in_order():
  state, rounds = run(sampler())
  archs = np.concatenate(rounds)
  for name, values in metrics_of(archs).items():
    np.testing.assert_array_equal(state["archive"]["metrics"][name], values)
  assert state["round"] == len(rounds) == 5  # 31 masks, 7 a round


def test_other_masks_and_other_lengths_are_refused():
  search = sampler()
  state = search.init(3)
  archs = search.ask(state)
  for wrong in (archs[::-1], archs[:-1], 1 - archs):
    with pytest.raises(UserError, match="not those that were asked for"):
      search.tell(state, wrong, metrics_of(wrong))
  values = metrics_of(archs) | {"loss": np.zeros(len(archs) - 1)}
  with pytest.raises(UserError, match="'loss' has shape"):
    search.tell(state, archs, values)


# Repeats and budgets ---------------------------------------------------------


def few():
  """All groups but one are certain: four channels, sixteen masks."""
  rates = np.zeros(GROUPS)
  rates[2] = 0.4
  assert SPACE.groups[2].channels == 4
  return rates


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_repeats_are_passed_over(batch):
  search = sampler(rates=few(), candidates=300, batch=batch)
  state, rounds = run(search)
  archs = np.concatenate(rounds)
  assert len(np.unique(archs, axis=0)) == len(archs) == 16
  numbers, seen = [], set()
  for c in range(-1, 300):  # the first number of each mask
    key = search.mask(3, c).tobytes()
    if key not in seen:
      seen.add(key)
      numbers.append(c)
  assert state["archive"]["numbers"] == numbers
  assert state["over_budget"] == 0
  assert state["next"] == 300
  assert len(set(state["archive"]["digests"])) == 16


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_what_exceeds_the_budget_is_counted_whatever_the_batch(batch):
  group = SPACE.groups[2]
  part = slice(group.offset, group.offset + 4)
  allows = lambda archs: archs[:, part].sum(1) <= 2
  search = sampler(rates=few(), candidates=300, batch=batch, allows=allows)
  state, rounds = run(search)
  archs = np.concatenate(rounds)
  assert allows(archs).all()
  assert len(archs) == 1 + 4 + 6
  every = np.array([search.mask(3, c) for c in range(-1, 300)])
  assert state["over_budget"] == (~allows(every)).sum()
  assert state["archive"]["numbers"][0] != -1  # it keeps all


def test_nothing_within_the_budget():
  search = sampler(allows=lambda a: np.zeros(len(a), bool))
  state, numbers, masks = search.propose(search.init(0))
  assert (numbers, masks.shape) == ([], (0, SPACE.n_layers))
  assert (state["over_budget"], state["next"]) == (31, 30)


def test_a_larger_c_continues_a_smaller_one():
  state, rounds = run(sampler(candidates=13))
  more = dataclasses.replace(sampler(), candidates=30)
  longer, _ = run(more)
  assert longer["archive"]["numbers"][:14] == state["archive"]["numbers"]
  assert longer["archive"]["digests"][:14] == state["archive"]["digests"]
  rest = more.ask(state)
  np.testing.assert_array_equal(rest[0], more.mask(3, 13))


# The winner ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("accuracy", "loss", "macs", "winner"),
  [
    ([0.1, 0.3, 0.2], [0, 9, 0], [1, 9, 1], 1),  # accuracy first
    ([0.3, 0.3, 0.2], [2, 1, 0], [1, 9, 0], 1),  # then loss
    ([0.3, 0.3, 0.3], [1, 1, 1], [5, 4, 6], 1),  # then size
    ([0.2, 0.3, 0.3], [1, 1, 1], [4, 4, 4], 1),  # then the earlier one
    ([np.nan, 0.1, 0.2], [0, 0, 0], [1, 1, 1], 2),
    ([0.9, 0.1, 0.2], [np.nan, 0, 0], [1, 1, 1], 2),
    ([0.9, 0.1, 0.2], [np.inf, 0, 0], [1, 1, 1], 2),
    ([np.inf, 0.1, 0.2], [0, 0, 0], [1, 1, 1], 2),
    ([np.nan, np.nan, 0.0], [np.nan, np.nan, 7], [0, 0, 9], 2),
  ],
)
def test_the_best(accuracy, loss, macs, winner):
  metrics = {"accuracy": accuracy, "loss": loss, "macs": macs}
  assert best_number({"metrics": metrics}) == winner


@given(st.integers(0, 10**6))
def test_the_best_is_what_sorting_says(seed):
  rng = np.random.default_rng(seed)
  metrics = {k: rng.integers(0, 3, 12).astype(float).tolist()
             for k in ("accuracy", "loss", "macs")}  # fmt: skip
  rows = zip(*metrics.values(), range(12), strict=True)
  expected = min(rows, key=lambda r: (-r[0], *r[1:]))[-1]
  assert best_number({"metrics": metrics}) == expected


def test_nobody_wins_without_finite_values():
  metrics = {"accuracy": [np.nan, 0.5], "loss": [1, np.nan], "macs": [1, 1]}
  with pytest.raises(UserError, match="no candidate has a finite"):
    best_number({"metrics": metrics})
