"""Files of the shape of the published ones, with figures made up here."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxnas.costs import cost_tables
from jaxnas.spaces import get_space
from jaxnas.tables import accel_nasbench, fbnet
from jaxnas.tables.nasbench_macro import canonical


@pytest.fixture(scope="session")
def macro_entries() -> dict:
  space = get_space("nasbench-macro")
  archs = np.indices(space.n_choices).reshape(8, -1).T.astype(np.int32)
  costs = cost_tables(space)
  seeds = 80 + canonical(archs).sum(1)[:, None] / 2 + np.array([0.1, 0.2, 0.6])
  macs, params = costs["macs"](archs), costs["params"](archs)
  return {
    "".join(map(str, arch)): {
      "test_acc": seeds[i].tolist(),
      "mean_acc": seeds[i].mean(),
      "std": seeds[i].std(),
      "params": int(params[i]),
      "flops": int(macs[i]),
    }
    for i, arch in enumerate(archs)
  }


@pytest.fixture(scope="session")
def macro_file(macro_entries, tmp_path_factory) -> Path:
  path = tmp_path_factory.mktemp("macro") / "macro.json"
  path.write_text(json.dumps(macro_entries))
  return path


@pytest.fixture(scope="session")
def accel_rows() -> list[dict]:
  """5,138 rows; the last repeats the first, row 1 lacks a throughput."""
  rng, rows, seen = np.random.default_rng(0), [], set()
  while len(rows) < accel_nasbench.ROWS - 1:
    arch = tuple(int(rng.choice(v)) for v in accel_nasbench.LEGAL.values())
    if arch not in seen:
      seen.add(arch)
      row = dict(zip(accel_nasbench.LEGAL, arch, strict=True))
      row |= {"val_top1": 50 + len(rows) / 1000, "val_top5": 80.0,
              "train_time": 2000.0, "macs": 100.000001 + len(rows),
              "params": 2.000003}  # fmt: skip
      for d in accel_nasbench.THROUGHPUTS:
        row[f"throughput_{d}__mean"] = 100.0 + len(rows)
      for d in accel_nasbench.LATENCIES:
        row[f"latency_{d}__mean"] = 1.0 + len(rows) / 1000
      rows.append(row)
  rows[1]["throughput_tpuv3__mean"] = ""
  rows.append(rows[0] | {"val_top1": 52.0, "throughput_a100__mean": ""})
  return rows


def accel_csv(rows: list[dict], path: Path) -> Path:
  with open(path, "w", newline="") as file:
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
  return path


def accel_tar(rows: list[dict], path: Path) -> Path:
  with tarfile.open(path, "w:gz", compresslevel=1) as archive:
    for i, row in enumerate(rows):
      value = {c: row[c] for c in accel_nasbench.LEGAL}
      value |= {c: bool(v) for c, v in value.items() if c.endswith("_se")}
      perf = {}
      for column, v in row.items():
        if column.endswith("__mean"):
          name = column.removesuffix("__mean")
          perf[name] = {f"{name.split('_')[0]}_mean": None if v == "" else v}
      entry = {
        "architecture": value,
        "metrics": {k: row[k] for k in ("val_top1", "val_top5", "train_time")},
        "model_info": {k: row[k] for k in ("macs", "params")},
        "platform_perf": perf,
      }
      data = json.dumps(entry).encode()
      member = tarfile.TarInfo(f"./anb_dataset_jsons/result_{i}.json")
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return path


@pytest.fixture(scope="session")
def write_accel():
  return {"csv": accel_csv, "tar": accel_tar}


@pytest.fixture(scope="session")
def fbnet_arrays() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(1)
  arrays = {
    "op_names": np.array([f"op{i}" for i in range(fbnet.OPS)]),
    "arch": rng.integers(0, fbnet.OPS, fbnet.SHAPE).astype(np.int8),
  }
  for d in range(fbnet.DEVICES):
    arrays[f"lat_Dev{d}"] = arrays["arch"].sum(1) + float(d)
  return arrays


@pytest.fixture
def text_table(tmp_path):
  """Writes a small CSV table and returns its path."""

  def write(text: str, name: str = "mine.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path

  return write
