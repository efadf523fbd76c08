"""Races through the engines: what survives is scored as without a race."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import PAIR, THREE, make_space, shaken

from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.data import Dataset
from jaxnas.data.records import Split
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.scoring import Scorer, check_score, race_archs
from jaxnas.sharding import make_placement

SPACE = make_space(PAIR, THREE)
SUPERNET = PathSupernet(SPACE)
ALL = np.array([[a, b] for a in range(2) for b in range(3)], np.int32)
N = 203  # validation images: the last batch of a rung is ragged
RUNGS = (16, 32, 64, 128, N)
CONFIG = ScoreConfig(calibration_images=20, batch_size=16)


def dataset() -> Dataset:
  rng = np.random.default_rng(0)

  def split(n):
    images = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return Split(images, rng.integers(0, 4, n).astype(np.int32))

  return Dataset(
    split(40), split(N), split(5), ("a", "b", "c", "d"),
    np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3]), "", "",
  )  # fmt: skip


def with_a_broken_choice():
  """Variables with which archs `?-1` are never right: their logits are NaN."""
  variables = shaken(SUPERNET.init(jax.random.key(0)))
  broken = variables["params"]["layer_01"][SUPERNET.names[1][1]]
  broken.update(jax.tree.map(lambda a: a * np.nan, broken))
  return variables


DATA = dataset()
VARIABLES = with_a_broken_choice()


def scorer(**changes):
  config = dataclasses.replace(CONFIG, **changes)
  return Scorer(SUPERNET, DATA, config, make_placement())


@pytest.fixture(scope="module")
def score():
  return scorer(engine="wavefront")


@pytest.mark.parametrize("engine", ["wavefront", "routed", "serial"])
def test_survivors_score_as_without_a_race(engine):
  score = scorer(engine=engine)
  rng = np.random.default_rng(1)
  archs = ALL[rng.permutation(np.repeat(np.arange(len(ALL)), 2))]
  plain = score(VARIABLES, archs)
  race, out = race_archs(score, VARIABLES, archs, error=0.2)
  alive, dropped = race.alive, ~race.alive
  assert (dropped == (archs[:, 1] == 1)).all()  # this table has a clear answer
  for name in plain:
    assert out[name].dtype == np.float64
    # To the last bit on CPU: an image meets the same program in any batch.
    np.testing.assert_array_equal(out[name][alive], plain[name][alive])
    assert np.isnan(out[name][dropped]).all()  # NaN can never win
  assert (race.images[alive] == N).all()
  assert (race.images[dropped] < N).all()
  assert (race.accuracy[dropped] == 0).all()
  # Repeats are raced once.
  assert race.rungs == RUNGS
  assert race.remaining[-1] == 4
  assert race.plain_evaluations == len(ALL) * N
  assert race.evaluations == race.images.sum() // 2


@pytest.mark.parametrize("bn_mode", ["recalibrate", "running"])
@pytest.mark.parametrize("k", [1, 16, 37, N])
def test_chosen_images_score_as_among_all(bn_mode, k):
  score = scorer(bn_mode=bn_mode, engine="wavefront")
  images = np.random.default_rng(k).permutation(N)[:k]
  archs = ALL[[3, 0, 3]]
  out = score.score_images(VARIABLES, archs, images)
  everything = score(VARIABLES, archs, per_example=True)["correct"]
  assert out["accuracy"].dtype == bool
  np.testing.assert_array_equal(out["accuracy"], everything[:, images])
  assert out["loss"].shape == (3, k)


@pytest.mark.parametrize("engine", ["wavefront", "routed", "serial"])
def test_no_rung_and_no_race_compiles(engine, caplog):
  score = scorer(engine=engine)
  score.score_images(VARIABLES, ALL[:1], np.arange(5))
  other = jax.tree.map(lambda a: 1.01 * a, VARIABLES)
  with jax.log_compiles():
    jax.jit(lambda x: x + 1)(np.ones(3))
    assert any("ompil" in m for m in caplog.messages)  # the log works
    caplog.clear()
    race, _ = race_archs(score, VARIABLES, ALL, error=0.2)
    race_archs(score, other, ALL[::2], error=0.2, first=7, growth=3.0)
  assert len(race.rungs) == len(RUNGS)
  assert not [m for m in caplog.messages if "ompil" in m]


def test_the_most_accurate_survives_among_close_ones(score):
  plain = score(VARIABLES, ALL)["accuracy"]
  for seed in range(5):
    race, out = race_archs(score, VARIABLES, ALL, 0.01, order_seed=seed)
    assert race.alive[plain.argmax()]
    assert np.nanargmax(out["accuracy"]) == plain.argmax()


def test_one_arch_is_simply_scored(score):
  race, out = race_archs(score, VARIABLES, ALL[4], error=0.1)
  assert race.rungs == (N,)
  assert out["accuracy"] == score(VARIABLES, ALL[4])["accuracy"]


def test_races_that_cannot_be_held(score):
  with pytest.raises(UserError, match=r"score\.bn_mode=batch"):
    race_archs(scorer(bn_mode="batch"), VARIABLES, ALL, error=0.1)
  with pytest.raises(UserError, match="error is 0; it must lie between"):
    race_archs(score, VARIABLES, ALL, error=0)
  with pytest.raises(UserError, match="first is 0"):
    race_archs(score, VARIABLES, ALL, error=0.1, first=0)
  with pytest.raises(UserError, match="layer 1"):
    race_archs(score, VARIABLES, np.array([[0, 3]]), error=0.1)


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_impossible_probabilities_are_refused_early(value):
  with pytest.raises(UserError, match=rf"score\.race is {value}"):
    check_score(ScoreConfig(race=value), NetConfig())


def test_a_race_in_batch_mode_is_refused_early():
  check_score(ScoreConfig("batch"), NetConfig())
  with pytest.raises(UserError, match="use recalibrate or running"):
    check_score(ScoreConfig("batch", race=0.05), NetConfig())
