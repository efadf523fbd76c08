"""Masks that begin alike: shared prefixes change no score and save work."""

import functools

import graphs
import jax
import numpy as np
import pytest
from plain import dataset
from test_mask_scorer import (
  ALL,
  MODES,
  SPACE,
  VARIABLES,
  N,
  close,
  reference,
  rows_of,
  scorer,
)
from tiny import shaken

from jaxnas.compilations import Compilations
from jaxnas.config import ScoreConfig
from jaxnas.nets import MaskedSupernet
from jaxnas.scoring import MaskForm, MaskScorer
from jaxnas.scoring.mask_sharing import MaskTrie, saving, unique_prefixes
from jaxnas.sharding import make_placement
from jaxnas.spaces import get_space
from jaxnas.spaces.segments import cut


@functools.cache
def shared(mode):
  return scorer(None, mode, engine="wavefront")


@pytest.mark.parametrize("mode", MODES)
def test_shared_scores_are_those_of_masks_one_by_one(mode):
  expected = reference(mode)
  out = shared(mode)(VARIABLES, ALL, per_example=True)
  close(out, expected)
  rows = [7, 0, 7, 5]
  close(
    shared(mode)(VARIABLES, ALL[rows], per_example=True),
    rows_of(expected, rows),
  )


# The mode that does most on every graph; the others on the most branched one.
@pytest.mark.parametrize(
  ("name", "mode"),
  [*((name, "recalibrate") for name in graphs.SPACES),
   ("supnet-d121", "recalibrate"), ("cell", "running"), ("cell", "batch"),
   ("supnet-e", "running")],
)  # fmt: skip
def test_every_graph_has_equal_scores(name, mode):
  small = {
    "supnet-e": {"filters": 4, "layers": 3, "image_size": 8},
    "supnet-d121": {"blocks": (2, 2), "growth": 4, "image_size": 16},
  }
  space = graphs.SPACES.get(name) or get_space(name, **small[name])
  data = dataset(7, size=space.image_size)
  space = space.replace(n_classes=data.n_classes)
  supernet = MaskedSupernet(space)
  variables = shaken(supernet.init(jax.random.key(1)))
  rng = np.random.default_rng(2)
  archs = space.draw(rng, np.full(len(space.groups), 0.2), 5)
  archs[3:] = archs[0]
  archs[4, -1] ^= 1  # differs in the classifier only
  config = ScoreConfig(
    mode, calibration_images=8, batch_size=4, engine="wavefront"
  )
  found = MaskScorer(supernet, data, config, make_placement())(
    variables, archs, per_example=True
  )
  plain = MaskScorer(
    supernet, data, config, make_placement(), MaskForm(1, 1, 0)
  )(variables, archs, per_example=True)
  close(found, plain, 1e-5)


def test_other_masks_compile_nothing():
  scores = shared("recalibrate")
  scores(VARIABLES, ALL)
  scores.score_images(VARIABLES, ALL[:1], np.array([0]))
  with Compilations() as compiled:
    scores(VARIABLES, ALL[::-2])
    scores.score_images(VARIABLES, ALL[2:4], np.array([3, 0, 9]))
  assert compiled.count == 0


@pytest.mark.parametrize("mode", ["running", "recalibrate"])
def test_chosen_images_have_their_scores(mode):
  images = np.array([9, 2, 4, 0, 7])
  found = shared(mode).score_images(VARIABLES, ALL[:4], images)
  expected = reference(mode)["correct"][:4][:, images]
  np.testing.assert_array_equal(found["accuracy"].astype(bool), expected)


@pytest.mark.parametrize("parts", [1, 2, 100])
def test_parts_of_images_change_nothing(parts):
  scores = shared("running")
  images = scores._images
  trie = MaskTrie(
    scores._supernet, "running", scores._calibration, scores._trie._metrics,
    scores._trie.image_bytes() * images.y.size // parts,
  )  # fmt: skip
  found = trie(VARIABLES, ALL, images, images.n_batches)
  expected = scores._trie(VARIABLES, ALL, images, images.n_batches)
  for name in expected:
    np.testing.assert_array_equal(found[name], expected[name])
  assert found["loss"].shape[1:] == images.y.shape


def test_only_distinct_prefixes_are_computed(monkeypatch):
  scores, calls = shared("running"), []
  programs = scores._trie._programs
  monkeypatch.setitem(
    scores._trie.__dict__,
    "_programs",
    [
      lambda *a, k=k, run=run: (calls.append(k), run(*a))[1]
      for k, run in enumerate(programs)
    ],
  )
  scores(VARIABLES, ALL)
  counts = [calls.count(k) for k in range(len(programs))]
  assert counts == unique_prefixes(scores._trie.segments, ALL)
  assert counts == [
    len({tuple(m[: s.gates.stop]) for m in ALL}) if s.gates.stop else 1
    for s in scores._trie.segments
  ]


def test_the_saving_is_that_of_the_work():
  segments = cut(SPACE.graph)
  whole = sum(s.macs for s in segments)
  same = np.repeat(ALL[:1], 6, 0)
  assert saving(segments, same) == pytest.approx(6)
  late = same.copy()
  late[np.arange(6), -1 - np.arange(6)] ^= 1
  last = segments[-1]
  assert late.shape[1] - 6 >= last.gates.start
  assert saving(segments, late) == pytest.approx(
    6 * whole / (whole + 5 * last.macs)
  )


@pytest.mark.parametrize(
  "graph",
  [*graphs.GRAPHS.values(),
   *(get_space(n).graph for n in ("supnet-m", "supnet-e", "supnet-d121"))],
  ids=lambda g: g.name,
)  # fmt: skip
def test_segments_cover_a_graph_in_order(graph):
  segments = cut(graph)
  nodes = [n.name for n in graph.nodes if n.name not in graph.training_only]
  assert [name for s in segments for name in s.nodes] == nodes
  read = [l for s in segments for l in range(s.gates.start, s.gates.stop)]
  gates = [graph.gates[name] for name in nodes if name in graph.gates]
  assert read == [l for g in gates for l in range(g.start, g.stop)]
  known = {"images"}
  for s in segments:
    assert set(s.reads) <= known
    known = set(s.writes)
    assert known <= {*s.nodes, *s.reads, *known}
  assert segments[-1].writes == (graph.output,)
  assert 1 <= len(segments) <= 16


def test_scores_are_means_over_all_images():
  out = shared("running")(VARIABLES, ALL, per_example=True)
  assert out["correct"].shape == (len(ALL), N)
  np.testing.assert_allclose(out["accuracy"], out["correct"].mean(1))
