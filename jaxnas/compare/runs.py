"""The runs of a comparison: one after the other, each paid for once."""

import contextlib
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

from jaxnas.compare.arms import Arm, check_folder, claim
from jaxnas.errors import RunError, UserError
from jaxnas.experiment import make_experiment
from jaxnas.experiment.effort import effort
from jaxnas.memory import drop_programs
from jaxnas.writer import is_file, read_json, write_json

log = logging.getLogger("jaxnas")

Task = tuple[Arm, int, Path]  # what runs, its seed, its folder
STAGES = ("train", "search", "retrain")
SEARCH = ("train", "search")  # what finding the winner costs


def run_arms(
  arms: Sequence[Arm], seeds: Sequence[int], workdir: Path, jobs: int = 1
) -> dict[str, list[dict]]:
  """Runs every arm with every seed, or goes on with that.

  All arms of a seed come before the next, so that what is there after a kill
  can be compared; by then later seeds find compiled programs.

  Args:
    arms: two or more.
    seeds: of the runs.
    workdir: folder of the comparison.
    jobs: runs at the same time, each in a process of its own if there are
      several.

  Returns:
    By arm a row for each seed, see `run_one`.

  Raises:
    UserError: if any arm is refused, before the first of them runs; or for the
      folder of another comparison.
    RunError: if a run fails, naming it.
  """
  check_folder(workdir, arms)
  for arm in arms:
    todo = [s for s in seeds if not is_file(_row(_folder(workdir, arm, s)))]
    if todo:
      with _named(arm, todo[0]):
        make_experiment(arm.seeded(todo[0]), _folder(workdir, arm, todo[0]))
  claim(workdir, arms)
  tasks = [(a, s, _folder(workdir, a, s)) for s in seeds for a in arms]
  rows: dict[str, list[dict]] = {arm.name: [] for arm in arms}
  for done, ((arm, seed, _), row) in enumerate(_run_all(tasks, jobs), 1):
    rows[arm.name].append(row)
    log.info(
      "run %d of %d: %s with seed %d has test accuracy %.4f", done, len(tasks),
      arm.name, seed, row["test_accuracy"],
    )  # fmt: skip
  _check_images(rows)
  return rows


def _run_all(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict]]:
  """Tasks with their rows, in order."""
  if jobs == 1:
    for task in tasks:
      yield task, run_one(*task)
    return
  # Started afresh: JAX's threads do not live through a fork.
  context = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(
    jobs, mp_context=context, initializer=_speak
  ) as pool:
    running = [pool.submit(run_one, *task) for task in tasks]
    try:
      for task, run in zip(tasks, running, strict=True):
        yield task, run.result()
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise


def _speak() -> None:
  """Warnings of a process of its own look like those of this one."""
  logging.basicConfig(format="%(message)s", level=logging.WARNING)


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
  if is_file(path):
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
