"""What all tables share: a table, its costs, how files are read and checked."""

import csv
import dataclasses
import functools
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxnas.errors import UserError
from jaxnas.spaces import ListedSpace
from jaxnas.writer import log


@dataclasses.dataclass(frozen=True, eq=False)
class RowCost:
  """A cost that is looked up row by row, measured or counted.

  Attributes:
    name: `macs`, `params` or `latency.DEVICE`, in lower case.
    space: the rows.
    values: the cost of each row, `int64[N]` (counts) or `float64[N]`
      (latencies in ms; NaN where it was not measured, which keeps no budget).
  """

  name: str
  space: ListedSpace
  values: np.ndarray

  def __call__(self, archs: np.ndarray) -> np.ndarray:
    """Costs of listed archs `int32[n, L]`: `[n]`, counts exact.

    Raises:
      UserError: for an arch that is not listed.
    """
    return self.values[self.space.index(archs)]

  @property
  def smallest(self) -> int | float:
    """Cost of the cheapest row."""
    return np.nanmin(self.values).item()

  @property
  def largest(self) -> int | float:
    """Cost of the dearest row."""
    return np.nanmax(self.values).item()

  @property
  def n_choices(self) -> np.ndarray:
    """Choices of each decision, `int32[L]`."""
    return self.space.n_choices

  @functools.cached_property
  def table(self) -> np.ndarray:
    """Additive fit `[L, K]`: what each choice adds to the cheapest choice.

    Least squares over the rows, one coefficient for each choice (ours). It says
    where an arch spends, for mutations that look for savings; the cost itself
    is never computed from it. Entries past the last choice, and of a choice in
    no row, are 0 or what the minimum-norm solution leaves.
    """
    k = int(self.n_choices.max())
    known = np.isfinite(self.values)
    one_hot = np.eye(k)[self.space.rows[known]].reshape(known.sum(), -1)
    centred = self.values[known] - self.values[known].mean()
    # The normal equations are small, and one-hots are well conditioned but for
    # their exact dependences, which the threshold cuts off.
    gram, right = one_hot.T @ one_hot, one_hot.T @ centred
    fit = np.linalg.lstsq(gram, right, rcond=1e-10)[0].reshape(-1, k)
    legal = np.arange(k) < self.n_choices[:, None]
    low = np.where(legal, fit, np.inf).min(1, keepdims=True)
    return np.where(legal, fit - low, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Known networks with their metrics and costs: an objective without training.

  Attributes:
    name: such as `nasbench-macro`.
    space: the networks, one row for each distinct one.
    metrics: larger is better unless a format says otherwise, `float64[N]` each,
      in the order of `space.rows`; `accuracy` is a share from 0 to 1, NaN
      stands for what was not measured.
    costs: smaller is better; they serve in budgets and as objectives.
    fingerprint: sha256 of the file; of several files, of their sums.
    about: what the accuracy is and what to keep in mind, a few sentences.
  """

  name: str
  space: ListedSpace
  metrics: Mapping[str, np.ndarray]
  costs: Mapping[str, RowCost]
  fingerprint: str
  about: str

  def objective(self, archs: np.ndarray) -> dict[str, np.ndarray]:
    """Looks archs up; the signature of every objective.

    Args:
      archs: `int32[n, L]`, canonical or not.

    Returns:
      Every metric and every cost by name, `[n]` each.

    Raises:
      UserError: for an arch that is not listed, with the nearest row.
    """
    rows = self.space.index(archs)
    values = {name: values[rows] for name, values in self.metrics.items()}
    return values | {n: cost.values[rows] for n, cost in self.costs.items()}


@dataclasses.dataclass(frozen=True)
class Source:
  """A file as read.

  Attributes:
    path: where it was.
    data: its bytes, a gzip layer taken off.
    sha256: of the file as it is on disk, hexadecimal.
  """

  path: Path
  data: bytes
  sha256: str

  @property
  def kind(self) -> str:
    """`npz`, `tar`, `json`, `text` or `unknown`, judged by content."""
    if self.data.startswith(b"PK\x03\x04"):
      return "npz"
    if self.data[257:262] == b"ustar":
      return "tar"
    if b"\0" in self.data[:4096]:
      return "unknown"
    return "json" if self.data.lstrip().startswith(b"{") else "text"

  @functools.cached_property
  def header(self) -> tuple[str, ...]:
    """Column names if it is a CSV table, else nothing."""
    if self.kind != "text":
      return ()
    line = self.data.split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    return tuple(name.strip() for name in next(csv.reader([line.strip()]), ()))

  def rows(self) -> list[dict[str, str]]:
    """The rows of a CSV table.

    Raises:
      UserError: if it is no text or a line has too few or too many fields.
    """
    try:
      text = self.data.decode("utf-8-sig")
      lines = list(csv.reader(io.StringIO(text, newline="")))[1:]
    except (UnicodeDecodeError, csv.Error) as error:
      raise UserError(f"{self.path} is no CSV table: {error}.") from error
    rows = []
    for i, fields in enumerate(lines):
      if fields and len(fields) != len(self.header):
        raise UserError(
          f"{self.path}, row {i + 1}: {len(fields)} fields for"
          f" {len(self.header)} columns."
        )
      if fields:
        rows.append(dict(zip(self.header, fields, strict=True)))
    return rows


def read_source(path: Path) -> Source:
  """Reads a file whole and takes a gzip layer off.

  Raises:
    UserError: if it cannot be read or its gzip layer is damaged.
  """
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path} cannot be read: {error.strerror}.") from error
  data = raw
  if raw.startswith(b"\x1f\x8b"):
    try:
      data = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
      raise UserError(f"{path} is a damaged gzip file: {error}.") from error
  return Source(path, data, hashlib.sha256(raw).hexdigest())


def number(text: str, where: str) -> float:
  """Reads a number; an empty text is NaN.

  Args:
    text: the field.
    where: names the field in the error.

  Raises:
    UserError: if it is neither.
  """
  if not text.strip():
    return math.nan
  try:
    return float(text)
  except ValueError as error:
    raise UserError(f"{where}: {text!r} is not a number.") from error


def check_published(source: Source, published: str) -> None:
  """Warns if a file of the right shape is not the published one to the byte."""
  if source.sha256 != published:
    log.warning(
      "%s has sha256 %s, the published file %s; its shape is right, so it is"
      " used, but its figures may differ from published ones.",
      source.path,
      source.sha256,
      published,
    )


def build_table(
  name: str,
  choices: tuple[tuple[str, ...], ...],
  archs: np.ndarray,
  metrics: Mapping[str, np.ndarray],
  costs: Mapping[str, np.ndarray],
  fingerprint: str,
  about: str,
  decisions: tuple[str, ...] = (),
  fold: Callable[[np.ndarray], np.ndarray] | None = None,
  presets: tuple[tuple[str, str], ...] = (),
) -> Table:
  """Builds a table; repeated networks become one row with their mean.

  Args:
    name: of the table and its space.
    choices: see `ListedSpace`.
    archs: `int32[n, L]`, one for each line of the file.
    metrics: `float64[n]` each.
    costs: `int64[n]` or `float64[n]` each; counts of one network must agree.
    fingerprint: see `Table`.
    about: see `Table`.
    decisions: see `ListedSpace`.
    fold: see `ListedSpace`.
    presets: see `ListedSpace`.

  Raises:
    UserError: if one network has two counts, or a column has no number.
  """
  canonical = archs if fold is None else fold(archs)
  rows, group = np.unique(canonical, axis=0, return_inverse=True)
  space = ListedSpace(name, choices, rows, decisions, fold, presets)
  merged = {}
  for column, values in (*metrics.items(), *costs.items()):
    if not np.isfinite(values).any():
      raise UserError(f"table {name!r}: column {column!r} holds no number.")
    merged[column] = _merge(values, group.reshape(-1), f"{name!r}: {column}")
  return Table(
    name,
    space,
    {m: merged[m] for m in metrics},
    {c: RowCost(c, space, merged[c]) for c in costs},
    fingerprint,
    about,
  )


def _merge(values: np.ndarray, group: np.ndarray, what: str) -> np.ndarray:
  """Means by group, NaN left out; counts have to agree."""
  n = group.max() + 1
  low, high = np.full(n, np.nan), np.full(n, np.nan)
  np.fmin.at(low, group, values)
  np.fmax.at(high, group, values)
  if values.dtype.kind == "i":
    if (low != high).any():
      raise UserError(f"table {what} differs between lines of one network.")
    merged = np.zeros(n, np.int64)
    merged[group] = values
    return merged
  known = np.isfinite(values)
  count = np.bincount(group[known], minlength=n)
  total = np.bincount(group[known], values[known], minlength=n)
  mean = np.divide(total, count, out=np.full(n, np.nan), where=count > 0)
  # Equal values stay what they are, to the last bit.
  return np.clip(mean, low, high)
