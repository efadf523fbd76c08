"""Structure codes, blocks as archs, and the networks stacked from them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.catalogue import cost
from jaxnas.costs.block_budget import BlockBudget, block_costs
from jaxnas.costs.graph import graph_costs, graph_rows
from jaxnas.costs.masks import mask_costs
from jaxnas.errors import UserError
from jaxnas.spaces import BlockSpace, MaskSpace, block_graph, get_space, nsc
from jaxnas.spaces.experts import EXPERTS, expert, resnext
from jaxnas.spaces.graph import Add, Concat, Graph, Relu
from jaxnas.spaces.macro import Macro

SPACE = get_space(
  "blocks-digits", max_layers=5, stem=4, stages=[[4, 1], [6, 2]]
)
FULL = get_space(
  "blocks-digits", max_layers=5, stem=3, stages=[[4, 2], [6, 1]],
  output="concat", hidden=7, dropout=0.4,
)  # fmt: skip


def brute(layers: int) -> list[tuple]:
  """All blocks of at most so many layers, by the words of the definition."""
  ends, found = [()], []
  for i in range(1, layers + 1):
    grown = []
    for block in ends:
      for op in range(1, 9):
        grown += [(*block, (op, p, 0)) for p in range(i)]
      for op in (9, 10):
        grown += [
          (*block, (op, p, q))
          for p, q in itertools.permutations(range(i), 2)
        ]  # fmt: skip
    found += grown
    ends = grown
  return found


@pytest.mark.parametrize(
  ("index", "count"), [(1, 8), (2, 21), (5, 81), (10, 261), (23, 1197)]
)
def test_how_many_codes_may_follow(index, count):
  codes = nsc.next_codes(index)
  assert len(codes) == len(set(codes)) == count
  assert (codes[0] == nsc.TERMINAL) == (index > 1)
  assert list(codes) == sorted(codes)


def test_the_space_is_all_sequences_of_legal_codes():
  space = SPACE.replace(max_layers=2)
  legal = brute(2)
  assert space.size == len(legal) == 8 + 8 * 20
  archs = {space.from_codes(block).tobytes() for block in legal}
  assert len(archs) == space.size
  every = itertools.product(*[range(n) for n in space.n_choices])
  for arch in every:
    arch = np.array(arch, np.int32)
    try:
      space.validate(arch)
    except UserError:
      assert arch.tobytes() not in archs
    else:
      assert arch.tobytes() in archs


def test_exact_size_of_larger_spaces():
  factors = [8 * i + 2 * i * (i - 1) for i in range(1, 24)]
  for layers in (1, 3, 23):
    space = SPACE.replace(max_layers=layers)
    assert space.size == sum(
      math.prod(factors[:n]) for n in range(1, layers + 1)
    )


def test_text_there_and_back():
  archs = SPACE.sample(np.random.default_rng(0), 200)
  for arch in archs:
    text = SPACE.to_string(arch)
    assert (SPACE.from_string(text.upper()) == arch).all()
    assert (SPACE.from_codes(SPACE.codes(arch)) == arch).all()
  assert SPACE.to_string(SPACE.from_string("resnet-basic")) == (
    "conv3@0-conv3@1-add@0+2"
  )


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("resnet", "not written as conv3@0"),
    ("conv7@0", "Legal values: add, avg1"),
    ("conv3@0+0", "conv3 reads 1 layer,"),
    ("add@0", "add reads 2 layers, written as in add@0+1"),
    ("conv3@x", "written as in conv3@0"),
    ("conv3@1", "code (2, 1, 0) at layer 1"),
    ("conv3@0-add@1+1", "two different layers"),
    ("conv3@0-" * 5 + "conv3@0", "a block of 6 layers"),
    ("conv1@0-none@0", "Legal values"),
  ],
)
def test_wrong_texts_are_explained(text, part):
  with pytest.raises(UserError) as error:
    SPACE.from_string(text)
  assert part in str(error.value)


@pytest.mark.parametrize(
  ("codes", "part"),
  [
    ([(11, 0, 0)], "operations are 0 to 10"),
    ([(-1, 0, 0)], "operations are 0 to 10"),
    ([(1, -1, 0)], "earlier ones only"),
    ([(1, 0, 0), (9, 0, 2)], "earlier ones only"),
    ([(1, 0, 0), (2, 0, 1)], "one input"),
    ([(0, 0, 0), (1, 0, 0)], "follows the end"),
    ([(1, 0, 0), (0, 1, 0)], "unused layers are zeros"),
    ([(0, 0, 0)], "at least one layer"),
  ],
)
def test_illegal_codes_name_layer_and_reason(codes, part):
  with pytest.raises(UserError) as error:
    SPACE.from_codes(codes)
  assert part in str(error.value)
  assert "at layer" in str(error.value)


def test_lengths_and_empty_spaces_are_refused():
  with pytest.raises(UserError, match="a block of 3 numbers"):
    SPACE.validate([1, 0, 0])
  with pytest.raises(UserError, match="max_layers is 0"):
    SPACE.replace(max_layers=0)
  with pytest.raises(UserError, match="unknown convs"):
    SPACE.replace(convs="dense")


def test_json_there_and_back():
  for space in (SPACE, FULL, get_space("irlas-mobile")):
    assert BlockSpace.from_json(space.to_json()) == space


def test_samples_explore_as_the_agent_does():
  archs = SPACE.validate(SPACE.sample(np.random.default_rng(1), 4000))
  ops = archs.reshape(-1, 5, 3)[:, :, 0]
  # The first code is uniform among 8, the second among 21.
  first = np.bincount(ops[:, 0], minlength=11) / len(ops)
  np.testing.assert_allclose(first[1:9], 1 / 8, atol=0.025)
  assert abs((ops[:, 1] == 0).mean() - 1 / 21) < 0.015


def test_canonical_blocks_compute_the_same():
  rng = np.random.default_rng(2)
  archs = SPACE.sample(rng, 300)
  once = SPACE.canonical(archs)
  assert (SPACE.canonical(once) == once).all()
  ops = once.reshape(-1, 5, 3)[..., 0]
  assert not np.isin(ops, (4, 6)).any()
  assert np.isin(archs.reshape(-1, 5, 3)[..., 0], (4, 6)).any()
  before, after = block_costs(SPACE, archs), block_costs(SPACE, once)
  for name in before:
    np.testing.assert_array_equal(before[name], after[name])
  text = "conv1@0-max1@0-concat@2+0"
  assert SPACE.to_string(SPACE.canonical(SPACE.from_string(text))[0]) == (
    "conv1@0-identity@0-concat@0+2"
  )


def test_leaves_and_density():
  codes = SPACE.codes(SPACE.from_string("conv1@0-conv3@1-conv5@0-add@0+3"))
  assert nsc.leaves(codes) == [2, 4]
  # Five reads and two leaves; input, four layers and output.
  assert nsc.density(codes) == pytest.approx(7 / 6)


def test_the_graph_of_a_block():
  codes = SPACE.codes(SPACE.from_string("conv1@0-conv3@1-add@0+1"))
  nodes, edges = nsc.dag(codes)
  assert nodes == ["input", "conv1", "conv3", "add", "output"]
  assert np.argwhere(edges).tolist() == [
    [0, 1], [0, 3], [1, 2], [1, 3], [2, 4], [3, 4],
  ]  # fmt: skip
  for arch in SPACE.sample(np.random.default_rng(5), 50):
    nodes, edges = nsc.dag(SPACE.codes(arch))
    assert not np.tril(edges).any()
    # Every layer reads something and is read.
    assert edges[:, 1:].any(0).all()
    assert edges[1:-1].any(1).all()


BLOCKS = st.integers(0, 2**31).map(
  lambda seed: SPACE.codes(SPACE.sample(np.random.default_rng(seed), 1)[0])
)


@settings(max_examples=60, deadline=None)
@given(BLOCKS, BLOCKS, BLOCKS)
def test_edit_distance_is_a_metric(a, b, c):
  d = nsc.edit_distance
  assert d(a, a) == 0
  assert d(a, b) == d(b, a) <= max(len(a), len(b))
  assert d(a, b) >= abs(len(a) - len(b))
  assert d(a, c) <= d(a, b) + d(b, c)


def test_edit_distance_sees_wiring_not_place():
  one = expert("resnet-basic")
  moved = (nsc.Code(8, 0, 0), *(
    nsc.Code(c.op, c.pred1 + 1, c.pred2 + 1 if c.op == nsc.ADD else 0)
    for c in one
  ))  # fmt: skip
  assert nsc.edit_distance(one, moved) == 1
  other = (*one[:2], nsc.Code(nsc.ADD, 1, 2))
  assert nsc.edit_distance(one, other) == 1


@pytest.mark.parametrize(("branches", "codes"), [(2, 8), (5, 20)])
def test_multi_branch_resnext(branches, codes):
  block = resnext(branches)
  assert len(block) == codes
  assert nsc.leaves(block) == [codes]
  assert sum(c.op == nsc.ADD for c in block) == branches
  with pytest.raises(UserError, match="2 or more"):
    resnext(1)


@pytest.mark.parametrize("name", sorted(EXPERTS))
def test_experts_are_legal_and_presets(name):
  wide = get_space("blocks-cifar", max_layers=23)
  arch = wide.from_codes(expert(name))
  assert (wide.from_string(name) == arch).all()
  assert (wide.canonical(arch)[0] == arch).all()
  with pytest.raises(UserError, match="unknown expert"):
    expert("resnet")


# Networks ---------------------------------------------------------------------


def test_irlas_mobile_is_exact():
  space = get_space("irlas-mobile")
  graph = block_graph(space, space.from_string("irlas-mobile"))
  assert graph_costs(graph) == {"macs": 1_418_807_296, "params": 9_962_600}
  widths = {
    f"stage{s}.block{b}.output": width
    for s, b, width in ((0, 0, 96), (1, 0, 384), (2, 3, 768), (3, 0, 1536))
  }
  assert {n: graph.shapes[n].channels for n in widths} == widths
  assert graph.shapes["stage3.block0.output"].size == 7
  biased = [n.name for n in graph.nodes if getattr(n.op, "bias", False)]
  # Transitions, and where a block's input is wider than its layers.
  assert len(biased) == 1 + 3 * 2 + 3 * 2
  with pytest.raises(UserError, match="its own block only"):
    block_graph(space, space.from_string("conv3@0-conv3@1-add@0+2"))


def test_the_published_macro_takes_other_data():
  space = get_space("irlas-mobile").replace(n_classes=10, image_size=32)
  graph = block_graph(space, space.from_string("irlas-mobile"))
  fewer = 1537 * 990
  assert graph_costs(graph)["params"] == 9_962_600 - fewer


def test_leaves_are_joined_at_full_width():
  graph = block_graph(FULL, FULL.from_string("conv1@0-conv3@0-conv5@1"))
  join = graph["stage0.block0.join"]
  assert isinstance(join.op, Concat)
  assert graph.shapes[join.name].channels == 2 * 4
  # The next block's layers read eight channels.
  assert graph.shapes["stage0.block1.layer1"].channels == 4
  row = next(
    r for r in graph_rows(graph) if r["node"].endswith("block1.layer1")
  )
  assert row["in_channels"] == 8
  assert graph.shapes["stage1.block0.join"].channels == 2 * 6


def test_unequal_widths_are_equalised_before_a_sum():
  graph = block_graph(FULL, FULL.from_string("conv3@0-add@0+1"))
  names = {n.name for n in graph.nodes}
  assert "stage0.block0.layer2_equal0" in names  # 3 channels, not 4
  assert "stage0.block0.layer2_equal1" not in names
  assert "stage0.block1.layer2_equal0" not in names  # 4 and 4
  assert isinstance(graph["stage0.block0.layer2"].op, Add)
  # Both inputs have three channels: nothing to equalise.
  plain = block_graph(FULL, FULL.from_string("max3@0-add@0+1"))
  assert plain.shapes["stage0.block0.layer2"].channels == 3


def test_projected_blocks_have_one_width():
  graph = block_graph(SPACE, SPACE.from_string("conv1@0-max3@0-concat@0+2"))
  for node in graph.nodes:
    if ".block" in node.name and not isinstance(node.op, Concat | Relu):
      assert graph.shapes[node.name].channels in (4, 6)
  assert graph.shapes["stage1.block1.output"].channels == 6


def test_costs_equal_those_of_a_full_mask():
  space = get_space("blocks-digits", max_layers=5, stem=4, stages=[[4, 1]])
  for arch in space.sample(np.random.default_rng(3), 30):
    graph = block_graph(space, arch)
    masks = MaskSpace(graph)
    full = np.ones((1, masks.n_layers), np.int32)
    ones = {k: int(v[0]) for k, v in mask_costs(masks, full).items()}
    assert graph_costs(graph) == ones


def test_masks_refuse_what_they_cannot_cut():
  graph = block_graph(FULL, FULL.from_string("conv1@0"))
  with pytest.raises(UserError, match="node 'hidden'"):
    MaskSpace(graph)


def test_a_graph_with_bias_and_dropout_survives_json():
  graph = block_graph(FULL, FULL.from_string("conv1@0-conv3@0"))
  assert Graph.from_json(graph.to_json()) == graph


def test_images_too_small_for_the_pooling_are_named():
  space = SPACE.replace(image_size=1)
  with pytest.raises(UserError, match="pool1"):
    block_costs(space, space.from_string("conv1@0"))


def test_a_space_of_ones_own_is_one_short_file(repo):
  file = repo / "docs" / "examples" / "my_blocks.py"
  assert len(file.read_text().splitlines()) < 60
  space = get_space(str(file))
  found = cost(space, "two-paths")
  graph = block_graph(space, space.from_string("conv3@0-conv5@0-add@1+2"))
  assert found["macs"] == graph_costs(graph)["macs"]
  assert sum(row["params"] for row in found["layers"]) == found["params"]
  assert get_space(str(file), max_layers=9).n_layers == 27


@pytest.mark.parametrize(
  ("fields", "part"),
  [
    ({"output": "sum"}, "unknown output"),
    ({"published": "x"}, "unknown published"),
    ({"stages": ()}, "at least one stage"),
    ({"stages": ((0, 1),)}, "at least one stage"),
    ({"stem_strides": (3,)}, "legal: 1 and 2"),
    ({"stem_strides": ()}, "legal: 1 and 2"),
    ({"hidden": -1}, "hidden -1"),
    ({"dropout": 0.5}, "behind a hidden layer"),
    ({"dropout": 1.0, "hidden": 3}, "below 1"),
  ],
)
def test_wrong_macros_are_explained(fields, part):
  with pytest.raises(UserError, match=part):
    Macro(**fields)


def test_budgets_bound_whole_networks():
  archs = SPACE.sample(np.random.default_rng(4), 100)
  costs = block_costs(SPACE, archs)
  bound = int(np.median(costs["macs"]))
  budget = BlockBudget.parse(f"macs<={bound}", SPACE)
  np.testing.assert_array_equal(budget.allows(archs), costs["macs"] <= bound)
  assert BlockBudget.parse("", SPACE).allows(archs).all()
  assert BlockBudget.parse(str(budget), SPACE).limits == budget.limits
  with pytest.raises(UserError, match=r"smallest block .* has [\d,]+ params"):
    BlockBudget.parse("params<=10", SPACE)
