"""Compact networks predict what masked networks predict, with less."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import GRAPHS, SPACES, evaluate, masks
from tiny import close, images, same, shaken

from jaxnas.config import NetConfig
from jaxnas.costs.masks import mask_costs, mask_layer_rows
from jaxnas.nets import MaskedSupernet, export_network, load_network
from jaxnas.nets.compact import CompactNetwork, compact
from jaxnas.spaces.pruning import prune

NAMES = sorted(GRAPHS)
DEFAULT = NetConfig()


def setup(name, net=DEFAULT):
  """Supernet, variables of which none is neutral, images."""
  supernet = MaskedSupernet(SPACES[name], net)
  # Twice, so that constants are far from zero.
  variables = shaken(shaken(supernet.init(jax.random.key(0)), 1), 2)
  return supernet, variables, images(3, size=GRAPHS[name].image_size)


def masked_logits(supernet, variables, x, archs):
  def one(keep):
    return supernet.apply(variables, x, keep, True)[0]

  return jax.device_get(jax.jit(jax.vmap(one))(np.float32(archs)))


def assert_equal(got, expected):
  gap = np.abs(np.asarray(got) - expected).max()
  assert gap <= 1e-5 * np.abs(expected).max()


def constants(variables):
  """Shapes of all stored constants."""
  return [
    v["constant"].shape for v in variables["params"].values() if "constant" in v
  ]


@pytest.mark.parametrize("name", NAMES)
def test_predictions_equal_those_of_the_masked_network(name):
  supernet, variables, x = setup(name)
  archs = masks(SPACES[name], 4, seed=3)
  expected = masked_logits(supernet, variables, x, archs)
  alive = dead = 0
  shapes = []
  for arch, want in zip(archs, expected, strict=True):
    network = CompactNetwork(GRAPHS[name], tuple(arch.tolist()))
    own = compact(SPACES[name], arch, variables)
    assert_equal(jax.jit(network.apply)(own, x), want)
    # A fresh network has the same variables.
    fresh = jax.eval_shape(network.init, jax.random.key(0), x)
    as_shapes = jax.tree.map(lambda a: a.shape, {"batch_stats": {}, **fresh})
    assert as_shapes == jax.tree.map(lambda a: a.shape, own)
    varies = np.ptp(want, axis=0).max() > 1e-5
    alive, dead = alive + varies, dead + (not varies)
    shapes += constants(own)
  assert alive
  assert dead
  if name in ("shake", "parallel", "cell"):
    assert any(len(s) == 1 for s in shapes)


def test_constants_of_both_kinds():
  """A search for masks of each kind of constant, then equality on them."""
  name = "constants"
  graph, space = GRAPHS[name], SPACES[name]
  supernet, variables, x = setup(name)
  archs = masks(space, 300, seed=5)
  cut = prune(space, archs)
  picked = []
  for node in ("mix", "wide", "sum", "add"):
    for mapped in (False, True):
      found = cut.constant[node].any(1) & (cut.mapped[node] == mapped)
      if found.any():
        picked.append((node, mapped, int(np.flatnonzero(found)[0])))
  kinds = {(node, mapped) for node, mapped, _ in picked}
  assert {("mix", False), ("mix", True), ("wide", True), ("sum", True)} <= kinds
  rows = archs[[i for *_, i in picked]]
  expected = masked_logits(supernet, variables, x, rows)
  for (node, mapped, _), arch, want in zip(picked, rows, expected, strict=True):
    own = compact(space, arch, variables)
    constant = own["params"][node]["constant"]
    assert constant.ndim == (3 if mapped else 1)
    assert np.abs(constant).max() > 1e-3
    network = CompactNetwork(graph, tuple(arch.tolist()))
    assert_equal(jax.jit(network.apply)(own, x), want)


@pytest.mark.parametrize("name", NAMES)
def test_the_full_mask_leaves_the_plain_network(name):
  supernet, variables, x = setup(name)
  graph, space = GRAPHS[name], SPACES[name]
  arch = space.from_string("full")
  own = compact(space, arch, variables)
  gone = {*graph.training_only, "drop"}
  for kind, tree in own.items():
    kept = {k: v for k, v in variables[kind].items() if k not in gone}
    assert same(tree, kept)
  network = CompactNetwork(graph, tuple(arch.tolist()))
  plain, _ = supernet.apply(variables, x, None, True)
  assert_equal(network.apply(own, x), plain)
  # Measured statistics, too, which is what fine-tuning uses.
  got, new = network.apply(own, x, False, mutable=["batch_stats"])
  expected, measured = supernet.apply(variables, x, None, False)
  close(got, expected, 1e-4, 1e-4)
  measured = {k: v for k, v in measured.items() if k not in gone}
  close(new["batch_stats"], measured, 1e-4, 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_masked_network_and_plain_definitions(name):
  """The slow evaluation that the pruning tests trust is the network's."""
  supernet, variables, x = setup(name)
  archs = masks(SPACES[name], 1)
  expected = masked_logits(supernet, variables, x, archs)
  graph = GRAPHS[name]
  for arch, want in zip(archs[::3], expected[::3], strict=True):
    values = evaluate(graph, variables, x, np.float32(arch))
    assert_equal(values[graph.output], want)


def test_every_leaf_is_trained():
  """Gradients reach all that is left, constants included."""
  name = "constants"
  graph, space = GRAPHS[name], SPACES[name]
  _, variables, x = setup(name)
  archs = masks(space, 300, seed=5)
  cut = prune(space, archs)
  some = cut.mapped["sum"] & cut.constant["mix"].any(1)
  arch = archs[np.flatnonzero(some)[0]]
  own = compact(space, arch, variables)
  network = CompactNetwork(graph, tuple(arch.tolist()))

  def loss(params):
    logits, new = network.apply(
      {**own, "params": params}, x, False, mutable=["batch_stats"]
    )
    return jnp.square(logits).sum(), new["batch_stats"]

  grads, stats = jax.jit(jax.grad(loss, has_aux=True))(own["params"])
  assert jax.tree.structure(stats) == jax.tree.structure(own["batch_stats"])
  assert "constant" in grads["sum"]
  assert "constant" in grads["mix"]
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(g).all(), path
  # A flat constant before a batch norm cancels; one in a sum does not.
  assert np.abs(grads["sum"]["constant"]).max() > 1e-4


def test_numerics_are_options():
  graph, space = GRAPHS["shake"], SPACES["shake"]
  arch = masks(space, 1)[2]
  for net, tolerance in (
    (NetConfig(bn_affine=False), 1e-5),
    (NetConfig(precision="bfloat16"), 5e-2),
  ):
    supernet, variables, x = setup("shake", net)
    (want,) = masked_logits(supernet, variables, x, arch[None])
    own = compact(space, arch, variables)
    network = CompactNetwork(graph, tuple(arch.tolist()), net)
    got = np.asarray(jax.jit(network.apply)(own, x))
    assert got.dtype == np.float32
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])
CLASSES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize("row", [3, 7])
def test_export_and_load(row, tmp_path):
  """A mask that leaves much, and one that leaves a bias."""
  graph, space = GRAPHS["cell"], SPACES["cell"]
  supernet, variables, _ = setup("cell")
  arch = masks(space, 0)[row]
  own = compact(space, arch, variables)
  network = CompactNetwork(graph, tuple(arch.tolist()), supernet.net)
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (5, 6, 6, 3), np.uint8)
  gap = export_network(tmp_path, network, own, MEAN, STD, CLASSES, pixels[:3])
  assert gap <= 1e-4
  back, weights, info = load_network(tmp_path)
  assert back == network
  assert back.space == space
  assert same(weights, own)
  assert info["arch"] == space.to_string(arch)
  assert info["layers"] == mask_layer_rows(space, arch)
  macs = sum(r["macs"] for r in info["layers"])
  assert macs == mask_costs(space, arch)["macs"][0]
  assert (macs == 0) == (row == 7)
  x = (pixels / np.float32(255) - MEAN) / STD
  (want,) = masked_logits(supernet, variables, x, arch[None])
  assert_equal(back.apply(weights, x), want)
  np.save(tmp_path / "images.npy", pixels)
  done = subprocess.run(
    [sys.executable, "predict.py", "images.npy"],
    cwd=tmp_path, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.stdout.splitlines() == [CLASSES[i] for i in want.argmax(1)]
