"""FairNAS in the NAS-Bench-Macro space, whose every network was trained.

    python -m jaxnas run configs/nasbench_macro_fairnas.py --workdir runs/m
    python -m jaxnas rank configs/nasbench_macro_fairnas.py --workdir runs/m \
      --truth macro.csv

`macro.csv` from the benchmark's table, equal networks counted once:

    import json
    canon = lambda a: "".join(
      s[0] + s[1:].replace("0", "").ljust(len(s) - 1, "0")
      for s in (a[0:2], a[2:5], a[5:8]))
    table = json.load(open("nas-bench-macro_cifar10.json"))
    rows = [f"{a},{v['mean_acc'] / 100}" for a, v in table.items()
            if a == canon(a)]
    print("arch,standalone_accuracy", *rows, sep=chr(10),
          file=open("macro.csv", "w"))

Its accuracies are best-epoch *test* accuracies, 3 seeds. A ranking there means
nothing until its tau-b beats 0.546, what multiply-adds alone reach on these
3,969 networks. Data as in `cifar10_fairnas`. Meant for one accelerator;
not run in full by us. `quicktest` takes 2,000 images and a few steps.
"""

import dataclasses

from jaxnas.config import (
  AugmentConfig,
  DataConfig,
  ExperimentConfig,
  OptimizerConfig,
  RankingConfig,
  RetrainConfig,
  ScoreConfig,
  SearchConfig,
  SpaceConfig,
  TrainConfig,
)


def get_config() -> ExperimentConfig:
  return ExperimentConfig(
    method="fairnas",
    budget="macs<=60M",
    space=SpaceConfig("nasbench-macro"),
    data=DataConfig(
      "tfds:cifar10",
      validation=0.1,
      augment=AugmentConfig(flip=True, shift=4),
    ),
    train=TrainConfig(  # sizes and rates: ours
      epochs=100,
      batch_size=128,
      optimizer=OptimizerConfig(
        learning_rate=0.05, warmup_epochs=3, clip_norm=5.0
      ),
    ),
    score=ScoreConfig(calibration_images=2048, batch_size=1024),
    search=SearchConfig(population=50, generations=20),
    # The benchmark's own recipe: 50 epochs, batch 256, SGD 0.1 cosine, 5e-4.
    retrain=RetrainConfig(
      epochs=50,
      batch_size=256,
      label_smoothing=0.0,
      optimizer=OptimizerConfig(learning_rate=0.1, weight_decay=5e-4),
    ),
    ranking=RankingConfig(n_archs=0),
  )


def quicktest() -> ExperimentConfig:
  config = get_config()
  return dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, limit=2000),
    train=dataclasses.replace(
      config.train,
      optimizer=_steady(config.train.optimizer),
      epochs=1,
      batch_size=64,
    ),
    score=ScoreConfig(calibration_images=256, batch_size=256),
    search=dataclasses.replace(config.search, population=8, generations=1),
    retrain=dataclasses.replace(
      config.retrain, optimizer=_steady(config.retrain.optimizer), epochs=1
    ),
  )


def _steady(optimizer: OptimizerConfig) -> OptimizerConfig:
  """Without warm-up, which would outlast a quick test."""
  return dataclasses.replace(optimizer, warmup_epochs=0)
