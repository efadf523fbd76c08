"""Latency tables: files with milliseconds per block, read as `CostTable`.

Two formats. CSV (ours) has one row per layer and choice:

    part,layer,choice,op,ms
    stem,0,0,Conv3,0.41
    layer,0,0,E3K3,0.52
    ...
    head,0,0,Conv1,0.2
    classifier,0,0,Linear,0.05
    rest,0,0,all else,0.03

The other, YAML, is that of ProxylessNAS and Once-for-All (`latency_yaml`).
"""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxnas.costs import latency_yaml
from jaxnas.costs.blocks import SHAPE, Block, blocks, milliseconds, sum_up
from jaxnas.costs.table import CostTable
from jaxnas.errors import UserError
from jaxnas.spaces import ListedSpace, Space
from jaxnas.writer import write_atomic, write_csv

COLUMNS = ("part", "layer", "choice", "op", "ms")
REST = "rest"
YAML = (".yaml", ".yml")

Row = Mapping[str, object]


def rest_row(ms: float, what: str = "all else") -> dict:
  """The row of what is added to every network."""
  return {"part": REST, "layer": 0, "choice": 0, "op": what, "ms": ms}


def rows_of(table: CostTable, space: Space | ListedSpace) -> list[dict]:
  """Rows for any additive table in ms, such as a fitted one.

  The fixed part is one row, `rest`: how it divides into stem, head and
  classifier is not known.
  """
  own = [
    b.row(float(table.table[b.layer, b.choice]))
    for b in blocks(space)
    if b.part == "layer"
  ]
  return [*own, rest_row(float(table.fixed))]


def cost_of(
  rows: Iterable[Row], space: Space | ListedSpace, name: str, where: str
) -> CostTable:
  """Turns rows into a cost.

  Args:
    rows: with `COLUMNS`, and perhaps those of `SHAPE`; more are ignored.
    space: of the archs to be costed.
    name: of the cost, such as `latency.pixel`.
    where: the file, for messages.

  Returns:
    `fixed` and `table` in ms, float64. `fixed` is the sum of stem, head,
    classifier and `rest`; those of them that are absent are named in a warning,
    unless `rest` stands for them all. An identity that keeps the shape costs 0
    without a row.

  Raises:
    UserError: naming a searched block without row, a row twice, or a value
      that is no latency.
  """
  found: dict[str, float] = {}
  pinned: dict[str, Row] = {}
  for number, row in enumerate(rows, 1):
    key = _row_key(row)
    place = f"{where}: row {number} ({key})"
    if key in found:
      raise UserError(f"{place} comes twice.")
    found[key] = milliseconds(row["ms"], place, may_be_negative=key == REST)
    pinned[key] = row

  def look_up(block: Block) -> float | None:
    key = _csv_key(block)
    own = pinned.get(key, {})
    for field in SHAPE if block.shape else ():
      expected = getattr(block.shape, field)
      if str(own.get(field) or expected) == str(expected):
        continue
      if block.part != "layer":
        return None
      raise UserError(
        f"{where}: {block} has {field} {own[field]}, but {expected} in space"
        f" {space.name!r}; the table belongs to another space."
      )
    return found.get(key)

  return sum_up(
    space, name, where, look_up, found.get(REST), _csv_key, list(found)
  )


def read_latency(
  path: str | Path, space: Space | ListedSpace, name: str
) -> CostTable:
  """Reads a latency table.

  Args:
    path: `.csv`, `.yaml` or `.yml`.
    space: of the archs to be costed.
    name: of the cost, such as `latency.pixel`.

  Returns:
    `fixed` and `table` in ms, float64; see `cost_of`.

  Raises:
    UserError: if the file is missing or malformed, or lacks a searched block
      of the space; then the sentence names layer, operation, the key that was
      looked for and the nearest one there is.
  """
  path = Path(path)
  if path.suffix not in (".csv", *YAML):
    raise UserError(
      f"latency table {str(path)!r}: legal endings are .csv, .yaml and .yml."
    )
  try:
    text = path.read_text("utf-8-sig")  # spreadsheets mark UTF-8
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"latency table {str(path)!r}: {error}.") from error
  if path.suffix == ".csv":
    return cost_of(_csv_rows(text, path), space, name, str(path))
  return latency_yaml.cost_of_yaml(text, space, name, str(path))


def write_latency(path: str | Path, rows: Iterable[Row]) -> None:
  """Writes rows as CSV; `read_latency` gives back the very same cost.

  Args:
    path: `.csv`; its folder must exist.
    rows: the first has all columns.
  """
  write_csv(Path(path), rows)


def write_latency_yaml(
  path: str | Path, space: Space, rows: Iterable[Row]
) -> None:
  """Writes rows in the style of ProxylessNAS and Once-for-All.

  Args:
    path: `.yaml`; its folder must exist.
    space: of the rows.
    rows: as of `cost_of`. `rest` gets a key of its own, `Rest`, and free blocks
      with 0 ms get none.

  Raises:
    UserError: if one key would need two values: the format knows shapes, not
      layers, and only whether there is squeeze-and-excitation.
  """
  by_key = {_csv_key(b): b for b in blocks(space)}
  entries: dict[str, float] = {}
  for row in rows:
    ms = float(row["ms"])
    if row["part"] == REST:
      key = latency_yaml.REST
    else:
      block = by_key[_row_key(row)]
      if block.free and ms == 0:
        continue
      key = latency_yaml.yaml_key(block)
    if entries.setdefault(key, ms) != ms:
      raise UserError(
        f"{path}: two blocks of space {space.name!r} share the key {key} but"
        f" take {entries[key]} and {ms} ms; write .csv instead."
      )
  write_atomic(Path(path), latency_yaml.dump(entries))


def _csv_key(block: Block) -> str:
  return f"{block.part},{block.layer},{block.choice},{block.name}"


def _row_key(row: Row) -> str:
  if row["part"] == REST:
    return REST
  return ",".join(str(row[c]) for c in COLUMNS[:4])


def _csv_rows(text: str, path: Path) -> list[dict]:
  reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
  missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
  if missing:
    raise UserError(
      f"{path} has no column {', '.join(missing)}; a latency table has"
      f" {', '.join(COLUMNS)}."
    )
  return list(reader)
