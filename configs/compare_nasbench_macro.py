"""Searches side by side on the NAS-Bench-Macro table, at equal cost.

    python -m jaxnas compare configs/compare_nasbench_macro.py \
      --table nas-bench-macro_cifar10.json --workdir runs/compare_macro

Each arm pays for 300 trainings: 100 looks at the mean of three, or, for DC-NAS,
276 single ones and the 8 best of its clusters three times. Regret is what is
missing to the best network of the table. `nsga2` is the search of FairNAS,
`evolution` that of our SPOS, `early` DC-NAS with one cluster, thus plain early
stopping; no supernet, PGNAS or IRLAS can be had from a table of such networks.
All sizes are ours.
"""

import dataclasses

from jaxnas.config import (
  ExperimentConfig,
  SearchConfig,
  load_config,
  override,
)


def get_configs() -> dict[str, ExperimentConfig]:
  objectives = ("accuracy",)
  sizes = SearchConfig(
    population=40, offspring=10, generations=6, objectives=objectives,
    objective_weights=(1.0,), tournament=10,
  )  # fmt: skip
  base = ExperimentConfig(search=sizes)
  divided = load_config("nasbench_macro_dcnas:table")
  return {
    "random": override(base, ["search.algorithm=random"]),
    "evolution": dataclasses.replace(base, method="spos"),
    "nsga2": base,
    "gcn": load_config("nasbench_macro_gcn:table"),
    "early": override(divided, ["divide.clusters=1", "divide.keep=8"]),
    "dcnas": divided,
  }


def quicktest() -> dict[str, ExperimentConfig]:
  """20 looks, or 36 single trainings and 8 times 3."""
  arms = get_configs()
  segments = [f"search.segments.{k}=10" for k in ("samples", "candidates")]
  segments += ["search.segments.refits=1", "search.segments.batch=10"]
  few = ["search.population=10", "search.generations=1"]
  own = {"gcn": segments, "early": ["divide.samples=36"],
         "dcnas": ["divide.samples=36"]}  # fmt: skip
  return {k: override(v, own.get(k, few)) for k, v in arms.items()}
