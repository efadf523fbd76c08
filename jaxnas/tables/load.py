"""Finds out which table a file is, by its content, and loads it."""

from pathlib import Path

from jaxnas.errors import UserError
from jaxnas.tables import (
  accel_nasbench,
  csv_table,
  dynas,
  fbnet,
  nasbench_macro,
)
from jaxnas.tables.base import Source, Table, read_source

# The first that matches reads the file.
FORMATS = (nasbench_macro, accel_nasbench, dynas, fbnet, csv_table)
KNOWN = (
  "a table is NAS-Bench-Macro's JSON file, Accel-NASBench's archive or its CSV"
  " form, CSV files of DyNAS-T, the .npz file of FBNet latencies, or a CSV file"
  " with a column arch"
)
SUFFIXES = (".json", ".csv", ".gz", ".npz")


def load_table(path: str | Path) -> Table:
  """Loads a benchmark table; its format is judged by its content.

  Nothing in a file is executed, and pickled arrays are refused.

  Args:
    path: a file, or a folder that holds one table (several CSV files of DyNAS-T
      are one).

  Raises:
    UserError: if it is missing, is no table, or does not have the shape of the
      published one; the sentence names the fix. A file of the right shape whose
      sha256 is not the published one is used, with a warning.
  """
  path = Path(path).expanduser()
  if not path.exists():
    origin = next(
      (f.ORIGIN for f in FORMATS if path.name in getattr(f, "FILES", ())), None
    )
    fix = f"get {origin}" if origin else KNOWN
    raise UserError(f"no table {str(path)!r}; {fix}.")
  if not path.is_dir():
    source = read_source(path)
    reader = _reader(source)
    if reader is None:
      raise UserError(f"{path} is no table; {KNOWN}.")
    return reader.load([source])
  files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
  found = {}
  for source in map(read_source, filter(Path.is_file, files)):
    found.setdefault(_reader(source), []).append(source)
  found.pop(None, None)
  if not found:
    raise UserError(f"folder {path} holds no table; {KNOWN}.")
  names = sorted(s.path.name for sources in found.values() for s in sources)
  reader, sources = next(iter(found.items()))
  if len(names) > 1 and (len(found) > 1 or reader is not dynas):
    raise UserError(
      f"folder {path} holds several tables; name one: {', '.join(names)}."
    )
  return reader.load(sources)


def _reader(source: Source):
  return next((f for f in FORMATS if f.matches(source)), None)
