"""All methods side by side on scikit-learn's digits, at equal search cost.

    python -m jaxnas compare configs/compare_digits.py --workdir runs/compare \
      --jobs 2

50 minutes on 2 CPU cores, compilation included: `--jobs 2` runs two arms at a
time. Test accuracies of 0.979 to 0.990, no pair of which can be told apart
(docs/results.md).

Each arm searches for 400 to 445 thousand image evaluations (a training image
counts 3) with the same data split; its winner is trained from scratch by the
same recipe. Chains of layers keep 600,000 multiply-adds; the masked networks of
PGNAS and the blocks of IRLAS have spaces of their own, so compare their
accuracies at the multiply-adds beside them. `random`, `evolution`, `early` and
`dcnas` share no weights: `early` is plain early stopping, DC-NAS with one
cluster and as many networks trained longer. `quicktest` goes through the same
stages and learns little (with `--seeds 0 --jobs 2` in four and a half minutes
on 2 CPU cores, nothing compiled before). All sizes are ours.
"""

import dataclasses

from jaxnas.config import (
  DivideConfig,
  ExperimentConfig,
  RankingConfig,
  SearchConfig,
  load_config,
  override,
)


def get_configs() -> dict[str, ExperimentConfig]:
  fairnas = _alike(load_config("digits_fairnas"))
  # Validations in between would be paid for by image evaluations too.
  fairnas = override(
    fairnas,
    ["train.epochs=13", "train.evaluate_archs=0", "search.generations=8"],
  )
  spos = override(
    fairnas, ["method=spos", "search.tournament=10", "train.epochs=78"]
  )
  gcn = dataclasses.replace(
    fairnas, method="gcn", search=load_config("digits_gcn").search
  )
  gcn = override(
    gcn, ["search.segments.samples=90", "search.segments.candidates=18"]
  )
  alone = dataclasses.replace(
    fairnas,
    method="dcnas",
    train=ExperimentConfig().train,
    search=SearchConfig(),
    divide=DivideConfig(
      samples=27, epochs=3, clusters=3, conquer_epochs=20, together=18
    ),
  )
  early = override(alone, ["divide.clusters=1", "divide.keep=3"])
  evolution = dataclasses.replace(
    alone,
    method="evolution",
    search=SearchConfig(
      population=14, offspring=8, generations=4, tournament=5,
      objectives=("accuracy",),
    ),
    divide=DivideConfig(epochs=3, together=18),
  )  # fmt: skip
  random = override(
    evolution, ["search.algorithm=random", "search.population=46",
                "search.offspring=0", "search.generations=0"],
  )  # fmt: skip
  pgnas = override(
    _alike(load_config("digits_pgnas")), ["masks.candidates=700"]
  )
  irlas = override(
    _alike(load_config("digits_irlas")),
    ["train.epochs=60", "train.evaluate_archs=0", "blocks.rounds=26",
     "blocks.compare=()", "blocks.latency_blocks=0"],
  )  # fmt: skip
  return {
    "random": random, "evolution": evolution, "early": early,
    "dcnas": alone, "spos": spos, "fairnas": fairnas, "gcn": gcn,
    "pgnas": pgnas, "irlas": irlas,
  }  # fmt: skip


def quicktest() -> dict[str, ExperimentConfig]:
  """The same stages in small spaces, with little training and few archs."""
  arms = get_configs()
  chain = ['space.options={"depths": [1, 2]}', "budget=macs<=300k"]
  shared = ["train.epochs=1", "train.optimizer.warmup_epochs=0"]
  short = [*chain, "divide.epochs=1", "divide.together=4"]
  searched = [
    *chain, *shared, "search.population=8", "search.generations=1",
    "search.front=1",
  ]  # fmt: skip
  own = {
    "random": ["search.population=4", *short],
    "evolution": [
      "search.population=4", "search.offspring=0", "search.generations=0",
      *short,
    ],
    "early": ["divide.samples=4", "divide.keep=2", "divide.conquer_epochs=1",
              *short],
    "dcnas": ["divide.samples=4", "divide.clusters=2",
              "divide.conquer_epochs=1", *short],
    "spos": searched,
    "fairnas": searched,
    "gcn": [
      *chain, *shared, "search.segments.first=2", "search.segments.later=2",
      "search.segments.samples=12", "search.segments.candidates=8",
      "search.segments.top_k=4",
    ],
    "pgnas": [*shared, "masks.candidates=16", "masks.batch=16",
              'space.options={"width": 4, "blocks": 1}'],
    "irlas": [
      *shared, "blocks.rounds=10", "blocks.per_round=4", "expert.iterations=2",
      "expert.rounds=10", "expert.samples=64", "score.calibration_images=64",
      'space.options={"max_layers": 4, "stem": 4, "stages": [[4, 1], [8, 1]]}',
    ],
  }  # fmt: skip
  retrain = ["retrain.epochs=1", "retrain.optimizer.warmup_epochs=0"]
  return {
    name: override(arm, [*own[name], *retrain]) for name, arm in arms.items()
  }


def _alike(config: ExperimentConfig) -> ExperimentConfig:
  """With the recipe that every winner is trained by, and no ranking."""
  recipe = load_config("digits_fairnas").retrain
  # Masks are not ranked, and refuse to say how.
  ranking = RankingConfig()
  if config.method != "pgnas":
    ranking = RankingConfig(n_archs=0)
  return dataclasses.replace(config, retrain=recipe, ranking=ranking)
