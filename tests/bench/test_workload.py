"""Candidate sets and workloads: what they promise, by property."""

import jax
import numpy as np
import pytest
import tiny
from bench_space import get_space as bench_space
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.bench.workload import (
  MUTATION_RATE,
  PARENTS,
  SETS,
  candidates,
  fixed_layers,
  make_workload,
)
from jaxnas.config import NetConfig
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.spaces import get_space

FAIRNAS = get_space("fairnas-cifar")


@given(
  kind=st.sampled_from(SETS),
  n=st.integers(1, 60),
  seed=st.integers(0, 9),
  layers=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_candidates_are_legal_and_seeded(kind, n, seed, layers):
  space = bench_space(layers, unequal=True)
  archs = candidates(space, kind, n, seed)
  assert archs.shape == (n, layers)
  assert archs.dtype == np.int32
  assert np.array_equal(space.validate(archs), archs)
  assert np.array_equal(candidates(space, kind, n, seed), archs)


@pytest.mark.parametrize("kind", SETS)
def test_another_seed_gives_another_set(kind):
  a, b = (candidates(FAIRNAS, kind, 50, seed) for seed in (0, 1))
  assert not np.array_equal(a, b)


@given(layers=st.integers(1, 40))
@settings(deadline=None)
def test_a_segment_fixes_all_but_7_layers_and_at_least_5_of_12(layers):
  fixed = fixed_layers(bench_space(layers))
  assert fixed >= layers - 7
  assert 12 * fixed >= 5 * layers
  assert fixed == layers - 7 or 12 * (fixed - 1) < 5 * layers


def test_a_segment_shares_its_prefix_and_varies_the_rest():
  archs = candidates(FAIRNAS, "segment", 500, 0)
  fixed = fixed_layers(FAIRNAS)
  assert fixed == 12
  assert (archs[:, :fixed] == archs[0, :fixed]).all()
  for column in archs[:, fixed:].T:
    assert set(column) == set(range(6))


def test_offspring_differ_from_20_parents_as_often_as_mutation_says():
  n = 4000
  archs = candidates(FAIRNAS, "offspring", n, 0)
  # A parent's layers are the most frequent among its children, and unmutated
  # children are the parents themselves.
  whole, counts = np.unique(archs, axis=0, return_counts=True)
  parents = whole[np.argsort(counts)[-PARENTS:]]
  distance = (archs[:, None] != parents[None]).sum(2)
  nearest = distance.min(1)
  # A redrawn layer keeps its value one time in six.
  rate = MUTATION_RATE * 5 / 6
  assert nearest.mean() / FAIRNAS.n_layers == pytest.approx(rate, rel=0.05)
  taken = np.bincount(distance.argmin(1), minlength=PARENTS)
  assert (abs(taken - n / PARENTS) < 5 * np.sqrt(n / PARENTS)).all()


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (("segmnt", 5, 0), "Did you mean 'segment'"),
    (("uniform", 0, 0), "n is 0"),
    (("uniform", 5, -1), "seed is -1"),
  ],
)
def test_candidates_refuse(arguments, part):
  with pytest.raises(UserError, match=part):
    candidates(FAIRNAS, *arguments)


@pytest.fixture
def space_file(repo):
  return str(repo / "tests" / "bench" / "bench_space.py")


def test_noise_is_standard_normal_once_normalised(space_file):
  w = make_workload(space_file, 300, 200, 3)
  assert isinstance(w.data, Dataset)
  assert w.data.train.images.shape == (300, 6, 6, 3)
  assert w.data.train.images.dtype == np.uint8
  assert len(w.data.validation) == 200
  z = (w.data.validation.images / 255 - w.data.mean) / w.data.std
  assert abs(z.mean()) < 0.05
  assert abs(z.std() - 1) < 0.05
  # Tails are kept: 0.27 % of a normal variable is beyond 3 deviations.
  assert 0.001 < (abs(z) > 3).mean() < 0.006
  assert set(w.data.validation.labels) == set(range(4))


def test_equal_seeds_give_equal_workloads(space_file):
  a, b = (make_workload(space_file, 5, 4, 3) for _ in range(2))
  c = make_workload(space_file, 5, 4, 4)
  assert a.data.fingerprint == b.data.fingerprint != c.data.fingerprint
  assert tiny.same(a.variables, b.variables)
  assert tiny.same(a.variables, a.supernet.init(jax.random.key(3)))
  assert not tiny.same(a.variables, c.variables)


def test_a_workload_takes_real_images_and_numerics():
  w = make_workload("digits", 30, 20, 0, "digits", NetConfig("bfloat16"))
  assert (len(w.data.train), len(w.data.validation)) == (30, 20)
  assert (w.space.n_classes, w.space.image_channels) == (10, 1)
  assert w.supernet.net.precision == "bfloat16"


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"space_name": "digitz"}, "Did you mean 'digits'"),
    ({"calibration_images": 0}, "train images are 0"),
    ({"validation_images": 0}, "validation images are 0"),
    ({"seed": -1}, "seed is -1"),
    ({"data": "digitz"}, "Did you mean 'digits'"),
    ({"data": "digits", "validation_images": 9999}, "not 9999"),
  ],
)
def test_a_workload_refuses(change, part):
  legal = {
    "space_name": "digits", "calibration_images": 4, "validation_images": 4,
    "seed": 0,
  }  # fmt: skip
  with pytest.raises(UserError, match=part):
    make_workload(**{**legal, **change})
