"""Latency tables: both formats, golden entries, and what is refused."""

import logging

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.costs import CostTable
from jaxnas.costs.blocks import blocks
from jaxnas.costs.latency import (
  cost_of,
  read_latency,
  rest_row,
  rows_of,
  write_latency,
  write_latency_yaml,
)
from jaxnas.costs.latency_yaml import yaml_key
from jaxnas.errors import UserError
from jaxnas.spaces import Identity, ListedSpace, MBConv, get_space

PIXEL = "proxylessnas-pixel-lut/pixel_trim.yaml"
# The first layer changes the shape: its identity is a convolution.
SPACE = tiny.make_space(tiny.THREE, tiny.PAIR, (Identity(), tiny.SE))
LISTED = ListedSpace(
  "listed", (("a", "b"), ("c",)), np.array([[0, 0], [1, 0]], np.int32)
)


def rows(space=SPACE, rest: float | None = 0.5, skip: tuple = ()) -> list[dict]:
  """A row per block, its time a function of its operation and place."""
  keys = sorted({yaml_key(b) for b in blocks(space)})
  found = [
    b.row(0.0 if b.free else 0.1 * (1 + keys.index(yaml_key(b))))
    for b in blocks(space)
    if (b.part, b.layer, b.choice) not in skip
  ]
  return found if rest is None else [*found, rest_row(rest)]


def same(a: CostTable, b: CostTable) -> None:
  assert (a.name, a.fixed) == (b.name, b.fixed)
  assert a.table.dtype == b.table.dtype == np.float64
  np.testing.assert_array_equal(a.table, b.table)
  np.testing.assert_array_equal(a.n_choices, b.n_choices)


@pytest.fixture(scope="module")
def proxyless(repo):
  return get_space(str(repo / "docs" / "examples" / "proxyless_space.py"))


# Both formats -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "yaml"])
def test_a_table_comes_back_from_its_file(suffix, tmp_path, caplog):
  path = tmp_path / f"t.{suffix}"
  if suffix == "csv":
    write_latency(path, rows())
  else:
    write_latency_yaml(path, SPACE, rows())
  cost = read_latency(path, SPACE, "latency.t")
  same(cost, cost_of(rows(), SPACE, "latency.t", "rows"))
  assert not caplog.records
  by_place = {(r["part"], r["layer"], r["choice"]): r["ms"] for r in rows()}
  for (part, l, c), ms in by_place.items():
    if part == "layer":
      assert cost.table[l, c] == ms
  others = sum(ms for (part, *_), ms in by_place.items() if part != "layer")
  assert cost.fixed == pytest.approx(others)
  archs = SPACE.sample(np.random.default_rng(0), 9)
  expected = [
    others + sum(by_place["layer", l, c] for l, c in enumerate(a))
    for a in archs
  ]
  np.testing.assert_allclose(cost(archs), expected)


@given(
  st.lists(st.floats(0, 1e9), min_size=7, max_size=7), st.floats(-9.0, 9.0)
)
@settings(deadline=None, max_examples=25)
def test_any_cost_survives_csv_to_the_last_bit(tmp_path_factory, values, fixed):
  path = tmp_path_factory.getbasetemp() / "any.csv"
  table = np.zeros((3, 3))
  for (l, c), v in zip(
    ((l, c) for l, k in enumerate(SPACE.n_choices) for c in range(k)),
    values,
    strict=True,
  ):
    table[l, c] = v
  cost = CostTable("latency.x", fixed, table, SPACE.n_choices)
  write_latency(path, rows_of(cost, SPACE))
  same(read_latency(path, SPACE, "latency.x"), cost)


def test_a_list_of_archs_has_csv_tables_too(tmp_path, caplog):
  path = tmp_path / "t.csv"
  table = np.array([[1.0, 2.0], [3.0, 0.0]])
  cost = CostTable("latency.t", 4.0, table, LISTED.n_choices)
  write_latency(path, rows_of(cost, LISTED))
  same(read_latency(path, LISTED, "latency.t"), cost)
  assert not caplog.records
  yaml = tmp_path / "t.yaml"
  yaml.write_text("{}")
  with pytest.raises(UserError, match="keys of a YAML table are shapes"):
    read_latency(yaml, LISTED, "latency.t")


def test_a_spreadsheet_may_pad_and_mark_its_csv(tmp_path):
  path = tmp_path / "t.csv"
  lines = ["part, layer, choice, op, ms"]
  lines += [
    f"{r['part']}, {r['layer']}, {r['choice']}, {r['op']}, {r['ms']}"
    for r in rows()
  ]
  path.write_text("\n".join(lines), "utf-8-sig")
  same(read_latency(path, SPACE, "x"), cost_of(rows(), SPACE, "x", "rows"))


# Published tables -------------------------------------------------------------


def test_golden_entries_of_the_pixel_table(shared_data, proxyless, caplog):
  cost = read_latency(shared_data(PIXEL), proxyless, "latency.pixel")
  assert not caplog.records
  # Conv + expanded_conv 112x112x32 expand:1 kernel:3 + Conv_1 + Logits.
  assert cost.fixed == pytest.approx(
    4.397037934668071 + 4.0357096774193551 + 6.28499578503688
    + 0.9348261327713382, rel=1e-12,
  )  # fmt: skip
  # Choices: E3K3 E6K3 E3K5 E6K5 E3K7 E6K7, then the identity.
  assert cost.table[0, 0] == 5.608820512820512
  assert cost.table[0, 5] == 16.887745222929933
  assert cost.table[20, 5] == 8.737869565217393
  assert cost.table[1, 0] == cost.table[3, 0] == 4.132448192771084
  assert cost.table[19, 1] == 5.919768149882904
  assert (cost.table[[1, 2, 3, 5, 6, 7, 19], 6] == 0).all()
  assert (cost.table[:, :6] > 0).all()
  # The authors' table has ProxylessNAS-mobile near its 78-84 ms; all E3K3 and
  # all E6K7 must lie on either side.
  lightest, heaviest = (np.full((1, 21), c, np.int32) for c in (0, 5))
  assert cost(lightest)[0] < 80 < cost(heaviest)[0]


def test_a_width_that_the_pixel_table_lacks(shared_data):
  with pytest.raises(UserError) as error:
    read_latency(shared_data(PIXEL), get_space("fairnas"), "latency.pixel")
  for part in (
    "layer 0, choice 0 (E3K3) of space 'fairnas'",
    "looked for expanded_conv-input:112x112x16-output:56x56x32-expand:3-"
    "kernel:3-stride:2-idskip:0",
    "nearest is expanded_conv-input:112x112x16-output:56x56x24-expand:3-",
  ):
    assert part in str(error.value)


OFA = """
Conv-input:6x6x3-output:6x6x4: {count: 9, mean: 1.0, var: 0.1}
expanded_conv-input:6x6x4-output:3x3x6-expand:8-kernel:3-stride:2-idskip:0-se:0-hs:0: {mean: 2}
expanded_conv-input:6x6x4-output:3x3x6-expand:8-kernel:3-stride:2-idskip:0-se:1-hs:1: {mean: 3}
expanded_conv-input:3x3x6-output:3x3x6-expand:12-kernel:3-stride:1-idskip:1-se:1-hs:1: {mean: 4}
expanded_conv-input:3x3x6-output:3x3x6-expand:12-kernel:3-stride:1-idskip:0-se:1-hs:1: {mean: 99}
Conv_1-input:3x3x6-output:3x3x8: {mean: 10}
AvgPool2D-input:3x3x8-output:1x1x8: {mean: 20}
Logits-input:1x1x8-output:4: {mean: 40}
"""  # noqa: E501


def test_once_for_all_keys(tmp_path, caplog):
  path = tmp_path / "ofa.yml"
  path.write_text(OFA)
  space = tiny.make_space((MBConv(2, 3), tiny.SE), (Identity(), tiny.SE))
  cost = read_latency(path, space, "latency.ofa")
  np.testing.assert_array_equal(cost.table, [[2, 3], [0, 4]])
  assert cost.fixed == 71
  assert not caplog.records


def test_squeeze_and_excitation_is_not_read_from_a_table_without(tmp_path):
  path = tmp_path / "t.yaml"
  key = "expanded_conv-input:6x6x4-output:3x3x6-expand:2-kernel:3-stride:2"
  path.write_text(f"{key}-idskip:0: {{mean: 1}}")
  assert read_latency(path, tiny.make_space((MBConv(2, 3),)), "x").table == [
    [1]
  ]
  with pytest.raises(UserError, match="looked for .*expand:8-.*-se:1-hs:1"):
    read_latency(path, tiny.make_space((tiny.SE,)), "x")
  path.write_text(f"{key}-idskip:0: {{mean: 1}}\n{key}: {{mean: 2}}")
  with pytest.raises(UserError, match="could be .* or .*remove one"):
    read_latency(path, tiny.make_space((MBConv(2, 3),)), "x")


def test_yaml_cannot_tell_layers_apart(tmp_path):
  space = tiny.make_space(tiny.PAIR, tiny.PAIR, tiny.PAIR)
  own = rows(space)
  own[-4]["ms"] += 1  # one of two equal blocks
  with pytest.raises(UserError, match="share the key .* write .csv"):
    write_latency_yaml(tmp_path / "t.yaml", space, own)


# What is absent or wrong ------------------------------------------------------


def test_absent_fixed_parts_are_named(caplog):
  skip = (("stem", 0, 0), ("classifier", 0, 0))
  with caplog.at_level(logging.WARNING, "jaxnas"):
    part = cost_of(rows(skip=skip), SPACE, "x", "here")
  (record,) = caplog.records
  assert "here: no entry for stem 0 (Conv3)" in record.message
  assert "the classifier" in record.message
  assert "head" not in record.message
  whole = cost_of(rows(), SPACE, "x", "here")
  left = sum(
    r["ms"] for r in rows() if (r["part"], r["layer"], r["choice"]) in skip
  )
  assert part.fixed == pytest.approx(whole.fixed - left)


def test_rest_alone_stands_for_all_that_is_fixed(caplog):
  skip = tuple((p, 0, 0) for p in ("stem", "head", "classifier"))
  assert cost_of(rows(skip=skip), SPACE, "x", "here").fixed == 0.5
  assert not caplog.records
  assert cost_of(rows(rest=None, skip=skip), SPACE, "x", "here").fixed == 0
  assert len(caplog.records) == 1


def test_only_a_free_identity_may_be_absent():
  free, strided = ("layer", 2, 0), ("layer", 0, 0)
  assert cost_of(rows(skip=(free,)), SPACE, "x", "here").table[2, 0] == 0
  with pytest.raises(UserError, match=r"layer 0, choice 0 \(Id\)"):
    cost_of(rows(skip=(strided,)), SPACE, "x", "here")


def test_a_missing_row_and_its_nearest():
  own = rows()
  row = next(r for r in own if (r["part"], r["layer"]) == ("layer", 1))
  row["op"] = "Conv5"
  with pytest.raises(UserError) as error:
    cost_of(own, SPACE, "x", "here")
  assert "layer 1, choice 0 (Conv3) of space 'tiny'" in str(error.value)
  assert "looked for layer,1,0,Conv3" in str(error.value)
  assert "the nearest is layer,1,0,Conv5" in str(error.value)


def test_a_table_of_another_size_is_refused_or_named(caplog):
  wide = tiny.make_space(tiny.THREE, tiny.PAIR, (Identity(), tiny.SE), stem=5)
  with pytest.raises(UserError, match="has in_channels 4, but 5 in space"):
    cost_of(rows(), wide, "x", "here")
  few = SPACE.replace(n_classes=3)
  cost = cost_of(rows(), few, "x", "here")
  assert "the classifier" in caplog.text
  assert cost.fixed < cost_of(rows(), SPACE, "x", "here").fixed


@pytest.mark.parametrize("bad", ["", "fast", "nan", "-1", "inf"])
def test_a_time_must_be_a_time(bad):
  own = rows()
  own[2]["ms"] = bad
  with pytest.raises(UserError, match="row 3 .*legal: milliseconds"):
    cost_of(own, SPACE, "x", "here")


def test_a_row_must_not_come_twice():
  with pytest.raises(UserError, match="row 2 .* comes twice"):
    cost_of([rows()[0], *rows()], SPACE, "x", "here")


@pytest.mark.parametrize(
  ("name", "content", "part"),
  [
    ("t.txt", "", "legal endings are .csv"),
    ("none.csv", None, "No such file"),
    ("t.csv", "layer,choice,op\n", "no column part, ms"),
    ("t.csv", "", "no column part"),
    ("t.csv", "part,layer,choice,op,ms\nrest,0\n", "legal: milliseconds"),
    ("t.yaml", "a: [", "cannot be read as YAML"),
    ("t.yaml", "- 1", "is no latency table"),
    ("t.yaml", "a: 3", "has None as its time"),
    ("t.yaml", "a: {mean: true}", "has True as its time"),
    ("t.yaml", "a: {mean: -1}", "has -1 as its time"),
    ("t.yaml", "{}", "the table is empty"),
    ("t.yaml", "a: !!python/object/apply:os.getcwd []", "cannot be read"),
  ],
)
def test_files_that_are_refused(name, content, part, tmp_path):
  if content is not None:
    (tmp_path / name).write_text(content)
  with pytest.raises(UserError, match=part):
    read_latency(tmp_path / name, SPACE, "latency.x")
