"""Costs of masks against recounts of weights, and by hand."""

import jax
import numpy as np
import pytest
from graphs import GRAPHS, SPACES, masks

from jaxnas.costs import masks as masks_module
from jaxnas.costs.masks import kept_weights, mask_costs, mask_layer_rows
from jaxnas.errors import UserError
from jaxnas.nets import MaskedSupernet
from jaxnas.nets.compact import compact
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import IMAGES, Add, Conv, Depthwise, Graph, Linear
from jaxnas.spaces.masks import MaskSpace

NAMES = sorted(GRAPHS)


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_the_weights_that_are_left(name):
  graph, space = GRAPHS[name], SPACES[name]
  variables = MaskedSupernet(space).init(jax.random.key(0))
  archs = masks(space, 20)
  costs = mask_costs(space, archs)
  assert costs["macs"].dtype == costs["params"].dtype == np.int64
  for i, arch in enumerate(archs):
    params = compact(space, arch, variables)["params"]
    macs = 0
    for node in graph.nodes:
      for leaf in ("kernel", "linear"):
        if leaf in params.get(node.name, {}):
          area = graph.shapes[node.name].size ** 2
          macs += params[node.name][leaf].size * area
    assert costs["macs"][i] == macs
    assert costs["params"][i] == sum(a.size for a in jax.tree.leaves(params))
  assert len(set(costs["params"])) > 10


@pytest.mark.parametrize("name", NAMES)
def test_rows_add_up_and_list_what_is_removed(name):
  graph, space = GRAPHS[name], SPACES[name]
  products = [
    n.name
    for n in graph.nodes
    if isinstance(n.op, Conv | Depthwise | Linear)
    and n.name not in graph.training_only
  ]
  for arch in masks(space, 2):
    rows = mask_layer_rows(space, arch)
    assert [r["node"] for r in rows] == products
    assert sum(r["macs"] for r in rows) == mask_costs(space, arch)["macs"][0]
    for r in rows:
      channels = r["in_kept"] if r["op"] != "Depthwise" else 1
      weights = r["kernel"] ** 2 * channels * r["features_kept"]
      assert r["macs"] == weights * r["size"] ** 2
      assert r["params"] >= weights
      assert (r["in_kept"] > 0) == (r["features_kept"] > 0)
      assert r["in_kept"] <= r["in_channels"]
      assert r["features_kept"] <= r["features"]


def hand_made() -> MaskSpace:
  """Arch: 3 image channels, 2 of `a`, 2 of `b`, 2 of the classifier."""
  d = Draft()
  x = d.conv_norm("a", IMAGES, 2, kernel=3)
  y = d.add("b", Conv(2), x)
  y = d.conv_norm("c", y, 2, kernel=3)
  d.classify(d.add("add", Add(), x, y))
  return MaskSpace(Graph("hand", 4, 3, 5, tuple(d.nodes)))


@pytest.mark.parametrize(
  ("arch", "macs", "params"),
  [
    # 54 + 4 + 36 weights on 16 positions; 10 + 5 of the classifier.
    ("111 11 11 11", 94 * 16 + 10, 94 + 4 + 4 + 15),
    # Two image channels; b drops an input, which a still makes for the sum.
    ("101 10 11 11", (36 + 2 + 36) * 16 + 10, 74 + 8 + 15),
    # Without b, c makes a zero and its norm two constants.
    ("111 00 11 11", 54 * 16 + 10, 54 + 4 + 2 + 15),
    # c reads one channel of b, so b makes only one.
    ("111 11 01 11", (54 + 2 + 18) * 16 + 10, 74 + 8 + 15),
    # The classifier reads channel 1: a makes both for b, c and its norm one.
    ("111 11 11 01", (54 + 4 + 18) * 16 + 5, 76 + 4 + 2 + 10),
    # ... and a only one if nothing else reads it.
    ("111 00 11 01", 27 * 16 + 5, 27 + 2 + 1 + 10),
    # Nothing depends on the image: the bias is left.
    ("000 11 11 11", 0, 5),
    ("111 11 11 00", 0, 5),
  ],
)
def test_costs_by_hand(arch, macs, params):
  bits = np.array([int(c) for c in arch.replace(" ", "")], np.int32)
  costs = mask_costs(hand_made(), bits)
  assert (costs["macs"][0], costs["params"][0]) == (macs, params)


def test_kept_weights_by_hand():
  space = hand_made()
  bits = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], np.int32)
  full = 54 + 4 + 36 + 10
  archs = np.stack([bits, np.ones_like(bits), np.zeros_like(bits)])
  expected = [(36 + 2 + 0 + 10) / full, 1.0, 0.0]
  np.testing.assert_allclose(kept_weights(space, archs), expected)


@pytest.mark.parametrize("name", NAMES)
def test_kept_weights_by_masking_them(name):
  graph, space = GRAPHS[name], SPACES[name]
  params = MaskedSupernet(space).init(jax.random.key(0))["params"]
  archs = masks(space, 5)
  kept, total = np.zeros(len(archs)), 0
  for node in graph.nodes:
    leaf = "linear" if isinstance(node.op, Linear) else "kernel"
    own = params.get(node.name, {})
    if node.name in graph.training_only or leaf not in own:
      continue
    shape = own[leaf].shape
    total += np.prod(shape)
    for i, arch in enumerate(archs):
      ones = np.ones(shape)
      if node.name in graph.gates:
        ones *= arch[graph.gates[node.name]][:, None]
      kept[i] += ones.sum()
  shares = kept_weights(space, archs)
  np.testing.assert_allclose(shares, kept / total)
  # What is really left is less.
  costs = mask_costs(space, archs)
  full = mask_costs(space, space.from_string("full"))
  assert shares[0] == 1
  assert (costs["macs"] <= full["macs"]).all()


def test_many_masks_are_counted_in_parts(monkeypatch):
  space = SPACES["cell"]
  archs = masks(space, 5)
  whole = mask_costs(space, archs)
  monkeypatch.setattr(masks_module, "CHUNK", 7)
  parts = mask_costs(space, archs)
  for key, value in whole.items():
    np.testing.assert_array_equal(value, parts[key])


def test_masks_of_another_space_are_refused():
  for count in (mask_costs, kept_weights, mask_layer_rows):
    with pytest.raises(UserError, match="gated channels"):
      count(SPACES["cell"], np.ones((1, 3), np.int32))
