import json

import numpy as np
import pytest

from jaxnas.costs import cost_tables
from jaxnas.errors import UserError
from jaxnas.spaces import get_space
from jaxnas.tables import load_table
from jaxnas.tables.nasbench_macro import SHA256, canonical

EVERY = np.indices((3,) * 8).reshape(8, -1).T.astype(np.int32)


def plain_canonical(a: str) -> str:
  """The reference of the data's description, on text."""
  stages = (a[0:2], a[2:5], a[5:8])
  return "".join(
    s[0] + s[1:].replace("0", "").ljust(len(s) - 1, "0") for s in stages
  )


def texts(archs):
  return ["".join(map(str, a)) for a in archs]


def test_canonical_equals_the_reference_everywhere():
  before = EVERY.copy()
  found = canonical(EVERY)
  assert texts(found) == [plain_canonical(a) for a in texts(EVERY)]
  np.testing.assert_array_equal(EVERY, before)
  np.testing.assert_array_equal(canonical(found), found)
  assert len(np.unique(found, axis=0)) == 3969


def test_a_file_of_that_shape(macro_file, macro_entries, caplog):
  table = load_table(macro_file)
  assert table.name == "nasbench-macro"
  assert table.space.size == 3969
  # A warning, with both sums, since the figures are not the published ones.
  assert SHA256 in caplog.text and table.fingerprint in caplog.text
  found = table.objective(EVERY)
  want = [macro_entries[a] for a in texts(EVERY)]
  mean = np.array([np.mean(row["test_acc"]) for row in want]) / 100
  np.testing.assert_allclose(found["accuracy"], mean, rtol=1e-14)
  std = np.array([row["std"] for row in want]) / 100
  np.testing.assert_allclose(found["accuracy_std"], std, rtol=1e-10)
  for s in range(3):
    seed = np.array([row["test_acc"][s] for row in want]) / 100
    np.testing.assert_array_equal(found[f"accuracy_seed{s}"], seed)
  costs = cost_tables(get_space("nasbench-macro"))
  for name in ("macs", "params"):
    np.testing.assert_array_equal(found[name], costs[name](EVERY))
    np.testing.assert_array_equal(table.costs[name](EVERY), found[name])
    assert table.costs[name].smallest == costs[name].smallest
    assert table.costs[name].largest == costs[name].largest


def test_additive_fit_of_an_additive_cost(macro_file):
  # The exact table is known here, up to what each layer adds at least.
  fit = load_table(macro_file).costs["macs"]
  want = cost_tables(get_space("nasbench-macro"))["macs"].table
  want = want - want.min(1, keepdims=True)
  np.testing.assert_allclose(fit.table, want, atol=1e-6 * want.max())


def damage_key(entries):
  entries["00000003"] = entries.pop("00000000")


def drop_key(entries):
  del entries["22222222"]


def two_seeds(entries):
  entries["00000000"]["test_acc"] = [1.0, 2.0]


def nan_seed(entries):
  entries["00000000"]["test_acc"][1] = float("nan")


def no_flops(entries):
  del entries["00000000"]["flops"]


def text_params(entries):
  entries["00000000"]["params"] = "many"


def no_entry(entries):
  entries["00000000"] = None


@pytest.mark.parametrize(
  "damage",
  [damage_key, drop_key, two_seeds, nan_seed, no_flops, text_params, no_entry],
)
def test_a_wrong_shape_names_the_fix(macro_entries, tmp_path, damage):
  entries = json.loads(json.dumps(macro_entries))
  damage(entries)
  path = tmp_path / "wrong.json"
  path.write_text(json.dumps(entries))
  with pytest.raises(UserError, match="wrong.json.*xiusu/NAS-Bench-Macro"):
    load_table(path)


def test_half_a_file_names_the_fix(macro_file, tmp_path):
  path = tmp_path / "half.json"
  path.write_bytes(macro_file.read_bytes()[:100_000])
  with pytest.raises(UserError, match="half.json.*xiusu/NAS-Bench-Macro"):
    load_table(path)


def test_one_network_has_one_count(macro_entries, tmp_path):
  entries = json.loads(json.dumps(macro_entries))
  entries["22212202"]["flops"] += 1
  path = tmp_path / "two.json"
  path.write_text(json.dumps(entries))
  with pytest.raises(UserError, match="macs differs between lines of one"):
    load_table(path)


def test_published_figures(shared_data, caplog):
  path = shared_data("nas-bench-macro/nas-bench-macro_cifar10.json")
  table = load_table(path)
  assert not caplog.records and table.fingerprint == SHA256
  entries = json.loads(path.read_text())
  archs = np.array([[int(c) for c in a] for a in entries], np.int32)
  found = table.objective(archs)
  # All 6,561 rows, duplicates through their canonical form.
  costs = cost_tables(get_space("nasbench-macro"))
  for name in ("macs", "params"):
    np.testing.assert_array_equal(found[name], costs[name](archs))
  mean = np.array([row["mean_acc"] for row in entries.values()]) / 100
  np.testing.assert_allclose(found["accuracy"], mean, atol=1e-6)
  std = np.array([row["std"] for row in entries.values()]) / 100
  np.testing.assert_allclose(found["accuracy_std"], std, atol=1e-6)
  assert len(found["accuracy"]) == 6561
  accuracy = 100 * table.metrics["accuracy"]
  assert table.space.size == len(accuracy) == 3969
  assert np.round([accuracy.min(), accuracy.max()], 3).tolist() == [
    45.363, 93.127,
  ]  # fmt: skip
  best = table.space.rows[accuracy.argmax()]
  assert table.space.to_string(best) == "22212220"
  np.testing.assert_array_equal(table.space.from_string("best"), best)
  row = table.objective(table.space.from_string("22212202")[None])
  assert (row["params"][0], row["macs"][0]) == (1_985_514, 85_164_544)
  for limit, arch, value in (
    (60e6, "21220200", 92.567),
    (40e6, "11110200", 91.507),
  ):
    cheap = np.where(table.costs["macs"].values <= limit, accuracy, 0)
    winner = table.space.rows[cheap.argmax()]
    np.testing.assert_array_equal(winner, table.space.from_string(arch))
    assert round(cheap.max(), 3) == value
