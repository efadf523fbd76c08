"""Arms on a table of known results: no training, so many seeds."""

from collections.abc import Sequence
from pathlib import Path

from jaxnas.compare.arms import Arm, check_enough, claim
from jaxnas.errors import UserError
from jaxnas.methods import DivideMethod, PathMethod, get_method
from jaxnas.table_search import search_table
from jaxnas.tables import load_table
from jaxnas.writer import Progress, is_file, read_json


def applicable(arms: Sequence[Arm]) -> tuple[list[Arm], dict[str, str]]:
  """Sorts out arms that have no use for a table.

  Args:
    arms: of the comparison.

  Returns:
    Those that search archs, and of a set's other arms the reasons by name.

  Raises:
    UserError: for an arm that was given by itself and searches no table, or if
      fewer than two arms are left.
  """
  kept, left_out = [], {}
  for arm in arms:
    method = get_method(arm.config.method)
    if not isinstance(method, PathMethod):
      why = f"method {method.name} searches no archs of a table"
    elif isinstance(method, DivideMethod) and not arm.config.divide.early:
      why = (
        f"method {method.name} needs early accuracies, and divide.early names"
        " no column of them"
      )
    else:
      kept.append(arm)
      continue
    if not arm.from_set:
      raise UserError(f"arm {arm.name!r}: {why}; leave it out with --table.")
    left_out[arm.name] = why
  check_enough(
    [arm.name for arm in kept],
    f" that searches a table ({', '.join(left_out)} left out)"
    if left_out
    else "",
  )
  return kept, left_out


def search_arms(
  arms: Sequence[Arm], seeds: Sequence[int], workdir: Path, table: Path
) -> dict[str, list[dict]]:
  """Searches a table with every arm and every seed, or goes on with that.

  Args:
    arms: two or more.
    seeds: of the searches.
    workdir: folder of the comparison.
    table: file or folder of the table.

  Returns:
    By arm the result of `search_table` for each seed.
  """
  claim(workdir, arms, load_table(table).fingerprint)
  rows, done = {arm.name: [] for arm in arms}, 0
  with Progress("searches", len(arms) * len(seeds)) as progress:
    for arm in arms:
      for seed in seeds:
        folder = workdir / arm.name / f"seed-{seed}"
        # It is written last, so without it the search was not finished.
        if is_file(folder / "config.json"):
          row = read_json(folder / "search.json")
        else:
          row = search_table(arm.seeded(seed), table, folder)
        rows[arm.name].append(row)
        done += 1
        progress.update(done)
  return rows
