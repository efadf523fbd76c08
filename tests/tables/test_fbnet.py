import numpy as np
import pytest

from jaxnas.errors import UserError
from jaxnas.tables import fbnet, load_table


def save(path, arrays):
  np.savez(path, **arrays)
  return path


def test_a_file_of_that_shape(fbnet_arrays, tmp_path, caplog):
  table = load_table(save(tmp_path / "f.npz", fbnet_arrays))
  assert fbnet.SHA256 in caplog.text
  assert (table.name, table.space.n_layers) == ("fbnet", 22)
  assert not table.metrics and len(table.costs) == 27
  archs = fbnet_arrays["arch"].astype(np.int32)
  found = table.objective(archs)
  np.testing.assert_array_equal(found["latency.dev3"], archs.sum(1) + 3.0)
  assert table.space.choice_names(archs[0])[0] == f"op{archs[0, 0]}"
  # The additive fit finds that each choice costs its index.
  fit = table.costs["latency.dev3"].table
  np.testing.assert_allclose(fit, np.tile(np.arange(9.0), (22, 1)), atol=1e-9)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"arch": None}, "no arch"),
    ({"arch": np.zeros((5000, 21), np.int8)}, r"arch is int8\[5000, 21\]"),
    ({"arch": np.full((5000, 22), 9, np.int8)}, "arch holds 9..9"),
    ({"op_names": np.arange(9)}, "op_names is int64"),
    ({"lat_Dev0": None}, "26 arrays lat_"),
    ({"lat_Dev0": np.zeros(10)}, r"latency.dev0 is float64\[10\]"),
    ({"lat_Dev0": np.full(5000, np.nan)}, "latency.dev0 lacks values"),
    ({"lat_Dev0": np.full(5000, None)}, "allow_pickle"),
  ],
)
def test_a_wrong_shape_names_the_fix(fbnet_arrays, tmp_path, changes, message):
  arrays = {k: v for k, v in (fbnet_arrays | changes).items() if v is not None}
  with pytest.raises(UserError, match=f"{message}.*HayeonLee/HELP"):
    load_table(save(tmp_path / "wrong.npz", arrays))


def test_half_a_file_names_the_fix(fbnet_arrays, tmp_path):
  path = save(tmp_path / "f.npz", fbnet_arrays)
  path.write_bytes(path.read_bytes()[:500_000])
  with pytest.raises(UserError, match="HayeonLee/HELP"):
    load_table(path)


def test_published_figures(shared_data, caplog):
  table = load_table(shared_data("help-latency/fbnet_arch_latency.npz"))
  assert not caplog.records
  assert table.space.size == 5000
  assert table.space.choices[0][:2] == ("k3_e1", "k3_e1_g2")
  assert table.costs["latency.pixel2"].smallest == 19
  # Latencies of pixel3 are sums over layers, so the fit explains them.
  cost = table.costs["latency.pixel3"]
  rows = table.space.rows
  fitted = cost.table[np.arange(22), rows].sum(1)
  rest = cost.values - fitted
  assert rest.std() < 0.01 * cost.values.std()
