"""Clusters against planted ones, closed forms and a plain Lloyd."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score

from jaxnas.config import DivideConfig
from jaxnas.errors import UserError
from jaxnas.search.partition import (
  check_divide,
  choose_clusters,
  cost_explained,
  kmeans,
  partition,
  principal_plane,
  random_partition,
  reduce,
  sorted_partition,
  stability,
  standardise,
)

DISTANCES = ["cosine", "euclidean"]
# Few values, so that rows repeat, vanish and tie.
FEATURES = hnp.arrays(
  float,
  st.tuples(st.integers(1, 9), st.integers(1, 3)),
  elements=st.integers(-2, 2).map(float),
)


def planted(k: int, size: int, seed: int = 0):
  """`k` directions far apart, `size` rows close to each, shuffled."""
  rng = np.random.default_rng(seed)
  truth = rng.permutation(np.repeat(np.arange(k), size))
  return 5 * np.eye(k, k + 2)[truth] + rng.normal(
    scale=0.1, size=(k * size, k + 2)
  ), truth


def units(x: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(x, axis=1, keepdims=True)
  return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def inertia(points: np.ndarray, labels: np.ndarray) -> float:
  return sum(
    ((points[labels == c] - points[labels == c].mean(0)) ** 2).sum()
    for c in np.unique(labels)
  )


def lloyd(points, k, restarts, rng) -> tuple[np.ndarray, list[list[float]]]:
  """Plain k-means from random archs; the inertias of each restart's steps."""
  best, steps = None, []
  for _ in range(restarts):
    centres = points[rng.choice(len(points), k, replace=False)]
    labels, course = None, []
    while True:
      squared = ((points[:, None] - centres) ** 2).sum(-1)
      found = squared.argmin(1)
      course.append(squared.min(1).sum())
      if labels is not None and (found == labels).all():
        break
      labels = found
      for c in set(labels):
        centres[c] = points[labels == c].mean(0)
    steps.append(course)
    if best is None or inertia(points, labels) < inertia(points, best):
      best = labels
  return best, steps


def is_canonical(labels: np.ndarray) -> bool:
  _, first = np.unique(labels, return_index=True)
  return (np.unique(labels) == np.arange(len(first))).all() and (
    np.diff(first) > 0
  ).all()


def test_standardised_columns():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(20, 4)) * [1, 1e-5, 1e5, 1] + [0, 1e-5, -1e5, 0]
  x[:, 3] = np.float32(0.1)
  z = standardise(x.astype(np.float32))
  assert z.dtype == np.float64
  np.testing.assert_allclose(z.mean(0), 0, atol=1e-7)
  np.testing.assert_allclose(z.std(0), [1, 1, 1, 0], atol=1e-7)
  # A constant that rounding blurs is one still.
  x[:, 3] += np.where(rng.random(20) < 0.5, 1e-8, 0)
  assert (standardise(x)[:, 3] == 0).all()


def test_failed_archs_stand_at_the_mean_and_move_nobody():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(10, 3))
  failed = x.copy()
  failed[4, 1], failed[7] = np.nan, np.inf
  z = standardise(failed)
  assert (z[[4, 7]] == 0).all()
  others = np.delete(np.arange(10), [4, 7])
  np.testing.assert_array_equal(z[others], standardise(x[others]))
  assert (standardise(np.full((3, 2), np.nan)) == 0).all()


def test_components_are_the_leading_eigenvectors():
  rng = np.random.default_rng(2)
  x = rng.normal(size=(30, 6)) @ rng.normal(size=(6, 6))
  z = standardise(x)
  values, vectors = np.linalg.eigh(np.corrcoef(x.T))
  for c, scores in enumerate(reduce(z, 3).T):
    axis = vectors[:, -1 - c]
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    np.testing.assert_allclose(scores, z @ axis, atol=1e-9)
    assert scores.var() == pytest.approx(values[-1 - c])
  # All components are a rotation: no distance changes.
  np.testing.assert_allclose(
    reduce(z, 99) @ reduce(z, 99).T, z @ z.T, atol=1e-9
  )
  plane, explained = principal_plane(z)
  np.testing.assert_allclose(plane, reduce(standardise(x), 2), atol=1e-9)
  np.testing.assert_allclose(explained, values[:-3:-1] / 6)


def test_plane_of_too_few_dimensions():
  plane, explained = principal_plane(np.array([[1.0], [3.0]]))
  np.testing.assert_allclose(plane, [[-1, 0], [1, 0]])
  np.testing.assert_allclose(explained, [1, 0])
  plane, explained = principal_plane(np.ones((3, 4)))
  assert (plane == 0).all()
  assert (explained == 0).all()


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_planted_clusters_are_found(distance, k):
  x, truth = planted(k, 8)
  labels = kmeans(x, k, distance, 10, 0)
  assert labels.dtype == np.int32
  assert is_canonical(labels)
  assert adjusted_rand_score(labels, truth) == 1
  found, rows = choose_clusters(x, distance, 8, 10, 0)
  assert found == k
  assert [row["k"] for row in rows] == list(range(2, 9))
  assert max(rows, key=lambda row: row["value"])["k"] == k
  assert stability(x, k, distance, 10, 4) == {
    "seeds": 4,
    "adjusted_rand": {"value": 1, "low": 1, "high": 1},
  }


def test_cosine_sees_the_direction_alone():
  rng = np.random.default_rng(3)
  x, _ = planted(4, 6)
  labels = kmeans(x, 4, "cosine", 10, 0)
  scaled = x * rng.uniform(0.01, 100, size=(24, 1))
  np.testing.assert_array_equal(kmeans(scaled, 4, "cosine", 10, 0), labels)
  # Opposite rows are apart by cosine, rows of one direction only by length.
  line = np.array([[1.0, 1], [9, 9], [-1, -1], [-9, -9]])
  assert kmeans(line, 2, "cosine", 10, 0).tolist() == [0, 0, 1, 1]
  assert kmeans(line, 3, "euclidean", 10, 0).tolist() == [0, 1, 0, 2]


def test_spherical_kmeans_minimises_the_cosine():
  """Squared distance of unit vectors is 2 (1 - cos)."""
  rng = np.random.default_rng(4)
  x = rng.normal(size=(40, 5))
  u = units(x)
  squared = ((u[:, None] - u[None]) ** 2).sum(-1)
  np.testing.assert_allclose(squared, 2 * (1 - u @ u.T), atol=1e-12)
  labels = kmeans(x, 4, "cosine", 10, 0)
  np.testing.assert_array_equal(labels, kmeans(u, 4, "euclidean", 10, 0))
  # The inertia is the mean of 1 - cos over the pairs of a cluster.
  want = sum(
    (1 - u[labels == c] @ u[labels == c].T).sum() / (labels == c).sum()
    for c in range(4)
  )
  assert inertia(u, labels) == pytest.approx(want)


@pytest.mark.parametrize("distance", DISTANCES)
def test_no_worse_than_a_plain_lloyd(distance):
  # In noise alone, luck decides between minima that are a percent apart.
  for seed in range(3):
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=3, size=(10, 4))[np.arange(100) % 10]
    x = x + rng.normal(size=x.shape)
    points = units(x) if distance == "cosine" else x
    for k in (2, 10):
      plain, steps = lloyd(points, k, 10, rng)
      for course in steps:
        assert (np.diff(course) <= 1e-9).all()
      ours = inertia(points, kmeans(x, k, distance, 10, 0))
      assert ours <= inertia(points, plain) + 1e-9


def test_ends_where_no_arch_would_move():
  x = np.random.default_rng(6).normal(size=(200, 3))
  labels = kmeans(x, 6, "euclidean", 2, 0)
  centres = np.array([x[labels == c].mean(0) for c in range(6)])
  nearest = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
  np.testing.assert_array_equal(nearest, labels)
  # Copies weigh as much as they are.
  line = np.repeat([[0.0], [1], [3]], [50, 50, 1], axis=0)
  assert kmeans(line, 2, "euclidean", 9, 0)[[0, 50, 100]].tolist() == [0, 1, 1]


@settings(max_examples=60, deadline=None)
@given(FEATURES, st.data())
def test_any_features_are_partitioned(x, data):
  n = len(x)
  distance = data.draw(st.sampled_from(DISTANCES))
  k = data.draw(st.integers(1, n))
  order = np.array(data.draw(st.permutations(range(n))))
  labels = kmeans(x, k, distance, 2, 0)
  assert is_canonical(labels)
  points = units(x) if distance == "cosine" else x
  distinct = len(np.unique(points.round(9) + 0.0, axis=0))
  clusters = labels.max() + 1
  assert clusters == (n if k == n else min(k, distinct))
  if k < n:  # equal archs share a cluster
    same = (np.abs(points[:, None] - points).sum(-1) < 1e-9).nonzero()
    assert (labels[same[0]] == labels[same[1]]).all()
  shuffled = kmeans(x[order], k, distance, 2, 0)
  assert adjusted_rand_score(shuffled, labels[order]) == 1


@pytest.mark.parametrize("distance", DISTANCES)
def test_one_cluster_and_one_arch_each(distance):
  x = np.repeat(np.random.default_rng(7).normal(size=(3, 2)), 3, axis=0)
  assert (kmeans(x, 1, distance, 10, 0) == 0).all()
  # Copies too are alone.
  np.testing.assert_array_equal(kmeans(x, 9, distance, 10, 0), np.arange(9))
  # Three distinct rows make three clusters at most.
  assert kmeans(x, 5, distance, 10, 0).tolist() == [0] * 3 + [1] * 3 + [2] * 3
  found, rows = choose_clusters(x, distance, 8, 10, 0)
  assert found == 3
  assert [row["k"] for row in rows] == [2, 3]
  for k in (0, 10):
    with pytest.raises(UserError, match=f"^{k} clusters of 9 archs; legal: 1"):
      kmeans(x, k, distance, 10, 0)


def test_silhouette_without_a_choice():
  assert choose_clusters(np.ones((6, 2)), "cosine", 5, 3, 0) == (1, [])
  assert choose_clusters(np.eye(2), "cosine", 5, 3, 0) == (1, [])


def test_silhouette_by_definition():
  x = np.random.default_rng(8).normal(size=(12, 2))
  k, rows = choose_clusters(x, "euclidean", 4, 10, 0)
  apart = np.linalg.norm(x[:, None] - x, axis=-1)
  for row in rows:
    labels = kmeans(x, row["k"], "euclidean", 10, 0)
    values = []
    for i, own in enumerate(labels):
      mean = [apart[i, labels == c].sum() for c in range(row["k"])]
      size = np.bincount(labels)
      if size[own] == 1:
        values.append(0)
        continue
      a = mean[own] / (size[own] - 1)
      b = min(mean[c] / size[c] for c in range(row["k"]) if c != own)
      values.append((b - a) / max(a, b))
    assert row["value"] == pytest.approx(np.mean(values), abs=1e-8)
  assert k == rows[int(np.argmax([row["value"] for row in rows]))]["k"]


@pytest.mark.parametrize("clusters", [0, 1, 5, 30])
def test_baselines_have_the_sizes_of_kmeans(clusters):
  rng = np.random.default_rng(9)
  x, costs = rng.normal(size=(30, 4)), rng.integers(0, 9, 30).astype(float)

  def found(name, seed=3):
    config = DivideConfig(samples=30, clusters=clusters, partition=name)
    return partition(x, costs, config, seed)

  plain = found("kmeans")
  labels = kmeans(x, clusters or plain.k, "cosine", 10, 3)
  np.testing.assert_array_equal(plain.labels, labels)
  sizes = np.bincount(labels)
  for part in (plain, found("random"), found("macs")):
    assert part.labels.dtype == np.int32
    assert is_canonical(part.labels)
    assert sorted(np.bincount(part.labels)) == sorted(sizes)
    assert part.silhouette == plain.silhouette
    assert bool(part.silhouette) == (clusters == 0)
  macs = sorted_partition(costs, sizes)
  assert adjusted_rand_score(found("macs").labels, macs) == 1
  random = found("random").labels
  np.testing.assert_array_equal(found("random").labels, random)
  if clusters == 5:
    assert (found("random", seed=4).labels != random).any()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_neighbours_in_value_share_a_cluster(sizes, data):
  n = sum(sizes)
  values = np.array(
    data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), float
  )
  labels = sorted_partition(values, np.array(sizes))
  assert np.bincount(labels).tolist() == sizes
  pairs = [(values[i], i, labels[i]) for i in range(n)]
  assert [label for _, _, label in sorted(pairs)] == sorted(labels)


def test_random_partitions_are_all_equally_likely():
  rng = np.random.default_rng(10)
  seen = {}
  for _ in range(3000):
    labels = random_partition(np.array([2, 1]), rng)
    seen[tuple(labels)] = seen.get(tuple(labels), 0) + 1
  assert set(seen) == {(0, 0, 1), (0, 1, 0), (1, 0, 0)}
  # Binomial(3000, 1/3) has a standard deviation of 26.
  assert all(abs(count - 1000) < 110 for count in seen.values())


def test_cost_explained_by_hand():
  costs = np.array([5.0, 1, 7, 9])  # ranks 2 1 3 4, around 2.5
  assert cost_explained(np.array([0, 0, 1, 1]), costs) == pytest.approx(4 / 5)
  assert cost_explained(np.array([0, 1, 1, 0]), costs) == pytest.approx(1 / 5)
  assert cost_explained(np.zeros(4, int), costs) == 0
  assert cost_explained(np.arange(4), costs) == pytest.approx(1)
  assert cost_explained(np.array([0, 0, 1, 1]), np.ones(4)) == 0
  # Ranks 1 2.5 2.5 4; only ranks count.
  tied = np.array([0.0, 1, 1, 1e9])
  assert cost_explained(np.array([0, 0, 1, 1]), tied) == pytest.approx(0.5)


def test_random_clusters_explain_what_chance_does():
  rng = np.random.default_rng(11)
  costs = rng.normal(size=21)
  sizes = np.array([5, 7, 9])
  found = [
    cost_explained(random_partition(sizes, rng), costs) for _ in range(999)
  ]
  assert np.mean(found) == pytest.approx(2 / 20, abs=0.01)


def test_stability_is_lower_without_clusters():
  x = np.random.default_rng(12).normal(size=(40, 6))
  found = stability(x, 6, "cosine", 1, 6)["adjusted_rand"]
  assert 0 < found["low"] < found["value"] < found["high"] <= 1
  labels = [kmeans(x, 6, "cosine", 1, seed) for seed in range(6)]
  pairs = [adjusted_rand_score(*p) for p in itertools.combinations(labels, 2)]
  want = [np.mean(pairs), *np.percentile(pairs, [2.5, 97.5])]
  assert list(found.values()) == pytest.approx(want)


@pytest.mark.parametrize(
  "fields",
  [
    {},
    {"clusters": 0, "max_clusters": 3},
    {"clusters": 64},
    {"clusters": 1, "halving": 2, "keep": 5, "first_epoch": 4},
    {"source": "shared-weights", "features": "both", "projection": 2},
    {"source": "shared-weights", "halving": 3, "epochs": 2},
    {"features": "outputs", "outputs": "difference", "first_epoch": 1},
    {"features": "both", "change": "cosine", "probe_images": 8},
    {"partition": "macs", "restarts": 1, "distance": "euclidean"},
    {"components": 2, "merge": "vote"},
  ],
)
def test_good_configs_pass(fields):
  check_divide(DivideConfig(**fields))


@pytest.mark.parametrize(
  ("name", "value", "others"),
  [
    ("samples", 0, {}), ("clusters", -1, {}), ("clusters", 65, {}),
    ("max_clusters", 1, {"clusters": 0}), ("restarts", 0, {}), ("keep", 0, {}),
    ("halving", -2, {}), ("halving", 1, {}), ("epochs", 0, {}),
    ("first_epoch", -1, {}), ("first_epoch", 5, {}), ("conquer_epochs", 0, {}),
    ("together", 0, {}), ("probe_images", 0, {}), ("projection", 0, {}),
    ("components", -1, {}), ("partition", "k-means", {}),
    ("distance", "rbf", {}),
    # What would be ignored.
    ("max_clusters", 5, {}),
    ("outputs", "difference", {}),
    ("probe_images", 32, {}),
    ("projection", 2, {}),
    ("change", "cosine", {"features": "outputs"}),
    ("first_epoch", 1, {"features": "outputs"}),
    ("outputs", "difference", {"source": "shared-weights", "features": "both"}),
    ("first_epoch", 1, {"source": "shared-weights"}),
    ("epochs", 9, {"source": "shared-weights"}),
  ],
)  # fmt: skip
def test_bad_configs_are_refused_by_name(name, value, others):
  with pytest.raises(UserError, match=rf"divide\.{name}\b") as caught:
    check_divide(DivideConfig(**others, **{name: value}))
  assert str(value) in str(caught.value)
