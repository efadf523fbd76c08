"""All methods side by side on Fashion-MNIST, at equal search cost.

    python -m jaxnas compare configs/compare_fashion_mnist.py \
      --workdir runs/compare_fashion

As `compare_digits`, in the CIFAR-sized FairNAS space and with about 75 million
image evaluations for each search. Data: the four idx files, by default where
Debian's `dataset-fashion-mnist` puts them; else `--set data.source=idx:FOLDER`.
Meant for one accelerator; not run in full by us. `small` has the arms and image
counts of `compare_digits`, at 14 x 14 pixels, and all test images: for CPUs,
not run by us either. `quicktest` takes 500 images and learns little. All sizes
are ours.
"""

import dataclasses

from jaxnas.compare import load_arms
from jaxnas.config import (
  DivideConfig,
  ExperimentConfig,
  MasksConfig,
  RankingConfig,
  RetrainConfig,
  SearchConfig,
  load_config,
  override,
)


def get_configs() -> dict[str, ExperimentConfig]:
  fairnas = dataclasses.replace(
    load_config("fashion_mnist_fairnas"), ranking=RankingConfig(n_archs=0)
  )
  # Not the space's: masks and blocks have none.
  fairnas = override(fairnas, ["retrain.dropout=0"])
  spos = override(
    fairnas, ["method=spos", "search.tournament=10", "train.epochs=360"]
  )
  gcn = dataclasses.replace(
    fairnas, method="gcn", search=load_config("cifar10_gcn").search
  )
  gcn = override(gcn, ["search.segments.samples=650"])
  alone = dataclasses.replace(
    fairnas,
    method="dcnas",
    train=ExperimentConfig().train,
    score=dataclasses.replace(ExperimentConfig().score, batch_size=1024),
    search=SearchConfig(),
    divide=DivideConfig(samples=68, conquer_epochs=15, together=8),
  )
  early = override(alone, ["divide.clusters=1", "divide.keep=8"])
  evolution = dataclasses.replace(
    alone,
    method="evolution",
    search=SearchConfig(
      population=24, offspring=8, generations=8, tournament=8,
      objectives=("accuracy",),
    ),
    divide=DivideConfig(together=8),
  )  # fmt: skip
  random = override(
    evolution, ["search.algorithm=random", "search.population=88",
                "search.offspring=0", "search.generations=0"],
  )  # fmt: skip
  pgnas = dataclasses.replace(
    load_config("fashion_mnist_pgnas"),
    data=fairnas.data,
    retrain=dataclasses.replace(fairnas.retrain, dropout=-1.0),
    masks=MasksConfig(length_scale=1080.0, rate_speed=5.0, candidates=3200),
  )
  pgnas = override(pgnas, ["train.epochs=350"])
  irlas = dataclasses.replace(
    load_config("cifar10_irlas"), data=fairnas.data, retrain=pgnas.retrain
  )
  irlas = override(
    irlas,
    ["space.image_size=28", "train.epochs=300", "blocks.per_round=20",
     "blocks.compare=()", "blocks.latency_blocks=0"],
  )  # fmt: skip
  return {
    "random": random, "evolution": evolution, "early": early,
    "dcnas": alone, "spos": spos, "fairnas": fairnas, "gcn": gcn,
    "pgnas": pgnas, "irlas": irlas,
  }  # fmt: skip


def small() -> dict[str, ExperimentConfig]:
  """The arms of `compare_digits` on as many images, three times as large."""
  found = {}
  for arm in load_arms(["compare_digits"]):
    config = override(arm.config, ["space.image_size=14"])
    if config.budget:
      config = override(config, ["budget=macs<=2M"])
    data = dataclasses.replace(
      config.data, source="idx:", limit=1079, validation=359
    )
    found[arm.name] = dataclasses.replace(config, data=data)
  return found


def quicktest() -> dict[str, ExperimentConfig]:
  """The same stages, with few images and archs."""
  arms = get_configs()
  shared = ["train.epochs=1", "train.optimizer.warmup_epochs=0",
            "train.batch_size=64"]  # fmt: skip
  few = ["divide.epochs=1", "divide.together=3"]
  short = ["divide.samples=3", "divide.conquer_epochs=1", *few]
  own = {
    "random": ["search.population=2", *few],
    "evolution": ["search.population=2", "search.offspring=0",
                  "search.generations=0", *few],
    "early": ["divide.keep=1", *short],
    "spos": [*shared, "search.population=4", "search.generations=0"],
    "fairnas": [*shared, "search.population=4", "search.generations=0"],
    "gcn": [*shared, "search.segments.samples=12",
            "search.segments.candidates=6", "search.segments.batch=12"],
    "pgnas": [*shared, "masks.candidates=8", "masks.batch=8",
              'space.options={"stem_stride": 2, "width": 4, "blocks": 1}'],
    "irlas": [*shared, "blocks.rounds=10", "blocks.per_round=2",
              "expert.iterations=2", "expert.rounds=10", "expert.samples=64",
              'space.options={"max_layers": 4}'],
    "dcnas": ["divide.clusters=2", *short],
  }  # fmt: skip
  data = dataclasses.replace(
    arms["fairnas"].data, limit=500, validation=200, test=200
  )
  recipe = RetrainConfig(
    epochs=1, batch_size=64, optimizer=arms["fairnas"].retrain.optimizer
  )
  recipe = dataclasses.replace(
    recipe, optimizer=dataclasses.replace(recipe.optimizer, warmup_epochs=0)
  )
  return {
    k: dataclasses.replace(
      override(v, own[k]),
      data=data,
      retrain=dataclasses.replace(recipe, dropout=v.retrain.dropout),
    )
    for k, v in arms.items()
  }
