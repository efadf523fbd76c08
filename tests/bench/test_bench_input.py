"""`bench input`: what it counts."""

import pytest

from jaxnas.bench import input as input_lib
from jaxnas.bench.input import bench_input
from jaxnas.bench.options import InputOptions
from jaxnas.errors import UserError
from jaxnas.printing.bench import bench_text


class Instant:
  """In place of a compiled step."""

  def __init__(self, workload, size, flight):
    assert len(workload.data.train) == size and flight == 0
    assert workload.data.train.images.shape[1:] == (8, 8, 1)

  def take(self, steps):
    return steps


def test_rates_are_of_images_and_ratios_of_one_round(monkeypatch):
  monkeypatch.setattr(input_lib, "make_arm", Instant)
  seconds = {"step": [0.5, 0.25], 1: [4.0, 2.0], 3: [1.0, 1.0]}
  taken = []

  def interleave(arms, repeats):
    assert repeats == 2 and list(arms) == ["step", 1, 3]
    for arm in arms.values():
      arm()
    return seconds

  real = input_lib.stream

  def stream(split, indices, first, last, threads):
    taken.append((last - first, threads))
    return real(split, indices, first, last, threads)

  monkeypatch.setattr(input_lib, "interleave", interleave)
  monkeypatch.setattr(input_lib, "stream", stream)
  options = InputOptions(
    "digits", batch_size=8, batches=3, repeats=2, threads=(1, 3)
  )
  result = bench_input(options)
  assert taken == [(3, 3), (3, 1), (3, 3)]  # the first fills the cache
  assert result["images"] == 20 and result["source"].startswith("smooth noise")
  step = result["step"]["images_per_second"]
  assert step == {"median": 24.0, "min": 16.0, "max": 32.0}
  one, three = result["streams"]
  assert one["images_per_second"] == {"median": 9.0, "min": 6.0, "max": 12.0}
  assert three["ratio"] == {"median": 1.125, "min": 0.75, "max": 1.5}
  text = bench_text(result)
  assert "takes 24 [16 .. 32] images/s" in text and "1.125" in text


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"threads": (0,)}, "--threads is 0"),
    ({"batches": 0}, "--batches is 0"),
    (
      {"data": "digits", "batch_size": 2000},
      "2000 images a step but there are 1079",
    ),
  ],
)
def test_numbers_out_of_range_are_refused(options, match):
  with pytest.raises(UserError, match=match):
    bench_input(InputOptions("digits", **options))


def test_default_threads_are_powers_of_two_and_all_cores():
  assert input_lib._powers(1) == (1,) and input_lib._powers(2) == (1, 2)
  assert input_lib._powers(12) == (1, 2, 4, 8, 12)
