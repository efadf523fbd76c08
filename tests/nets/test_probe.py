"""Pooled outputs of layers: plain networks, permuted channels, projections."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny import PAIR, THREE, images, make_space, shaken

from jaxnas.compilations import Compilations
from jaxnas.nets import PathSupernet, PlainNetwork, inherit
from jaxnas.nets.mbconv import ConvBlock, IdentityBlock, MBConvBlock
from jaxnas.nets.probe import cohort_outputs, layer_outputs, project

SPACE = make_space(PAIR, THREE, THREE)
NET = PathSupernet(SPACE)
VARIABLES = shaken(NET.init(jax.random.key(0)))
ARCHS = np.array([[0, 0, 1], [1, 2, 1], [1, 1, 0], [0, 2, 2]], np.int32)
X = images(5)
run = jax.jit(layer_outputs, static_argnums=(0, 4))
classify = jax.jit(lambda v, arch: NET.apply_path(v, arch, X, stored=True)[0])


def plain(variables, arch, stored):
  """The same from a plain network, whose blocks are spied on."""
  seen = {}

  def spy(call, args, kwargs, context):
    y = call(*args, **kwargs)
    blocks = (ConvBlock, IdentityBlock, MBConvBlock)
    if isinstance(context.module, blocks):
      seen[context.module.name] = np.asarray(y, np.float64)
    return y

  network = PlainNetwork(SPACE, tuple(arch.tolist()))
  with nn.intercept_methods(spy):
    network.apply(
      inherit(variables, SPACE, arch), X, stored, mutable=["batch_stats"]
    )
  out = []
  for l in range(SPACE.n_layers):
    channels = seen[f"layer_{l:02d}"].mean((1, 2))
    out.append(np.stack([channels.mean(1), channels.std(1)], 1))
  return np.stack(out)


@pytest.mark.parametrize("stored", [True, False])
def test_outputs_equal_those_of_plain_networks(stored):
  for arch in ARCHS[:2]:
    found = run(NET, VARIABLES, arch, X, stored)
    assert found.shape == (3, 5, 2)
    expected = plain(VARIABLES, arch, stored)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def permuted(variables, order):
  """The network whose inner channels, between all layers, are reordered."""

  def leaf(path, a):
    group, names = path[1].key, [k.key for k in path[1:]]
    if group == "head_0" and names[1] == "conv":
      return a[order]  # [in, out]
    if not group.startswith("layer_"):
      return a
    block = names[2]
    if group == "layer_00":
      last = block in ("conv", "bn", "project", "project_bn")
      return a[..., order] if last else a
    if block == "expand" or (block == "se" and names[1].startswith("E1")):
      return a[order] if a.ndim > 1 else a
    if block == "project":
      a = a[..., order]
      return a[order] if names[1].startswith("E1") else a
    inner = names[1].startswith("E1") and block.startswith("depthwise")
    return a[..., order] if inner or block == "project_bn" else a

  return jax.tree_util.tree_map_with_path(leaf, variables)


def test_the_order_of_channels_does_not_matter():
  order = np.array([3, 0, 5, 1, 2, 4])
  other = permuted(VARIABLES, order)
  changed = 0
  for arch in ARCHS:
    logits = [classify(v, arch) for v in (VARIABLES, other)]
    # The same function indeed.
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)
    for stored in (True, False):
      a, b = (run(NET, v, arch, X, stored) for v in (VARIABLES, other))
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
      changed += np.asarray(a != b).any()
  assert changed  # another network


def test_a_cohort_equals_its_networks_and_compiles_once():
  drawn = [shaken(NET.init(jax.random.key(i)), i) for i in range(3)]
  joint = jax.tree.map(lambda *a: np.stack(a), *drawn)
  found = cohort_outputs(NET, joint, ARCHS[:3], X)
  with Compilations() as seen:
    other = cohort_outputs(NET, joint, ARCHS[1:], X)
  assert not seen.count
  for archs, out in ((ARCHS[:3], found), (ARCHS[1:], other)):
    for i in range(3):
      expected = run(NET, drawn[i], archs[i], X, False)
      np.testing.assert_allclose(out[i], expected, rtol=1e-5, atol=1e-5)


def test_the_projection_is_linear_and_common_to_layers_and_archs():
  rng = np.random.default_rng(0)
  outputs = rng.standard_normal((3, 2, 50, 2))
  outputs[2, 1] = outputs[0, 0]
  found = project(outputs, 4, seed=1)
  assert found.shape == (3, 2, 4)
  np.testing.assert_allclose(found[2, 1], found[0, 0], rtol=1e-12)
  late, early = outputs, rng.standard_normal(outputs.shape)
  np.testing.assert_allclose(
    project(late - early, 4, 1), found - project(early, 4, 1), rtol=1e-9
  )
  assert not np.allclose(project(outputs, 4, 2), found)


def test_the_projection_keeps_the_size_of_what_it_projects():
  outputs = np.random.default_rng(0).standard_normal((40, 2, 64, 2))
  found = project(outputs, 500, seed=0)
  # Of a vector of 128 numbers: their mean square, which is about 1.
  mean_squares = (outputs**2).mean((2, 3))
  np.testing.assert_allclose((found**2).mean(-1), mean_squares, rtol=0.35)
  ratio = (found**2).mean() / mean_squares.mean()
  assert ratio == pytest.approx(1, abs=0.05)
