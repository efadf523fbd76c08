"""Files of a work directory, progress and messages: small, atomic, readable."""

import csv
import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("jaxnas")


def write_atomic(path: Path, data: str | bytes) -> None:
  """Writes a file so that a reader sees the old or the new one, never half.

  Args:
    path: the file; its folder must exist.
    data: text (UTF-8) or bytes.
  """
  temporary = path.with_name(f".{path.name}.tmp")
  raw = data.encode() if isinstance(data, str) else data
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
  return json.loads(path.read_text())


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes a table, the columns in the order of the first row's keys."""
  rows = list(rows)
  text = io.StringIO()
  if rows:
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
  write_atomic(path, text.getvalue())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays of numbers as one compressed `.npz`."""
  data = io.BytesIO()
  np.savez_compressed(data, **arrays)
  write_atomic(path, data.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
  """Reads what `write_arrays` wrote; runs no code from the file."""
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


class Journal:
  """Append-only metrics, `metrics.jsonl`, and TensorBoard if it is installed.

  Rows carry `stage` and `step` (or `round`). After a resume, rows past the
  restored step are dropped first, so that a killed run's file ends equal to an
  undisturbed one's.
  """

  def __init__(self, path: Path) -> None:
    self._path = path
    self._board = None

  def rows(self) -> list[dict]:
    """All rows so far; a half-written last line is ignored."""
    rows = []
    if self._path.exists():
      for line in self._path.read_text().splitlines():
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

    self._replace([r for r in self.rows() if not dropped(r)])

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
    line = to_json({"stage": stage, **values}) + "\n"
    if not self._ends_whole():
      self._replace(self.rows())
    with open(self._path, "a") as file:
      file.write(line)
    board = self._tensorboard()
    if board:
      for name, value in values.items():
        if name != unit and isinstance(value, int | float):
          board.add_scalar(f"{stage}/{name}", value, values[unit])

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
    if sys.stderr.isatty():
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
