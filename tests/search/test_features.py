"""Features of layers: golden counts, a plain reference, what they ignore."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.errors import UserError
from jaxnas.search.features import FeatureMap, canonical
from jaxnas.spaces import expert, get_space, nsc
from jaxnas.spaces.nsc import Code

SPACE = get_space("blocks-digits", max_layers=8)
KINDS = ("onehot", "code", "topology")
BASIC = expert("resnet-basic")


def sampled(seed, n=1):
  archs = SPACE.sample(np.random.default_rng(seed), n)
  return [SPACE.codes(arch) for arch in archs]


def named(features, vector):
  """The features that are not 0."""
  pairs = zip(features.names, vector, strict=True)
  return {name: pytest.approx(value) for name, value in pairs if value}


def plain(codes, offsets, topology=False):
  """Names of each layer's features, written down one by one."""
  rows = []
  for t, (op, *preds) in enumerate(codes, 1):
    name, read = nsc.OPS[op], preds if op in (9, 10) else preds[:1]
    row = {f"type {name.rstrip('135')}"}
    for k in (0, 1):
      far = t - read[k] if k < len(read) else 0
      text = f"{offsets}+" if far >= offsets else str(far)
      row.add(f"pred{k + 1} " + (f"offset {text}" if far else "none"))
    if topology:
      by = sum(t in nsc.reads(code) for code in codes)
      row |= {f"reads {len(read)}", f"read by {by if by < 3 else '3+'}"}
    else:
      row.add(f"kernel {name[-1] if name[-1] in '135' else 'none'}")
    rows.append(row)
  return rows


def test_resnet_basic_golden():
  features = FeatureMap()
  assert len(features.names) == len(set(features.names)) == 7 + 4 + 2 * 5
  assert named(features, features.counts(BASIC)) == {
    "type conv": 2 / 3, "type add": 1 / 3,
    "kernel 3": 2 / 3, "kernel none": 1 / 3,
    "pred1 offset 1": 2 / 3, "pred1 offset 3": 1 / 3,
    "pred2 none": 2 / 3, "pred2 offset 1": 1 / 3,
  }  # fmt: skip


def test_topology_golden():
  features = FeatureMap("topology")
  assert named(features, features.counts(BASIC)) == {
    "type conv": 2 / 3, "type add": 1 / 3,
    "pred1 offset 1": 2 / 3, "pred1 offset 3": 1 / 3,
    "pred2 none": 2 / 3, "pred2 offset 1": 1 / 3,
    "reads 1": 2 / 3, "reads 2": 1 / 3,
    "read by 0": 1 / 3, "read by 1": 2 / 3,
  }  # fmt: skip


def test_code_golden():
  rows = FeatureMap("code").of_layers(BASIC)
  expected = [
    [1 / 3, 1 / 7, 3 / 5, 0, 0],
    [2 / 3, 1 / 7, 3 / 5, 1 / 3, 0],
    [1, 5 / 7, 0, 0, 2 / 3],
  ]
  np.testing.assert_allclose(rows, expected)


@settings(max_examples=60, deadline=None)
@given(
  seed=st.integers(0, 10**6),
  offsets=st.integers(1, 9),
  topology=st.booleans(),
)
def test_agrees_with_a_plain_reference(seed, offsets, topology):
  codes = sampled(seed)[0]
  features = FeatureMap("topology" if topology else "onehot", offsets)
  rows = features.of_layers(codes)
  assert rows.dtype == np.float64 and set(np.unique(rows)) <= {0.0, 1.0}
  names = [{features.names[k] for k in np.flatnonzero(row)} for row in rows]
  assert names == plain(codes, offsets, topology)


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_and_the_terminal(kind):
  features = FeatureMap(kind)
  counts = features.counts_of(
    SPACE, SPACE.sample(np.random.default_rng(0), 200)
  )
  assert counts.shape == (200, len(features.names))
  assert counts.min() >= 0 and counts.max() <= 1
  if kind != "code":
    assert not counts[:, features.names.index("type terminal")].any()


def test_onehot_does_not_depend_on_the_place():
  """The same wiring further back in a block has the same features."""
  shifted = tuple(
    Code(op, a + 2, b + 2 if op in nsc.TWO_INPUTS else 0) for op, a, b in BASIC
  )
  longer = (Code(1, 0, 0), Code(1, 1, 0), *shifted)
  for offsets in (2, 4):
    features = FeatureMap(offsets=offsets)
    np.testing.assert_array_equal(
      features.of_layers(longer)[2:], features.of_layers(BASIC)
    )


def test_topology_ignores_kernels_and_onehot_does_not():
  other = tuple(Code(1, *c[1:]) if c.op == 2 else c for c in BASIC)
  topology, onehot = FeatureMap("topology"), FeatureMap()
  np.testing.assert_array_equal(topology.counts(BASIC), topology.counts(other))
  assert not np.array_equal(onehot.counts(BASIC), onehot.counts(other))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_the_same_in_larger_spaces(kind):
  large = get_space("blocks-cifar")
  features = FeatureMap(kind)
  for codes in sampled(4, 10):
    rows = [
      features.counts_of(s, s.from_codes(codes)[None]) for s in (SPACE, large)
    ]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize("kind", KINDS)
def test_discounts(kind):
  features, codes = FeatureMap(kind), expert("resnext-2")
  rows = features.of_layers(codes)
  total = sum(0.9**t * row for t, row in enumerate(rows, 1))
  np.testing.assert_allclose(features.counts(codes, 0.9), total)
  np.testing.assert_allclose(features.counts(codes), sum(rows) / len(codes))
  arch = SPACE.from_codes(codes)[None]
  np.testing.assert_allclose(features.counts_of(SPACE, arch, 0.9), total[None])


def test_canonical_form_is_that_of_the_space():
  archs = SPACE.sample(np.random.default_rng(5), 100)
  same = SPACE.canonical(archs)
  assert not np.array_equal(archs, same)
  for arch, expected in zip(archs, same, strict=True):
    assert canonical(SPACE.codes(arch)) == SPACE.codes(expected)


@pytest.mark.parametrize(
  ("build", "message"),
  [
    (lambda: FeatureMap("onehott"), "onehot"),
    (lambda: FeatureMap(offsets=0), "offsets"),
    (lambda: FeatureMap().counts(BASIC, 0), "discount"),
    (lambda: FeatureMap().counts(BASIC, 1.1), "discount"),
    (lambda: FeatureMap().counts(()), "without layers"),
  ],
)
def test_mistakes(build, message):
  with pytest.raises(UserError, match=message):
    build()
