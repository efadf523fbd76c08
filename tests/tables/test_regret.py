import importlib.util

import numpy as np
import pytest

from jaxnas.tables import load_table


@pytest.fixture(scope="module")
def study(repo):
  path = repo / "docs" / "studies" / "regret.py"
  spec = importlib.util.spec_from_file_location("regret_study", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_regret_and_when_it_was_close(study):
  accuracies = np.array([[0.5, 0.4, 0.9, 0.8], [0.5, 0.6, 0.7, 0.6]])
  curves = study.regret(accuracies, 0.9)
  np.testing.assert_allclose(curves, [[40, 40, 0, 0], [40, 30, 20, 20]])
  assert study.evaluations_to(curves, 0.05) == [3, None]
  assert study.evaluations_to(curves, 30) == [3, 2]


def test_interval_of_a_constant_and_of_a_mean(study):
  draws = np.random.default_rng(0).integers(0, 4, (500, 4))
  flat = study.interval(np.ones((4, 3)), draws, np.mean)
  assert flat == {"value": [1.0] * 3, "low": [1.0] * 3, "high": [1.0] * 3}
  values = np.array([1.0, 2.0, 3.0, 6.0])
  found = study.interval(values, draws, np.mean)
  resampled = [values[d].mean() for d in draws]
  assert found["value"] == 3
  assert [found["low"], found["high"]] == np.percentile(
    resampled, [2.5, 97.5]
  ).tolist()


def test_the_study_on_a_small_scale(study, macro_file, tmp_path):
  table = load_table(macro_file)
  rows = {k: study.SEARCHERS[k] for k in ("random", "evolution", "NSGA-II")}
  result = study.study(table, rows, seeds=2, evaluations=45)
  best = table.metrics["accuracy"].max()
  assert result["best_accuracy"] == best
  for name, row in result["searchers"].items():
    curve = np.array(row["mean_regret"]["value"])
    assert curve.shape == (45,) and (np.diff(curve) <= 0).all(), name
    assert curve[-1] >= 0
  assert study.markdown(result).count("\n| ") == 2 + len(rows)
  study.figure(result, tmp_path / "regret.png")
  assert (tmp_path / "regret.png").stat().st_size > 10_000
