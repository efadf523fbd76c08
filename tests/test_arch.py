import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError, unknown

indices = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@given(indices)
def test_text_round_trip(values):
  text = arch_lib.to_string(values)
  back = arch_lib.from_string(text)
  assert back.dtype == np.int32
  assert back.tolist() == values
  assert ("-" in text) == any(v > 9 for v in values)


@given(indices, st.sampled_from(["-", ",", "/", ":", " ", ", ", " - "]))
def test_every_separator_reads_the_same(values, sign):
  text = sign.join(str(v) for v in values)
  if len(values) == 1:  # one number without a sign is a digit per layer
    text += "-"
  assert arch_lib.from_string(text).tolist() == values
  assert arch_lib.from_string(f" [{text}]\n").tolist() == values


def test_golden_texts():
  assert arch_lib.to_string([2, 0, 3]) == "203"
  assert arch_lib.to_string(np.array([2, 0, 13])) == "2-0-13"
  assert arch_lib.from_string("203").tolist() == [2, 0, 3]
  assert arch_lib.from_string("2 0 / 2 3 5 0").tolist() == [2, 0, 2, 3, 5, 0]
  assert arch_lib.from_string("12-").tolist() == [12]


@pytest.mark.parametrize(
  "text", ["", " ", "-", "a", "2-x-1", "2.5", "1-2;3", "²1", "1-9999999999"]
)
def test_what_is_no_arch_is_named(text):
  with pytest.raises(UserError) as caught:
    arch_lib.from_string(text)
  assert repr(text) in str(caught.value)


def test_as_archs_takes_one_or_many():
  assert arch_lib.as_archs([1, 2]).tolist() == [[1, 2]]
  many = arch_lib.as_archs(np.ones((3, 2), np.uint8))
  assert many.shape == (3, 2)
  assert many.dtype == np.int32


@pytest.mark.parametrize(
  "value",
  [[0.5, 1.0], [True, False], ["1"], [[[1, 2]]], [2**32, 0], [-(2**40), 1]],
)
def test_as_archs_refuses_what_would_be_cast_wrongly(value):
  with pytest.raises(UserError, match="archs must be"):
    arch_lib.as_archs(value)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_unique_keeps_the_order_of_first_appearance(rows):
  kept = arch_lib.unique(np.array(rows, np.int32))
  assert [tuple(r) for r in kept.tolist()] == list(dict.fromkeys(rows))


def test_unknown_offers_the_nearest_name():
  error = str(unknown("space", "digit", ["digits", "fairnas"]))
  assert error == (
    "unknown space 'digit'. Did you mean 'digits'?"
    " Legal values: digits, fairnas."
  )
  assert "Did you mean" not in str(unknown("space", "zzz", ["digits"]))
