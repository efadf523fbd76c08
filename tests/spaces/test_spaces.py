import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.costs import cost_tables
from jaxnas.errors import UserError
from jaxnas.spaces import (
  CHAINS,
  Conv,
  Identity,
  Layer,
  MBConv,
  Shape,
  Space,
  get_space,
)

# fairnas.md, table 3.1: in, out, stride, input resolution of L1..L19.
FAIRNAS_LAYERS = [
  (16, 32, 2, 112), (32, 32, 1, 56),
  (32, 40, 2, 56), *[(40, 40, 1, 28)] * 3,
  (40, 80, 2, 28), *[(80, 80, 1, 14)] * 3,
  (80, 96, 1, 14), *[(96, 96, 1, 14)] * 3,
  (96, 192, 2, 14), *[(192, 192, 1, 7)] * 3,
  (192, 320, 1, 7),
]  # fmt: skip

# fairnas.md 4.1, spelt out there a second time by operation.
GENOTYPES = {
  "fairnas-a": "2 0 / 2 3 5 0 / 0 5 5 1 / 3 1 1 3 / 3 5 3 5 / 4",
  "fairnas-b": "1 0 / 1 0 3 1 / 2 0 3 1 / 0 3 2 0 / 5 4 5 3 / 4",
  "fairnas-c": "1 0 / 2 0 0 0 / 0 0 0 3 / 0 0 0 0 / 5 5 3 3 / 4",
}
NAMES = {
  "fairnas-a": (
    "E3K7 E3K3 E3K7 E6K3 E6K7 E3K3 E3K3 E6K7 E6K7 E3K5 E6K3 E3K5 E3K5 E6K3"
    " E6K3 E6K7 E6K3 E6K7 E6K5"
  ),
  "fairnas-b": (
    "E3K5 E3K3 E3K5 E3K3 E6K3 E3K5 E3K7 E3K3 E6K3 E3K5 E3K3 E6K3 E3K7 E3K3"
    " E6K7 E6K5 E6K7 E6K3 E6K5"
  ),
  "fairnas-c": (
    "E3K5 E3K3 E3K7 E3K3 E3K3 E3K3 E3K3 E3K3 E3K3 E6K3 E3K3 E3K3 E3K3 E3K3"
    " E6K7 E6K7 E6K3 E6K3 E6K5"
  ),
}

MY_SPACE = '''"""A space of one's own: two stages, three choices each."""

from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space


def get_space(width=8):
  choices = (Identity(), MBConv(3, 3), MBConv(6, 5, se_ratio=0.25))
  return Space(
    name="mine",
    image_size=16,
    image_channels=1,
    n_classes=4,
    stem=(Layer((Conv(3),), width),),
    layers=tuple(Layer(choices, 2 * width, s) for s in (2, 1)),
    presets=(("Largest", "22"),),
  )
'''


@pytest.fixture(params=sorted(CHAINS))
def space(request) -> Space:
  return get_space(request.param)


def test_fairnas_is_table_3_1():
  space = get_space("fairnas")
  assert (space.n_layers, space.image_size, space.n_classes) == (19, 224, 1000)
  assert space.size == 6**19 == 609_359_740_010_496
  assert space.n_choices.tolist() == [6] * 19
  got = [
    (s.in_channels, s.features, s.stride, s.in_size) for s in space.layer_shapes
  ]
  assert got == FAIRNAS_LAYERS
  assert [s.out_size for s in space.layer_shapes] == [
    size // stride for _, _, stride, size in FAIRNAS_LAYERS
  ]
  order = [(3, 3), (3, 5), (3, 7), (6, 3), (6, 5), (6, 7)]
  for layer in space.layers:
    assert [(o.expand, o.kernel) for o in layer.choices] == order
    assert all(o.act == "relu6" and o.residual for o in layer.choices)
    assert all(o.se_ratio == 0 for o in layer.choices)
  stem, _, head = space.shapes
  assert stem == (Shape(224, 3, 112, 32, 2), Shape(112, 32, 112, 16, 1))
  assert [layer.choices[0] for layer in space.stem] == [
    Conv(3, "relu6"), MBConv(1, 3, residual=False),
  ]  # fmt: skip
  assert head == (Shape(7, 320, 7, 1280, 1),)
  assert space.head[0].choices == (Conv(1, "relu6"),)
  assert space.out_features == 1280
  assert space.dropout == 0.2


@pytest.mark.parametrize("name", GENOTYPES)
def test_fairnas_presets(name):
  space = get_space("fairnas")
  arch = space.from_string(name)
  np.testing.assert_array_equal(arch, space.from_string(GENOTYPES[name]))
  np.testing.assert_array_equal(arch, space.from_string(f" {name.upper()} "))
  assert space.choice_names(arch) == NAMES[name].split()


def test_fairnas_variants():
  space = get_space("fairnas", se_ratio=0.5, act="swish")
  ops = {op for layer in space.layers for op in layer.choices}
  assert {(o.se_ratio, o.act) for o in ops} == {(0.5, "swish")}
  assert space.stem == get_space("fairnas").stem  # no SE in the stem block
  small = get_space("fairnas-cifar")
  assert (small.image_size, small.n_classes) == (32, 10)
  assert [s.in_size for s in small.layer_shapes] == (
    [32] * 3 + [16] * 4 + [8] * 8 + [4] * 4
  )
  assert [s[:2] for s in FAIRNAS_LAYERS] == [
    (s.in_channels, s.features) for s in small.layer_shapes
  ]


def test_nasbench_macro_is_the_published_network():
  space = get_space("nasbench-macro")
  assert space.size == 6561
  assert [
    (s.in_channels, s.features, s.stride, s.in_size) for s in space.layer_shapes
  ] == [
    (32, 64, 2, 32), (64, 64, 1, 16),
    (64, 128, 2, 16), (128, 128, 1, 8), (128, 128, 1, 8),
    (128, 256, 2, 8), (256, 256, 1, 4), (256, 256, 1, 4),
  ]  # fmt: skip
  for layer in space.layers:
    assert layer.choices == (
      Identity(), MBConv(3, 3, "relu"), MBConv(6, 5, "relu"),
    )  # fmt: skip
  assert space.stem == (Layer((Conv(3, "relu"),), 32),)
  assert space.head == (Layer((Conv(1, "relu"),), 1280),)
  assert space.to_string(space.from_string("best")) == "22212202"


def test_digits_in_two_sizes():
  for size in (8, 16):
    space = get_space("digits", image_size=size)
    assert space.size == 6**8
    assert (space.image_size, space.image_channels) == (size, 1)
    macs = cost_tables(space)["macs"]
    assert macs.largest > 4 * macs.smallest  # so that a budget means something
  # Four times the pixels: the same weights, four times the work.
  small = cost_tables(get_space("digits"))
  large = cost_tables(space)
  for part in ("fixed", "table"):
    np.testing.assert_array_equal(
      getattr(small["params"], part), getattr(large["params"], part)
    )
  np.testing.assert_array_equal(4 * small["macs"].table, large["macs"].table)
  with pytest.raises(UserError, match="8 or 16, not 12"):
    get_space("digits", image_size=12)


def test_json_round_trip(space):
  text = json.dumps(space.to_json())
  back = Space.from_json(json.loads(text))
  assert back == space
  assert hash(back) == hash(space)
  assert back.shapes == space.shapes


@given(st.data())
def test_string_round_trip(data):
  space = get_space(data.draw(st.sampled_from(sorted(CHAINS))))
  arch = [data.draw(st.integers(0, int(n) - 1)) for n in space.n_choices]
  text = space.to_string(arch)
  back = space.from_string(text)
  assert back.tolist() == arch
  assert back.dtype == np.int32
  assert space.from_string("-".join(map(str, arch))).tolist() == arch


OPS = st.one_of(
  st.builds(Conv, st.sampled_from([1, 3, 5])),
  st.builds(
    MBConv, st.sampled_from([1, 3, 6]), st.sampled_from([3, 5]),
    se_ratio=st.sampled_from([0.0, 0.25, 1.0]),
  ),
  st.just(Identity()),
)  # fmt: skip
LAYERS = st.builds(
  Layer,
  st.lists(OPS, min_size=1, max_size=5, unique_by=lambda o: o.name).map(tuple),
  st.integers(1, 9),
  st.sampled_from([1, 2]),
)


@given(st.lists(LAYERS, min_size=1, max_size=6), st.integers(1, 33))
def test_any_chain(layers, image_size):
  space = Space("any", image_size, 3, 7, (), tuple(layers))
  assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
  # Each layer takes what the one before gives; odd sizes round up.
  size, channels = image_size, 3
  for layer, shape in zip(space.layers, space.layer_shapes, strict=True):
    assert (shape.in_size, shape.in_channels) == (size, channels)
    assert shape.out_size == (size + 1) // 2 if layer.stride == 2 else size
    assert shape.keeps == (layer.stride == 1 and channels == layer.features)
    size, channels = shape.out_size, layer.features
  assert space.out_features == channels
  archs = space.sample(np.random.default_rng(0), 50)
  np.testing.assert_array_equal(space.validate(archs), archs)


def test_sampling_is_uniform_and_seeded(space):
  archs = space.sample(np.random.default_rng(3), 6000)
  assert archs.shape == (6000, space.n_layers)
  assert archs.dtype == np.int32
  for l, n in enumerate(space.n_choices):
    counts = np.bincount(archs[:, l], minlength=n)
    sd = np.sqrt(6000 * (n - 1) / n**2)
    assert (np.abs(counts - 6000 / n) < 5 * sd).all()
  again = space.sample(np.random.default_rng(3), 6000)
  np.testing.assert_array_equal(archs, again)


def test_errors_name_layer_value_and_range():
  space = get_space("nasbench-macro")
  with pytest.raises(UserError) as caught:
    space.validate([[0] * 8, [0, 1, 2, 0, 0, 7, 0, 3]])
  message = str(caught.value)
  assert "index 7 at layer 5" in message
  assert "0..2" in message
  assert "nasbench-macro" in message
  with pytest.raises(UserError, match=r"index -1 at layer 0 .* 0\.\.2"):
    space.validate([-1, 0, 0, 0, 0, 0, 0, 0])
  with pytest.raises(UserError, match="has 3 indices.* 8 layers"):
    space.from_string("012")
  with pytest.raises(UserError, match="preset .best."):
    space.from_string("bset")
  with pytest.raises(UserError, match="archs must be"):
    space.validate([2**32] + [0] * 7)  # int32 would wrap it to a legal 0


def test_malformed_spaces_are_refused():
  good = get_space("nasbench-macro")
  two = Layer((Conv(3), Conv(3, "none")), 8)
  for fields, message in [
    ({"layers": ()}, "no searched layer"),
    ({"layers": (two,)}, "layer 0: choices"),
    ({"layers": (Layer((), 8),)}, "layer 0: choices"),
    ({"stem": (Layer((Conv(3), Conv(1)), 8),)}, "one choice each"),
  ]:
    with pytest.raises(UserError, match=message):
      dataclasses.replace(good, **fields)


def test_unknown_names_and_options():
  with pytest.raises(UserError, match="Did you mean 'fairnas'"):
    get_space("fairnass")
  with pytest.raises(UserError, match="space 'digits'.*'depth'"):
    get_space("digits", depth=3)
  with pytest.raises(UserError, match="no file 'absent.py'"):
    get_space("absent.py")


def test_a_space_of_ones_own_is_one_short_file(tmp_path, monkeypatch):
  (tmp_path / "my_space.py").write_text(MY_SPACE)
  assert MY_SPACE.count("\n") < 60
  monkeypatch.chdir(tmp_path)
  space = get_space("my_space.py")
  assert space == get_space(str(tmp_path / "my_space.py"))
  assert space.size == 9
  assert space.choice_names([0, 2]) == ["Id", "E6K5SE0p25"]
  assert space.from_string("largest").tolist() == [2, 2]
  # Identity in a layer that changes the shape is a strided 1x1 and its BN.
  params = cost_tables(space)["params"]
  assert params.table[0, 0] == 8 * 16 + 2 * 16
  assert params.table[1, 0] == 0
  wide = get_space("my_space.py", width=16)
  assert wide.out_features == 32
  with pytest.raises(UserError, match="height"):
    get_space("my_space.py", height=3)
  (tmp_path / "other.py").write_text("def get_spice():\n  pass\n")
  with pytest.raises(UserError, match="Did you mean 'get_spice'"):
    get_space("other.py")


def test_shipped_space_files_are_short(repo):
  for name in ("digits", "fairnas", "nasbench_macro"):
    text = (repo / "jaxnas" / "spaces" / f"{name}.py").read_text()
    code = text.split('"""', 2)[2]
    assert code.count("\n") < 60, Path(name)
