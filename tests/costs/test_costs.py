import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.costs import (
  CostTable,
  cost_tables,
  count_op,
  format_count,
  layer_rows,
  squeeze_width,
  supernet_params,
)
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Shape, Space, get_space

# fairnas.md 4.2: params with BN, params without, MACs.
TOTALS = {
  "fairnas-a": (4_651_352, 4_608_696, 388_122_848),
  "fairnas-b": (4_506_272, 4_466_016, 345_297_632),
  "fairnas-c": (4_397_864, 4_359_240, 321_024_992),
  "0" * 19: (3_189_080, None, 247_129_856),
  "3" * 19: (4_679_144, None, 452_036_096),
  "5" * 19: (5_090_024, None, 557_405_696),
}

# 4.3: params at 1000 and 10 classes, MACs of conv and FC, plus SE pooling.
SE_TOTALS = {
  ("fairnas-a", 1.0): (7_103_512, 5_835_322, 390_564_320, 392_394_176),
  ("fairnas-b", 1.0): (6_871_432, 5_603_242, 347_652_704, 349_294_400),
  ("fairnas-c", 1.0): (6_697_720, 5_429_530, 323_315_168, 324_806_336),
  ("fairnas-a", 0.5): (5_881_920, 4_613_730, 389_343_584, 391_173_440),
  ("fairnas-b", 0.5): (5_693_040, 4_424_850, 346_475_168, 348_116_864),
  ("fairnas-c", 0.5): (5_551_776, 4_283_586, 322_170_080, 323_661_248),
}

# 4.4, as printed: layers | params / MACs of choices 0..5.
PER_LAYER = """
1 | 2992 / 15805440 | 3760 / 18213888 | 4912 / 21826560 | 5920 / 31610880 | 7456 / 36427776 | 9760 / 43653120
2 | 7456 / 21977088 | 8992 / 26793984 | 11296 / 34019328 | 14848 / 43954176 | 17920 / 53587968 | 22528 / 68038656
3 | 8240 / 13321728 | 9776 / 14525952 | 12080 / 16332288 | 16400 / 26643456 | 19472 / 29051904 | 24080 / 32664576
4,5,6 | 11240 / 8373120 | 13160 / 9878400 | 16040 / 12136320 | 22400 / 16746240 | 26240 / 19756800 | 32000 / 24272640
7 | 16120 / 5856480 | 18040 / 6232800 | 20920 / 6797280 | 32080 / 11712960 | 35920 / 12465600 | 41680 / 13594560
8,9,10 | 41680 / 7949760 | 45520 / 8702400 | 51280 / 9831360 | 83200 / 15899520 | 90880 / 17404800 | 102400 / 19662720
11 | 45552 / 8702400 | 49392 / 9455040 | 55152 / 10584000 | 90912 / 17404800 | 98592 / 18910080 | 110112 / 21168000
12,13,14 | 59232 / 11346048 | 63840 / 12249216 | 70752 / 13603968 | 118272 / 22692096 | 127488 / 24498432 | 141312 / 27207936
15 | 87072 / 8255520 | 91680 / 8481312 | 98592 / 8820000 | 173760 / 16511040 | 182976 / 16962624 | 196800 / 17640000
16,17,18 | 229056 / 11092032 | 238272 / 11543616 | 252096 / 12220992 | 457728 / 22184064 | 476160 / 23087232 | 503808 / 24441984
19 | 303040 / 14704704 | 312256 / 15156288 | 326080 / 15833664 | 605440 / 29409408 | 623872 / 30312576 | 651520 / 31667328
"""  # noqa: E501

# NAS-Bench-Macro: arch, params, MACs.
MACRO = [
  ("00000000", 387882, 7713280),
  ("11111111", 1588874, 53246464),
  ("22222222", 2932586, 105660928),
  ("22212202", 1985514, 85164544),
  ("21220200", 1017258, 57147904),
  ("11110200", 842634, 38900224),
  ("10000000", 396298, 12128768),
  ("00000001", 791594, 14115328),
  ("02012100", 890666, 47327744),
  ("12121212", 2330186, 80617984),
  ("20200200", 770922, 36602368),
  ("00222222", 2850218, 80478720),
]


def totals(space: Space, arch: str, se_pooling=False) -> tuple[int, int]:
  costs = cost_tables(space, se_pooling)
  archs = space.from_string(arch)[None]
  return tuple(costs[n](archs).item() for n in ("params", "macs"))


def bn_params(space: Space, arch: str) -> int:
  """Scale and shift of every normalised channel, counted by hand."""
  chosen = zip(space.layers, space.from_string(arch), strict=True)
  ops = [layer.choices[0] for layer in space.stem]
  ops += [layer.choices[c] for layer, c in chosen]
  ops += [layer.choices[0] for layer in space.head]
  channels = 0
  for op, shape in zip(ops, sum(space.shapes, ()), strict=True):
    channels += shape.features
    if isinstance(op, MBConv):
      channels += op.expand * shape.in_channels * (1 + (op.expand != 1))
  return 2 * channels


@pytest.mark.parametrize("arch", TOTALS)
def test_fairnas_totals(arch):
  space = get_space("fairnas")
  params, bare, macs = TOTALS[arch]
  assert totals(space, arch) == (params, macs)
  if bare:
    assert params - bn_params(space, arch) == bare


def test_fairnas_extremes_and_supernet():
  space = get_space("fairnas")
  costs = cost_tables(space)
  assert costs["params"].smallest == 3_189_080
  assert costs["params"].largest == 5_090_024
  assert costs["macs"].smallest == 247_129_856
  assert costs["macs"].largest == 557_405_696
  assert costs["params"].table.sum() == 14_297_616
  assert supernet_params(space) == 15_992_600


@pytest.mark.parametrize(("arch", "ratio"), SE_TOTALS)
def test_fairnas_with_squeeze_and_excitation(arch, ratio):
  params, params_10, macs, pooled = SE_TOTALS[arch, ratio]
  space = get_space("fairnas", se_ratio=ratio, act="swish")
  assert totals(space, arch) == (params, macs)
  assert totals(space, arch, se_pooling=True) == (params, pooled)
  ten = space.replace(n_classes=10)
  assert totals(ten, arch) == (params_10, macs - 990 * 1280)


def test_fairnas_per_layer_table():
  costs = cost_tables(get_space("fairnas"))
  assert costs["params"].fixed == 1_694_984 == 928 + 896 + 412_160 + 1_281_000
  assert costs["macs"].fixed == 42_223_616
  seen = []
  for line in PER_LAYER.strip().splitlines():
    layers, *cells = line.split(" | ")
    pairs = [[int(n) for n in cell.split(" / ")] for cell in cells]
    for l in map(int, layers.split(",")):
      seen.append(l)
      params, macs = zip(*pairs, strict=True)
      assert costs["params"].table[l - 1].tolist() == list(params), l
      assert costs["macs"].table[l - 1].tolist() == list(macs), l
  assert seen == list(range(1, 20))


def test_fairnas_fixed_blocks():
  rows = layer_rows(
    get_space("fairnas"), get_space("fairnas").from_string("fairnas-a")
  )
  fixed = [(r["params"], r["macs"]) for r in rows if r["part"] != "layer"]
  assert fixed == [
    (928, 10_838_016),
    (896, 10_035_200),
    (412_160, 20_070_400),
    (1_281_000, 1_280_000),
  ]


@pytest.mark.parametrize("seed", range(5))
def test_strictly_fair_paths_cost_the_same_together(seed):
  rng = np.random.default_rng(seed)
  archs = np.stack([rng.permutation(6) for _ in range(19)], axis=1)
  costs = cost_tables(get_space("fairnas"))
  assert costs["macs"](archs).sum() == 2_318_774_016 == 6 * 386_462_336
  assert costs["params"](archs).sum() == 6 * 4_077_920


def test_quantiles_of_uniform_sampling():
  space = get_space("fairnas")
  archs = space.sample(np.random.default_rng(0), 200_000)
  macs = cost_tables(space)["macs"](archs) / 1e6
  low, median, high = np.quantile(macs, [0.01, 0.5, 0.99])
  assert abs(median - 386.0) < 0.5
  assert abs(low - 319.5) < 1
  assert abs(high - 456.9) < 1
  assert abs(macs.std() - 30) < 0.5


@pytest.mark.parametrize(("arch", "params", "macs"), MACRO)
def test_nasbench_macro_rows(arch, params, macs):
  assert totals(get_space("nasbench-macro"), arch) == (params, macs)


def test_nasbench_macro_every_row(shared_data):
  path = shared_data("nas-bench-macro/nas-bench-macro_cifar10.json")
  table = json.loads(path.read_text())
  assert len(table) == 6561
  space = get_space("nasbench-macro")
  archs = np.array([[int(c) for c in k] for k in table], np.int32)
  costs = cost_tables(space)
  for ours, theirs in (("params", "params"), ("macs", "flops")):
    want = [row[theirs] for row in table.values()]
    np.testing.assert_array_equal(costs[ours](archs), want)


SHAPES = st.builds(
  lambda size, cin, cout, stride: Shape(
    size, cin, -(-size // stride), cout, stride
  ),
  st.integers(1, 15), st.integers(1, 9), st.integers(1, 9),
  st.sampled_from([1, 2]),
)  # fmt: skip
BLOCKS = st.builds(
  MBConv, st.integers(1, 6), st.sampled_from([1, 3, 5, 7]),
  se_ratio=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)  # fmt: skip


def conv(cin, cout, kernel, out_size, groups=1, bias=False, bn=True):
  """Parameters and multiply-adds of one convolution, the textbook formula."""
  weights = kernel * kernel * (cin // groups) * cout
  extra = (2 * cout if bn else 0) + (cout if bias else 0)
  return np.array([weights + extra, weights * out_size * out_size])


@given(BLOCKS, SHAPES, st.booleans())
def test_a_block_is_the_sum_of_its_convolutions(op, shape, pooling):
  cin, wide = shape.in_channels, shape.in_channels * op.expand
  want = np.zeros(2, int)
  if op.expand > 1:
    want += conv(cin, wide, 1, shape.in_size)
  want += conv(wide, wide, op.kernel, shape.out_size, groups=wide)
  if op.se_ratio:
    narrow = max(1, math.floor(cin * op.se_ratio))
    assert squeeze_width(op, shape) == narrow
    want += conv(wide, narrow, 1, 1, bias=True, bn=False)
    want += conv(narrow, wide, 1, 1, bias=True, bn=False)
    if pooling:
      want[1] += wide * shape.out_size**2
  want += conv(wide, shape.features, 1, shape.out_size)
  assert count_op(op, shape, pooling) == tuple(want)


@given(SHAPES, st.sampled_from([1, 3, 5]))
def test_plain_convolution_and_identity(shape, kernel):
  cin, cout, out = shape.in_channels, shape.features, shape.out_size
  assert count_op(Conv(kernel), shape) == tuple(conv(cin, cout, kernel, out))
  if shape.keeps:
    assert count_op(Identity(), shape) == (0, 0)
  else:
    assert count_op(Identity(), shape) == count_op(Conv(1), shape)


def test_an_operation_without_a_rule_is_an_error():
  with pytest.raises(TypeError, match="no cost rule"):
    count_op("E3K3", Shape(8, 4, 8, 4, 1))


@settings(deadline=None)
@given(st.data())
def test_costs_are_additive(data):
  """Table and rows agree, whatever the chain, its arities and its archs."""
  ops = st.one_of(BLOCKS, st.just(Identity()), st.just(Conv(3)))
  layers = data.draw(
    st.lists(
      st.builds(
        Layer,
        st.lists(ops, min_size=1, max_size=4, unique_by=lambda o: o.name).map(
          tuple
        ),
        st.integers(1, 8),
        st.sampled_from([1, 2]),
      ),
      min_size=1,
      max_size=5,
    )
  )
  space = Space(
    "any", 9, 3, 5, (Layer((Conv(3),), 4, 2),), tuple(layers),
    (Layer((Conv(1),), 7),),
  )  # fmt: skip
  costs = cost_tables(space)
  arch = [data.draw(st.integers(0, int(n) - 1)) for n in space.n_choices]
  archs = np.array([arch, [0] * len(arch)], np.int32)
  rows = [layer_rows(space, a) for a in archs]
  for name, cost in costs.items():
    got = cost(archs)
    assert got.tolist() == [sum(r[name] for r in row) for row in rows]
    assert cost.smallest <= got.min()
    assert got.max() <= cost.largest
    # One changed layer moves the total by the difference of its two entries.
    l = data.draw(st.integers(0, len(arch) - 1))
    other = archs[0].copy()
    other[l] = data.draw(st.integers(0, int(space.n_choices[l]) - 1))
    step = cost.table[l, other[l]] - cost.table[l, arch[l]]
    assert cost(other[None])[0] - got[0] == step
  assert [r["out_size"] for r in rows[0][:-1]] == [
    s.out_size for s in sum(space.shapes, ())
  ]
  assert supernet_params(space) == costs["params"].fixed + sum(
    count_op(op, shape)[0]
    for layer, shape in zip(space.layers, space.layer_shapes, strict=True)
    for op in layer.choices
  )


def test_extremes_ignore_what_lies_past_a_short_layers_choices():
  table = np.array([[5, 7, 0], [1, 2, 9]])
  cost = CostTable("x", 100, table, np.array([2, 3], np.int32))
  assert (cost.smallest, cost.largest) == (106, 116)
  assert cost(np.array([[0, 0], [1, 2]])).tolist() == [106, 116]


def test_counts_are_exact_beyond_float():
  table = np.array([[2**60 + 1]])
  cost = CostTable("x", 1, table, np.array([1], np.int32))
  assert cost.smallest == cost(np.array([[0]]))[0] == 2**60 + 2


def test_format_count():
  texts = {
    388_122_848: "388.1M", 4_651_352: "4.651M", 940: "940", 12_345: "12.35k",
    6.1e14: "6.1e+05G", 0: "0", -2_000: "-2k", math.inf: "inf",
  }  # fmt: skip
  assert {v: format_count(v) for v in texts} == texts
