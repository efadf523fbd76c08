"""Layers against slow NumPy references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import conv_reference, draw

from jaxnas.nets import initial, layers


def test_pointwise_convolution_with_stride():
  (x,) = draw(0, (2, 5, 5, 3))
  module = layers.Conv(4, 1, 2)
  variables = module.init(jax.random.key(0), x)
  kernel = np.asarray(variables["params"]["kernel"])
  expected = conv_reference(x, kernel[None, None], 2)
  np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)


class TestBatchNorm:
  x = draw(0, (3, 4, 5, 5, 2))[0] * [1.0, 3.0] + [0.5, -2.0]  # [K, B, H, W, C]
  x = x.astype(np.float32)
  module = layers.BatchNorm()

  def variables(self):
    scale, bias, mean, var = draw(1, *[(2,)] * 4)
    return {
      "params": {"scale": scale, "bias": bias},
      "batch_stats": {"mean": mean, "var": np.abs(var) + 0.1},
    }

  def test_fresh_statistics_are_neutral(self):
    fresh = self.module.init(jax.random.key(0), self.x[0], False)
    assert (fresh["batch_stats"]["mean"] == 0).all()
    assert (fresh["batch_stats"]["var"] == 1).all()
    assert fresh["batch_stats"]["var"].shape == (2,)

  def test_stored_statistics(self):
    v = self.variables()
    y = self.module.apply(v, self.x, True)
    s, p = v["batch_stats"], v["params"]
    unit = (self.x - s["mean"]) / np.sqrt(s["var"] + 1e-5)
    np.testing.assert_allclose(y, unit * p["scale"] + p["bias"], atol=1e-5)

  @pytest.mark.parametrize("paths", [True, False])
  def test_measured_statistics_are_raw_and_per_path(self, paths):
    x = self.x if paths else self.x[0]
    v = self.variables()
    y, new = self.module.apply(v, x, False, mutable=["batch_stats"])
    mean, var = x.mean((-4, -3, -2)), x.var((-4, -3, -2))
    assert new["batch_stats"]["mean"].shape == mean.shape
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], var, rtol=1e-4)
    wide = (..., None, None, None, slice(None))
    unit = (x - mean[wide]) / np.sqrt(var[wide] + 1e-5)
    p = v["params"]
    np.testing.assert_allclose(y, unit * p["scale"] + p["bias"], atol=1e-4)

  def test_measuring_without_mutable_leaves_no_trace(self):
    v = self.variables()
    y = self.module.apply(v, self.x, False)
    again, _ = self.module.apply(v, self.x, False, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, again)

  def test_without_affine_there_are_no_parameters(self):
    module = layers.BatchNorm(affine=False)
    v = module.init(jax.random.key(0), self.x, False)
    assert "params" not in v
    y = module.apply(v, self.x, False)
    np.testing.assert_allclose(np.mean(y, (1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (1, 2, 3)), 1, atol=1e-3)

  def test_bfloat16_measures_in_float32(self):
    v = self.variables()
    x = jnp.bfloat16(self.x)
    y, new = self.module.apply(v, x, False, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert new["batch_stats"]["mean"].dtype == jnp.float32
    mean = np.asarray(x, np.float32).mean((1, 2, 3))
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, atol=1e-5)


def test_squeeze_excite():
  (x,) = draw(0, (2, 3, 3, 4))
  w1, b1, w2, b2 = draw(1, (4, 2), (2,), (2, 4), (4,))
  variables = {
    "params": {
      "reduce": {"kernel": w1, "bias": b1},
      "expand": {"kernel": w2, "bias": b2},
    }
  }
  y = layers.SqueezeExcite(2, "relu").apply(variables, x)
  hidden = np.maximum(x.mean((1, 2)) @ w1 + b1, 0)
  gate = 1 / (1 + np.exp(-(hidden @ w2 + b2)))
  np.testing.assert_allclose(y, x * gate[:, None, None], atol=1e-5)


def test_activations():
  x = np.array([-4.0, -1.0, 0.0, 3.0, 9.0], np.float32)
  expected = {
    "relu": np.maximum(x, 0),
    "relu6": np.clip(x, 0, 6),
    "swish": x / (1 + np.exp(-x)),
    "none": x,
  }
  assert set(expected) == set(layers.ACTIVATIONS)
  for name, act in layers.ACTIVATIONS.items():
    np.testing.assert_allclose(act(x), expected[name], atol=1e-6)


class TestClassifier:
  def test_pools_and_multiplies_in_float32(self):
    x, kernel, bias = draw(0, (3, 2, 4, 4, 5), (5, 3), (3,))
    v = {"params": {"linear": kernel, "bias": bias}}
    logits = layers.Classifier(3).apply(v, jnp.bfloat16(x))
    assert logits.dtype == jnp.float32
    assert logits.shape == (3, 2, 3)
    rounded = np.asarray(jnp.bfloat16(x), np.float32)
    expected = rounded.mean((2, 3)) @ kernel + bias
    np.testing.assert_allclose(logits, expected, atol=1e-5)

  def test_dropout_keeps_the_expectation(self):
    n, rate = 40_000, 0.3
    x = np.ones((2, 1, 1, n), np.float32)
    v = {"params": {"linear": np.ones((n, 1)) / n, "bias": np.zeros(1)}}
    apply = functools.partial(layers.Classifier(1).apply, v, x)
    logits = np.asarray(apply(rate, jax.random.key(0)))[:, 0]
    deviation = np.sqrt(rate / (1 - rate) / n)  # of the mean of the mask
    assert (abs(logits - 1) < 5 * deviation).all()
    assert logits[0] != logits[1]  # a mask of its own for every example
    np.testing.assert_allclose(apply(0.0), 1, rtol=1e-4)


# By hand: sqrt(2 / (k * k * out)), not divided by groups (authors).
KERNELS = {
  (40, 200): np.sqrt(2 / 200),
  (3, 3, 400): np.sqrt(2 / (9 * 400)),
  (5, 5, 8, 40): np.sqrt(2 / (25 * 40)),
}


@pytest.mark.parametrize("shape", KERNELS)
@pytest.mark.parametrize("where", ["device", "host"])
def test_convolution_weights_are_normal(shape, where):
  if where == "device":
    values = initial.kernel(jax.random.key(0), shape)
  else:
    tree = {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    values = initial.draw(tree, np.random.default_rng(0))["kernel"]
  values = np.asarray(values)
  assert values.dtype == np.float32
  n = values.size
  assert values.std() == pytest.approx(KERNELS[shape], rel=5 / np.sqrt(2 * n))
  assert abs(values.mean()) < 5 * KERNELS[shape] / np.sqrt(n)
  kurtosis = np.mean((values / values.std()) ** 4)
  assert kurtosis == pytest.approx(3, abs=5 * np.sqrt(24 / n))


@pytest.mark.parametrize("where", ["device", "host"])
def test_classifier_weights_are_uniform_by_outputs(where):
  shape = (64, 100)
  if where == "device":
    values = initial.linear(jax.random.key(0), shape)
  else:
    tree = {"linear": jax.ShapeDtypeStruct(shape, jnp.float32)}
    values = initial.draw(tree, np.random.default_rng(0))["linear"]
  values = np.asarray(values)
  assert np.abs(values).max() <= 0.1
  assert values.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)


def test_a_leaf_without_a_rule_is_an_error():
  with pytest.raises(TypeError, match="gamma"):
    initial.draw(
      {"gamma": jax.ShapeDtypeStruct((2,), jnp.float32)},
      np.random.default_rng(0),
    )
