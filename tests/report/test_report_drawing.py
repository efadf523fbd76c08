"""The drawing of one arch."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxnas.costs import cost_tables, format_count, layer_rows
from jaxnas.report.drawing import draw
from jaxnas.spaces import CHAINS, get_space

SVG = "{http://www.w3.org/2000/svg}"
CASES = [(name, {}) for name in CHAINS] + [
  ("fairnas", {"se_ratio": 0.5, "act": "swish"})
]


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("choice", [0, -1])
def test_one_block_per_layer_with_its_cost(name, options, choice):
  space = get_space(name, **options)
  arch = np.where(choice < 0, space.n_choices - 1, 0)
  root = ET.fromstring(draw(space, arch))
  blocks = [g for g in root.iter(SVG + "g")]
  layers = [g for g in blocks if g.get("class") == "block layer"]
  assert len(layers) == space.n_layers
  rows = layer_rows(space, arch)
  assert len(blocks) == len(rows)
  for g, row in zip(blocks, rows, strict=True):
    texts = [t.text for t in g.iter(SVG + "text")]
    assert f"{row['in_channels']}→{row['features']}" in texts
    assert format_count(row["macs"]) in texts
    assert format_count(row["params"]) in texts
    assert any(t.startswith(row["op"]) or t == "skip" for t in texts)
    assert f"{row['macs']:,} MACs" in g.find(SVG + "title").text
  for layer, g in enumerate(layers):
    assert [t.text for t in g.iter(SVG + "text")][0] == str(layer)
  totals = [cost(arch[None])[0] for cost in cost_tables(space).values()]
  bold = [t.text for t in root.iter(SVG + "text") if t.get("font-weight")]
  assert {format_count(t) for t in totals} <= set(bold)


@pytest.mark.parametrize("name, options", CASES)
def test_everything_is_inside_and_no_texts_touch(name, options):
  space = get_space(name, **options)
  rng = np.random.default_rng(0)
  for arch in [space.n_choices - 1, *space.sample(rng, 5)]:
    root = ET.fromstring(draw(space, arch))
    _, _, width, height = map(float, root.get("viewBox").split())
    lines = {}
    for t in root.iter(SVG + "text"):
      # 0.62 em a character is wider than the usual fonts.
      size, x = float(t.get("font-size")), float(t.get("x"))
      length = 0.62 * size * len(t.text)
      start = (
        x - length * {"start": 0, "middle": 0.5, "end": 1}[t.get("text-anchor")]
      )
      assert start >= -1 and start + length <= width + 1, t.text
      assert size <= float(t.get("y")) <= height
      lines.setdefault(round(float(t.get("y")) / 6), []).append(
        (start, start + length, t.text)
      )
    for line in lines.values():
      line.sort()
      for left, right in zip(line, line[1:], strict=False):
        assert left[1] <= right[0] + 1, (left, right)
    for r in root.iter(SVG + "rect"):
      x, w = float(r.get("x")), float(r.get("width"))
      assert x >= 0 and w >= 0 and x + w <= width


def test_residuals_and_skips_follow_the_space():
  space = get_space("nasbench-macro")
  root = ET.fromstring(draw(space, np.zeros(8, int)))
  names = [t.text for t in root.iter(SVG + "text")]
  # Three layers change the shape and hold a strided convolution instead.
  assert names.count("skip") == 5 and names.count("Id ÷2") == 3
  root = ET.fromstring(draw(space, np.ones(8, int)))
  paths = [p for p in root.iter(SVG + "path") if p.get("class") == "residual"]
  assert len(paths) == 5
  # The stem of fairnas keeps its shape nowhere; 19 layers change it 6 times.
  root = draw(get_space("fairnas"), np.zeros(19, int))
  assert len(re.findall('class="residual"', root)) == 13


def test_resolutions_are_written_where_they_change():
  space = get_space("fairnas")
  root = ET.fromstring(draw(space, np.zeros(19, int)))
  texts = [t.text for t in root.iter(SVG + "text")]
  sizes = [t for t in texts if re.fullmatch(r"\d+×\d+", t)]
  assert sizes == [f"{s}×{s}" for s in (224, 112, 56, 28, 14, 7)]
