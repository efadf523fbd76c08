"""The runs of a comparison: one after the other, each paid for once."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxnas.compare.arms import Arm, check_folder, claim
from jaxnas.errors import RunError, UserError
from jaxnas.experiment import make_experiment
from jaxnas.experiment.effort import effort
from jaxnas.memory import drop_programs
from jaxnas.writer import read_json, write_json

log = logging.getLogger("jaxnas")

STAGES = ("train", "search", "retrain")
SEARCH = ("train", "search")  # what finding the winner costs


def run_arms(
  arms: Sequence[Arm], seeds: Sequence[int], workdir: Path
) -> dict[str, list[dict]]:
  """Runs every arm with every seed, or goes on with that.

  All in one process, so that later seeds find compiled programs; all arms of a
  seed before the next, so that what is there after a kill can be compared.

  Args:
    arms: two or more.
    seeds: of the runs.
    workdir: folder of the comparison.

  Returns:
    By arm a row for each seed, see `run_one`.

  Raises:
    UserError: if any arm is refused, before the first of them runs; or for the
      folder of another comparison.
    RunError: if a run fails, naming it.
  """
  check_folder(workdir, arms)
  for arm in arms:
    todo = [s for s in seeds if not _row(_folder(workdir, arm, s)).is_file()]
    if todo:
      with _named(arm, todo[0]):
        make_experiment(arm.seeded(todo[0]), _folder(workdir, arm, todo[0]))
  claim(workdir, arms)
  rows, done = {arm.name: [] for arm in arms}, 0
  for seed in seeds:
    for arm in arms:
      rows[arm.name].append(run_one(arm, seed, _folder(workdir, arm, seed)))
      done += 1
      log.info(
        "run %d of %d: %s with seed %d has test accuracy %.4f", done,
        len(arms) * len(seeds), arm.name, seed,
        rows[arm.name][-1]["test_accuracy"],
      )  # fmt: skip
  _check_images(rows)
  return rows


def _check_images(rows: dict[str, list[dict]]) -> None:
  """Refuses to compare runs whose images were not the same.

  Raises:
    UserError: naming two such runs.
  """
  seen: dict[str, str] = {}
  for name, own in rows.items():
    for row in own:
      seen.setdefault(row["data"]["fingerprint"], f"{name}/seed-{row['seed']}")
  if len(seen) > 1:
    one, two = [*seen.values()][:2]
    raise UserError(
      f"{one} and {two} were run on different images; delete the older run, or"
      " use another --workdir."
    )


def run_one(arm: Arm, seed: int, folder: Path) -> dict:
  """Trains, searches and retrains, or reads what that gave.

  Args:
    arm: whose config.
    seed: of the run.
    folder: its work directory; `compared.json` there holds the row.

  Returns:
    `seed`, `method`, `space`, `arch`, `test_accuracy`, `standalone_accuracy`
    (None for weights that were not retrained), `macs`, `params`, `evaluated`;
    `images` and `seconds` by stage, compilation apart; and `data`, the sizes of
    the splits.
  """
  path = _row(folder)
  if path.is_file():
    return read_json(path)
  with _named(arm, seed):
    experiment = make_experiment(arm.seeded(seed), folder)
    experiment.train()
    experiment.search()
    experiment.retrain()
    images = effort(experiment)
  found, data = read_json(folder / "result.json"), experiment.setup.data
  metrics = found["metrics"]
  names = ("test_accuracy", "standalone_accuracy", "macs", "params")
  row = {
    "seed": seed,
    **{k: found[k] for k in ("method", "space", "arch")},
    **{k: metrics[k] for k in names},
    "evaluated": found["evaluated"],
    "images": {k: int(images[k]) for k in STAGES},
    "seconds": {k: found["seconds"][k] for k in (*STAGES, "compile")},
    "data": {
      "source": data.source,
      "fingerprint": data.fingerprint,
      **{k: len(getattr(data, k)) for k in ("train", "validation", "test")},
    },
  }
  write_json(path, row)
  drop_programs()
  return row


def _folder(workdir: Path, arm: Arm, seed: int) -> Path:
  return workdir / arm.name / f"seed-{seed}"


def _row(folder: Path) -> Path:
  return folder / "compared.json"


@contextlib.contextmanager
def _named(arm: Arm, seed: int) -> Iterator[None]:
  """Says in errors which run they are of."""
  try:
    yield
  except (UserError, RunError) as error:
    raise type(error)(f"arm {arm.name!r}, seed {seed}: {error}") from error
