"""The interpreter's training step: one random block of the pool, one update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tiny import close, make_feed, same, shaken

from jaxnas.config import OptimizerConfig, TrainConfig
from jaxnas.nets import BlockSupernet
from jaxnas.nets.losses import cross_entropy
from jaxnas.spaces import get_space
from jaxnas.training import block_groups, init_state, make_block_step

SPACE = get_space(
  "blocks-digits", max_layers=3, stem=4, stages=[[5, 1]]
).replace(image_size=6, image_channels=3, n_classes=4)
NET = BlockSupernet(SPACE)
VARIABLES = shaken(NET.init(jax.random.key(0)))
POOL = np.stack(
  [SPACE.from_string(t) for t in ("conv3@0-concat@0+1", "conv1@0-max3@1")]
)
TX = optax.sgd(0.1)
FEED = make_feed()
ROWS = np.arange(16)
SMOOTHING = 0.1


def step_of(pool, clip=0.0):
  config = TrainConfig(
    label_smoothing=SMOOTHING, optimizer=OptimizerConfig(clip_norm=clip)
  )
  return make_block_step(NET, TX, config, pool, 10, FEED)


def state_at(step=0):
  state = init_state(jax.tree.map(jnp.array, VARIABLES), TX)
  return state.replace(step=jnp.int32(step))


def expected(arch):
  """Loss, gradient and statistics of one block on the batch."""
  x = np.asarray(FEED.images)[ROWS] / np.float32(255)
  x, y = (x - FEED.mean) / FEED.std, np.asarray(FEED.labels)[ROWS]

  (loss, stats), grads = gradient(VARIABLES["params"], arch, x, y)
  return float(loss), grads, stats


@jax.jit
def gradient(params, arch, x, y):
  def loss_of(params):
    own = {**VARIABLES, "params": params}
    logits, stats = NET.apply(own, arch, x, False)
    return cross_entropy(logits, y, SMOOTHING).mean(), stats

  return jax.value_and_grad(loss_of, has_aux=True)(params)


def test_a_step_descends_on_one_block():
  loss, grads, stats = expected(POOL[0])
  new, metrics = step_of(POOL[:1])(state_at(), jax.random.key(1), ROWS)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads),
                             rtol=1e-4)  # fmt: skip
  params = jax.tree.map(lambda p, g: p - 0.1 * g, VARIABLES["params"], grads)
  close(new.params, params, rtol=1e-4, atol=1e-5)
  moved = NET.blend_stats(VARIABLES["batch_stats"], stats, POOL[0])
  close(new.batch_stats, moved, rtol=1e-4, atol=1e-5)
  assert int(new.step) == 1
  assert metrics["finite"].all()
  assert len(metrics["finite"]) == len(block_groups(NET))


def test_steps_draw_from_the_pool_by_key_and_step():
  losses = [expected(arch)[0] for arch in POOL]
  step, seen = step_of(POOL), []
  for i in range(12):
    _, metrics = step(state_at(i), jax.random.key(2), ROWS)
    near = np.isclose(losses, float(metrics["loss"]), rtol=1e-5)
    assert near.sum() == 1
    seen.append(int(near.argmax()))
  assert set(seen) == {0, 1}
  again = [step(state_at(5), jax.random.key(2), ROWS)[0] for _ in range(2)]
  assert same(jax.device_get(again[0]), jax.device_get(again[1]))


def test_the_gradient_is_clipped():
  _, grads, _ = expected(POOL[0])
  norm = float(optax.tree.norm(grads))
  step = step_of(POOL[:1], clip=norm / 4)
  new, _ = step(state_at(), jax.random.key(1), ROWS)
  params = jax.tree.map(
    lambda p, g: p - 0.1 * g / 4, VARIABLES["params"], grads
  )
  close(new.params, params, rtol=1e-4, atol=1e-5)


def test_a_nan_is_found_in_its_group():
  broken = jax.tree.map(jnp.array, VARIABLES)
  broken["params"]["stage0.block0"]["input"]["kernel"] *= jnp.nan
  state = init_state(broken, TX)
  _, metrics = step_of(POOL[:1])(state, jax.random.key(1), ROWS)
  bad = np.flatnonzero(~np.asarray(metrics["finite"]))
  assert block_groups(NET)[bad[0]] == "stage0.block0"
