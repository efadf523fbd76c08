"""Several methods side by side: equal data, equal training of the winners."""

from collections.abc import Sequence
from pathlib import Path

from jaxnas import hosts
from jaxnas.compare.arms import Arm, check_alike, load_arms
from jaxnas.compare.runs import run_arms
from jaxnas.compare.summary import compare_regrets, compare_runs
from jaxnas.compare.tables import applicable, search_arms
from jaxnas.errors import UserError
from jaxnas.report.comparison import write_comparison
from jaxnas.writer import as_folder, write_json

SEEDS = (0, 1, 2)
TABLE_SEEDS = tuple(range(30))


def compare(
  references: Sequence[str],
  workdir: Path,
  seeds: Sequence[int] | None = None,
  settings: Sequence[str] = (),
  table: Path | None = None,
  jobs: int = 1,
) -> dict:
  """Runs every arm with every seed and compares what they found.

  Each run is an ordinary one in `WORKDIR/ARM/seed-SEED`, up to the winner's
  stand-alone training and its test accuracy. What is finished is not run again,
  so a comparison goes on after a kill, and may get further seeds.

  Args:
    references: configs and sets of configs, as `load_arms` takes them.
    workdir: also gets `arms.json`, `comparison.json`, `comparison.html` and
      `comparison.svg`.
    seeds: of the runs; default 0 to 2, or 0 to 29 with a table.
    settings: overrides of every arm, `data.limit=200`.
    table: searches this table of results instead; compares regrets.
    jobs: runs at the same time; not with a table, whose runs take no time.

  Returns:
    The content of `comparison.json`, and `path`, the page.

  Raises:
    UserError: for fewer than two arms, arms that differ in what has to be
      equal, seeds that are no set, or the directory of another comparison.
  """
  workdir = as_folder(workdir)
  if seeds is None:
    seeds = TABLE_SEEDS if table else SEEDS
  seeds = _checked(seeds)
  alone = "a table" if table else "several hosts" if hosts.count() > 1 else ""
  if jobs < 1 or (alone and jobs > 1):
    legal = f"1 with {alone}" if alone else "1 or more"
    raise UserError(f"--jobs is {jobs}; legal: {legal}.")
  arms, left_out = load_arms(references, settings), {}
  if table:
    arms, left_out = applicable(arms)
  check_alike(arms, bool(table))
  if table:
    rows = search_arms(arms, seeds, workdir, table)
    result = compare_regrets(arms, seeds, rows)
  else:
    rows = run_arms(arms, seeds, workdir, jobs)
    result = compare_runs(arms, seeds, rows)
  result["left_out"] = [{"arm": k, "why": v} for k, v in left_out.items()]
  write_json(workdir / "comparison.json", result)
  return {**result, "path": str(write_comparison(workdir, result))}


def _checked(seeds: Sequence[int]) -> tuple[int, ...]:
  """The seeds in ascending order."""
  if not len(seeds):
    raise UserError("--seeds is empty; give at least one, such as 0 1 2.")
  if len(set(seeds)) < len(seeds):
    twice = sorted({s for s in seeds if list(seeds).count(s) > 1})
    raise UserError(
      f"--seeds names {', '.join(map(str, twice))} more than once; a run is"
      " repeated with another seed."
    )
  if min(seeds) < 0:
    raise UserError(f"seed is {min(seeds)}; it must be at least 0.")
  return tuple(sorted(seeds))


__all__ = ["Arm", "compare", "load_arms"]
