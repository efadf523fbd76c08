"""What a mask leaves, against what numerics show.

With positive weights every value grows with all that it depends on: no
rectifier closes and nothing cancels. So a channel depends on the image iff it
changes with it, and the logits need a channel iff their gradient says so.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import GRAPHS, SPACES, evaluate, evaluate_op, masks, positive
from tiny import images

from jaxnas.errors import UserError
from jaxnas.nets import MaskedSupernet
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import IMAGES, Concat, Conv, Graph, Linear, Pool
from jaxnas.spaces.masks import MaskSpace
from jaxnas.spaces.pruning import product_mask, prune

NAMES = sorted(GRAPHS)


def numerics(name, archs):
  """Per mask: values on two images, gradients in every channel's offset."""
  graph, space = GRAPHS[name], SPACES[name]
  variables = positive(MaskedSupernet(space).init(jax.random.key(0)))
  x = np.abs(images(2, size=graph.image_size)) + 0.1
  zeros = {IMAGES: jnp.zeros(graph.image_channels)} | {
    n.name: jnp.zeros(graph.shapes[n.name].channels) for n in graph.nodes
  }

  def one(keep):
    def logits(offsets):
      values = evaluate(graph, variables, x, keep, offsets)
      return values[graph.output].sum(), values

    grads, values = jax.grad(logits, has_aux=True)(zeros)
    return values, grads

  run = jax.jit(lambda keep: jax.lax.map(one, keep))
  return jax.device_get(run(np.float32(archs)))


@pytest.fixture(scope="module", params=NAMES)
def case(request):
  archs = masks(SPACES[request.param], 30)
  cut = prune(SPACES[request.param], archs)
  return GRAPHS[request.param], archs, cut, *numerics(request.param, archs)


def spatial(value):
  """`[n, B, H, W, C]` or `[n, B, C]` as `[n, B, positions, C]`."""
  return value.reshape(*value.shape[:2], -1, value.shape[-1])


def test_dynamic_channels_are_those_that_change(case):
  graph, _, cut, values, _ = case
  for name, value in values.items():
    value = spatial(value)
    gap = np.abs(value[:, 0] - value[:, 1]).max(1)
    changed = gap > 1e-5 * value.max((1, 2))
    np.testing.assert_array_equal(cut.dynamic[name], changed, err_msg=name)
  assert cut.dynamic[graph.output][0].all()


def test_zero_channels_are_those_that_are_zero(case):
  _, _, cut, values, _ = case
  for name, value in values.items():
    nothing = (spatial(value) == 0).all((1, 2))
    np.testing.assert_array_equal(cut.zero[name], nothing, err_msg=name)


def test_flat_channels_have_one_value(case):
  graph, _, cut, values, _ = case
  for name, value in values.items():
    value = spatial(value)
    spread = np.ptp(value, axis=(1, 2)) / np.maximum(value.max((1, 2)), 1e-9)
    np.testing.assert_array_equal(
      cut.flat[name], ~cut.dynamic[name] & (spread < 1e-5), err_msg=name
    )
  if graph.name == "constants":  # both kinds occurred behind a wide kernel
    still = ~cut.dynamic["holes"]
    assert (still & cut.flat["holes"]).any()
    assert (still & ~cut.flat["holes"]).any()


def test_kept_channels_are_those_that_the_logits_need(case):
  graph, archs, cut, _, grads = case
  for name, grad in grads.items():
    need = cut.dynamic[name] & (grad != 0)
    np.testing.assert_array_equal(cut.kept[name], need, err_msg=name)
  for name in graph.training_only:
    assert not cut.kept[name].any()
  dead = ~cut.dynamic[graph.output].any(1)
  assert dead[(archs == 0).all(1)].all()
  assert not any(cut.kept[name][dead].any() for name in grads)


def test_reads_and_constants_of_what_is_kept(case):
  graph, archs, cut, values, _ = case
  for node in graph.nodes:
    name, own = node.name, cut.kept[node.name]
    if isinstance(node.op, Conv | Linear):
      mask = product_mask(graph, node, archs.astype(bool))
      alive = own.any(1)[:, None]
      expected = mask & cut.dynamic[node.inputs[0]] & alive
      np.testing.assert_array_equal(cut.reads[name], expected)
      assert (cut.kept[node.inputs[0]] | ~expected).all()
    if name not in cut.constant:
      continue
    # The addends are constants, so nothing of them may differ from zero where
    # none is said to be, and a map is needed only where one of them is bent.
    for i, row in enumerate(archs):
      enter = []
      for source in node.inputs:
        value = spatial(values[source])[i, 0].copy()
        value[:, cut.dynamic[source][i]] = 0
        if isinstance(node.op, Conv):
          kept = product_mask(graph, node, row[None].astype(bool))[0]
          value = (value * kept).sum(-1, keepdims=True)
        enter.append(np.broadcast_to(value, (len(value), own.shape[1])))
      total = sum(enter)
      has = own[i] & (total != 0).any(0)
      np.testing.assert_array_equal(cut.constant[name][i], has, err_msg=name)
      wide = isinstance(node.op, Conv) and node.op.kernel > 1
      bent = (np.ptp(total, axis=0) > 1e-4)[has].any() | (wide and has.any())
      bent &= graph.shapes[name].size > 1
      assert cut.mapped[name][i] == bent, name


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_see_each_other(name):
  archs = masks(SPACES[name], 3)
  together = prune(SPACES[name], archs)
  for i, arch in enumerate(archs):
    alone = prune(SPACES[name], arch)
    for field in ("dynamic", "zero", "flat", "kept", "reads", "constant"):
      for node, value in getattr(alone, field).items():
        same = value[0] == getattr(together, field)[node][i]
        assert same.all()


@pytest.mark.parametrize("name", NAMES)
def test_the_full_mask_removes_nothing(name):
  graph, space = GRAPHS[name], SPACES[name]
  cut = prune(space, space.from_string("full"))
  for node, dynamic in cut.dynamic.items():
    assert dynamic.all()
    assert not cut.zero[node].any()
    assert not cut.flat[node].any()
    assert cut.kept[node].all() == (node not in graph.training_only)
  assert not any(c.any() for c in cut.constant.values())


@pytest.mark.parametrize("name", NAMES)
def test_keeping_more_channels_keeps_more(name):
  space, rng = SPACES[name], np.random.default_rng(1)
  few = masks(space, 20)
  many = few | space.draw(rng, np.full(len(space.groups), 0.7), len(few))
  less, more = prune(space, few), prune(space, many)
  for node in less.kept:
    assert (more.kept[node] >= less.kept[node]).all()
    assert (more.dynamic[node] >= less.dynamic[node]).all()


def test_a_concatenation_passes_needs_to_its_parts():
  graph, space = GRAPHS["dense"], SPACES["dense"]
  cut = prune(space, masks(space, 5))
  for node in graph.nodes:
    if isinstance(node.op, Concat):
      parts = np.concatenate([cut.kept[i] for i in node.inputs], 1)
      assert (parts >= cut.kept[node.name]).all()


def test_masks_of_another_space_are_refused():
  with pytest.raises(UserError, match="gated channels"):
    prune(SPACES["dense"], np.ones((2, 3), np.int32))


@pytest.mark.parametrize(
  ("size", "kernel", "stride", "offset", "even"),
  [
    (6, 1, 2, 1, True),  # reads 1, 3, 5: no zero that moved in
    (5, 1, 2, 1, False),  # reads 1, 3 and a zero
    (6, 3, 2, 1, False),
    (6, 1, 1, 1, False),
    (6, 3, 2, 0, True),  # padding is left out of the mean
  ],
)
def test_constants_behind_a_pool(size, kernel, stride, offset, even):
  d = Draft()
  x = d.conv_norm("a", IMAGES, 2, kernel=3)
  x = d.add("move", Pool("mean", kernel, stride, offset), x)
  d.classify(x)
  space = MaskSpace(Graph("pool", size, 3, 4, tuple(d.nodes)))
  cut = prune(space, np.zeros(space.n_layers, np.int32))
  value = jnp.full((1, size, size, 1), 3.0)
  op = space.graph["move"].op
  seen = evaluate_op(op, [value], {}, {})
  assert (np.ptp(seen) == 0) == even
  assert cut.flat["move"].all() == cut.flat["move"].any() == even
