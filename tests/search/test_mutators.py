import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.costs import CostTable
from jaxnas.search import mutators

N = 4000


def within(count, share, n=N):
  """Whether a count lies within four standard deviations of its mean."""
  sd = np.sqrt(n * share * (1 - share))
  return np.abs(np.asarray(count) - n * share) <= 4 * sd + 1e-9


@pytest.mark.parametrize("shares", [(0.2, 0.65, 0.15), (1.0, 0.0, 0.0)])
def test_shares_are_honoured(shares):
  calls = []

  def kind(i):
    return lambda rng, arch: calls.append(i) or arch

  rng = np.random.default_rng(0)
  pairs = [(share, kind(i)) for i, share in enumerate(shares)]
  for _ in range(N):
    mutators.hierarchical(rng, np.zeros(3, np.int32), pairs)
  counts = np.bincount(calls, minlength=3)
  assert all(within(c, s) for c, s in zip(counts, shares, strict=True)), counts


choice_counts = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@settings(deadline=None, max_examples=100)
@given(choice_counts, st.floats(0, 1), st.integers(0, 99))
def test_mutants_are_legal_and_new(sizes, rate, seed):
  n_choices = np.array(sizes, np.int32)
  rng = np.random.default_rng(seed)
  table = rng.integers(0, 3, (len(sizes), 6))
  cost = CostTable("macs", 0, table, n_choices)
  arch = rng.integers(0, n_choices).astype(np.int32)
  before = arch.copy()
  policy = rng.random((len(sizes), 6)) * (np.arange(6) < n_choices[:, None])
  policy /= policy.sum(1, keepdims=True)
  mutants = [
    mutators.uniform(rng, arch, n_choices, rate),
    mutators.roulette(rng, arch, cost, rate),
  ]
  for child in mutants:
    assert (child != arch).any() == (n_choices > 1).any()
  for child in [*mutants, mutators.sample_policy(rng, arch, policy)]:
    assert child.dtype == np.int32 and child.shape == arch.shape
    assert ((child >= 0) & (child < n_choices)).all()
  np.testing.assert_array_equal(arch, before)


def test_uniform_rate_and_choices():
  n_choices = np.array([4, 1, 3, 6, 6, 2], np.int32)
  arch = np.array([1, 0, 2, 5, 0, 1], np.int32)
  rng = np.random.default_rng(1)
  children = np.stack(
    [mutators.uniform(rng, arch, n_choices, 0.4) for _ in range(N)]
  )
  # A layer changes by its own draw, or as the one forced change.
  share = 0.4 + 0.6**5 / 5
  changed = (children != arch).mean(0)
  assert changed[1] == 0
  assert within(changed[[0, 2, 3, 4, 5]] * N, share).all()
  for layer in (0, 3, 4):
    moved = children[children[:, layer] != arch[layer], layer]
    counts = np.bincount(moved, minlength=n_choices[layer])
    assert counts[arch[layer]] == 0
    rest = np.delete(counts, arch[layer])
    assert within(rest, 1 / len(rest), len(moved)).all()


def test_roulette_probabilities():
  n_choices = np.array([3, 2, 1], np.int32)
  # Present costs are 60, 20 and (not searched) 1000.
  table = np.array([[10, 40, 60], [20, 5, 0], [1000, 0, 0]])
  cost = CostTable("macs", 7, table, n_choices)
  arch = np.array([2, 0, 0], np.int32)
  rng = np.random.default_rng(2)
  children = np.stack(
    [mutators.roulette(rng, arch, cost, 0.0) for _ in range(N)]
  )
  changed = children != arch
  assert (changed.sum(1) == 1).all()
  # Half of 1/2 and half of 60/80.
  assert within(changed[:, 0].sum(), 0.5 * 0.5 + 0.5 * 0.75)
  moved = children[changed[:, 0], 0]
  # Savings against the dearest other choice: 30 and 0.
  assert within((moved == 0).sum(), 0.5 * 0.5 + 0.5 * 1.0, len(moved))


def test_policy_samples_follow_the_policy():
  policy = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.25, 0.75, 0.0]])
  rng = np.random.default_rng(3)
  draws = np.stack(
    [mutators.sample_policy(rng, None, policy) for _ in range(N)]
  )
  counts = np.stack([np.bincount(c, minlength=3) for c in draws.T])
  assert within(counts, policy).all(), counts
