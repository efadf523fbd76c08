"""The training loop, with a network small enough to check by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas.config import PredictorConfig
from jaxnas.errors import UserError
from jaxnas.predictors import neural


@dataclasses.dataclass(frozen=True)
class Linear:
  """Two inputs, one output."""

  def init(self, key):
    return jax.random.normal(key, (2,))

  def apply(self, params, inputs):
    return inputs @ params


CONFIG = PredictorConfig(
  kind="mlp", ensemble=3, epochs=8, batch_size=8, learning_rate=0.05,
  weight_decay=0.01,
)  # fmt: skip
RNG = np.random.default_rng(0)
X = RNG.normal(size=(21, 2)).astype(np.float32)
Y = X @ np.array([1.0, -2.0]) + 0.3 * RNG.normal(size=21)
W = RNG.uniform(0.5, 1.5, 21)


def run(config=CONFIG, members=None, rows=21, seed=0):
  return neural.train(
    Linear(), config, X[:rows], Y[:rows], W[:rows], seed, members
  )


def slow(config, member, seed=0):
  """The same training as a plain loop; returns the weights of each epoch."""
  rows, _ = neural._split(21, config.validation, seed, member)
  key = jax.random.fold_in(jax.random.key(seed), member)
  params = Linear().init(key)
  batch = config.batch_size
  steps = -(-len(rows) // batch)
  room = batch * neural._padded(steps)
  schedule = optax.cosine_decay_schedule(
    config.learning_rate, steps * config.epochs
  )
  optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
  state = optimizer.init(params)
  history = []
  for epoch in range(config.epochs):
    chance = jax.random.uniform(jax.random.fold_in(key, epoch), (room,))
    order = rows[np.argsort(np.asarray(chance)[: len(rows)])]
    for begin in range(0, len(rows), batch):
      b = order[begin : begin + batch]

      def loss(p, b=b):
        return (W[b] * (X[b] @ p - Y[b]) ** 2).sum() / W[b].sum()

      change, state = optimizer.update(jax.grad(loss)(params), state, params)
      params = optax.apply_updates(params, change)
    history.append(np.asarray(params))
  return history


def test_training_equals_a_plain_loop():
  config = dataclasses.replace(CONFIG, validation=0.0, ensemble=2)
  found = run(config)
  for k in range(2):
    np.testing.assert_allclose(
      found.params[k], slow(config, k)[-1], rtol=1e-4, atol=1e-5
    )
  assert found.info["validation_loss"] is None
  assert found.info["best_epoch"] == found.info["epochs"] == [8, 8]


def test_early_stopping_keeps_the_best_epoch():
  # Steps so large that the loss does not fall all the way.
  config = dataclasses.replace(CONFIG, learning_rate=0.8, patience=0)
  found = run(config)
  seen = set()
  for k in range(3):
    _, held = neural._split(21, config.validation, 0, k)
    losses = [
      np.average((X[held] @ p - Y[held]) ** 2, weights=W[held])
      for p in slow(config, k)
    ]
    best = int(np.argmin(losses))
    seen.add(best)
    assert found.info["best_epoch"][k] == best + 1
    np.testing.assert_allclose(
      found.info["validation_loss"][k], losses[best], rtol=1e-3
    )
    np.testing.assert_allclose(
      found.params[k], slow(config, k)[best], rtol=1e-3, atol=1e-4
    )
  assert seen != {config.epochs - 1}


def test_patience_ends_a_network_without_changing_its_epochs():
  config = dataclasses.replace(CONFIG, learning_rate=0.8, patience=2, epochs=40)
  found = run(config)
  for best, epochs in zip(
    found.info["best_epoch"], found.info["epochs"], strict=True
  ):
    assert epochs == min(best + 2, 40)
  assert min(found.info["epochs"]) < 40


def test_a_member_is_the_same_whoever_is_trained_beside_it():
  together = run()
  for k in range(3):
    alone = run(members=(k,))
    np.testing.assert_allclose(
      alone.params[0], together.params[k], rtol=1e-5, atol=1e-6
    )
  assert not np.allclose(together.params[0], together.params[1])


def test_same_seed_same_bytes_and_another_seed_another_net():
  assert (np.asarray(run().params) == np.asarray(run().params)).all()
  assert (np.asarray(run().params) != np.asarray(run(seed=1).params)).all()


def test_one_label_more_is_the_same_program():
  config = dataclasses.replace(CONFIG, epochs=3)
  run(config, rows=19)
  before = neural._train._cache_size()
  run(config, rows=20)
  assert neural._train._cache_size() == before


@pytest.mark.parametrize(
  ("kind", "y", "expected"),
  [
    ("mse", [2.0, 0.5, 7.0], (1.5**2 + 0.5**2) / 2),
    ("huber", [2.0, 0.5, 7.0], (1.5 - 0.5 + 0.5 * 0.5**2) / 2),
    # One pair counts: the second is better and should lead by 0.1.
    ("ranking", [1.0, 2.0, 3.0], 0.1 - (0.0 - 0.5)),
  ],
)
def test_losses_by_hand(kind, y, expected):
  out, w = jnp.array([0.5, 0.0, 9.0]), jnp.array([1.0, 1.0, 0.0])
  assert neural._loss(kind, out, jnp.array(y), w) == pytest.approx(expected)


def test_ranking_gets_its_unit_back():
  config = dataclasses.replace(
    CONFIG, ensemble=1, loss="ranking", epochs=60, learning_rate=0.02,
    validation=0.0,
  )  # fmt: skip
  mean, _ = run(config).predict(X)
  slope, shift = np.polyfit(mean, Y, 1, w=np.sqrt(W))
  assert np.corrcoef(mean, Y)[0, 1] > 0.9
  assert (slope, shift) == pytest.approx((1, 0), abs=1e-4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"ensemble": 0}, "predictor.ensemble is 0; at least 1"),
    ({"validation": 0.6}, "predictor.validation is 0.6"),
    ({"learning_rate": 0.0}, "predictor.learning_rate"),
    ({"patience": -1}, "predictor.patience is -1"),
  ],
)
def test_constants_out_of_range_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    run(dataclasses.replace(CONFIG, **change))


def test_padded_sizes_waste_little_and_are_few():
  sizes = [neural._padded(n) for n in range(1, 200)]
  assert all(n <= s < 1.34 * n + 1 for n, s in enumerate(sizes, 1))
  assert len(set(sizes)) < 30
