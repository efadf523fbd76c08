"""Super-networks of PGNAS as data: sizes, groups, shapes, masks as text."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.catalogue import catalogue
from jaxnas.errors import UserError
from jaxnas.spaces import SUPERNETS, MaskSpace, get_space
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import (
  IMAGES,
  Add,
  Concat,
  Conv,
  Depthwise,
  DropPath,
  GlobalPool,
  Graph,
  Linear,
  Node,
  NodeShape,
  Norm,
  Pool,
  Relu,
  Shake,
)

TINY = {
  "supnet-small": {"width": 2, "blocks": 1},
  "supnet-m": {"width": 1, "blocks": 1, "image_size": 8},
  "supnet-e": {"filters": 2, "layers": 3, "image_size": 8},
  "supnet-r50": {"width": 4, "blocks": [1, 2], "image_size": 16},
  "supnet-d121": {"growth": 2, "blocks": [2, 1, 2], "image_size": 32},
}


@pytest.fixture(params=sorted(SUPERNETS))
def space(request) -> MaskSpace:
  return get_space(request.param)


def sizes(graph: Graph) -> dict[str, int]:
  """Parameters of the network that is kept, by kind."""
  count = collections.Counter()
  for node in graph.nodes:
    if node.name in graph.training_only:
      continue
    taken = graph.shapes[node.inputs[0]].channels
    given = graph.shapes[node.name].channels
    match node.op:
      case Conv(kernel=k):
        count["conv"] += k * k * taken * given
      case Depthwise(kernel=k):
        count["depthwise"] += k * k * given
      case Linear():
        count["linear"] += (taken + 1) * given
      case Norm():
        count["norm"] += 2 * given
  return count


@pytest.mark.parametrize(
  ("name", "options", "weights"),
  [  # pgnas.md, section 4
    ("supnet-m", {}, 26_170_042),
    ("supnet-mi", {}, 72_657_082),
    ("supnet-m", {"width": 12}, 104_612_794),
  ],
)
def test_weights_of_shake_shake(name, options, weights):
  count = sizes(get_space(name, **options).graph)
  assert count["conv"] + count["linear"] == weights
  assert not count["depthwise"]


@pytest.mark.parametrize(
  ("name", "options", "parameters"),
  [
    # DenseNet-121 and, below, ResNet-50 as torchvision counts them.
    ("supnet-d121", {"stem": "plain"}, 7_978_856),
    # Instead of 7 * 7 * 3 * 64 weights and one batch norm of 64.
    (
      "supnet-d121", {},
      7_978_856 - 9_408 + 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32),
    ),
    # 11 / 9 of the weights of all 3x3 convolutions.
    ("supnet-r50", {}, 25_557_032 + 2 * 11_317_248 // 9),
    # Less than the paper's 4.6M and 15.3M; the authors' code has 10 fewer, as
    # its classifier has no bias.
    ("supnet-e", {}, 3_894_382),
    ("supnet-ei", {}, 14_784_562),
  ],
)  # fmt: skip
def test_parameters(name, options, parameters):
  assert sum(sizes(get_space(name, **options).graph).values()) == parameters


def test_densenet_has_the_638_groups_of_the_released_log():
  space = get_space("supnet-d121")
  assert len(space.groups) == 638
  per_node = collections.Counter(g.node for g in space.groups)
  for block, (layers, groups) in enumerate(
    zip((6, 12, 24, 16), (21, 78, 300, 136), strict=True)
  ):
    at = [f"block{block}.layer{i}" for i in range(layers)]
    counts = [per_node[f"{a}.conv1"] for a in at]
    assert counts == list(range(1, layers + 1))
    assert sum(counts) == groups
    assert all(per_node[f"{a}.conv3"] == 1 for a in at)
  assert [per_node[f"transition{t}.conv"] for t in range(3)] == [7, 13, 25]
  assert get_space("supnet-d121", blocks=[6, 12, 32, 32]).n_layers > (
    space.n_layers
  )
  # The sources of block 1: what transition 0 hands on, then dense layers.
  last = [g for g in space.groups if g.node == "transition1.conv"]
  assert [g.channels for g in last] == [128] + [32] * 12
  assert last[0].source == "transition0.conv"
  assert last[1].source == "block1.layer0.conv3"
  assert [g.first for g in last[:3]] == [0, 128, 160]


@pytest.mark.parametrize(
  ("name", "shapes"),
  [
    (
      "supnet-m",
      {
        "stem": (32, 16), "stage0.block0.sum": (32, 96),
        "stage1.block0.a1": (16, 192), "stage1.block0.skip1_pool": (16, 96),
        "stage2.block3.sum": (8, 384), "classifier": (1, 10),
      },
    ),
    (
      "supnet-e",
      {
        "stem": (32, 108), "cell4.join": (32, 180), "cell5.join": (16, 288),
        "cell11.join": (8, 576), "cell16.join": (8, 720),
        "auxiliary.classifier": (1, 10),
      },
    ),
    (
      "supnet-r50",
      {
        "stem": (112, 64), "stem_pool": (56, 64), "stage1.block0.conv9":
        (28, 32), "stage3.block2.relu": (7, 2048),
      },
    ),
    (
      "supnet-d121",
      {
        "stem0": (112, 32), "stem_pool": (56, 64), "transition0.pool":
        (28, 128), "block3.join": (7, 1024),
      },
    ),
    ("supnet-small", {"stage0.block1.sum": (8, 16), "relu": (4, 32)}),
  ],
)  # fmt: skip
def test_shapes(name, shapes):
  got = get_space(name).graph.shapes
  assert {n: dataclasses.astuple(got[n]) for n in shapes} == shapes


def test_what_is_gated():
  def ungated(name):
    graph = get_space(name).graph
    return {
      n.name
      for n in graph.nodes
      if isinstance(n.op, Conv | Linear)
      and n.name not in graph.gates
      and n.name not in graph.training_only
    }

  assert ungated("supnet-m") == ungated("supnet-e") == set()
  assert ungated("supnet-d121") == {"stem0", "stem1", "stem2", "classifier"}
  assert ungated("supnet-r50") == {"stem", "classifier"}
  assert ungated("supnet-small") == {"stem"}
  enas = get_space("supnet-e").graph
  # No arch says anything of the head that is thrown away.
  assert not enas.training_only & enas.gates.keys()
  assert enas.training_only == {
    n.name for n in enas.nodes if n.name.startswith("auxiliary.")
  }


def test_enas_cell_is_the_published_arc():
  graph = get_space("supnet-e").graph
  # Normal node 2: identity of input 0, 5x5 separable convolution of input 1.
  a, b = graph["cell3.node2"].inputs
  assert a == "cell3.x_norm"
  assert graph["cell3.node2b.depthwise0"].op == Depthwise(5)
  assert graph["cell3.node2b.relu0"].inputs == ("cell3.base_norm",)
  # All five nodes are loose ends; in a reduction, node 1 is read by node 2.
  assert graph["cell3.join"].inputs == tuple(f"cell3.node{i}" for i in range(5))
  assert graph["cell5.join"].inputs == tuple(
    f"cell5.node{i}" for i in (0, 2, 3, 4)
  )
  assert graph["cell5.node1a.pool"].op == Pool("max", 3, 2)
  assert graph["cell5.node1b.pool"].op == Pool("mean", 3, 2)
  # Inputs of the cell are halved, nodes are not; of two, only the first conv.
  assert graph["cell5.node2a.depthwise0"].op == Depthwise(5, 2)
  assert graph["cell5.node2a.depthwise1"].op == Depthwise(5, 1)
  assert graph["cell5.node2b.depthwise0"].op == Depthwise(5, 1)
  # The identity at stride 2, and input 0 from before a reduction.
  for name in ("cell5.node3b.identity", "cell6.x"):
    assert graph[f"{name}1_pool"].op == Pool("mean", 1, 2, offset=1)
  rates = [n.op.rate for n in graph.nodes if isinstance(n.op, DropPath)]
  assert min(rates) == pytest.approx(0.4 / 17)
  assert max(rates) == pytest.approx(0.4)
  wide = get_space("supnet-ei").graph
  assert [n.name for n in wide.nodes] == [n.name for n in graph.nodes]


@pytest.mark.parametrize(
  ("filters", "layers", "classes"), [(36, 15, 10), (72, 15, 100), (3, 4, 2)]
)
def test_parameters_of_enas_by_hand(filters, layers, classes):
  f, reductions = filters, (layers // 3, 2 * (layers // 3) + 1)
  total, before, last = (27 + 2) * 3 * f, 3 * f, 3 * f
  for cell in range(layers + 2):
    reduce = cell in reductions
    f *= 1 + reduce
    # Both inputs, the base; the identity of a reduction.
    total += (before + last + f + 2 * 3) * f + reduce * (f + 2) * f
    for kernel, many in ((3, 2 + reduce), (5, 4 - reduce)):
      total += many * 2 * (kernel**2 + f + 2) * f
    before, last = last, (5 - reduce) * f
  space = get_space(
    "supnet-e", filters=filters, layers=layers, n_classes=classes
  )
  want = total + (last + 1) * classes
  assert sum(sizes(space.graph).values()) == want


def test_groups_tile_the_arch_and_their_nodes(space):
  offset = 0
  reads = collections.Counter()
  for group in space.groups:
    assert group.offset == offset
    assert group.first == reads[group.node]
    assert group.features == space.graph.shapes[group.node].channels
    assert group.channels >= 1
    offset += group.channels
    reads[group.node] += group.channels
  assert offset == space.n_layers == len(space.group_of)
  gates = space.graph.gates
  assert gates.keys() == reads.keys()
  for name, channels in reads.items():
    (read,) = space.graph[name].inputs
    # Whatever a node reads comes from somewhere, each channel once.
    sources = space.graph.sources(read)
    assert sum(c for _, c in sources) == channels
    assert channels == space.graph.shapes[read].channels
    assert gates[name].stop - gates[name].start == channels
  counts = np.bincount(space.group_of)
  assert counts.tolist() == [g.channels for g in space.groups]


def test_json_round_trip(space):
  back = MaskSpace.from_json(json.loads(json.dumps(space.to_json())))
  assert back == space
  assert hash(back) == hash(space)
  assert back.groups == space.groups
  assert back.graph.shapes == space.graph.shapes


@pytest.mark.parametrize("name", TINY)
def test_sizes_are_options(name):
  space = get_space(name, **TINY[name], n_classes=7, image_channels=2)
  assert space.n_layers < get_space(name).n_layers / 4
  assert space.image_size == TINY[name].get("image_size", 8)
  assert space.graph.shapes[space.graph.output] == NodeShape(1, 7)
  assert space.graph.shapes[IMAGES].channels == 2
  assert space.replace(n_classes=3).graph.n_classes == 3


@given(st.data())
def test_text_round_trip(data):
  space = get_space("supnet-small", width=data.draw(st.integers(1, 4)))
  arch = data.draw(
    st.lists(
      st.integers(0, 1), min_size=space.n_layers, max_size=space.n_layers
    )
  )
  text = space.to_string(arch)
  back = space.from_string(f" {text.upper()} ")
  assert back.tolist() == arch
  assert back.dtype == np.int32
  # The first channel is the highest bit.
  digits = int(text[1:], 16) >> (-space.n_layers % 8)
  assert digits == int("".join(map(str, arch)), 2)


def test_text_of_presets_and_mistakes():
  space = get_space("supnet-small", width=1, blocks=1)
  n = space.n_layers
  assert n % 8  # so that the last digits are not all in use
  assert space.from_string("Full").tolist() == [1] * n
  ((name, text),) = space.presets
  assert (name, space.from_string(text).sum()) == ("full", n)
  for wrong in ("", "x", text[1:], text[:-2], text + "00", "xyz", "x" + "f" * (
    len(text) - 1)):  # fmt: skip
    with pytest.raises(UserError, match="hexadecimal digits for"):
      space.from_string(wrong)
  with pytest.raises(UserError, match=f"{n - 1} channels.* {n} gated"):
    space.validate([1] * (n - 1))
  with pytest.raises(UserError, match="value 2 at channel 3 "):
    space.validate([1, 0, 1, 2] + [0] * (n - 4))


def test_sampling_and_drawing():
  space = get_space("supnet-small", width=2, blocks=1)
  rng = np.random.default_rng(0)
  archs = space.sample(rng, 4000)
  assert archs.dtype == np.int32
  np.testing.assert_array_equal(space.validate(archs), archs)
  assert abs(archs.mean(0) - 0.5).max() < 0.05
  rates = np.linspace(0, 1, len(space.groups))
  drawn = space.draw(rng, rates, 4000)
  dropped = 1 - drawn.mean(0)
  assert abs(dropped - rates[space.group_of]).max() < 0.05
  # Rates 0 and 1 are certain.
  assert drawn[:, space.group_of == 0].all()
  assert not drawn[:, space.group_of == len(rates) - 1].any()


def test_kept_operations_by_hand():
  space = get_space("supnet-small", width=2, blocks=1)
  archs = np.zeros((3, space.n_layers), np.int32)
  archs[1, space.groups[2].offset] = 1
  archs[2] = 1
  want = [0, 1 / len(space.groups), 1]
  np.testing.assert_allclose(space.kept_operations(archs), want)


def test_sources_pass_what_works_channel_by_channel():
  draft = Draft()
  a = draft.add("a", Conv(2), IMAGES)
  b = draft.add("b", Conv(3), IMAGES)
  sums = draft.add("c", Add(), b, b)
  join = draft.add("d", Concat(), a, sums, IMAGES)
  x = draft.add("e", Norm(), join)
  for i, op in enumerate((Relu(), DropPath(0.1), Pool("max", 3))):
    x = draft.add(f"f{i}", op, x)
  x = draft.add("g", Concat(), x, a)
  x = draft.add("h", GlobalPool(), x)
  draft.add("i", Linear("sources"), x)
  space = draft.space("mine", 4, 2, 1)
  assert space.graph.sources(x) == [("a", 2), ("c", 3), (IMAGES, 1), ("a", 2)]
  assert [g.channels for g in space.groups] == [1, 1, 2, 3, 1, 2]
  assert space.graph.gates["i"] == slice(2, 10)


TAIL = (Node("pool", GlobalPool(), ("x",)), Node("out", Linear(), ("pool",)))


@pytest.mark.parametrize(
  ("nodes", "match"),
  [
    ((Node("x", Conv(2), ("image",)), *TAIL), "'images'"),
    ((Node("x", Norm(), (IMAGES,)),) * 2 + TAIL, "two nodes named 'x'"),
    ((Node("x", Norm(), (IMAGES,)),), "does not end with a Linear"),
    ((), "does not end with a Linear"),
    (
      (Node("x", Norm(), (IMAGES,)), Node("out", Linear(), ("x",))),
      "'out' reads a map",
    ),
    ((Node("x", Norm(), ()), *TAIL), "'x' has 0 inputs"),
    ((Node("x", Norm(), (IMAGES, IMAGES)), *TAIL), "'x' has 2 inputs"),
    ((Node("x", Conv(2, 2), (IMAGES,)), *TAIL), "'x': legal are odd"),
    ((Node("x", Conv(2, 3, 3), (IMAGES,)), *TAIL), "'x': legal are odd"),
    ((Node("x", Pool("max", 2), (IMAGES,)), *TAIL), "'x': legal are odd"),
    ((Node("x", Conv(0), (IMAGES,)), *TAIL), "features is 0"),
    ((Node("x", Shake(), (IMAGES,) * 3), *TAIL), "3 branches"),
    (
      (Node("w", Conv(2), (IMAGES,)), Node("x", Add(), ("w", IMAGES)), *TAIL),
      "'x' adds outputs of different shapes",
    ),
    (
      (
        Node("w", Conv(2, 3, 2), (IMAGES,)),
        Node("x", Concat(), ("w", IMAGES)),
        *TAIL,
      ),
      "'x' joins maps of different sizes",
    ),
    (
      (
        Node("x", Norm(), (IMAGES,)), TAIL[0],
        Node("out", Linear("none"), ("pool",)),
      ),
      "no gated channels",
    ),
  ],
)  # fmt: skip
def test_mistakes_in_a_graph_name_the_node(nodes, match):
  with pytest.raises(UserError, match=match):
    MaskSpace(Graph("mine", 8, 1, 2, nodes)).graph.shapes  # noqa: B018


def test_other_mistakes():
  good = (Node("x", Norm(), (IMAGES,)), *TAIL)
  with pytest.raises(UserError, match="image_size is 0"):
    Graph("mine", 0, 1, 2, good)
  with pytest.raises(UserError, match="auxiliary of graph 'mine'"):
    Graph("mine", 8, 1, 2, good, "pol")
  with pytest.raises(UserError, match="Did you mean 'deep'"):
    get_space("supnet-d121", stem="deeper")
  with pytest.raises(UserError, match="multiple of 4"):
    get_space("supnet-r50", width=6)
  with pytest.raises(UserError, match="supnet-m.*wide"):
    get_space("supnet-m", wide=3)


@pytest.mark.parametrize(("size", "half"), [(2, 1), (7, 3), (8, 4)])
def test_pooling_by_two_leaves_out_an_odd_row(size, half):
  nodes = (Node("x", Pool("mean", 2, 2), (IMAGES,)), *TAIL)
  assert Graph("mine", size, 1, 2, nodes).shapes["x"] == NodeShape(half, 1)


def test_the_listing_says_how_many_masks_there_are():
  rows = {row["name"]: row for row in catalogue("spaces")["spaces"]}
  assert SUPERNETS.keys() <= rows.keys()
  assert rows["supnet-m"]["archs"] == "2^11011"
  assert rows["supnet-small"]["presets"] == ["full"]
  json.dumps(rows)


def test_the_example_of_an_own_network(repo):
  path = str(repo / "docs" / "examples" / "my_masked_network.py")
  space = get_space(path, width=4)
  assert [g.node for g in space.groups] == [
    "block0.conv3", "block0.conv5", "block1.conv3", "block1.conv5",
    "classifier",
  ]  # fmt: skip
  assert all(g.channels == 4 for g in space.groups)
  assert get_space(path, blocks=3).n_layers == 7 * 16
