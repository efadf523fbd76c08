"""The evidence behind a ranking: which networks are trained, and the truth."""

import csv
import dataclasses
import zlib
from pathlib import Path

import numpy as np

from jaxnas import hosts
from jaxnas.costs import Budget
from jaxnas.errors import UserError
from jaxnas.methods.base import train_fleet
from jaxnas.methods.setup import PathSetup
from jaxnas.nets import Variables
from jaxnas.scoring import FleetEvaluator, Scorer, evenly_spaced
from jaxnas.spaces import Space


def ranking_archs(
  setup: PathSetup,
  scorer: Scorer | None = None,
  variables: Variables | None = None,
) -> np.ndarray:
  """The archs to train from scratch, by `ranking.selection`.

  The uniform ones depend on the seed only, so all methods rank the same.

  Args:
    setup: the run.
    scorer: scores the pool of `evenly-spaced`, which needs it.
    variables: of the supernet, likewise.

  Returns:
    `int32[n, L]`, no row twice.
  """
  config, space = setup.config.ranking, setup.space
  rng = np.random.default_rng(setup.seed("ranking"))
  n = min(config.n_archs, space.size)
  everything = Budget((), setup.costs, space)
  if config.selection == "uniform":
    return everything.draw(rng, n)
  pool = everything.draw(rng, max(config.pool, n))
  return pool[evenly_spaced(scorer(variables, pool)["accuracy"], n)]


def standalone_accuracies(
  setup: PathSetup, archs: np.ndarray
) -> tuple[np.ndarray, float]:
  """Trains archs from scratch, `ranking.together` at a time.

  Without dropout, as in the paper's ranking trainings (authors, issue 3).

  Args:
    setup: the run.
    archs: `int32[n, L]`.

  Returns:
    Validation accuracies `float64[n]`, and the seconds spent over all sessions.
  """
  config, recipe = setup.config.ranking, setup.config.retrain
  if config.epochs:
    recipe = dataclasses.replace(recipe, epochs=config.epochs)
  accuracy, seconds = [], 0.0
  for i in range(0, len(archs), config.together):
    part = archs[i : i + config.together]
    stage = f"rank-{i // config.together}"
    fleet, state, spent = train_fleet(setup, stage, part, recipe, 0.0)
    judge = FleetEvaluator(
      fleet, setup.data, setup.data.validation,
      setup.config.score.batch_size, setup.placement,
    )  # fmt: skip
    accuracy.append(judge(state.variables)["accuracy"])
    seconds += spent
  return np.concatenate(accuracy), seconds


def read_truth(path: Path, space: Space) -> tuple[np.ndarray, np.ndarray]:
  """Reads stand-alone accuracies.

  Args:
    path: CSV with columns `arch` and `standalone_accuracy` or `accuracy`.
    space: the space of the archs.

  Returns:
    Archs `int32[n, L]` and accuracies `float64[n]`.

  Raises:
    UserError: naming the row, for a file that does not fit.
  """
  if not Path(path).is_file():
    raise UserError(f"no truth file {str(path)!r}.")
  try:
    with open(path, newline="") as file:
      rows = list(csv.DictReader(file))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path} cannot be read as CSV ({error}).") from error
  columns = set(rows[0]) if rows else set()
  value = next(
    (c for c in ("standalone_accuracy", "accuracy") if c in columns), None
  )
  if "arch" not in columns or value is None:
    raise UserError(
      f"{path} needs the columns arch and standalone_accuracy, and at least one"
      " row."
    )
  if len(rows) < 3:
    raise UserError(
      f"{path} has {len(rows)} rows; a rank correlation needs at least 3."
    )
  archs, accuracy = [], []
  for i, row in enumerate(rows, 2):
    try:
      archs.append(space.from_string(row["arch"]))
      accuracy.append(float(row[value]))
      if not np.isfinite(accuracy[-1]):
        raise ValueError(f"{value} is {row[value]}; legal: a number")
    except (UserError, TypeError, ValueError) as error:
      raise UserError(f"{path}, line {i}: {error}") from error
  hosts.check_same({f"content of {path}": zlib.crc32(repr(rows).encode())})
  return np.stack(archs), np.array(accuracy)
