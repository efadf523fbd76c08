"""`bench blocks`: what it compares, and that both arms agree."""

import dataclasses

import numpy as np
import pytest

from jaxnas.bench.blocks import bench_blocks, distinct_blocks
from jaxnas.bench.options import BlockOptions
from jaxnas.errors import UserError
from jaxnas.printing import text
from jaxnas.spaces import get_space

OPTIONS = BlockOptions(
  options='{"max_layers": 3, "stem": 4, "stages": [[4, 1], [6, 1]]}', n=3,
  calibration_images=8, validation_images=9, batch_size=4, repeats=2,
)  # fmt: skip


def test_both_arms_score_alike_and_one_program_serves_all():
  found = bench_blocks(OPTIONS)
  assert found["scores"]["agree"]
  assert found["scores"]["largest_loss_difference"] < 1e-4
  assert found["interpreter"]["programs"] == 1
  assert found["alone"]["programs"] == 3
  assert found["compilations_second_set"] == 0
  for arm in ("interpreter", "alone"):
    assert found[arm]["compile_seconds"] <= found[arm]["total_seconds"]
    assert found[arm]["seconds"]["min"] > 0
  assert found["total_ratio"] == pytest.approx(
    found["alone"]["total_seconds"] / found["interpreter"]["total_seconds"]
  )
  written = text("bench", found, None)
  assert "3 blocks compared" in written
  assert "compiled for 3 other blocks: 0" in written


def test_blocks_are_distinct_and_canonical():
  space = get_space("blocks-digits", max_layers=3)
  archs = distinct_blocks(space, np.random.default_rng(0), 50)
  assert len({a.tobytes() for a in archs}) == 50
  assert (space.canonical(archs) == archs).all()


@pytest.mark.parametrize(
  ("change", "part"),
  [
    ({"n": 0}, "--n is 0"),
    ({"space": "digits", "options": "{}"}, "which has no blocks"),
    ({"options": '{"max_layers": 1}', "n": 9}, "too few"),
    ({"options": "[]"}, "JSON object"),
    ({"space": "irlas-mobile", "options": "{}"}, "needs output='project'"),
  ],
)
def test_wrong_options_are_explained(change, part):
  with pytest.raises(UserError, match=part):
    bench_blocks(dataclasses.replace(OPTIONS, **change))
