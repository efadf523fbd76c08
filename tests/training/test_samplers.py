"""Path samplers: fairness, uniformity, and the rules of the baselines."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import make_space

from jaxnas.config import TrainConfig
from jaxnas.costs import cost_tables
from jaxnas.errors import UserError
from jaxnas.spaces import Conv, fairnas
from jaxnas.training import held_uniform, make_sampler, strict_fair, uniform


def space_of(*sizes):
  ops = tuple(Conv(1 + 2 * i) for i in range(max(sizes)))
  return make_space(*(ops[:n] for n in sizes))


def draw(sampler, n, seed=0):
  """Paths of the first n steps: `int32[n, K, L]`."""
  key = jax.random.key(seed)
  run = jax.jit(jax.vmap(lambda step: sampler.sample(key, step)))
  return np.asarray(run(jnp.arange(n)))


# Strict fairness ------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 6])
def test_every_column_is_a_permutation(k):
  sampler = strict_fair(space_of(*[k] * 4))
  assert (sampler.n_paths, sampler.strictly_fair) == (k, True)
  archs = draw(sampler, 200)
  assert archs.dtype == np.int32
  expected = np.broadcast_to(np.arange(k)[None, :, None], archs.shape)
  np.testing.assert_array_equal(np.sort(archs, 1), expected)


def test_counts_are_equal_after_every_step():
  archs = draw(strict_fair(space_of(3, 3)), 50)
  used = (archs[..., None] == np.arange(3)).sum(1).cumsum(0)
  steps = np.arange(1, 51)[:, None, None]
  np.testing.assert_array_equal(used, np.broadcast_to(steps, used.shape))


def test_pairs_of_columns_are_uniform_and_independent():
  n = 7200
  archs = draw(strict_fair(space_of(3, 3, 3)), n)
  code = archs[:, 0] * 3 + archs[:, 1]  # names each of the 6 permutations
  _, which = np.unique(code, return_inverse=True)
  which = which.reshape(n, 3)
  assert which.max() == 5
  for i, j in ((0, 1), (0, 2), (1, 2)):
    table = np.bincount(which[:, i] * 6 + which[:, j], minlength=36)
    assert stats.chisquare(table).pvalue > 1e-3
  joint = np.bincount(which @ [36, 6, 1], minlength=216)
  assert stats.chisquare(joint).pvalue > 1e-3


def test_successive_steps_are_independent():
  archs = draw(strict_fair(space_of(2)), 4001)[:, 0, 0]
  table = np.bincount(archs[:-1] * 2 + archs[1:], minlength=4)
  assert stats.chisquare(table).pvalue > 1e-3


def test_paths_depend_on_key_and_step_only():
  sampler = strict_fair(space_of(3, 3))
  np.testing.assert_array_equal(draw(sampler, 9)[:5], draw(sampler, 5))
  assert (draw(sampler, 50) != draw(sampler, 50, seed=1)).any()


def test_cost_of_a_fairnas_step_is_constant():
  costs = cost_tables(fairnas())
  for archs in draw(strict_fair(fairnas()), 5):
    assert costs["macs"](archs).sum() == 2_318_774_016
    assert costs["params"](archs).mean() == 4_077_920


def test_unequal_layers_are_refused():
  with pytest.raises(UserError, match=r"\[2, 3\].*pad_unequal"):
    strict_fair(space_of(3, 2))


def test_padded_layers_stay_in_range_and_are_not_called_strictly_fair():
  config = TrainConfig(sampler="fair", pad_unequal=True)
  sampler = make_sampler(config, space_of(3, 2))
  assert not sampler.strictly_fair
  archs = draw(sampler, 2000)
  assert archs.shape == (2000, 3, 2)
  assert (np.sort(archs[..., 0], 1) == np.arange(3)).all()
  short = archs[..., 1]
  assert short.max() == 1
  # Every choice once, and the third slot uniform.
  assert (short.min(1) == 0).all()
  assert (short.max(1) == 1).all()
  twice = np.bincount(short.sum(1), minlength=3)[1:]
  assert stats.chisquare(twice).pvalue > 1e-3
  equal = strict_fair(space_of(3, 3), pad_unequal=True)
  assert equal.strictly_fair


# Expectation fairness -------------------------------------------------------


def equal_counts(m, n):
  """P(all m counts equal after n uniform draws), exactly."""
  ways = math.factorial(n) // math.factorial(n // m) ** m
  return ways / m**n


@pytest.mark.parametrize(
  ("m", "n", "value"),
  [
    (2, 20, 0.176197), (2, 200, 0.0563485), (3, 6, 0.123457),
    (3, 300, 0.00275053), (6, 6, 0.0154321), (6, 12, 0.00343829),
    (6, 600, 2.46329e-7),
  ],
)  # fmt: skip
def test_fairness_lemma_values(m, n, value):
  assert equal_counts(m, n) == pytest.approx(value, rel=5e-6)


@pytest.mark.parametrize(("m", "n"), [(2, 20), (3, 6), (6, 6)])
def test_spos_is_rarely_fair_at_the_known_rate(m, n):
  layers, runs = 4, 2000
  archs = draw(uniform(space_of(*[m] * layers), 1), n * runs)
  assert archs.shape == (n * runs, 1, layers)
  used = archs[:, 0, :, None] == np.arange(m)
  counts = used.reshape(runs, n, layers, m).sum(1)
  rate = (counts == n // m).all(-1).mean()
  p = equal_counts(m, n)
  assert abs(rate - p) < 4 * math.sqrt(p * (1 - p) / (runs * layers))


def test_uniform_paths_are_uniform_over_archs_of_unequal_layers():
  archs = draw(uniform(space_of(3, 2), 4), 3000)
  assert archs.shape == (3000, 4, 2)
  code = archs.reshape(-1, 2) @ [2, 1]
  assert stats.chisquare(np.bincount(code, minlength=6)).pvalue > 1e-3
  pairs = archs[:, 0, 0] * 3 + archs[:, 1, 0]  # paths of one step
  assert stats.chisquare(np.bincount(pairs, minlength=9)).pvalue > 1e-3


def test_a_path_is_held_for_k_updates():
  space = space_of(6, 6, 6, 6)
  archs = draw(held_uniform(space, 6), 60)[:, 0]
  blocks = archs.reshape(10, 6, 4)
  assert (blocks == blocks[:, :1]).all()
  assert len(np.unique(blocks[:, 0], axis=0)) == 10
  one = draw(uniform(space, 1), 10)[:, 0]
  np.testing.assert_array_equal(blocks[:, 0], one)


# Config ---------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "paths", "n_paths", "fair"),
  [
    ("fair", 0, 3, True), ("spos", 0, 1, False), ("uniform-k", 0, 3, False),
    ("uniform-k", 5, 5, False), ("ef-k", 0, 1, False), ("ef-k", 2, 1, False),
  ],
)  # fmt: skip
def test_samplers_of_the_config(name, paths, n_paths, fair):
  config = TrainConfig(sampler=name, paths=paths)
  sampler = make_sampler(config, space_of(3, 3))
  assert (sampler.name, sampler.n_paths) == (name, n_paths)
  assert sampler.strictly_fair == fair
  assert draw(sampler, 3).shape == (3, n_paths, 2)


@pytest.mark.parametrize("name", ["fair", "spos"])
def test_paths_is_refused_where_it_means_nothing(name):
  with pytest.raises(UserError, match=f"train.paths=3.*{name}"):
    make_sampler(TrainConfig(sampler=name, paths=3), space_of(3, 3))
