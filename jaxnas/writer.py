"""Files of a work directory, progress and messages: small, atomic, readable.

With several hosts, host 0 writes the files and reads them for all, see
`hosts.once`. A work directory may be a bucket, `gs://BUCKET/DIR`.
"""

import csv
import io
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxnas import hosts
from jaxnas.errors import UserError

log = logging.getLogger("jaxnas")

T = TypeVar("T")


def as_folder(text: str | Path) -> Path:
  """The path of a folder, on disk or in a bucket.

  Args:
    text: such as `runs/a` or `gs://BUCKET/DIR`.

  Returns:
    A `pathlib.Path`, or what behaves like one for a bucket.

  Raises:
    UserError: for another kind of place, or without the extra `gcs`.
  """
  if "://" not in str(text):
    return Path(text)
  if not str(text).startswith("gs://"):
    raise UserError(
      f"{str(text)!r} is no work directory; legal: a folder, or"
      " gs://BUCKET/DIR."
    )
  from etils import epath

  folder = epath.Path(text)
  try:
    folder.exists()
  except ImportError as error:
    raise UserError(
      f"work directory {text} is in a bucket, which needs the extra gcs: pip"
      " install 'jaxnas[gcs]'."
    ) from error
  except Exception as error:  # every library of buckets has its own
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"work directory {text} cannot be reached ({type(error).__name__}:"
      f" {reason})."
    ) from error
  return folder


def in_bucket(path: Path) -> bool:
  """Whether a path is in a bucket: whole objects, none of them appended to."""
  return "://" in str(path)


def make_folder(path: Path) -> None:
  """Makes a folder, if it is missing; buckets have none.

  Raises:
    UserError: if it cannot be made.
  """

  def make() -> None:
    if in_bucket(path):
      return
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"work directory {path} cannot be made: {error.strerror}."
      ) from error

  hosts.once(make)


def remove_folder(path: Path) -> None:
  """Removes a folder and all that is in it, if it is there."""
  if in_bucket(path):
    hosts.once(lambda: path.rmtree(missing_ok=True))
  else:
    hosts.once(lambda: shutil.rmtree(path, ignore_errors=True))


def through_disk(folder: Path, write: Callable[[Path], T]) -> T:
  """Fills a folder by a function that needs one on disk.

  Args:
    folder: on disk or in a bucket.
    write: given a folder, puts files into it.

  Returns:
    What `write` returns.
  """
  if not in_bucket(folder):
    return write(folder)
  with tempfile.TemporaryDirectory() as local:
    found = write(Path(local))
    for file in sorted(Path(local).iterdir()):
      write_atomic(folder / file.name, file.read_bytes())
  return found


def is_file(path: Path) -> bool:
  """Whether a file is there, as host 0 sees it."""
  return hosts.once(path.is_file)


def is_folder(path: Path) -> bool:
  """Whether a folder is there, as host 0 sees it."""
  return hosts.once(path.is_dir)


def write_atomic(path: Path, data: str | bytes) -> None:
  """Writes a file so that a reader sees the old or the new one, never half.

  Args:
    path: the file; its folder must exist.
    data: text (UTF-8) or bytes.
  """
  if not hosts.is_writer():
    return
  raw = data.encode() if isinstance(data, str) else data
  if in_bucket(path):  # an object appears when it is whole
    flush()
    path.write_bytes(raw)
    return
  temporary = path.with_name(f".{path.name}.tmp")
  try:
    with open(temporary, "wb") as file:
      file.write(raw)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def to_json(value: Any, indent: int | None = None) -> str:
  """Writes valid JSON: NaN and infinities, which JSON lacks, become null."""
  return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def write_json(path: Path, value: Any) -> None:
  """Writes indented JSON (`to_json`) with a newline at its end."""
  write_atomic(path, to_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
  """Reads a JSON file."""
  return hosts.once(lambda: json.loads(path.read_text()))


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes a table, the columns in the order of the first row's keys."""
  rows = list(rows)
  text = io.StringIO()
  if rows:
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
  write_atomic(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
  """Reads what `write_csv` wrote, as text."""
  text = hosts.once(path.read_bytes).decode()
  return list(csv.DictReader(io.StringIO(text, newline="")))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays of numbers as one compressed `.npz`."""
  data = io.BytesIO()
  np.savez_compressed(data, **arrays)
  write_atomic(path, data.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
  """Reads what `write_arrays` wrote; runs no code from the file."""
  data = io.BytesIO(hosts.once(path.read_bytes))
  with np.load(data, allow_pickle=False) as file:
    return dict(file)


def append(path: Path, text: str) -> None:
  """Appends whole lines to a file, which a kill may leave without the last."""
  if not hosts.is_writer():
    return
  if in_bucket(path):
    old = path.read_text() if path.exists() else ""
    path.write_text(old + text)
    return
  with open(path, "a") as file:
    file.write(text)


def read_lines(path: Path) -> list[str]:
  """Lines of a text file; none if it is not there."""
  return hosts.once(lambda: _lines(path))


def _lines(path: Path) -> list[str]:
  return path.read_text().splitlines() if path.exists() else []


class Journal:
  """Append-only metrics, `metrics.jsonl`, and TensorBoard if it is installed.

  Rows carry `stage` and `step` (or `round`). After a resume, rows past the
  restored step are dropped first, so that a killed run's file ends equal to an
  undisturbed one's. Objects of a bucket cannot be appended to: there rows are
  written some at a time (`flush`), and TensorBoard is left out.
  """

  INTERVAL = 30.0  # seconds between two writes into a bucket

  def __init__(self, path: Path) -> None:
    self._path = path
    self._board = False if in_bucket(path) else None
    self._pending, self._flushed = "", time.monotonic()

  def rows(self) -> list[dict]:
    """All rows so far; a half-written last line is ignored."""
    return hosts.once(self._rows)

  def _rows(self) -> list[dict]:
    self.flush()
    rows = []
    for line in _lines(self._path):
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        break
    return rows

  def rewind(
    self, stage: str, step: int, unit: str = "step", **only: Any
  ) -> None:
    """Drops the rows of a stage past `step`, if they have the values `only`."""

    def dropped(row: dict) -> bool:
      ours = row["stage"] == stage and only.items() <= row.items()
      return ours and row.get(unit, 0) > step

    if hosts.is_writer():
      self._replace([r for r in self._rows() if not dropped(r)])

  def _replace(self, rows: list[dict]) -> None:
    text = "".join(to_json(r) + "\n" for r in rows)
    if self._path.exists() and text != self._path.read_text():
      write_atomic(self._path, text)

  def write(self, stage: str, unit: str = "step", **values: Any) -> None:
    """Appends one row.

    Args:
      stage: such as `train`.
      unit: the key that counts progress.
      **values: plain numbers; one of them is named by `unit`. NaN and
        infinities are written as null.
    """
    if not hosts.is_writer():
      return
    line = to_json({"stage": stage, **values}) + "\n"
    if in_bucket(self._path):
      self._pending += line
      _waiting.add(self)
      if time.monotonic() - self._flushed > self.INTERVAL:
        self.flush()
      return
    if not self._ends_whole():
      self._replace(self._rows())
    append(self._path, line)
    board = self._tensorboard()
    if board:
      for name, value in values.items():
        if name != unit and isinstance(value, int | float):
          board.add_scalar(f"{stage}/{name}", value, values[unit])

  def flush(self) -> None:
    """Writes the rows that wait, in a bucket."""
    if self._pending:
      append(self._path, self._pending)
    self._pending, self._flushed = "", time.monotonic()
    _waiting.discard(self)

  def _ends_whole(self) -> bool:
    """Whether the last line is complete; a killed run may leave half of it."""
    if not self._path.exists() or not self._path.stat().st_size:
      return True
    with open(self._path, "rb") as file:
      file.seek(-1, os.SEEK_END)
      return file.read() == b"\n"

  def _tensorboard(self):
    if self._board is None:
      try:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(self._path.parent / "tensorboard"))
      except ImportError:
        self._board = False
    return self._board


_waiting: set[Journal] = set()


def flush() -> None:
  """Writes the rows of all journals; before anything that is to follow them.

  So a checkpoint, or a result, is never ahead of the rows that led to it.
  """
  for journal in tuple(_waiting):
    journal.flush()


class Progress:
  """A bar with time left on a terminal, a line now and then elsewhere.

  Used as a context manager; `update` moves it and shows the newest figures.
  """

  INTERVAL = 15.0  # seconds between two lines on a non-terminal

  def __init__(self, stage: str, total: int, done: int = 0) -> None:
    self._stage, self._total, self._done = stage, total, done
    # Where the pace is counted from: (done, time) of the first update. What
    # comes before it is mostly compilation, which is paid once.
    self._first: tuple[int, float] | None = None
    self._shown = time.monotonic()
    self._bar = None

  def __enter__(self) -> "Progress":
    if sys.stderr.isatty() and hosts.is_writer():
      from tqdm import tqdm

      self._bar = tqdm(
        total=self._total, initial=self._done, desc=self._stage, leave=True,
        dynamic_ncols=True, file=sys.stderr,
      )  # fmt: skip
    return self

  def __exit__(self, *exc: Any) -> None:
    if self._bar is not None:
      self._bar.close()

  def update(self, done: int, **figures: float) -> None:
    """Shows that `done` of the total is done, with the newest figures."""
    text = ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
    step, self._done = done - self._done, done
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step)
      return
    now = time.monotonic()
    first, start = self._first = self._first or (done, now)
    if now - self._shown >= self.INTERVAL:
      self._shown = now
      left = ""
      if done > first:
        pace = (now - start) / (done - first)
        left = f", about {pace * (self._total - done):.0f} s left"
      log.info(
        "%s %d/%d%s%s", self._stage, done, self._total, left,
        f", {text}" if text else "",
      )  # fmt: skip
