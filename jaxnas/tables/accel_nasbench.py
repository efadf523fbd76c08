"""Accel-NASBench: MBConv networks on ImageNet with throughputs and latencies.

github.com/afzalxo/Accel-NASBench. Read from the published archive of JSON
files, or from a CSV table (plain or gzip) with one row for each of them.
"""

import io
import json
import re
import tarfile

import numpy as np

from jaxnas.errors import UserError
from jaxnas.tables import base

FILES = ("anb_dataset_jsons.tar.gz", "accel-nasbench.csv.gz")
ORIGIN = (
  "anb_dataset/anb_dataset_jsons.tar.gz from github.com/afzalxo/Accel-NASBench"
  " (commit 42603572)"
)
SHA256 = {
  "tar": "3520992d42e368b7c08c99fc3f6612855b5b366bf98668a7f19d49f3131aa4ae",
  "text": "761af83c80d67e8afd30e76fc8bf6eb91d6597748f11d719d11e2ed7c2e31c24",
}
ROWS = 5138
BLOCKS = 7
# The published rows from number 4079 on have 4 layers in block 5, others 1-3.
LEGAL = {
  f"block{b}_{key}": values + ((4,) if (b, key) == (5, "l") else ())
  for b in range(BLOCKS)
  for key, values in (("e", (1, 4, 6)), ("k", (3, 5)), ("l", (1, 2, 3)),
                      ("se", (0, 1)))
}  # fmt: skip
THROUGHPUTS = ("a100", "3090", "tpuv2", "tpuv3", "zcu102", "vck190")
LATENCIES = ("zcu102", "vck190")
COLUMNS = (
  *LEGAL, "val_top1", "val_top5", "train_time", "macs", "params",
  *(f"throughput_{d}__mean" for d in THROUGHPUTS),
  *(f"latency_{d}__mean" for d in LATENCIES),
)  # fmt: skip
ABOUT = (
  "Accuracy is the top-1 on the ImageNet validation images after a shortened"
  " training scheme, one seed: a proxy, below full training. 5,138 trainings of"
  " 5,125 distinct networks; 13 networks were trained twice (0.09 points apart"
  " at the median, 1.28 at most) and hold the mean. Block 5 has 4 layers in the"
  " later rows of the file and 1 to 3 in the others. Most device columns lack 2"
  " to 44 values: NaN here, which never wins and keeps no budget."
)


def matches(source: base.Source) -> bool:
  """Whether the file is for this format to read."""
  return source.kind == "tar" or "block0_e" in source.header


def load(sources: list[base.Source]) -> base.Table:
  """Reads the table.

  Args:
    sources: the one file.

  Returns:
    A table of 28 decisions with the metrics `accuracy` and `accuracy_top5`
    (shares from 0 to 1), `train_time` (as published, in seconds) and
    `throughput.DEVICE` (images a second), the exact counts `macs` and `params`,
    and `latency.DEVICE` (ms) as costs.

  Raises:
    UserError: if the file does not have the published shape.
  """
  (source,) = sources
  try:
    rows = _untar(source) if source.kind == "tar" else source.rows()
    if len(rows) != ROWS:
      raise ValueError(f"it has {len(rows)} rows, not {ROWS}")
    missing = [c for c in COLUMNS if c not in rows[0]]
    if missing:
      raise ValueError(f"columns are missing: {', '.join(missing)}")
    columns = {
      c: np.array([base.number(row[c], f"column {c}") for row in rows])
      for c in COLUMNS
    }
    archs = np.stack([_indices(c, columns[c]) for c in LEGAL], 1)
    for c in ("val_top1", "macs", "params"):
      if not np.isfinite(columns[c]).all():
        raise ValueError(f"column {c} lacks values")
  except ValueError as error:  # UserError is one
    raise UserError(
      f"{source.path} is not the table of Accel-NASBench:"
      f" {str(error).rstrip('.')}; get {ORIGIN}."
    ) from error
  base.check_published(source, SHA256[source.kind])
  metrics = {
    "accuracy": columns["val_top1"] / 100,
    "accuracy_top5": columns["val_top5"] / 100,
    "train_time": columns["train_time"],
  }
  metrics |= {f"throughput.{d}": columns[f"throughput_{d}__mean"]
              for d in THROUGHPUTS}  # fmt: skip
  # The file counts in millions; the counts behind it are whole.
  costs = {c: np.rint(columns[c] * 1e6).astype(np.int64)
           for c in ("macs", "params")}  # fmt: skip
  costs |= {f"latency.{d}": columns[f"latency_{d}__mean"] for d in LATENCIES}
  choices = tuple(
    tuple(f"{decision.split('_')[1]}{value}" for value in values)
    for decision, values in LEGAL.items()
  )
  return base.build_table(
    "accel-nasbench", choices, archs, metrics, costs, source.sha256, ABOUT,
    decisions=tuple(LEGAL),
  )  # fmt: skip


def _indices(column: str, values: np.ndarray) -> np.ndarray:
  legal = np.array(LEGAL[column])
  wrong = ~np.isin(values, legal)
  if wrong.any():
    shown = ", ".join(str(v) for v in legal)
    raise ValueError(
      f"column {column} holds {values[wrong][0]:g}, legal: {shown}"
    )
  return np.searchsorted(legal, values).astype(np.int32)


def _untar(source: base.Source) -> list[dict[str, str]]:
  """Turns the archive, read in memory, into the rows of the CSV table."""
  rows = []
  try:
    with tarfile.open(fileobj=io.BytesIO(source.data)) as archive:
      for member in archive:
        if member.isfile() and re.search(r"result_\d+\.json$", member.name):
          entry = json.loads(archive.extractfile(member).read())
          row = entry["architecture"] | entry["metrics"] | entry["model_info"]
          for name, device in entry["platform_perf"].items():
            kind = name.split("_")[0]
            row[f"{name}__mean"] = device[f"{kind}_mean"]
          rows.append({k: _field(v) for k, v in row.items()})
  except (tarfile.TarError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(f"{type(error).__name__}: {error}") from error
  return rows


def _field(value: object) -> str:
  if value is None:
    return ""
  return str(int(value)) if isinstance(value, bool) else str(value)
