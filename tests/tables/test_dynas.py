import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas.errors import UserError
from jaxnas.tables import dynas, load_table

HEADER = "Sub-network,Date,Model Parameters,Latency (ms),MACs,Top-1 Acc (%)\n"


def net(ks=(3,) * 20, e=(3,) * 20, d=(2,) * 5, r=(224,)) -> dict:
  return {"wid": None, "ks": list(ks), "e": list(e), "d": list(d), "r": list(r)}


def line(network: dict, accuracy=75.0, macs=1000, params=10) -> str:
  return f'"{network}",2022-11-01,{params},0,{macs},{accuracy}\n'


@pytest.fixture
def load(text_table):
  return lambda *lines: load_table(text_table(HEADER + "".join(lines)))


def test_layers_past_the_depth_do_not_count(load, caplog):
  ks = [5, 3, 7, 7] * 5
  other = [5, 3, 3, 5] * 5
  deep = net(ks, d=(3, 2, 2, 2, 2))
  table = load(
    line(net(ks), 74.0), line(net(other), 75.0), line(deep, 76.0, 1200)
  )
  assert not caplog.records
  assert table.space.size == 2
  order = np.argsort(table.metrics["accuracy"])
  accuracy = table.metrics["accuracy"][order]
  np.testing.assert_allclose(accuracy, [0.745, 0.76])
  assert table.costs["macs"].values[order].tolist() == [1000, 1200]
  assert set(table.costs) == {"macs", "params"}  # latency was not measured
  names = table.space.choice_names(table.space.rows[order[1]])
  assert names[:9] == ["d3", "k5", "e3", "k3", "e3", "k7", "e3", "k3", "e3"]
  assert table.space.decisions[5] == "stage0_layer2_kernel"


@given(st.lists(st.integers(0, 2), min_size=45, max_size=45))
def test_canonical_equals_a_plain_loop(arch):
  want = list(arch)
  for s in range(5):
    for layer in range(4):
      if layer >= (2, 3, 4)[arch[9 * s]]:
        want[9 * s + 1 + 2 * layer] = want[9 * s + 2 + 2 * layer] = 0
  found = dynas.canonical(np.array([arch], np.int32))
  assert found.tolist() == [want]
  assert dynas.canonical(found).tolist() == [want]


def test_repeats_must_agree_in_their_counts(load):
  with pytest.raises(UserError, match="macs differs"):
    load(line(net(), macs=1), line(net(), macs=2))


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (line(net(ks=[4] + [3] * 19)), "row 1.*no sub-network"),
    (line(net(d=[2] * 4)), "20 ks, 20 e, 4 d"),
    (line(net(r=[192])), "192"),
    ("\"__import__('os').system('false')\",x,1,0,1,1\n", "no sub-network"),
    ('"[1, 2]",x,1,0,1,1\n', "no sub-network"),
    (line(net(), accuracy="high"), "'Top-1 Acc .%.'.*'high' is not a number"),
    (line(net(), accuracy=""), "is empty"),
    ('"{}",x,1\n', "3 fields for 6 columns"),
    ("", "0 rows"),
  ],
)
def test_what_cannot_be_read_is_named(load, text, message):
  with pytest.raises(UserError, match=message):
    load(text)


def test_a_missing_column_is_named(text_table):
  with pytest.raises(UserError, match="lacks the columns MACs.*IntelLabs"):
    load_table(text_table(HEADER.replace("MACs", "Macs") + line(net())))


def test_a_published_name_has_the_published_rows(text_table, caplog):
  name = "mbnv3w10_linasga_acc.csv"
  with pytest.raises(UserError, match="has 1 rows, not 361; get"):
    load_table(text_table(HEADER + line(net()), name))
  table = load_table(text_table(HEADER + line(net()) * 361, name))
  assert table.space.size == 1
  assert dynas.PUBLISHED[name][1] in caplog.text


def test_published_figures(shared_data, caplog):
  folder = shared_data("dynas-ofa-mbv3")
  table = load_table(folder)
  assert not caplog.records
  # 2,223 distinct texts, of which some differ in unused layers only.
  assert table.space.size == 2162
  macs, params = table.costs["macs"], table.costs["params"]
  assert (macs.smallest, macs.largest) == (122_972_112, 506_480_288)
  assert (params.smallest, params.largest) == (3_417_704, 7_359_136)
  accuracy = table.metrics["accuracy"]
  np.testing.assert_allclose(
    [accuracy.min(), accuracy.max()], [0.70998, 0.77466], atol=1e-12
  )
  one = load_table(folder / "mbnv3w10_linasga_acc.csv")
  assert one.space.size < 362 and one.fingerprint != table.fingerprint
  assert (table.space.find(one.space.rows) >= 0).all()
