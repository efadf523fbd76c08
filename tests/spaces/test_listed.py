import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.errors import UserError
from jaxnas.spaces import ListedSpace

CHOICES = (("a", "b"), ("k3", "k5", "k7"), ("x", "y", "z"))
ROWS = np.array([[0, 0, 0], [1, 2, 0], [1, 1, 2], [0, 2, 1]], np.int32)


def swap(archs):
  """Layers 1 and 2 commute: the larger index goes first."""
  archs = np.array(archs, np.int32)
  archs[:, 1:] = -np.sort(-archs[:, 1:], axis=1)
  return archs


@pytest.fixture
def space() -> ListedSpace:
  return ListedSpace("toy", CHOICES, ROWS, ("act", "kernel", "op"))


@pytest.fixture
def folded() -> ListedSpace:
  rows = np.array([[0, 1, 0], [1, 2, 1]], np.int32)
  return ListedSpace("folded", CHOICES, rows, fold=swap)


def test_counts_and_names(space):
  assert (space.size, space.n_layers) == (4, 3)
  np.testing.assert_array_equal(space.n_choices, [2, 3, 3])
  assert space.choice_names([1, 2, 0]) == ["b", "k7", "x"]


def test_text_goes_there_and_back(space):
  for row in ROWS:
    np.testing.assert_array_equal(space.from_string(space.to_string(row)), row)
  np.testing.assert_array_equal(space.from_string("1-2-0"), [1, 2, 0])


def test_a_preset_is_an_arch(folded):
  space = ListedSpace(
    "p", CHOICES, folded.rows, fold=swap, presets=(("Best", "112"),)
  )
  np.testing.assert_array_equal(space.from_string("best"), [1, 2, 1])


def test_index_finds_every_row(space):
  np.testing.assert_array_equal(space.index(ROWS[::-1]), [3, 2, 1, 0])
  np.testing.assert_array_equal(space.find([[0, 0, 0], [0, 0, 1]]), [0, -1])
  assert space.index(np.zeros((0, 3), np.int32)).shape == (0,)


def test_equal_networks_are_one_row(folded):
  archs = [[1, 1, 2], [1, 2, 1], [0, 0, 1]]
  np.testing.assert_array_equal(folded.index(archs), [1, 1, 0])
  np.testing.assert_array_equal(folded.validate(archs), folded.rows[[1, 1, 0]])
  assert folded.to_string([1, 1, 2]) == "121"
  np.testing.assert_array_equal(folded.from_string("112"), [1, 2, 1])


@given(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 2)))
def test_nearest_is_the_nearest(arch):
  space = ListedSpace("toy", CHOICES, ROWS)
  distances = [sum(a != b for a, b in zip(arch, r, strict=True)) for r in ROWS]
  assert space.nearest(arch)[0] == distances.index(min(distances))


def test_samples_are_uniform_rows(space):
  archs = space.sample(np.random.default_rng(0), 4000)
  assert archs.dtype == np.int32
  count = np.bincount(space.index(archs), minlength=4)
  # Chi-square with 3 degrees of freedom is above 16.3 once in 1,000.
  assert ((count - 1000) ** 2 / 1000).sum() < 16.3
  again = space.sample(np.random.default_rng(0), 4000)
  np.testing.assert_array_equal(archs, again)


def test_rows_cannot_be_changed(space):
  with pytest.raises(ValueError):
    space.rows[0, 0] = 1
  archs = space.sample(np.random.default_rng(0), 2)
  archs[:] = 0  # a sample is the caller's own
  np.testing.assert_array_equal(space.rows, ROWS)


def test_an_illegal_index_names_decision_value_and_legal_values(space):
  with pytest.raises(UserError, match=r"index 3 at layer 1 \(kernel\)") as e:
    space.validate([[0, 0, 0], [0, 3, 0]])
  assert "0 (k3), 1 (k5), 2 (k7)" in str(e.value)
  with pytest.raises(UserError, match="index -1 at layer 0"):
    space.index([-1, 0, 0])


def test_plain_layers_are_named_once(folded):
  with pytest.raises(UserError, match="index 9 at layer 2 is not"):
    folded.validate([0, 0, 9])


def test_an_unlisted_arch_names_the_nearest_row(space):
  with pytest.raises(UserError, match="'122' is not among the 4 rows") as e:
    space.validate([[0, 0, 0], [1, 2, 2]])
  assert "nearest row is '120', with op x for z." in str(e.value)


@pytest.mark.parametrize("text", ["", "abc", "0,0,x", "0000", "00"])
def test_text_that_is_no_arch(space, text):
  with pytest.raises(UserError):
    space.from_string(text)


def test_wrong_lengths(space):
  with pytest.raises(UserError, match="has 2 indices; space 'toy' has 3"):
    space.validate([0, 0])
  with pytest.raises(UserError, match="3 decisions"):
    space.validate(np.zeros((0, 2), np.int32))


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([[0, 0, 0], [1, 1, 1], [0, 0, 0]], "'000' twice"),
    (np.zeros((0, 3), np.int32), "no arch"),
    ([[0, 0, 3]], "index 3"),
    ([[0.0, 0.0, 0.0]], "integers"),
  ],
)
def test_bad_lists_are_refused(rows, message):
  with pytest.raises(UserError, match=message):
    ListedSpace("bad", CHOICES, rows)


def test_rows_must_be_canonical():
  with pytest.raises(UserError, match="not canonical"):
    ListedSpace("bad", CHOICES, np.array([[0, 0, 1]], np.int32), fold=swap)


def test_a_decision_needs_choices_and_a_name():
  with pytest.raises(UserError, match="at least one choice"):
    ListedSpace("bad", (("a",), ()), np.zeros((1, 2), np.int32))
  with pytest.raises(UserError, match="1 names for 3"):
    ListedSpace("bad", CHOICES, ROWS, ("one",))
