"""The limits of divide and conquer, a plain halving, and votes by hand."""

import collections
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.config import DivideConfig
from jaxnas.errors import RunError
from jaxnas.search.conquer import conquer, halve, vote, within
from jaxnas.search.partition import partition, standardise

SCORES = st.one_of(st.integers(0, 3).map(float), st.just(math.nan))


@st.composite
def clustered(draw):
  n = draw(st.integers(1, 14))
  labels = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
  scores = draw(st.lists(SCORES, min_size=n, max_size=n))
  return np.array(labels), np.array(scores)


def never(*_):
  raise AssertionError("nothing is to be trained here")


def best_first(archs, scores):
  alive = [i for i in archs if not math.isnan(scores[i])]
  return sorted(alive, key=lambda i: (-scores[i], i))


def plain_halve(labels, early, keep, halving, evaluate):
  """One cluster after the other; what each rung trained."""
  survivors, trained = [], collections.Counter()
  for cluster in sorted(set(labels)):
    scores = dict(enumerate(early))
    left = best_first(np.flatnonzero(labels == cluster).tolist(), scores)
    rung = 0
    while halving and len(left) > keep:
      rung += 1
      left = left[: max(math.ceil(len(left) / halving), keep)]
      if len(left) > keep:
        for i in left:
          scores[i] = evaluate(np.array([i]), rung)[0]
        trained[rung] += len(left)
        left = best_first(left, scores)
    survivors += left[:keep]
  return survivors, trained


@given(clustered(), st.integers(1, 4))
def test_within_sorts_each_cluster(case, keep):
  labels, scores = case
  want = []
  for cluster in range(4):
    want += best_first(np.flatnonzero(labels == cluster), scores)[:keep]
  assert within(labels, scores, keep).tolist() == want
  survivors, rungs = halve(labels, scores, keep, 0, never)
  assert survivors.tolist() == want
  assert rungs == []


@settings(deadline=None)
@given(
  clustered(), st.integers(1, 3), st.integers(2, 4), st.integers(0, 2**32 - 1)
)
def test_halving_equals_each_cluster_on_its_own(case, keep, halving, seed):
  labels, early = case
  table = np.random.default_rng(seed).integers(0, 4, (6, len(labels))) * 1.0
  table[table == 3] = np.nan
  calls = []

  def evaluate(archs, rung):
    calls.append(rung)
    assert (np.diff(archs) > 0).all()
    return table[rung, archs]

  survivors, rungs = halve(labels, early.copy(), keep, halving, evaluate)
  want, trained = plain_halve(
    labels, early, keep, halving, lambda archs, rung: table[rung, archs]
  )
  assert survivors.tolist() == want
  assert calls == sorted(set(calls))  # one call for all clusters of a rung
  assert rungs == [
    {"rung": r, "times": halving**r, "networks": trained[r]}
    for r in sorted(trained)
  ]


def test_halving_by_hand():
  labels = np.array([0] * 8 + [1] * 3)
  early = np.arange(11.0)
  asked = []

  def evaluate(archs, rung):
    asked.append((rung, archs.tolist()))
    return -archs.astype(float)  # longer training turns the order round

  survivors, rungs = halve(labels, early, 1, 2, evaluate)
  # Eight keep four, two and one; three keep two and one. What is left alone in
  # its cluster is not trained again.
  assert asked == [(1, [4, 5, 6, 7, 9, 10]), (2, [4, 5])]
  assert survivors.tolist() == [4, 9]
  assert [r["times"] for r in rungs] == [2, 4]
  assert early.tolist() == list(range(11))  # not written to


@pytest.mark.parametrize("keep", [1, 3, 20])
def test_one_cluster_is_plain_early_stopping(keep):
  rng = np.random.default_rng(0)
  early, final = rng.normal(size=(2, 20))
  config = DivideConfig(samples=20, clusters=1, keep=keep)
  features = standardise(rng.normal(size=(20, 4)))
  labels = partition(features, early, config, 0).labels
  found = conquer(labels, early, config, never, lambda archs: final[archs])
  best = np.argsort(-early)[:keep]
  np.testing.assert_array_equal(found.survivors, best)
  np.testing.assert_array_equal(found.longer, final[best])
  assert found.winner == best[final[best].argmax()]
  assert found.champions.tolist() == [found.winner]


@pytest.mark.parametrize("halving", [0, 2])
def test_n_clusters_train_everything_longer(halving):
  rng = np.random.default_rng(1)
  early, final = rng.normal(size=(2, 20))
  config = DivideConfig(samples=20, clusters=20, halving=halving)
  # Copies would share a cluster, had they not to be alone.
  features = standardise(np.repeat(rng.normal(size=(5, 4)), 4, axis=0))
  labels = partition(features, early, config, 0).labels
  found = conquer(labels, early, config, never, lambda archs: final[archs])
  np.testing.assert_array_equal(found.survivors, np.arange(20))
  np.testing.assert_array_equal(found.longer, final)
  assert found.winner == final.argmax()
  np.testing.assert_array_equal(found.champions, np.argsort(-final))


@given(clustered(), st.integers(1, 3), st.data())
def test_the_winner_is_the_best_that_was_trained_longer(case, keep, data):
  labels, early = case
  n = len(labels)
  final = np.array(data.draw(st.lists(SCORES, min_size=n, max_size=n)))
  run = lambda: conquer(
    labels, early, DivideConfig(keep=keep), never, lambda archs: final[archs]
  )
  kept = within(labels, early, keep)
  if np.isnan(early).all() or np.isnan(final[kept]).all():
    with pytest.raises(RunError, match="failed"):
      run()
    return
  found = run()
  order = best_first(kept.tolist(), final)
  assert found.winner == order[0]
  # The first of each cluster in the order of all.
  champions = [
    i
    for at, i in enumerate(order)
    if labels[i] not in [labels[j] for j in order[:at]]
  ]
  assert found.champions.tolist() == champions


def world(seed: int):
  """Networks of four speeds: the slower, the better they end.

  How they learn shows in their features; what tells the good from the bad
  within one speed is in the early accuracy, under the bias of the speed.
  """
  rng = np.random.default_rng(seed)
  speed = rng.permutation(np.repeat(np.arange(4), 10))
  ability = rng.normal(scale=0.02, size=40)
  early = 0.5 + ability + 0.2 * speed + rng.normal(scale=1e-3, size=40)
  final = 0.8 + ability - 0.05 * speed
  motion = np.eye(4)[speed] @ rng.normal(size=(4, 6))
  return motion + rng.normal(scale=0.05, size=(40, 6)), early, final


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("halving", [0, 2])
def test_biased_speeds_mislead_early_stopping_alone(seed, halving):
  motion, early, final = world(seed)
  features = standardise(motion)

  def winner(**fields):
    config = DivideConfig(samples=40, halving=halving, **fields)
    labels = partition(features, early, config, seed).labels
    return conquer(
      labels, early, config,
      lambda archs, rung: early[archs] + 0.01 * rung,
      lambda archs: final[archs],
    ).winner  # fmt: skip

  # As many networks are trained longer by both.
  assert winner(clusters=1, keep=4) != final.argmax()
  assert winner(clusters=4) == final.argmax()
  assert winner(clusters=0) == final.argmax()
  assert winner(clusters=4) == winner(clusters=4)


@given(
  st.integers(1, 6).flatmap(
    lambda n: st.lists(
      st.lists(st.integers(0, 2), min_size=3, max_size=3),
      min_size=n, max_size=n,
    )
  ),
)  # fmt: skip
def test_votes_are_counted(archs):
  want = []
  for layer in range(3):
    votes = collections.Counter(arch[layer] for arch in archs)
    most = max(votes.values())
    tied = {choice for choice, count in votes.items() if count == most}
    want.append(next(a[layer] for a in archs if a[layer] in tied))
  merged = vote(np.array(archs, np.int32))
  assert merged.dtype == np.int32
  assert merged.tolist() == want


def test_vote_by_hand():
  archs = np.array([[3, 0, 1], [0, 2, 1], [0, 2, 2], [3, 1, 2], [1, 1, 4]])
  # 3 and 0 have two votes each, as have 2 and 1, and 1 and 2.
  assert vote(archs).tolist() == [3, 2, 1]
  assert vote(archs[::-1]).tolist() == [3, 1, 2]
