"""Spaces, variables and batches small enough to compile in seconds."""

import functools

import jax
import numpy as np

from jaxnas.config import AugmentConfig, NetConfig, TrainConfig
from jaxnas.nets import PathSupernet
from jaxnas.sharding import Placement, make_placement
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space
from jaxnas.training import (
  Feed,
  init_state,
  make_optimizer,
  make_sampler,
  make_supernet_step,
)  # fmt: skip

DEFAULT = NetConfig()
NO_AUGMENT = AugmentConfig()
SE = MBConv(2, 3, "swish", se_ratio=0.5)
THREE = (Identity(), SE, MBConv(1, 3))
SIX = (
  MBConv(1, 3), MBConv(2, 3), MBConv(1, 5), MBConv(2, 5), Identity(), SE,
)  # fmt: skip


def make_space(
  *choices: tuple, features: int = 6, image_size: int = 6, stem: int = 4
) -> Space:
  """A chain with the given choices; the first layer has stride 2."""
  layers = tuple(
    Layer(ops, features, 2 if l == 0 else 1) for l, ops in enumerate(choices)
  )
  return Space(
    name="tiny", image_size=image_size, image_channels=3, n_classes=4,
    stem=(Layer((Conv(3),), stem),), layers=layers,
    head=(Layer((Conv(1),), 8),),
  )  # fmt: skip


def shaken(variables: dict, seed: int = 0) -> dict:
  """Moves every leaf off its initial value, so that none acts as neutral."""
  rng = np.random.default_rng(seed)

  def leaf(path, a):
    noise = rng.standard_normal(a.shape).astype(np.float32)
    if path[-1].key == "var":
      return a + 0.3 * np.abs(noise)
    return a + 0.2 * noise

  return jax.tree_util.tree_map_with_path(leaf, variables)


def images(*lead: int, size: int = 6, seed: int = 0) -> np.ndarray:
  """Normalised images `float32[*lead, size, size, 3]`."""
  rng = np.random.default_rng(seed)
  return rng.standard_normal((*lead, size, size, 3)).astype(np.float32)


def make_feed(
  n: int = 48,
  size: int = 6,
  seed: int = 0,
  placement: Placement | None = None,
  augment: AugmentConfig = NO_AUGMENT,
) -> Feed:
  """Random images and labels behind a `Feed`."""
  placement = placement or make_placement()
  rng = np.random.default_rng(seed)
  pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
  labels = rng.integers(0, 4, n).astype(np.int32)
  return Feed(
    placement.put(pixels), placement.put(labels),
    np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), augment,
    placement,
  )  # fmt: skip


def close(a, b, rtol: float = 1e-5, atol: float = 1e-5) -> None:
  """Asserts that two trees have one structure and nearly the same leaves."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for (path, x), y in zip(
    jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
  ):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(
      np.asarray(x), np.asarray(y), rtol, atol, err_msg=name
    )


def same(a, b) -> bool:
  """Whether two trees are equal to the last bit."""
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    np.array_equal(x, y, equal_nan=True)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


PAIR = (Conv(3), MBConv(2, 3))
SMALL = make_space(PAIR, (Identity(), MBConv(1, 3)))


@functools.cache
def supernet_step(space: Space, config: TrainConfig, net: NetConfig = DEFAULT):
  """Compiled step (rate 0.1) and a maker of its fresh state."""
  supernet = PathSupernet(space, net)
  tx = make_optimizer(config.optimizer, lambda _: 0.1)
  sampler = make_sampler(config, space)
  step = make_supernet_step(supernet, sampler, tx, config, make_feed())
  variables = shaken(supernet.init(jax.random.key(0)))

  def fresh():
    state = init_state(variables, tx, space.n_choices)
    return make_placement().put(state)

  return step, fresh
