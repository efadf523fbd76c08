"""DC-NAS on a table of known networks, with two fidelities and no training.

The early accuracies are one column, the final ones another; the features are
the columns `feature.NAME`, or else the choices one-hot (ours): a table knows
nothing of how parameters changed.
"""

import math

import numpy as np

from jaxnas.config import DivideConfig, ExperimentConfig
from jaxnas.costs import Budget
from jaxnas.errors import UserError, unknown
from jaxnas.methods.dcnas import divide_and_conquer
from jaxnas.scoring import compare_partitions
from jaxnas.search import parse_objective
from jaxnas.search.partition import (
  check_divide,
  cost_explained,
  reduce,
  standardise,
)
from jaxnas.tables import Table

FEATURE = "feature."


def divide_table(
  config: ExperimentConfig, table: Table, budget: Budget
) -> dict:
  """Divides and conquers archs of a table.

  Args:
    config: `divide`, `seed`, `ranking` (of the intervals), and the first of
      `search.objectives`, the final accuracy. `divide.early` is written as an
      objective is, `-error` for what is to be small.
    table: the known networks.
    budget: bounds on the archs sampled.

  Returns:
    `winner` `int32[L]`; `archs` `int32[n, L]` sampled; `finals`, what was seen
    of the objective look by look, `float[k]`, NaN while only early accuracies
    were; and a JSON object `divide`: `k`, `macs_explained`, how many looks were
    early and final, and `partition`, the ranking within clusters and overall,
    over all sampled.

  Raises:
    UserError: for a column that the table lacks, or options without a meaning.
  """
  divide = config.divide
  check_divide(divide)
  _refuse_training(divide)
  name, sign = parse_objective(config.search.objectives[0])
  early_name, early_sign = parse_objective(divide.early)
  for what, column in (("divide.early", early_name), ("objective", name)):
    if column not in table.metrics:
      raise unknown(f"metric of table {table.name} ({what})", column,
                    table.metrics)  # fmt: skip
  if early_name == name:
    raise UserError(
      f"divide.early is {name!r}, the objective itself; name the column of a"
      " cheaper accuracy."
    )
  if not 0 < divide.early_cost <= 1:
    raise UserError(
      f"divide.early_cost is {divide.early_cost}; it must be above 0 and at"
      " most 1."
    )
  if divide.halving or divide.merge != "compare":
    raise UserError(
      "a table has two fidelities and the networks it lists: leave"
      " divide.halving at 0 and divide.merge at 'compare'."
    )
  rng = np.random.default_rng([config.seed, 0])
  archs = budget.draw(rng, divide.samples)
  if len(archs) < max(3, divide.clusters):
    raise UserError(
      f"the budget leaves {len(archs)} archs of table {table.name} for"
      f" divide.clusters={divide.clusters}; at least 3 and as many are needed."
    )
  found = table.objective(archs)
  early, final = early_sign * found[early_name], sign * found[name]
  known_macs = "macs" in table.costs
  if divide.partition == "macs" and not known_macs:
    raise UserError(
      f"divide.partition is 'macs', which table {table.name} does not know."
    )
  macs = found["macs"] if known_macs else np.zeros(len(archs))
  features = reduce(standardise(_features(table, archs)), divide.components)
  clusters, best = divide_and_conquer(
    features, early, macs, divide, config.seed, _no_rung, lambda i: final[i]
  )
  known = np.isfinite(early) & np.isfinite(final)
  waiting = np.full(math.ceil(len(archs) * divide.early_cost - 1e-9), np.nan)
  ranking = config.ranking
  partition = compare_partitions(
    clusters.labels[known], early[known], final[known], macs[known],
    np.random.default_rng([config.seed, 1]), ranking.bootstrap,
    ranking.confidence,
  )  # fmt: skip
  if not known_macs:
    del partition["macs"]
  return {
    "winner": archs[best.winner],
    "archs": archs,
    "finals": np.concatenate([waiting, sign * best.longer]),
    "divide": {
      "k": clusters.k,
      "silhouette": clusters.silhouette,
      "macs_explained": cost_explained(clusters.labels, macs)
      if known_macs
      else None,
      "early_looks": len(archs),
      "final_looks": len(best.survivors),
      "partition": partition,
    },
  }


def _refuse_training(divide: DivideConfig) -> None:
  """Refuses what is said of trainings, which a table has none of."""
  for name in (
    "source", "features", "change", "outputs", "probe_images", "projection",
    "first_epoch", "epochs", "conquer_epochs", "together",
  ):  # fmt: skip
    if (value := getattr(divide, name)) != getattr(DivideConfig(), name):
      raise UserError(
        f"divide.{name} is {value!r}, but a search of a table trains nothing;"
        " leave it at its default."
      )


def _features(table: Table, archs: np.ndarray) -> np.ndarray:
  names = [m for m in table.metrics if m.startswith(FEATURE)]
  if names:
    found = table.objective(archs)
    return np.stack([found[m] for m in names], 1)
  k = int(table.space.n_choices.max())
  return np.eye(k)[archs].reshape(len(archs), -1)


def _no_rung(rows: np.ndarray, rung: int) -> np.ndarray:
  raise AssertionError("halving was refused")
