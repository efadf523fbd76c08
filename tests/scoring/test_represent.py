"""Cohort scores, and features of archs by shared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain import dataset
from tiny import PAIR, THREE, images, make_space, shaken

from jaxnas.compilations import Compilations
from jaxnas.nets import Fleet, PathSupernet, inherit
from jaxnas.nets.change import layer_changes
from jaxnas.nets.losses import cross_entropy
from jaxnas.nets.probe import layer_outputs
from jaxnas.scoring import FleetEvaluator, represent
from jaxnas.scoring.cohort import CohortEvaluator
from jaxnas.scoring.represent import features, gradient_changes, probe_outputs
from jaxnas.scoring.trie import Trie
from jaxnas.sharding import make_placement
from jaxnas.spaces import Conv, Identity, Layer, Space

SPACE = make_space((Conv(3), Conv(1)), (Identity(), Conv(3)))
NET = PathSupernet(SPACE)
VARIABLES = shaken(NET.init(jax.random.key(0)))
ARCHS = np.array([[0, 0], [1, 1], [0, 1]], np.int32)
X, Y = images(8), np.arange(8, dtype=np.int32) % 4


def test_a_cohort_scores_as_a_fleet_does():
  data = dataset(11)
  own = [shaken(NET.init(jax.random.key(i)), i) for i in range(3)]
  joint = jax.tree.map(lambda *a: np.stack(a), *own)
  args = data, data.validation, 4, make_placement()  # a ragged last batch
  judge, seen = CohortEvaluator(NET, *args), None
  for archs in (ARCHS, ARCHS[::-1]):
    with Compilations() as compiled:
      out = judge(joint, archs)
    assert seen is None or not compiled.count
    seen = out
  fleet = Fleet(SPACE, tuple(map(tuple, ARCHS[::-1].tolist())))
  alone = [inherit(v, SPACE, a) for v, a in zip(own, ARCHS[::-1], strict=True)]
  expected = FleetEvaluator(fleet, *args)(fleet.stack(alone))
  assert seen.keys() == expected.keys()
  np.testing.assert_array_equal(seen["accuracy"], expected["accuracy"])
  np.testing.assert_allclose(seen["loss"], expected["loss"], rtol=1e-5)
  assert seen["loss"].dtype == np.float64


def test_gradient_changes_equal_those_of_a_step_taken():
  found = {
    kind: gradient_changes(NET, VARIABLES, ARCHS, X, Y, 0.05, kind, 0.1)
    for kind in ("norm", "cosine")
  }

  @jax.jit
  def moved(arch):
    def loss(params):
      own = {**VARIABLES, "params": params}
      logits, _ = NET.apply_path(own, arch, X, stored=False)
      return cross_entropy(logits, Y, 0.1).mean()

    slope = jax.grad(loss)(VARIABLES["params"])
    return jax.tree.map(lambda w, g: w - 0.05 * g, VARIABLES["params"], slope)

  for i, arch in enumerate(ARCHS):
    pair = jax.tree.map(
      lambda a: np.asarray(a)[None], (VARIABLES["params"], moved(arch))
    )
    for kind, out in found.items():
      expected, _ = layer_changes(SPACE, arch[None], *pair, kind)
      np.testing.assert_allclose(out[i], expected[0], rtol=2e-3)
  assert found["norm"][0, 1] == 0  # an Identity
  with Compilations() as seen:  # other archs, other rates
    gradient_changes(NET, VARIABLES, ARCHS[::-1], X, Y, 0.1, "norm", 0.1)
  assert not seen.count


# Two stem layers, a fixed layer, unequal numbers of choices, no head.
DEEP = Space(
  "deep", 6, 3, 4, (Layer(PAIR[:1], 4), Layer(PAIR[:1], 5)),
  (Layer(PAIR, 6, 2), Layer(PAIR[1:], 6), Layer(THREE, 6), Layer(THREE, 6)),
  (),
)  # fmt: skip


@pytest.fixture(scope="module")
def deep():
  net = PathSupernet(DEEP)
  return net, shaken(net.init(jax.random.key(1)))


def test_probe_outputs_equal_those_of_single_archs(deep):
  net, variables = deep
  archs = DEEP.sample(np.random.default_rng(0), 9)[[*range(9), 4]]  # a repeat
  found = probe_outputs(net, variables, archs, X)
  assert found.shape == (10, 4, 8, 2)
  one = jax.jit(lambda arch: layer_outputs(net, variables, arch, X, False))
  for arch, out in zip(archs, found, strict=True):
    np.testing.assert_allclose(out, one(arch), rtol=1e-5, atol=1e-5)
  with Compilations() as seen:
    probe_outputs(net, variables, archs[3:5], X)
  assert not seen.count


def test_every_prefix_is_computed_once(deep, monkeypatch):
  net, variables = deep
  calls, program = [], represent._node

  def counted(place):
    calls.append(place)
    return program(place)

  monkeypatch.setattr(represent, "_node", counted)
  archs = DEEP.sample(np.random.default_rng(1), 12)
  probe_outputs(net, variables, archs, X)
  searched = sum(Trie(np.unique(archs, axis=0)).sizes)
  assert len(calls) == searched + 2  # and the stem, once
  assert searched < archs.size


# Joining ----------------------------------------------------------------------


def random_features(n=7, l=3, q=2):
  rng = np.random.default_rng(0)
  present = rng.random((n, l)) < 0.7
  present[:, 0] = True
  return rng.random((n, l)), rng.standard_normal((n, l, q)), present


def test_blocks_weigh_the_same():
  changes, outputs, present = random_features()
  left = features(changes, None, present, "change")
  right = features(None, outputs, present, "outputs")
  both = features(1000 * changes, outputs, present, "both")
  assert left.shape == (7, 6)
  assert right.shape == (7, 9)
  np.testing.assert_allclose(both, np.concatenate([left, right], 1))
  for block in (left, right):
    np.testing.assert_allclose(block.mean(0), 0, atol=1e-12)
    assert block.var(0).sum() == pytest.approx(1)
    spread = block.std(0)[block.std(0) > 0]
    np.testing.assert_allclose(spread, spread[0])  # columns weigh the same
  assert (left[:, 3] == 0).all()  # always present: tells nothing


def test_what_is_absent_has_no_values_but_its_bit():
  changes, outputs, present = random_features()
  other = np.where(present, changes, 55.0)
  strange = np.where(present[:, :, None], outputs, np.float32(-3))
  np.testing.assert_array_equal(
    features(other, strange, present, "both"),
    features(changes, outputs, present, "both"),
  )


def test_roundings_are_no_differences():
  changes, _, present = random_features()
  changes[:, 0] = 0.3 + 1e-8 * np.arange(7)
  out = features(changes, None, present, "change")
  assert (out[:, 0] == 0).all()
  assert (features(changes[:1], None, present[:1], "change") == 0).all()


def test_a_network_that_diverged_leaves_others_alone():
  changes, outputs, present = random_features()
  whole = features(changes[:6], outputs[:6], present[:6], "both")
  changes[6, 0], outputs[6, 0] = np.nan, np.inf
  out = features(changes, outputs, present, "both")
  np.testing.assert_array_equal(out[:6], whole)
  assert np.isnan(out[6]).all()
  assert np.isnan(features(changes[6:], None, present[6:], "change")).all()


def test_bfloat16_activations_are_pooled_in_float32():
  pool = represent.pooled(jnp.ones((2, 4, 4, 3), jnp.bfloat16))
  assert pool.dtype == jnp.float32
  np.testing.assert_array_equal(pool, [[1, 0], [1, 0]])
