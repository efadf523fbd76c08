import numpy as np
import pytest
from sklearn.linear_model import Ridge as PlainRidge

from jaxnas.errors import UserError
from jaxnas.predictors.features import one_hot
from jaxnas.predictors.ridge import Ridge

N_CHOICES = np.array([3, 2, 4])


def labels(n=60, noise=0.1, seed=0):
  rng = np.random.default_rng(seed)
  archs = rng.integers(0, N_CHOICES, (n, 3))
  shares = rng.normal(size=9)
  y = one_hot(N_CHOICES, archs) @ shares + 70 + noise * rng.normal(size=n)
  return archs, y


def test_one_hot_gives_each_node_slots_of_its_own():
  x = one_hot(N_CHOICES, np.array([[2, 0, 3], [0, 1, 0]]))
  assert x.tolist() == [
    [0, 0, 1, 1, 0, 0, 0, 0, 1],
    [1, 0, 0, 0, 1, 1, 0, 0, 0],
  ]


def test_prediction_equals_scikit_learn_s_closed_form():
  archs, y = labels()
  fitted = Ridge().fit(N_CHOICES, archs, y, 0)
  # Labels are standardised, which the penalty does not see.
  plain = PlainRidge(fitted.info["alpha"], solver="cholesky")
  plain.fit(one_hot(N_CHOICES, archs), y)
  test = np.random.default_rng(1).integers(0, N_CHOICES, (20, 3))
  mean, _ = fitted.predict(test)
  expected = plain.predict(one_hot(N_CHOICES, test))
  np.testing.assert_allclose(mean, expected, rtol=1e-10)


def test_the_penalty_is_the_best_of_generalised_cross_validation():
  archs, y = labels(40, 2.0)
  alpha = Ridge().fit(N_CHOICES, archs, y, 0).info["alpha"]
  x = one_hot(N_CHOICES, archs)

  def left_out(alpha):
    errors = []
    for i in range(len(y)):
      rest = np.arange(len(y)) != i
      plain = PlainRidge(alpha).fit(x[rest], y[rest])
      errors.append((plain.predict(x[i : i + 1])[0] - y[i]) ** 2)
    return np.mean(errors)

  step = 10**0.25
  assert left_out(alpha) <= min(left_out(alpha * step), left_out(alpha / step))


def test_a_noise_free_additive_target_is_recovered():
  archs, y = labels(noise=0)
  fitted = Ridge().fit(N_CHOICES, archs, y, 0)
  every = np.indices(N_CHOICES).reshape(3, -1).T
  _, clean = labels(noise=0)
  mean, _ = fitted.predict(archs)
  np.testing.assert_allclose(mean, clean, atol=1e-3)
  assert fitted.predict(every)[0].shape == (24,)


def test_the_spread_covers_the_error_and_shrinks_with_labels():
  archs, y = labels(40, 1.0)
  every = np.indices(N_CHOICES).reshape(3, -1).T
  rng = np.random.default_rng(0)
  shares = rng.normal(size=9)
  z = []
  for seed in range(30):
    rng = np.random.default_rng(100 + seed)
    a = rng.integers(0, N_CHOICES, (60, 3))
    t = one_hot(N_CHOICES, a) @ shares + rng.normal(size=60)
    mean, spread = Ridge().fit(N_CHOICES, a, t, 0).predict(every)
    z.append((mean - one_hot(N_CHOICES, every) @ shares) / spread)
  assert 0.7 < np.std(z) < 1.3
  many = labels(400, 1.0)
  few = Ridge().fit(N_CHOICES, archs, y, 0).predict(every)[1]
  more = Ridge().fit(N_CHOICES, *many, 0).predict(every)[1]
  assert more.mean() < 0.6 * few.mean()


def test_noisier_labels_count_less():
  archs, y = labels(60, 0.01)
  wrong = y.copy()
  wrong[:20] += 5 * np.random.default_rng(0).normal(size=20)
  noise = np.where(np.arange(60) < 20, 500.0, 1.0)
  told = Ridge().fit(N_CHOICES, archs, wrong, 0, noise).predict(archs)[0]
  untold = Ridge().fit(N_CHOICES, archs, wrong, 0).predict(archs)[0]
  assert np.abs(told - y).max() < 0.1 < np.abs(untold - y).max()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"archs": [[0, 0, 4]] * 5}, "'004' has choice 4 at node 2; legal: 0 to"),
    ({"archs": [[0, 0]] * 5}, r"shape \(5, 2\); \(n, 3\) is needed"),
    ({"targets": [1.0, 2.0]}, "5 archs have labels of shape"),
    ({"targets": [1, 2, np.nan, 4, 5]}, "label 2 is nan"),
    ({"archs": [[0, 0, 0]] * 3, "targets": [1, 2, 3]}, "at least 4"),
    ({"noise": [1, 1, 0, 1, 1]}, "above 0"),
  ],
)
def test_labels_that_make_no_sense_are_refused(change, message):
  good = {"archs": [[0, 1, 2]] * 5, "targets": [1, 2, 3, 4, 5], "noise": None}
  good |= change
  with pytest.raises(UserError, match=message):
    Ridge().fit(
      N_CHOICES, np.array(good["archs"]), np.array(good["targets"], float), 0,
      good["noise"],
    )  # fmt: skip
