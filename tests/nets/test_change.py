"""Changes of parameters: golden values, invariances, and what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, THREE, make_space, shaken

from jaxnas.nets import PathSupernet, inherit
from jaxnas.nets.change import (
  change_of,
  changes_of_gradients,
  layer_changes,
  presence,
)  # fmt: skip

SPACE = make_space(THREE[1:], THREE, THREE)
NET = PathSupernet(SPACE)
ARCHS = np.array([[0, 0, 1], [1, 1, 2], [1, 2, 0], [0, 1, 1]], np.int32)
KINDS = ("norm", "cosine")


def cohort(seed):
  """Parameters of four networks."""
  drawn = [
    shaken(NET.init(jax.random.key(10 * seed + i)), i)["params"]
    for i in range(len(ARCHS))
  ]
  return jax.tree.map(lambda *a: np.stack(a), *drawn)


def changes(before, after, kind, archs=ARCHS):
  return layer_changes(SPACE, archs, before, after, kind)


def test_golden_values():
  def tree(*rows):
    own = np.array([rows], np.float32)
    zero = np.zeros((1, 2), np.float32)
    return {
      "layer_00": {"Conv3": {"kernel": own[:, :1], "bias": own[:, 1:]}},
      "layer_01": {"Id": {}, "E1K3": {"kernel": zero}},
    }

  for kind, expected in (("norm", 0.1), ("cosine", 0.0)):
    found, present = layer_changes(
      SMALL, np.array([[0, 0]]), tree(3, 4), tree(3.3, 4.4), kind
    )
    np.testing.assert_allclose(found, [[expected, 0]], atol=1e-7)
    np.testing.assert_array_equal(present, [[True, False]])
  # A right angle; and a layer of zeros that stays one.
  found, present = layer_changes(
    SMALL, np.array([[0, 1]]), tree(3, 4), tree(-4, 3), "cosine"
  )
  np.testing.assert_allclose(found, [[1, 0]], atol=1e-12)
  assert present.all()


@pytest.mark.parametrize("kind", KINDS)
def test_against_plain_networks(kind):
  before, after = cohort(0), cohort(1)
  found, present = changes(before, after, kind)
  assert found.dtype == np.float64
  for i, arch in enumerate(ARCHS):
    for l in range(3):

      def vector(tree, i=i, arch=arch, l=l):
        one = {"params": jax.tree.map(lambda a: a[i], tree)}
        own = inherit(one, SPACE, arch)["params"].get(f"layer_{l:02d}", {})
        flat = [a.ravel() for a in jax.tree.leaves(own)]
        return np.concatenate([np.zeros(0), *flat])

      a, b = vector(before), vector(after)
      assert present[i, l] == bool(len(a))
      if not len(a):
        assert found[i, l] == 0
      elif kind == "norm":
        expected = np.linalg.norm(b - a) / np.linalg.norm(a)
        assert found[i, l] == pytest.approx(expected)
      else:
        expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert found[i, l] == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_layer_has_not_changed_at_all(kind):
  before, after = cohort(0), cohort(1)
  after["layer_01"] = before["layer_01"]
  found, present = changes(before, after, kind)
  assert (found[:, 1] == 0).all()
  assert (found[:, [0, 2]][present[:, [0, 2]]] > 0).all()


def test_the_cosine_ignores_scale_and_the_norm_does_not():
  before, after = cohort(0), cohort(1)
  longer = jax.tree.map(lambda a: np.float32(8) * a, (before, after))
  for kind in KINDS:  # both checkpoints
    np.testing.assert_allclose(
      changes(*longer, kind)[0], changes(before, after, kind)[0], rtol=1e-9
    )
  np.testing.assert_allclose(  # the later one
    changes(before, longer[1], "cosine")[0],
    changes(before, after, "cosine")[0], rtol=1e-9,
  )  # fmt: skip
  assert (changes(before, longer[1], "norm")[0].max(1) > 5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_off_the_path_and_outside_the_layers_do_not_count(kind):
  before, after = cohort(0), cohort(1)
  whole, present = changes(before, after, kind)
  rng = np.random.default_rng(0)
  for l, layer in enumerate(SPACE.layers):
    for c, op in enumerate(layer.choices):
      for leaf in jax.tree.leaves(after[f"layer_{l:02d}"].get(op.name, {})):
        leaf[ARCHS[:, l] != c] = rng.standard_normal()
  after["stem_0"] = before["stem_0"]
  np.testing.assert_array_equal(changes(before, after, kind)[0], whole)
  np.testing.assert_array_equal(present, presence(SPACE, ARCHS, before))


def test_presence_is_known_from_shapes():
  shapes = NET.variable_shapes["params"]
  found = presence(SPACE, ARCHS, shapes)
  expected = [[1, 0, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]
  np.testing.assert_array_equal(found, np.array(expected, bool))


@pytest.mark.parametrize("kind", KINDS)
def test_a_virtual_step_equals_the_step_taken(kind):
  params, slope = (
    jax.tree.map(lambda a: a[0], cohort(seed)) for seed in (2, 3)
  )
  run = jax.jit(
    lambda arch: changes_of_gradients(SPACE, arch, params, slope, 0.01, kind)
  )
  moved = jax.tree.map(lambda w, g: w - np.float32(0.01) * g, params, slope)
  for arch in ARCHS:
    one = jax.tree.map(lambda a: a[None], (params, moved))
    expected, _ = changes(*one, kind, arch[None])
    np.testing.assert_allclose(run(arch), expected[0], rtol=1e-3)
  assert run._cache_size() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_network_is_nan_and_others_are_not(kind, value):
  before, after = cohort(0), cohort(1)
  whole, present = changes(before, after, kind)
  for leaf in jax.tree.leaves(after):
    leaf[2] = value
  found, _ = changes(before, after, kind)
  assert not np.isfinite(found[2][present[2]]).any()
  np.testing.assert_array_equal(found[[0, 1, 3]], whole[[0, 1, 3]])


def test_small_angles_survive_float32():
  before = jnp.array([1.0, 0.0], jnp.float32)
  found = change_of(before, jnp.array([0.0, 1e-5], jnp.float32), "cosine")
  assert float(found) == pytest.approx(5e-11, rel=1e-3)
