"""Sub-networks of the OFA MobileNetV3 supernet, from DyNAS-T's search logs.

`notebooks/data/*.csv` of github.com/IntelLabs/DyNAS-T: what a supernet really
says of its paths.
"""

import ast
import hashlib

import numpy as np

from jaxnas.errors import UserError
from jaxnas.tables import base

ORIGIN = (
  "notebooks/data/*.csv from github.com/IntelLabs/DyNAS-T (commit 251cb5e0)"
)
# File: rows, sha256.
PUBLISHED = {
  "mbnv3w10_evoga_acc.csv": (
    364, "460efa9d68388f0523248c68996738a4cf1580115299c5223386acefd01c2904"),
  "mbnv3w10_evonsga2_acc_macs.csv": (
    540, "26382008e3311c93cbb1f8de3310ac69a37c650c9692e032c90e04805e523cbe"),
  "mbnv3w10_evounsga3_acc_macs_params.csv": (
    554, "b24f148a72d2f1bb1b3422a2f7f8a1f21e59bf5d47f033c0945840ac5d78384c"),
  "mbnv3w10_linasga_acc.csv": (
    361, "63f986501c47e44f3c7426acbcbf8787662a8aa93683d95461a6f6bb659765f7"),
  "mbnv3w10_linasnsga2_acc_macs.csv": (
    554, "cc49278a179df47e6a8f5906e0bd32a6d2f4d29c0d0424ab0ac14eb4a10f8962"),
}  # fmt: skip
FILES = tuple(PUBLISHED)
COLUMNS = ("Sub-network", "Model Parameters", "MACs", "Top-1 Acc (%)")
STAGES, DEPTH = 5, 4
DEPTHS, KERNELS, EXPANDS = (2, 3, 4), (3, 5, 7), (3, 4, 6)
ABOUT = (
  "Accuracy is the ImageNet top-1 of a sub-network with the weights of the"
  " shared OFA supernet, not of a network trained by itself; repeats differ by"
  " a few hundredths of a point and hold the mean. The rows come from searches"
  " (GA, NSGA-II, U-NSGA-III, LINAS), so good networks are over-represented:"
  " this is no uniform sample. The file's latency column is 0 throughout, which"
  " means not measured, and is left out."
)


def matches(source: base.Source) -> bool:
  """Whether the file is for this format to read."""
  return "Sub-network" in source.header


def canonical(archs: np.ndarray) -> np.ndarray:
  """Sets kernel and expansion of layers past a stage's depth to index 0.

  Args:
    archs: `int32[n, 45]`, stage by stage the depth and then kernel and
      expansion of each of four layers.

  Returns:
    `int32[n, 45]`.
  """
  stages = np.array(archs, np.int32).reshape(len(archs), STAGES, -1)
  depth = np.array(DEPTHS)[stages[:, :, 0]]
  unused = np.repeat(np.arange(DEPTH), 2) >= depth[..., None]
  stages[:, :, 1:][unused] = 0
  return stages.reshape(len(archs), -1)


def load(sources: list[base.Source]) -> base.Table:
  """Reads one file, or the union of several.

  Args:
    sources: CSV files of DyNAS-T.

  Returns:
    A table of 45 decisions with the metric `accuracy` (a share from 0 to 1) and
    the exact counts `macs` and `params`.

  Raises:
    UserError: if a file does not have the published shape.
  """
  archs, columns = [], {c: [] for c in COLUMNS[1:]}
  for source in sources:
    missing = [c for c in COLUMNS if c not in source.header]
    if missing:
      raise UserError(
        f"{source.path} lacks the columns {', '.join(missing)}; get {ORIGIN}."
      )
    rows = source.rows()
    expected, published = PUBLISHED.get(source.path.name, (len(rows), None))
    if len(rows) != expected or not rows:
      raise UserError(
        f"{source.path} has {len(rows)} rows, not {expected or 'at least one'};"
        f" get {ORIGIN}."
      )
    for i, row in enumerate(rows):
      where = f"{source.path}, row {i + 1}"
      archs.append(_encode(row["Sub-network"], where))
      for c in columns:
        columns[c].append(base.number(row[c], f"{where}, column {c!r}"))
        if not np.isfinite(columns[c][-1]):
          raise UserError(f"{where}: column {c!r} is empty; get {ORIGIN}.")
    if published:
      base.check_published(source, published)
  decisions, choices = _layout()
  sums = "".join(source.sha256 for source in sources)
  return base.build_table(
    "dynas-ofa-mbv3",
    choices,
    np.array(archs, np.int32),
    {"accuracy": np.array(columns["Top-1 Acc (%)"]) / 100},
    {
      "macs": np.array(columns["MACs"]).astype(np.int64),
      "params": np.array(columns["Model Parameters"]).astype(np.int64),
    },
    sums if len(sources) == 1 else hashlib.sha256(sums.encode()).hexdigest(),
    ABOUT,
    decisions=decisions,
    fold=canonical,
  )


def _layout() -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
  decisions, choices = [], []
  for s in range(STAGES):
    decisions.append(f"stage{s}_depth")
    choices.append(tuple(f"d{d}" for d in DEPTHS))
    for l in range(DEPTH):
      decisions += [f"stage{s}_layer{l}_kernel", f"stage{s}_layer{l}_expand"]
      choices += [tuple(f"k{k}" for k in KERNELS),
                  tuple(f"e{e}" for e in EXPANDS)]  # fmt: skip
  return tuple(decisions), tuple(choices)


def _encode(text: str, where: str) -> list[int]:
  """Reads `{'wid': None, 'ks': [20], 'e': [20], 'd': [5], 'r': [224]}`."""
  try:
    # Literals only: nothing is executed.
    net = ast.literal_eval(text)
    ks, e, d = net["ks"], net["e"], net["d"]
    if (len(ks), len(e), len(d)) != (STAGES * DEPTH, STAGES * DEPTH, STAGES):
      raise ValueError(f"{len(ks)} ks, {len(e)} e, {len(d)} d, not 20, 20, 5")
    if net["wid"] is not None or net["r"] != [224]:
      raise ValueError(f"wid {net['wid']} and r {net['r']}, not None and [224]")
    arch = []
    for s in range(STAGES):
      arch.append(DEPTHS.index(d[s]))
      for i in range(s * DEPTH, (s + 1) * DEPTH):
        arch += [KERNELS.index(ks[i]), EXPANDS.index(e[i])]
  except (ValueError, SyntaxError, TypeError, KeyError, RecursionError,
          MemoryError) as error:  # fmt: skip
    raise UserError(
      f"{where}: {text[:80]!r} is no sub-network of OFA MobileNetV3 w1.0"
      f" ({type(error).__name__}: {error}); get {ORIGIN}."
    ) from error
  return arch
