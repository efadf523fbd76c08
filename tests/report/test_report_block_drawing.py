"""The drawing of one block."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxnas.errors import UserError
from jaxnas.report.block_drawing import (
  BOX,
  HEIGHT,
  canonical_block,
  draw_block,
  draw_blocks,
  read_block,
)
from jaxnas.report.block_layout import _crossings, keep_apart, layout
from jaxnas.spaces import expert, get_space, nsc

SVG = "{http://www.w3.org/2000/svg}"


def boxes(svg):
  """Frames (x, y, width, height) of the layers, of their coloured rectangle."""
  root = ET.fromstring(svg)
  groups = [g for g in root.iter(SVG + "g") if "block" in g.get("class", "")]
  frames = []
  for g in groups:
    rect = g.findall(SVG + "rect")[-1]
    frames.append([float(rect.get(k)) for k in ("x", "y", "width", "height")])
  return root, groups, np.array(frames)


def random_blocks(max_layers, n, seed=0):
  space = get_space("blocks-digits", max_layers=max_layers)
  rng = np.random.default_rng(seed)
  return [space.codes(arch) for arch in space.sample(rng, n)]


@pytest.mark.parametrize(
  "codes",
  [expert(n) for n in ("resnet-basic", "resnext-2", "resnext-5", "densenet")]
  + random_blocks(8, 12) + random_blocks(20, 6, 1),
)  # fmt: skip
def test_drawings_hold_all_layers_apart_and_inside(codes):
  root, groups, frames = boxes(draw_block(codes))
  layers = [g for g in groups if g.get("class") == "block layer"]
  titles = sorted(
    (g.find(SVG + "title").text for g in layers),
    key=lambda t: int(re.match(r"layer (\d+)", t)[1]),
  )
  assert len(layers) == len(codes) and len(groups) == len(codes) + 2
  for i, (title, code) in enumerate(zip(titles, codes, strict=True), 1):
    read_ = re.findall(r"layer (\d+)|(the input)", title.split("reads")[1])
    assert [int(n or 0) for n, _ in read_] == list(nsc.reads(code))
    assert title.startswith(f"layer {i}: ")
  _, _, width, height = map(float, root.get("viewBox").split())
  assert (frames[:, 0] >= 0).all() and (frames[:, 1] >= 0).all()
  assert (frames[:, 0] + frames[:, 2] <= width + 0.1).all()
  assert (frames[:, 1] + frames[:, 3] <= height).all()
  for a, b in itertools.combinations(frames, 2):
    beside = abs(a[0] - b[0]) >= min(a[2], b[2]) - 0.2
    assert beside or abs(a[1] - b[1]) >= HEIGHT
  for group, (x, _, w, _) in zip(groups, frames, strict=True):
    texts = group.findall(SVG + "text")
    # 0.62 em a character is wider than the usual fonts.
    half = [0.62 * float(t.get("font-size")) * len(t.text) / 2 for t in texts]
    middle, place = texts[-1], float(texts[-1].get("x"))
    assert x <= place - half[-1] and place + half[-1] <= x + w, middle.text
    if len(texts) == 2:
      end = float(texts[0].get("x")) + 2 * half[0]
      assert end <= place - half[-1] + 1, middle.text


def size(key):
  return 4 if isinstance(key, tuple) else BOX


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_layouts_keep_order_and_follow_every_connection(seed, max_layers):
  codes = random_blocks(max_layers, 1, seed)[0]
  found = layout(codes, size, 10.0)
  row = {k: r for r, keys in enumerate(found.rows) for k in keys}
  out = len(codes) + 1
  wanted = {(p, i) for i, c in enumerate(codes, 1) for p in nsc.reads(c)}
  wanted |= {(leaf, out) for leaf in nsc.leaves(codes)}
  assert {(way[0], way[-1]) for way in found.ways} == wanted
  assert len(found.ways) == len(wanted)
  for way in found.ways:
    assert [row[k] for k in way] == list(
      range(row[way[0]], row[way[0]] + len(way))
    )
  assert found.rows[0] == [0] and found.rows[-1] == [out]
  for keys in found.rows:
    for a, b in itertools.pairwise(keys):
      apart = (size(a) + size(b)) / 2 + 10
      assert found.x[b] - found.x[a] >= apart - 1e-6
  assert layout(codes, size, 10.0) == found
  lines = {(a, b) for way in found.ways for a, b in itertools.pairwise(way)}
  below = {k: [b for a, b in lines if a == k] for k in row}
  assert _crossings(found.rows, below) == found.crossings


def test_crossings_are_the_fewest_of_all_orders():
  for codes in random_blocks(6, 25, 3):
    found = layout(codes, size, 10.0)
    lines = {(a, b) for way in found.ways for a, b in itertools.pairwise(way)}
    below = {k: [b for a, b in lines if a == k] for r in found.rows for k in r}
    orders = [list(itertools.permutations(row)) for row in found.rows]
    if math.prod(map(len, orders)) > 3000:
      continue
    least = min(_crossings(rows, below) for rows in itertools.product(*orders))
    assert found.crossings == least


def test_experts_have_no_crossings():
  for name in ("resnet-bottleneck", "resnext-2", "resnext-5", "densenet"):
    assert layout(expert(name), size, 10.0).crossings == 0


@settings(max_examples=30, deadline=None)
@given(
  st.lists(
    st.tuples(
      st.floats(-50, 50), st.floats(0.5, 8), st.floats(0, 20)
    ), min_size=1, max_size=5,
  )
)  # fmt: skip
def test_places_are_the_constrained_least_squares(rows):
  goals, weights, apart = map(np.array, zip(*rows, strict=True))
  found = np.array(keep_apart(goals, weights, apart[1:]))
  assert (np.diff(found) >= apart[1:] - 1e-9).all()
  solved = optimize.minimize(
    lambda x: (weights * (x - goals) ** 2).sum(), found + 1.0,
    jac=lambda x: 2 * weights * (x - goals), method="SLSQP",
    constraints=[{"type": "ineq", "fun": lambda x: np.diff(x) - apart[1:]}]
    if len(rows) > 1 else [],
  )  # fmt: skip
  mine = (weights * (found - goals) ** 2).sum()
  assert mine <= solved.fun + 1e-3 * (1 + abs(solved.fun))


def test_blocks_side_by_side_have_one_scale():
  svgs = draw_blocks({"a": expert("resnet-basic"), "b": expert("resnext-4")})
  widths = {ET.fromstring(s).get("viewBox").split()[2] for s in svgs.values()}
  assert len(widths) == 1


def test_a_standalone_drawing_needs_no_page():
  svg = draw_block(expert("resnext-2"), "separable", standalone=True)
  assert "var(" not in svg and ET.fromstring(svg).get("width")
  assert "sep 3×3" in svg and "conv 3×3" not in svg


def test_leaves_are_dashed_and_named():
  def dashed(text):
    svg = draw_block(read_block(text))
    edges = [p for p in ET.fromstring(svg).iter(SVG + "path")
             if p.get("class") == "edge"]  # fmt: skip
    return sum(p.get("stroke-dasharray") is not None for p in edges), svg

  count, svg = dashed("conv3@0-conv5@0-max3@1")
  assert "concat → output" in svg and "2 leaves" in svg
  assert count == 2 + 1  # layer 2 passes the row of layer 3
  count, svg = dashed("conv3@0")
  assert count == 1 and "concat" not in svg.replace("concatenate", "")


def test_blocks_are_read_without_their_space():
  codes = expert("resnext-5")
  assert read_block("-".join(map(nsc.to_text, codes))) == codes
  assert canonical_block("max1@0-add@1+0") == (
    nsc.Code(nsc.IDENTITY, 0, 0), nsc.Code(nsc.ADD, 0, 1),
  )  # fmt: skip
  with pytest.raises(UserError, match="conv7"):
    read_block("conv7@0")
