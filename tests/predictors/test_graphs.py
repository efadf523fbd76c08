"""Chains and DAGs, and the GCN on both forms."""

import dataclasses

import jax
import jraph
import numpy as np
import pytest

from jaxnas.config import PredictorConfig
from jaxnas.errors import UserError
from jaxnas.predictors import Chain, dag, fit_graphs, stack
from jaxnas.predictors.gcn import ChainGcn, Gcn
from jaxnas.predictors.graphs import normalised

SIZES = (6, 3, 3, 4)  # a super-cell and three cells
OPTIONS = [
  {},
  {"shared_slots": True},
  {"directed": True},
]


def archs_of(n, seed=0):
  return np.random.default_rng(seed).integers(0, SIZES, (n, 4))


@pytest.mark.parametrize("options", OPTIONS)
def test_adjacency_rows_sum_to_1(options):
  chain = Chain(SIZES, **options)
  for a in (chain.adjacency, chain.reverse_adjacency):
    np.testing.assert_allclose(a.sum(1), 1, rtol=1e-6)


def test_adjacency_of_a_chain_by_hand():
  a = Chain((2, 2)).adjacency  # cell, cell, input, output, global
  third, half, fifth = 1 / 3, 1 / 2, 1 / 5
  np.testing.assert_allclose(
    a,
    [
      [third, third, third, 0, 0],
      [third, third, 0, third, 0],
      [half, 0, half, 0, 0],
      [0, half, 0, half, 0],
      [fifth] * 5,
    ],
  )
  forward = Chain((2, 2), directed=True).adjacency
  np.testing.assert_allclose(forward[1], [half, half, 0, 0, 0])
  np.testing.assert_allclose(forward[2], [0, 0, 1, 0, 0])


def test_a_super_cell_has_slots_of_its_own():
  chain = Chain(SIZES)
  assert chain.n_slots == 16
  assert chain.first_slots.tolist() == [0, 6, 9, 12]
  assert Chain(SIZES, shared_slots=True).n_slots == 6
  nodes = chain.graphs(np.array([[5, 2, 0, 3]])).nodes[0]
  assert np.flatnonzero(nodes[:, :16].sum(0)).tolist() == [5, 8, 9, 15]
  assert nodes.sum(1).tolist() == [3, 3, 3, 3, 1, 1, 1]


@pytest.mark.parametrize("readout", ["global", "mean"])
@pytest.mark.parametrize("options", OPTIONS)
def test_dense_chains_equal_the_jraph_form(options, readout):
  net = ChainGcn(Chain(SIZES, **options), 3, 16, readout)
  params = net.init(jax.random.key(0))
  archs = archs_of(9)
  dense = net.apply(params, archs)
  general = net.general.apply(params, net.chain.graphs(archs))
  np.testing.assert_allclose(dense, general, rtol=1e-4, atol=1e-5)
  assert np.std(dense) > 1e-3


def test_one_layer_by_hand():
  chain = Chain((2, 2))
  net = ChainGcn(chain, 1, 8, "mean")
  params = net.init(jax.random.key(1))
  h = np.asarray(chain.graphs(np.array([[1, 0]])).nodes[0])
  h = np.maximum(chain.adjacency @ h @ np.asarray(params["kernels"][0][0]), 0)
  expected = h.mean(0) @ np.asarray(params["out"])
  found = net.apply(params, np.array([[1, 0]]))
  np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize("shared_slots", [False, True])
def test_permuting_the_ops_changes_the_prediction(shared_slots):
  net = ChainGcn(Chain((3, 3, 3, 3), shared_slots), 4, 16)
  params = net.init(jax.random.key(0))
  archs = np.array([[0, 1, 2, 0], [1, 0, 2, 0], [0, 2, 1, 0], [0, 0, 1, 2]])
  out = np.asarray(net.apply(params, archs))
  assert len(np.unique(out.round(5))) == 4


def test_padding_changes_nothing():
  graph = dag(
    [0, 1, 2], [(0, 1), (1, 2), (0, 2)], [1, 0, 1], n_types=3, n_labels=2
  )
  net = Gcn(4, 2, 3, 2, 8, readout="mean")
  params = net.init(jax.random.key(0))
  plain = net.apply(params, stack([graph]))
  padded = net.apply(params, stack([graph], 12, 40))
  np.testing.assert_allclose(plain, padded, rtol=1e-5)


@pytest.mark.parametrize("directed", [False, True])
def test_a_dag_without_positions_has_no_order_of_nodes(directed):
  make = lambda types, edges, labels: dag(
    types, edges, labels, n_types=3, n_labels=2, directed=directed
  )
  one = make([0, 1, 2, 1], [(0, 1), (1, 2), (0, 3), (3, 2)], [0, 1, 1, 1])
  same = make([2, 1, 1, 0], [(3, 2), (2, 0), (3, 1), (1, 0)], [0, 1, 1, 1])
  other = make([0, 1, 2, 1], [(0, 1), (1, 2), (0, 3), (3, 2)], [1, 1, 1, 1])
  net = Gcn(4, 2, 3, 3, 16, directed=directed)
  params = net.init(jax.random.key(0))
  a, b, c = np.asarray(net.apply(params, stack([one, same, other])))
  assert a == pytest.approx(b, rel=1e-4)
  assert abs(a - c) > 1e-3


def test_edges_of_a_dag():
  graph = dag([0, 1], [(0, 1)], [2], n_types=2, n_labels=3, n_positions=2)
  assert isinstance(graph, jraph.GraphsTuple)
  pairs = list(
    zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True)
  )
  assert pairs == [(0, 1), (1, 0), (0, 0), (1, 1), (2, 2), (0, 2), (1, 2)]
  assert graph.edges.sum(1).tolist() == [1, 1, 0, 0, 0, 0, 0]
  assert graph.nodes.tolist() == [
    [1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0],
  ]  # fmt: skip
  a = normalised(graph.senders, graph.receivers, 3)
  np.testing.assert_allclose(a.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"node_types": [0, 5, 1]}, "node type 5; legal: 0 to 2"),
    ({"edges": [(0, 1), (1, 4)]}, "node of an edge 4; legal: 0 to 2"),
    ({"labels": [0, 2]}, "edge label 2; legal: 0 to 1"),
    ({"labels": [0]}, "1 labels for 2 edges"),
    ({"edges": [(0, 1), (1, 0)]}, "cycle"),
    ({"n_positions": 2}, "3 nodes, but only 2 positions"),
  ],
)
def test_dags_that_make_no_sense_are_refused(change, message):
  good = {
    "node_types": [0, 1, 2], "edges": [(0, 1), (1, 2)], "labels": [0, 1],
    "n_types": 3, "n_labels": 2,
  }  # fmt: skip
  with pytest.raises(UserError, match=message):
    dag(**(good | change))


def cell(ops):
  """A cell of four nodes whose six edges carry operators."""
  edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
  return dag([0, 1, 1, 2], edges, ops, n_types=3, n_labels=3, n_positions=4)


def test_labelled_edges_are_learned():
  rng = np.random.default_rng(0)
  ops = rng.integers(0, 3, (400, 6))
  worth = rng.normal(size=(6, 3))
  y = 80 + worth[np.arange(6), ops].sum(1)
  graphs = stack([cell(o) for o in ops])
  head = jax.tree.map(lambda a: a[:320], graphs)
  rest = jax.tree.map(lambda a: a[320:], graphs)
  config = PredictorConfig(
    kind="gcn", ensemble=2, layers=3, width=32, epochs=100, learning_rate=5e-3
  )
  fitted = fit_graphs(head, y[:320], config, 0, global_column=3)
  mean, spread = fitted.predict(rest)
  assert np.corrcoef(mean, y[320:])[0, 1] > 0.85
  assert (spread > 0).all()
  again = fit_graphs(head, y[:320], config, 0, global_column=3)
  assert (again.predict(rest)[0] == mean).all()
  larger = stack([cell(o) for o in ops[320:]], 9, 40)
  np.testing.assert_allclose(fitted.predict(larger)[0], mean, atol=1e-3)
  assert dataclasses.asdict(config)["ensemble"] == len(fitted.info["epochs"])
