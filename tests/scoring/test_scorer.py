"""The scorer's contract, by every engine, against plain networks."""

import dataclasses

import jax
import numpy as np
import pytest
from plain import Plain, dataset
from tiny import PAIR, THREE, make_space, shaken

from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.errors import UserError
from jaxnas.nets import Fleet, PathSupernet, inherit
from jaxnas.scoring import FleetEvaluator, Scorer
from jaxnas.scoring.scorer import ENGINES
from jaxnas.sharding import make_placement

SPACE = make_space(PAIR, THREE)
ALL = np.array([[a, b] for a in range(2) for b in range(3)], np.int32)
N = 23  # validation images: no multiple of 8
SUPERNET = PathSupernet(SPACE)
# Two batches of statistics (20 images, 16 of them used), three of scores, the
# last one padded by a single image.
BATCHED = ScoreConfig(calibration_images=20, batch_size=8)
DATA = dataset(N)
VARIABLES = shaken(SUPERNET.init(jax.random.key(0)))


def scorer(config=BATCHED):
  return Scorer(SUPERNET, DATA, config, make_placement())


@pytest.fixture(scope="module", params=ENGINES)
def engine(request):
  return request.param


@pytest.fixture(scope="module")
def score(engine):
  """The scorer of `BATCHED`, compiled once for each engine."""
  return scorer(dataclasses.replace(BATCHED, engine=engine))


@pytest.fixture(scope="module")
def everything(score):
  return score(VARIABLES, ALL, per_example=True)


def test_recalibrated_scores_equal_plain_networks(everything):
  assert everything["accuracy"].dtype == np.float64
  assert everything["correct"].dtype == bool
  assert len(np.unique(everything["loss"])) == len(ALL)
  Plain(SUPERNET, VARIABLES, DATA, BATCHED).agrees(everything, ALL)


@pytest.mark.parametrize(
  "config",
  [
    ScoreConfig("batch", 20, 8),
    ScoreConfig("running", 20, 8),
    ScoreConfig("recalibrate", 16, 512),  # larger than the split
  ],
  ids=lambda c: f"{c.bn_mode}-{c.batch_size}",
)
def test_every_mode_equals_plain_networks(config, engine):
  score = scorer(dataclasses.replace(config, engine=engine))
  out = score(VARIABLES, ALL[::2], per_example=True)
  assert out["correct"].shape == (3, N)
  Plain(SUPERNET, VARIABLES, DATA, config).agrees(out, ALL[::2])


def test_order_company_and_repeats_do_not_matter(score, everything):
  rng = np.random.default_rng(1)
  # Repeats, shuffled; scored after other archs, so that a trace would show.
  rows = rng.permutation(np.repeat(np.arange(len(ALL)), 2))
  out = score(VARIABLES, ALL[rows], per_example=True)
  for name, values in everything.items():
    np.testing.assert_array_equal(out[name], values[rows])


def test_two_calls_commute_to_the_last_bit(score):
  one, two = ALL[:2], ALL[3:]
  forth = [score(VARIABLES, a) for a in (one, two)]
  back = [score(VARIABLES, a) for a in (two, one)][::-1]
  for a, b in zip(forth, back, strict=True):
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])


def test_one_arch_and_its_shapes(score, everything):
  out = score(VARIABLES, ALL[4])
  assert out.keys() == {"accuracy", "loss"}
  assert out["accuracy"].shape == (1,)
  assert out["loss"][0] == everything["loss"][4]
  assert score.bn_mode == "recalibrate"


def test_the_engine_is_the_one_asked_for(score, engine):
  assert score.engine == engine
  on_cpu = jax.default_backend() == "cpu"
  assert scorer().engine == ("wavefront" if on_cpu else "routed")


def test_scoring_leaves_the_variables_alone(score):
  before = jax.tree.map(np.copy, VARIABLES)
  score(VARIABLES, ALL[:2])
  jax.tree.map(np.testing.assert_array_equal, VARIABLES, before)


def test_running_statistics_must_have_been_kept():
  loose = PathSupernet(SPACE, NetConfig(bn_track=False))
  with pytest.raises(UserError, match=r"net\.bn_track"):
    Scorer(loose, DATA, ScoreConfig("running"), make_placement())


@pytest.mark.parametrize("field", ["calibration_images", "batch_size"])
def test_sizes_below_one_are_refused(field):
  with pytest.raises(UserError, match=rf"score\.{field} is 0"):
    scorer(dataclasses.replace(BATCHED, **{field: 0}))


def test_an_arch_of_another_space_is_refused(score):
  with pytest.raises(UserError, match="layer 1"):
    score(VARIABLES, np.array([[0, 3]]))


def test_a_nan_prediction_is_wrong(score):
  broken = jax.tree.map(np.copy, VARIABLES)
  broken["params"]["classifier"]["bias"][:] = np.nan
  out = score(broken, ALL[:1])
  assert out["accuracy"][0] == 0
  assert np.isnan(out["loss"][0])


def test_fleet_evaluator_equals_plain_networks():
  archs = ((0, 1), (1, 2))
  fleet = Fleet(SPACE, archs)
  own = [inherit(VARIABLES, SPACE, np.array(a)) for a in archs]
  judge = FleetEvaluator(fleet, DATA, DATA.validation, 8, make_placement())
  out = judge(fleet.stack(own))
  config = ScoreConfig("running")
  for i, arch in enumerate(archs):
    hits, loss = Plain(SUPERNET, VARIABLES, DATA, config).score(np.array(arch))
    assert out["accuracy"][i] == hits.mean()
    np.testing.assert_allclose(out["loss"][i], loss, rtol=2e-5)
