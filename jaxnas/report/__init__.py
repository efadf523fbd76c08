"""One self-contained HTML page about one run, from its work directory."""

from pathlib import Path

from jaxnas.hosts import once
from jaxnas.report.load import load
from jaxnas.report.page import page
from jaxnas.writer import as_folder, flush, write_atomic


def report(workdir: Path) -> Path:
  """Writes `workdir/report.html` from the files in `workdir`.

  The page needs no network and no JavaScript, and the same files give the same
  bytes. Files that are missing leave their section out; only `config.json` is
  required.

  Args:
    workdir: the work directory of a run.

  Returns:
    The path of the page, replaced in one step: a reader sees the old page or
    the new one, never half of it.

  Raises:
    UserError: if `config.json` is missing, or a file cannot be read.
  """
  target = as_folder(workdir) / "report.html"
  flush()
  once(lambda: write_atomic(target, page(load(target.parent))))
  return target


__all__ = ["report"]
