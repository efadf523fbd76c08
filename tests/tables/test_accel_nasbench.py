import gzip

import numpy as np
import pytest

from jaxnas.errors import UserError
from jaxnas.tables import accel_nasbench, load_table


@pytest.fixture(scope="module")
def files(accel_rows, write_accel, tmp_path_factory):
  folder = tmp_path_factory.mktemp("accel")
  files = {
    "csv": write_accel["csv"](accel_rows, folder / "a.csv"),
    "tar": write_accel["tar"](accel_rows, folder / "a.tar.gz"),
    "gzip": folder / "b.csv.gz",
  }
  files["gzip"].write_bytes(gzip.compress(files["csv"].read_bytes()))
  return files


def arch_of(row: dict) -> list[int]:
  return [v.index(row[c]) for c, v in accel_nasbench.LEGAL.items()]


def test_every_form_gives_the_same_table(files, accel_rows, caplog):
  tables = {name: load_table(path) for name, path in files.items()}
  assert len(caplog.records) == 3  # none of them is the published file
  archs = np.array([arch_of(row) for row in accel_rows], np.int32)
  wanted = tables["csv"].objective(archs)
  assert {"accuracy", "throughput.a100", "latency.zcu102"} < set(wanted)
  for table in tables.values():
    assert (table.name, table.space.size) == ("accel-nasbench", 5137)
    assert table.space.n_layers == 28
    for name, values in table.objective(archs).items():
      np.testing.assert_array_equal(values, wanted[name], name)


def test_values_repeats_and_gaps(files, accel_rows):
  table = load_table(files["csv"])
  found = table.objective(np.array([arch_of(r) for r in accel_rows[:3]]))
  np.testing.assert_allclose(found["accuracy"], [0.51, 0.50001, 0.50002])
  # Counts of millions become the whole numbers behind them.
  assert found["macs"].tolist() == [100_000_001, 101_000_001, 102_000_001]
  assert found["params"].tolist() == [2_000_003] * 3
  # The mean of a value and a gap is the value; a gap alone is NaN.
  assert found["throughput.a100"][0] == 100
  assert np.isnan(found["throughput.tpuv3"]).tolist() == [False, True, False]
  names = table.space.choice_names(arch_of(accel_rows[0]))
  row = accel_rows[0]
  assert names[:2] == [f"e{row['block0_e']}", f"k{row['block0_k']}"]


@pytest.mark.parametrize("form", ["csv", "tar"])
@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda rows: rows[:-1], "5137 rows, not 5138"),
    (lambda rows: [rows[0] | {"block3_k": 7}, *rows[1:]], "block3_k holds 7"),
    (lambda rows: [rows[0] | {"val_top1": "high"}, *rows[1:]], "val_top1"),
    (lambda rows: [rows[0] | {"macs": ""}, *rows[1:]], "macs lacks"),
    (lambda rows: [rows[0] | {"block0_l": 4}, *rows[1:]], "block0_l holds 4"),
  ],
)
def test_a_wrong_shape_names_the_fix(
  form, damage, message, accel_rows, write_accel, tmp_path
):
  path = write_accel[form](damage(accel_rows), tmp_path / f"wrong.{form}")
  with pytest.raises(UserError, match=f"{message}.*afzalxo/Accel-NASBench"):
    load_table(path)


def test_a_missing_column_is_named(accel_rows, write_accel, tmp_path):
  rows = [{k: v for k, v in r.items() if k != "params"} for r in accel_rows]
  path = write_accel["csv"](rows, tmp_path / "wrong.csv")
  with pytest.raises(UserError, match="columns are missing: params"):
    load_table(path)


@pytest.mark.parametrize(
  "name", ["accel-nasbench.csv.gz", "anb_dataset_jsons.tar.gz"]
)
def test_published_figures(shared_data, name, caplog):
  table = load_table(shared_data(f"accel-nasbench/{name}"))
  assert not caplog.records
  assert table.space.size == 5125
  accuracy = 100 * table.metrics["accuracy"]
  assert np.round([accuracy.min(), accuracy.max()], 2).tolist() == [
    42.85,
    67.05,
  ]
  macs, params = table.costs["macs"], table.costs["params"]
  assert (macs.smallest, macs.largest) == (84_141_456, 718_968_488)
  assert (params.smallest, params.largest) == (1_838_752, 7_972_194)
  gaps = {n: int(np.isnan(v).sum()) for n, v in table.metrics.items()}
  assert gaps["throughput.tpuv3"] == 44 and gaps["throughput.a100"] == 0
  # Result 0 and 443 are one network, at 59.368 and 59.248.
  arch = [2, 0, 0, 0, 1, 1, 1, 0, 2, 0, 2, 0, 2, 1, 2, 0, 2, 1, 1, 0,
          0, 0, 1, 0, 0, 0, 1, 0]  # fmt: skip
  found = table.objective([arch])
  assert found["accuracy"][0] == pytest.approx(0.59308, abs=1e-9)
  assert found["macs"][0] == 415_361_072
  four = table.space.rows[:, list(accel_nasbench.LEGAL).index("block5_l")] == 3
  assert four.sum() == 1059
