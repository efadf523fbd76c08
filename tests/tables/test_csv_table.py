import numpy as np
import pytest

from jaxnas.errors import UserError
from jaxnas.tables import load_table

TEXT = """arch,accuracy,macs,latency.pixel,energy
0-0-0,0.5,100,1.5,3
2-0-1,0.75,300,,4
110,0.625,200,2.5,5
"""


def test_metrics_and_costs(text_table, caplog):
  table = load_table(text_table(TEXT))
  assert not caplog.records
  assert table.name == "mine"
  assert table.space.choices == (("0", "1", "2"), ("0", "1"), ("0", "1"))
  assert set(table.metrics) == {"accuracy", "energy"}
  assert set(table.costs) == {"macs", "latency.pixel"}
  found = table.objective(np.array([[2, 0, 1], [0, 0, 0]]))
  np.testing.assert_array_equal(found["accuracy"], [0.75, 0.5])
  np.testing.assert_array_equal(found["latency.pixel"], [np.nan, 1.5])
  assert found["macs"].dtype == np.int64
  cost = table.costs["latency.pixel"]
  assert (cost.smallest, cost.largest) == (1.5, 2.5)
  assert np.isfinite(cost.table).all()


def test_lines_of_one_arch_are_averaged(text_table):
  table = load_table(text_table("arch,accuracy\n01,0.5\n0-1,1.0\n10,0.25\n"))
  assert table.space.size == 2
  np.testing.assert_array_equal(table.metrics["accuracy"], [0.75, 0.25])


def test_windows_line_ends_and_a_byte_order_mark(tmp_path):
  path = tmp_path / "w.csv"
  path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
  assert load_table(path).space.size == 3


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("arch,accuracy\n0x1,1\n", "row 1: arch '0x1'"),
    ("arch,accuracy\n01,1\n012,1\n", "row 2: arch '012' has 3 indices"),
    ("arch,accuracy\n01,good\n", "column 'accuracy', row 1: 'good'"),
    ("arch,accuracy\n01,\n", "'accuracy' holds no number"),
    ("arch,accuracy\n01\n", "1 fields for 2 columns"),
    ("arch,accuracy\n", "at least one column of numbers and one row"),
    ("arch\n01\n", "at least one column of numbers and one row"),
    ("arch,a,a\n01,1,2\n", "distinct"),
    ("arch,\n01,1\n", "distinct and not empty"),
    ("arch,macs\n01,1\n01,2\n", "macs differs"),
  ],
)
def test_what_cannot_be_read_is_named(text_table, text, message):
  with pytest.raises(UserError, match=message):
    load_table(text_table(text))
