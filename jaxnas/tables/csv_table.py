"""A user's own table: a CSV file with a column `arch` and columns of numbers.

`archs.csv` of a work directory is one.
"""

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError
from jaxnas.tables import base

COUNTS = ("macs", "params")


def matches(source: base.Source) -> bool:
  """Whether the file is for this format to read."""
  return "arch" in source.header


def is_cost(name: str) -> bool:
  """Whether a column is a cost: `macs`, `params`, or a `latency`."""
  return name in COUNTS or name.split(".")[0] == "latency"


def load(sources: list[base.Source]) -> base.Table:
  """Reads the table.

  Args:
    sources: the one file. Archs are written as `2-0-3` or `203`; an empty field
      is a value that was not measured; lines of one arch are averaged.

  Returns:
    A table named after the file. Each decision has as many choices as its
    largest index says, named by their index. The columns `macs`, `params`,
    `latency` and `latency.DEVICE` (ms) are costs, all others metrics.

  Raises:
    UserError: naming the row and column of what cannot be read.
  """
  (source,) = sources
  rows = source.rows()
  names = [c for c in source.header if c != "arch"]
  if not rows or not names:
    raise UserError(
      f"{source.path} needs, beside the column arch, at least one column of"
      " numbers and one row."
    )
  if len(set(source.header)) < len(source.header) or not all(names):
    raise UserError(
      f"{source.path}: the column names {', '.join(source.header)} must be"
      " distinct and not empty."
    )
  archs = []
  for i, row in enumerate(rows):
    try:
      archs.append(arch_lib.from_string(row["arch"]))
    except UserError as error:
      raise UserError(f"{source.path}, row {i + 1}: {error}") from error
    if len(archs[-1]) != len(archs[0]):
      raise UserError(
        f"{source.path}, row {i + 1}: arch {row['arch']!r} has"
        f" {len(archs[-1])} indices, those before it have {len(archs[0])}."
      )
  columns = {}
  for name in names:
    where = f"{source.path}, column {name!r}, row"
    values = np.array(
      [base.number(row[name], f"{where} {i + 1}") for i, row in enumerate(rows)]
    )
    whole = np.isfinite(values).all() and (values == np.rint(values)).all()
    exact = name in COUNTS and whole
    columns[name] = values.astype(np.int64) if exact else values
  archs = np.array(archs, np.int32)
  return base.build_table(
    source.path.name.split(".")[0],
    tuple(tuple(str(c) for c in range(top + 1)) for top in archs.max(0)),
    archs,
    {n: v for n, v in columns.items() if not is_cost(n)},
    {n: v for n, v in columns.items() if is_cost(n)},
    source.sha256,
    f"The user's table {source.path.name}; what its columns mean is theirs to"
    " say.",
  )
