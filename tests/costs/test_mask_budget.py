"""Budgets on masks: what they read, accept and refuse."""

import numpy as np
import pytest
from graphs import SPACES, masks

from jaxnas.costs.mask_budget import MaskBudget
from jaxnas.costs.masks import mask_costs
from jaxnas.errors import UserError

SPACE = SPACES["dense"]
FULL = mask_costs(SPACE, np.ones((1, SPACE.n_layers), np.int32))
MACS, PARAMS = int(FULL["macs"][0]), int(FULL["params"][0])


@pytest.mark.parametrize(
  ("text", "limits", "written"),
  [
    ("", (), ""),
    (" , ", (), ""),
    ("macs<=60M", (("macs", 60e6),), "macs<=60M"),
    ("MACS <= 60 m", (("macs", 60e6),), "macs<=60M"),
    (
      "params<=0.5M,macs<=1.5G",
      (("params", 5e5), ("macs", 1.5e9)),
      "params<=500k,macs<=1.5G",
    ),
    ("macs<=123456", (("macs", 123456.0),), "macs<=123.456k"),
    ("macs<=60M,macs<=50M", (("macs", 6e7), ("macs", 5e7)),
     "macs<=60M,macs<=50M"),
  ],
)  # fmt: skip
def test_parse_and_write(text, limits, written):
  budget = MaskBudget.parse(text, SPACE)
  assert budget.limits == limits
  assert str(budget) == written
  assert MaskBudget.parse(str(budget), SPACE).limits == limits


@pytest.mark.parametrize(
  "text", ["macs", "macs<60M", "macs>=60M", "60M", "macs<=", "macs<=5T",
           "macs<=nan", "macs<=-3", "macs<=3M params<=3M"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text):
  with pytest.raises(UserError, match=r"^budget .* cannot be read"):
    MaskBudget.parse(text, SPACE)


@pytest.mark.parametrize("name", ["mac", "channels", "latency.pixel"])
def test_other_costs_are_refused(name):
  with pytest.raises(UserError, match="Legal values: macs, params") as error:
    MaskBudget.parse(f"{name}<=3", SPACE)
  assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["dense", "cell", "parallel"])
@pytest.mark.parametrize(
  "text", ["macs<={m}", "params<={p}", "macs<={m},params<={p}"]
)
def test_allows_what_costs_say(name, text):
  space = SPACES[name]
  archs = masks(space, 60)
  costs = mask_costs(space, archs)
  m, p = (int(np.median(costs[k])) for k in ("macs", "params"))
  budget = MaskBudget.parse(text.format(m=m, p=p), space)
  expected = np.ones(len(archs), bool)
  if "macs" in text:
    expected &= costs["macs"] <= m
  if "params" in text:
    expected &= costs["params"] <= p
  found = budget.allows(archs)
  assert found.dtype == bool
  np.testing.assert_array_equal(found, expected)
  assert 0 < expected.sum() < len(archs)


def test_bounds_are_inclusive():
  full = np.ones((1, SPACE.n_layers), np.int32)
  for name, value in (("macs", MACS), ("params", PARAMS)):
    assert MaskBudget.parse(f"{name}<={value}", SPACE).allows(full)[0]
    assert not MaskBudget.parse(f"{name}<={value - 1}", SPACE).allows(full)[0]


def test_no_bound_allows_everything():
  archs = masks(SPACE, 3)
  found = MaskBudget.parse("", SPACE).allows(archs)
  assert found.shape == (len(archs),)
  assert found.all()


def test_what_not_even_the_empty_mask_keeps_is_refused():
  empty = np.zeros((1, SPACE.n_layers), np.int32)
  least = {k: int(v[0]) for k, v in mask_costs(SPACE, empty).items()}
  assert least["params"] > 0
  text = f"params<={least['params']}"
  assert MaskBudget.parse(text, SPACE).allows(empty).all()
  with pytest.raises(UserError) as error:
    MaskBudget.parse(f"params<={least['params'] - 1}", SPACE)
  assert "cannot be kept" in str(error.value)
  assert f"{least['params']:,} params" in str(error.value)
