import json

import pytest

from jaxnas.bench.options import PredictOptions
from jaxnas.bench.predict import bench_predict
from jaxnas.errors import UserError


def test_rates_are_those_of_the_seconds():
  options = PredictOptions(
    nodes=3, choices=3, labels=30, kinds=("default", "ridge", "mlp"),
    ensemble=1, repeats=2,
  )  # fmt: skip
  result = bench_predict(options)
  assert json.loads(json.dumps(result))["rows"] == result["rows"]
  assert result["archs"] == 27
  assert [r["kind"] for r in result["rows"]] == ["default", "ridge", "mlp"]
  for row in result["rows"]:
    rate, seconds = row["archs_per_second"], row["seconds"]
    assert rate["max"] == pytest.approx(27 / seconds["min"])
    assert row["fit_seconds"] > 0


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"nodes": 12}, "at most 4,194,304"),
    ({"choices": 1}, "--choices is 1; it must be at least 2"),
    ({"labels": 3}, "--labels is 3"),
  ],
)
def test_numbers_out_of_range_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    bench_predict(PredictOptions(**change))
