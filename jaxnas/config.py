"""The experiment as data: a tree of frozen dataclasses, overrides, JSON.

A config file defines `get_config() -> ExperimentConfig`, and may define further
variants, `quicktest() -> ExperimentConfig`, addressed as `FILE.py:quicktest`.
"""

import dataclasses
import hashlib
import importlib.util
import json
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxnas.errors import UserError, unknown

BnMode = Literal["recalibrate", "batch", "running"]


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
  """Which archs exist.

  Attributes:
    name: registered space, or a Python file with `get_space`.
    options: arguments of the space, such as `{"se_ratio": 0.5}`.
    image_size: overrides the space's image size; 0 keeps it.
  """

  name: str = "digits"
  options: dict = dataclasses.field(default_factory=dict)
  image_size: int = 0


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
  """Random transforms of training images, applied on the device.

  Attributes:
    flip: mirror left and right with probability 1/2.
    shift: largest translation in pixels, edges filled with zeros.
    crop_scale: smallest area share of a random resized crop; 1 turns it off.
    cutout: side of a square set to zero, in pixels; 0 turns it off.
  """

  flip: bool = False
  shift: int = 0
  crop_scale: float = 1.0
  cutout: int = 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where the images come from and how they are split.

  Attributes:
    source: `digits`, `npz:PATH`, `folder:PATH`, `idx:PATH` or `tfds:NAME`.
    validation: held out from training for selection, where the source has no
      validation split of its own; a share if below 1, else a number of images.
    test: the same for the test split, used only where the source has none.
    split_seed: seed of the split, apart from the experiment's seed so that
      repetitions are judged on the same images.
    limit: keep at most this many training images (0 keeps all), for trials.
    stream: whether training images are decoded while training goes on, instead
      of being held on the device: `never`, `always`, or `auto`, if they take
      more than `memory_gib`. The results are the same.
    memory_gib: decoded images that a split may hold in memory, in GiB.
    augment: transforms of training images.
  """

  source: str = "digits"
  validation: float = 0.2
  test: float = 0.2
  split_seed: int = 0
  limit: int = 0
  stream: Literal["auto", "never", "always"] = "auto"
  memory_gib: float = 4.0
  augment: AugmentConfig = AugmentConfig()


@dataclasses.dataclass(frozen=True)
class NetConfig:
  """Numerics shared by the supernet and stand-alone networks.

  Attributes:
    precision: type of activations and products; parameters, batch-norm
      statistics and the loss stay in float32.
    bn_momentum: share of the old running statistics kept at each update.
    bn_affine: whether batch norm has scale and shift.
    bn_track: whether the supernet keeps running statistics.
    bn_parts: equal parts of a training batch that batch norm measures apart. 1,
      over the images of all devices, gives the same result on any number of
      devices; `mesh.data` parts are the usual statistics of each replica, which
      need no exchange between devices.
    remat: recompute each layer's inner activations in the backward pass.
  """

  precision: Literal["float32", "bfloat16"] = "float32"
  bn_momentum: float = 0.9
  bn_affine: bool = True
  bn_track: bool = True
  bn_parts: int = 1
  remat: bool = False


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Optimiser and schedule: linear warm-up, then a cosine, restarts or drops.

  Attributes:
    name: `sgd` (momentum), `rmsprop` or `adamw`.
    learning_rate: peak value.
    final_learning_rate: value that the cosine reaches after its last step.
    schedule: `cosine` over all steps; `restarts`, cosines of growing length,
      each from the peak (SGDR, arXiv 1608.03983); or `drops`, a constant that
      is divided at given epochs.
    restart_epochs: length of the first cosine of `restarts`, T0.
    restart_growth: ratio of the lengths of two successive ones, Tmul.
    drop_epochs: when `drops` divides the rate.
    drop_factor: what it is divided by.
    warmup_epochs: epochs of linear warm-up from 0.
    momentum: of `sgd` and `rmsprop`; beta1 of `adamw`.
    nesterov: Nesterov momentum (`sgd` only).
    weight_decay: L2 coefficient (decoupled for `adamw`).
    decay_all: decay batch norm and biases too; the default spares them.
    clip_norm: bound on the global gradient norm after accumulation; 0 is off.
  """

  name: Literal["sgd", "rmsprop", "adamw"] = "sgd"
  learning_rate: float = 0.045  # FairNAS supernet: recalled, unverified
  final_learning_rate: float = 0.0
  schedule: Literal["cosine", "restarts", "drops"] = "cosine"
  restart_epochs: float = 10.0
  restart_growth: float = 2.0
  drop_epochs: tuple[float, ...] = ()
  drop_factor: float = 10.0
  warmup_epochs: float = 0.0
  momentum: float = 0.9
  nesterov: bool = False
  weight_decay: float = 4e-5
  decay_all: bool = False
  clip_norm: float = 0.0


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Supernet training.

  Attributes:
    epochs: passes over the training images.
    batch_size: images of one path's batch.
    accumulate: parts of a batch that are computed in turn before the update;
      each measures its own batch norm. More need less memory.
    sampler: `fair` (strict fairness), `spos` (one uniform path), `uniform-k`
      (`paths` independent uniform paths) or `ef-k` (one path held for `paths`
      successive updates); `auto` is the method's own.
    paths: k of `uniform-k` and `ef-k`; 0 takes the number of choices. `fair`
      and `spos` fix it themselves and accept 0 only.
    pad_unequal: let `fair` resample the shorter permutations of a space whose
      layers differ in their number of choices; not strictly fair then.
    share_batch: all paths of a step see the same images; else each path gets
      a batch of its own.
    loss_reduce: `sum` or `mean` of the path losses.
    paths_in_flight: paths of `fair` computed together; 0 means all of a step.
      Fewer need less memory and more time. Other samplers run one at a time
      and accept 0 and 1 only.
    label_smoothing: share of the target spread over all classes.
    optimizer: optimiser and schedule.
    log_every: steps between two log rows.
    checkpoint_every: epochs between two checkpoints.
    evaluate_every: epochs between two validations of a fixed set of paths.
    evaluate_archs: size of that set (uniform, the same for all runs).
  """

  epochs: int = 150
  batch_size: int = 256
  accumulate: int = 1
  sampler: Literal["auto", "fair", "spos", "uniform-k", "ef-k"] = "auto"
  paths: int = 0
  pad_unequal: bool = False
  share_batch: bool = True
  loss_reduce: Literal["sum", "mean"] = "sum"
  paths_in_flight: int = 0
  label_smoothing: float = 0.1
  optimizer: OptimizerConfig = OptimizerConfig()
  log_every: int = 10
  checkpoint_every: int = 10
  evaluate_every: int = 10
  evaluate_archs: int = 6


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
  """How a path is judged with inherited weights.

  Attributes:
    bn_mode: where batch-norm statistics come from.
    calibration_images: training images (unaugmented, fixed) that give the
      statistics of `recalibrate`.
    batch_size: images scored at once.
    engine: how candidates are computed; all give the same scores. `wavefront`
      computes each distinct prefix once, `routed` a block of candidates in one
      program, `serial` one candidate after the other; `auto` takes `wavefront`
      on CPU and `routed` elsewhere.
    max_live_bytes: bound on what the engine keeps on each device: half for
      activations between layers, half for batch-norm statistics.
    race: above 0, the command `score` drops archs that are surely not the most
      accurate of those given, on growing parts of the validation images; the
      bound on the probability that it drops the most accurate one. Searches
      never race.
  """

  bn_mode: BnMode = "recalibrate"
  calibration_images: int = 512
  batch_size: int = 512
  engine: Literal["auto", "wavefront", "routed", "serial"] = "auto"
  max_live_bytes: int = 1 << 32
  race: float = 0.0


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
  """What predicts the accuracy of archs from those scored.

  The constants below `kind` belong to the neural predictors `gcn` and `mlp`;
  `ridge` and `default` find theirs in the labels.

  Attributes:
    kind: `default` (a Gaussian process and additive fits, mixed by the share of
      noise in the labels; ours), `gcn`, `ridge` (on one-hot choices) or `mlp`.
    ensemble: networks trained side by side; their standard deviation is the
      spread.
    layers: graph convolutions, or hidden layers of the MLP.
    width: features of each.
    directed: two weight matrices, along the edges and against them, averaged
      (Neural Predictor, arXiv 1912.00848), instead of one for both.
    readout: the graph's value is read from its `global` node, or is the
      `mean` over all nodes.
    shared_slots: nodes share the slots of their choices, as where choice 3 is
      the same operator everywhere; else each node has slots of its own, as a
      super-cell needs.
    loss: `mse`, `huber` (both on standardised labels) or `ranking` (hinge on
      all pairs of a batch).
    learning_rate: of AdamW at the start; a cosine takes it to 0.
    weight_decay: decoupled.
    epochs: passes over the labels.
    batch_size: labels of a step.
    validation: share of the labels, drawn anew for each network, that decides
      which epoch's weights are kept; 0 keeps the last.
    patience: epochs without a better one after which a network is done; 0
      never stops before `epochs`.
  """

  kind: Literal["default", "gcn", "ridge", "mlp"] = "default"
  ensemble: int = 4
  layers: int = 4
  width: int = 64
  directed: bool = False
  readout: Literal["global", "mean"] = "global"
  shared_slots: bool = False
  loss: Literal["mse", "huber", "ranking"] = "mse"
  learning_rate: float = 1e-3
  weight_decay: float = 1e-5
  epochs: int = 300
  batch_size: int = 64
  validation: float = 0.2
  patience: int = 50


@dataclasses.dataclass(frozen=True)
class SegmentsConfig:
  """The segment-wise search with a predictor (arXiv 2004.08423).

  Attributes:
    first: cells of the first segment (paper).
    later: nodes of each later segment, its super-cell included (paper).
    top_k: sub-archs kept as the choices of the next super-cell (paper).
    samples: archs scored for each segment (ours).
    completion: how layers behind the segment are filled while it is searched
      (ours): `random`, a new completion for each sample; `average`, the mean
      over several; `fixed`, the cheapest choices for all.
    completions: of `average`.
    candidates: sub-archs with the best predictions that are scored once more
      (ours).
    rescore: completions that each of them is scored with.
    refits: the candidates come in so many parts, and before each the predictor
      is fitted anew (ours).
    min_distance: least number of layers in which kept sub-archs differ (ours).
    cost_bins: ranges of cost from which candidates and kept sub-archs are
      taken alike, so that small ones survive for small budgets (ours).
    cost: the cost of these bins.
    refine: archs of a final evolution around the best (ours); 0 for none.
    batch: archs scored between two checkpoints.
  """

  first: int = 7
  later: int = 7
  top_k: int = 6
  samples: int = 2000
  completion: Literal["random", "average", "fixed"] = "random"
  completions: int = 4
  candidates: int = 50
  rescore: int = 1
  refits: int = 1
  min_distance: int = 0
  cost_bins: int = 1
  cost: str = "macs"
  refine: int = 0
  batch: int = 1000


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """The search over archs.

  Attributes:
    algorithm: `nsga2`, `evolution` (regularised), `segments` (with a
      predictor) or `random`; for blocks `qlearning`, `reinforce`,
      `differentiable`, `evolution` or `random`; `auto` is the method's own.
    population: archs kept from one generation to the next.
    generations: rounds after the first population.
    offspring: new archs of each round; 0 takes the population's size.
    objectives: `name` to maximise or `-name` to minimise.
    objective_weights: weights of the crowding distance, summing to 1.
    tournament: archs that compete to be a parent.
    mutation_share: children that are mutated after crossover.
    mutation_rate: share of layers that a uniform mutation redraws.
    mutators: shares of the uniform, controller and roulette-by-cost mutators,
      summing to 1.
    controller_learning_rate: step size of the controller's PPO.
    front: archs picked equispaced along the final front.
    segments: the constants of `segments`; its rounds and sizes are its own.
    predictor: what `segments` predicts with.
  """

  algorithm: Literal[
    "auto", "nsga2", "evolution", "segments", "random", "qlearning",
    "reinforce", "differentiable",
  ] = "auto"  # fmt: skip
  population: int = 70  # recalled, unverified
  generations: int = 200  # recalled, unverified
  offspring: int = 0
  objectives: tuple[str, ...] = (  # maximising params: recalled, unverified
    "accuracy", "-macs", "params",
  )  # fmt: skip
  objective_weights: tuple[float, ...] = (  # recalled, unverified
    0.4, 0.4, 0.2,
  )  # fmt: skip
  tournament: int = 2
  mutation_share: float = 0.8  # recalled, unverified
  mutation_rate: float = 0.1
  mutators: tuple[float, ...] = (0.2, 0.65, 0.15)  # recalled, unverified
  controller_learning_rate: float = 0.05
  front: int = 3
  segments: SegmentsConfig = SegmentsConfig()
  predictor: PredictorConfig = PredictorConfig()


@dataclasses.dataclass(frozen=True)
class MasksConfig:
  """Learned channel masks and their selection (PGNAS, arXiv 1906.09557).

  With p the drop rate of a group of K channels whose weights have the squared
  norm S, the loss is the cross-entropy plus, summed over groups,

      l2 / N * (1 - p) * S + c / N * K * (p log p + (1 - p) log(1 - p)),

  the authors' code form; options give the printed form and others.

  Attributes:
    rates: `learned`; or `fixed`, hard masks at `initial_rate`, the baseline of
      predefined dropout, for which nothing about relaxed masks and the learning
      of rates matters.
    initial_rate: drop rate of every group at the start; 0.1 (paper, authors).
    length_scale: l2, the squared length scale l^2; 50 to 2500 (paper).
    examples: N; 0 takes ten times the training images, as the paper does
      because of augmentation.
    weight_term: `coupled`, as above; or `constant`, without the factor 1 - p,
      ordinary L2 (the paper's ablation).
    half: put the printed factor 1/2 before the weight term.
    entropy: `full`, as above (authors); or `printed`, its first term only.
    entropy_weight: c.
    prior_drop: u, the prior probability that a channel is dropped, which adds
      -(p log u + (1 - p) log(1 - u)) to the bracket; 0 leaves that out (paper).
    rate_speed: what the updates of the rates' logits are multiplied by; 1
      (authors). Their gradient is of the order of K / N, so that the rates of
      a short training need more (ours).
    rate_delay: epochs before the rates begin to learn; 0 (authors). While a
      network is no better than guessing, dropping everything helps it, and
      fast rates may never come back from there (ours).
    tau: temperature of the relaxed masks; 0.2 (paper).
    relaxation: of the masks in training; `concrete` (paper, authors),
      `straight-through` or `hard-concrete`.
    target: `macs`, `params` or `channels` adds `target_weight` times what its
      expected share exceeds `target_share` by (ours).
    target_share: share of all gated input channels, or of their multiply-adds
      or weights, above 0 and at most 1.
    target_weight: in nats per whole network.
    candidates: C, masks drawn from the learned rates and scored.
    batch: candidates between two checkpoints.
    threshold: also score the mask that drops a group iff p > 1/2 (ours).
    halving: 0 scores every candidate on all validation images; 2 and more
      scores all on few, keeps one in so many, and multiplies the images, all
      in one round whatever `batch` (ours).
  """

  rates: Literal["learned", "fixed"] = "learned"
  initial_rate: float = 0.1
  length_scale: float = 50.0
  examples: float = 0.0
  weight_term: Literal["coupled", "constant"] = "coupled"
  half: bool = False
  entropy: Literal["full", "printed"] = "full"
  entropy_weight: float = 1.0
  prior_drop: float = 0.0
  rate_speed: float = 1.0
  rate_delay: float = 0.0
  tau: float = 0.2
  relaxation: Literal["concrete", "straight-through", "hard-concrete"] = (
    "concrete"
  )
  target: Literal["none", "macs", "params", "channels"] = "none"
  target_share: float = 0.5
  target_weight: float = 1.0
  candidates: int = 1500
  batch: int = 100
  threshold: bool = True
  halving: int = 0


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
  """Training of a plain network from scratch (or from inherited weights).

  Attributes:
    epochs: passes over the training images; 0 keeps the inherited weights as
      they are.
    batch_size: images of a batch.
    accumulate: as of `train`.
    inherit: start from the supernet's weights instead of fresh ones.
    dropout: rate before the classifier; -1 takes the space's.
    label_smoothing: share of the target spread over all classes.
    optimizer: optimiser and schedule.
    log_every: steps between two log rows.
    checkpoint_every: epochs between two checkpoints.
  """

  epochs: int = 240
  batch_size: int = 128
  accumulate: int = 1
  inherit: bool = False
  dropout: float = -1.0
  label_smoothing: float = 0.1
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=0.05, final_learning_rate=1e-5, warmup_epochs=5
  )
  log_every: int = 10
  checkpoint_every: int = 20


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
  """What an expert's topology teaches: inverse reinforcement learning (ours).

  That features are linear and their reward is learned from a hand-designed
  network is the paper's (arXiv 1812.05285); how is not known. This is standard
  apprenticeship learning (Abbeel and Ng 2004) on BlockQNN's decisions.

  Attributes:
    blocks: experts by name (`spaces.EXPERTS`) or as text.
    features: of a layer: `onehot` (type, kernel, relative offsets of what it
      reads), `code` (the raw code scaled to 0..1), or `topology` (convolutions
      merged, kernels dropped, degrees added).
    offsets: D, the largest relative offset with a feature of its own.
    discount: of the feature counts; 1 divides by the number of layers.
    solver: `projection`; `max-margin`, a quadratic programme with slack; or
      `max-entropy` over a fixed pool of random blocks.
    slack: price C of a violated margin in `max-margin`.
    iterations: times that weights are solved for and a policy is learned.
    epsilon: largest margin (or gap) at which that stops.
    rounds: rounds of Q-learning of each policy, on the learned reward alone.
    samples: blocks that estimate a policy's feature counts, and that random
      blocks are represented by.
  """

  blocks: tuple[str, ...] = ("resnext-2",)
  features: Literal["onehot", "code", "topology"] = "onehot"
  offsets: int = 4
  discount: float = 1.0
  solver: Literal["projection", "max-margin", "max-entropy"] = "projection"
  slack: float = 10.0
  iterations: int = 10
  epsilon: float = 1e-3
  rounds: int = 60
  samples: int = 500


@dataclasses.dataclass(frozen=True)
class BlocksConfig:
  """The search for a block that is stacked (IRLAS on BlockQNN).

  A block's reward is its accuracy plus `guidance` times the mirror stimuli
  function F, scaled to 0..1, minus penalties.

  Attributes:
    block: train this block, text or preset, without any search.
    evaluation: where accuracies come from: `interpreter`, a supernet that runs
      any block with shared weights (ours, not what BlockQNN did); `children`,
      a short training of each block's own network (BlockQNN); or `table`.
    table: CSV file with the columns `arch` and `accuracy`, of `table`.
    guidance: lambda; 0 is BlockQNN's unguided agent.
    compare: further values of lambda that are searched with, for comparison.
    flops_penalty: mu of `- mu log(FLOPs)`, for accuracies in percent (recalled
      as 1; the authors of a reimplementation found it too strict, so 0).
    density_penalty: rho of `- rho log(edges / nodes)` (recalled as 8).
    rounds: iterations of Q-learning; BlockQNN's 178 have the epsilons 1, 0.9,
      ..., 0.1 for 95, 7, 7, 7, 10, 10, 10, 10, 10, 12, others in proportion.
    per_round: blocks drawn in each (recalled).
    replay: updates after each, from remembered blocks.
    learning_rate: alpha of Q-learning.
    discount: gamma of Q-learning.
    initial_q: value of what was never tried.
    shaped: each layer is rewarded by r_T / T as well, and not only the end by
      r_T.
    policy_learning_rate: of `search.algorithm=reinforce` and of the operation
      and edge probabilities of `differentiable` (ours).
    latency_blocks: random blocks of equal accuracy that the chosen one's
      latency is measured beside; 0 measures none.
    child: training of `evaluation=children`.
  """

  block: str = ""
  evaluation: Literal["interpreter", "children", "table"] = "interpreter"
  table: str = ""
  guidance: float = 0.3
  compare: tuple[float, ...] = ()
  flops_penalty: float = 0.0
  density_penalty: float = 0.0
  rounds: int = 178
  per_round: int = 64  # recalled, unverified
  replay: int = 64
  learning_rate: float = 0.01
  discount: float = 1.0
  initial_q: float = 0.5
  shaped: bool = True
  policy_learning_rate: float = 0.05
  latency_blocks: int = 5
  child: RetrainConfig = RetrainConfig(
    epochs=12,
    batch_size=256,
    label_smoothing=0.0,
    optimizer=OptimizerConfig(
      name="adamw",
      learning_rate=0.001,
      weight_decay=0.0,
      schedule="drops",
      drop_epochs=(5, 10),
      drop_factor=5.0,
    ),  # fmt: skip
  )


@dataclasses.dataclass(frozen=True)
class DivideConfig:
  """Divide and conquer (DC-NAS, arXiv 2005.14456), a design from its abstract.

  Networks that change alike in a short training are put into one cluster, and
  compared there; the clusters' best are trained longer and merged (paper,
  abstract). Every choice and number below is ours.

  Attributes:
    samples: archs drawn uniformly within the budget.
    source: where features and early accuracies come from: `short-training` of
      each arch's own network; or `shared-weights`, one gradient of each arch on
      a trained supernet and its accuracy there.
    features: `change` of each layer's parameters, its `outputs` on probe
      images, or `both`.
    change: `norm`, ||after - before|| / ||before||; or `cosine`, 1 - cos.
    outputs: `late`, those after the training; or `difference`, less those
      before. Shared weights know `late` only.
    probe_images: fixed training images, unaugmented.
    projection: numbers that a layer's outputs are projected to at random.
    components: principal components that are kept; 0 keeps the features.
    first_epoch: when `before` is, in epochs of the short training; 0 is the
      fresh network.
    epochs: of the short training; the candidates of the method `evolution`
      have it too.
    partition: `kmeans`; or, as baselines, `random` or `macs` (neighbours in
      multiply-adds) into parts as large as k-means makes them.
    clusters: k; 0 takes the one with the largest silhouette.
    max_clusters: largest k that the silhouette chooses from.
    distance: `cosine` (k-means on vectors of length 1) or `euclidean`.
    restarts: of k-means; the best one counts.
    keep: archs of each cluster that are trained longer.
    halving: 0 ranks by the early accuracy alone; 2 and more keeps one in so
      many of a cluster, trains those so many times longer, and so on.
    merge: `compare`, the best after the longer training wins; or `vote`, each
      layer takes the choice that most of the clusters' best made.
    conquer_epochs: of the longer training.
    together: networks trained by one program, also of `evolution`.
    early: of a search in a table, the column that holds early accuracies (or
      `-NAME`, if the smaller is the better); the features are its columns
      `feature.NAME`, or else the choices one-hot.
    early_cost: what such a look costs, in looks at the final accuracy.
  """

  samples: int = 64
  source: Literal["short-training", "shared-weights"] = "short-training"
  features: Literal["change", "outputs", "both"] = "change"
  change: Literal["norm", "cosine"] = "norm"
  outputs: Literal["late", "difference"] = "late"
  probe_images: int = 64
  projection: int = 4
  components: int = 0
  first_epoch: int = 0
  epochs: int = 5
  partition: Literal["kmeans", "random", "macs"] = "kmeans"
  clusters: int = 8
  max_clusters: int = 12
  distance: Literal["cosine", "euclidean"] = "cosine"
  restarts: int = 10
  keep: int = 1
  halving: int = 0
  merge: Literal["compare", "vote"] = "compare"
  conquer_epochs: int = 20
  together: int = 16
  early: str = ""
  early_cost: float = 1.0


@dataclasses.dataclass(frozen=True)
class RankingConfig:
  """Rank correlation of supernet and stand-alone accuracies.

  Attributes:
    n_archs: networks trained from scratch; 0 leaves the ranking out.
    selection: `uniform`, or `evenly-spaced` in supernet accuracy as in the
      paper's figure 1 (`pool` archs scored, `n_archs` of them picked).
    pool: archs scored for `evenly-spaced`.
    epochs: epochs of each stand-alone training; 0 takes `retrain.epochs`.
    together: networks trained at once in one program.
    top_k: size of the compared top sets.
    bootstrap: resamples behind each interval.
    confidence: coverage of the intervals.
  """

  n_archs: int = 24
  selection: Literal["uniform", "evenly-spaced"] = "uniform"
  pool: int = 960
  epochs: int = 0
  together: int = 12
  top_k: int = 5
  bootstrap: int = 2000
  confidence: float = 0.95


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Device mesh with the axes `data` and `path`.

  Attributes:
    data: devices along the batch; 0 takes all that `path` leaves.
    path: devices along the paths of a step; what has no paths spreads its
      batch over both axes.
    shard_weights: spread the large weights and their optimiser state over
      `data` (fully sharded data parallelism), for supernets that do not fit on
      every device. Checkpoints hold them whole.
  """

  data: int = 0
  path: int = 1
  shard_weights: bool = False


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
  """Everything that decides the result of a run, apart from the machine.

  `latency` holds tables as `NAME=PATH`, which make `latency.NAME` a cost; the
  other plain fields are a name, a seed and a budget on costs.
  """

  method: str = "fairnas"
  seed: int = 0
  budget: str = ""
  latency: tuple[str, ...] = ()
  space: SpaceConfig = SpaceConfig()
  data: DataConfig = DataConfig()
  net: NetConfig = NetConfig()
  train: TrainConfig = TrainConfig()
  score: ScoreConfig = ScoreConfig()
  search: SearchConfig = SearchConfig()
  masks: MasksConfig = MasksConfig()
  expert: ExpertConfig = ExpertConfig()
  blocks: BlocksConfig = BlocksConfig()
  divide: DivideConfig = DivideConfig()
  retrain: RetrainConfig = RetrainConfig()
  ranking: RankingConfig = RankingConfig()
  mesh: MeshConfig = MeshConfig()


def load_function(path: Path, *names: str) -> Callable:
  """Returns a function defined at the top of a Python file.

  Args:
    path: the file, run as a module of its own.
    *names: of the function; the first one that is defined counts.

  Raises:
    UserError: if the file is missing, cannot be run or lacks the function.
  """
  if not path.is_file():
    raise UserError(f"no file {str(path)!r}.")
  if path.suffix != ".py":
    raise UserError(f"{str(path)!r} is not a Python file (*.py).")
  spec = importlib.util.spec_from_file_location(f"_user_{path.stem}", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f"{path} cannot be run: {type(error).__name__}: {error}."
    ) from error
  found = {
    k: v
    for k, v in vars(module).items()
    if isinstance(v, types.FunctionType) and v.__module__ == module.__name__
  }
  for name in names:
    if name in found:
      return found[name]
  raise unknown(f"variant of {path}", names[-1], found)


def config_folders() -> list[Path]:
  """Folders searched for a config that is not found as given."""
  package = Path(__file__).parent
  return [package / "_configs", package.parent / "configs"]


def config_files() -> list[Path]:
  """The shipped config files, sorted by name."""
  for folder in config_folders():
    if folder.is_dir():
      return sorted(folder.glob("*.py"))
  return []


def load_config(reference: str) -> ExperimentConfig:
  """Loads `FILE.py` or `FILE.py:variant`.

  Args:
    reference: path of the file, or the name of a shipped one, with an optional
      variant (default `get_config`).

  Raises:
    UserError: if there is no such file or variant, or it cannot be run.
  """
  config = call_config(reference, "get_config", "get_configs")
  if isinstance(config, dict):
    raise UserError(
      f"{reference} holds a set of configs; run them with `python -m jaxnas"
      " compare`."
    )
  if not isinstance(config, ExperimentConfig):
    raise UserError(
      f"{reference} returns {type(config).__name__}, not ExperimentConfig."
    )
  return config


def call_config(reference: str, *defaults: str) -> Any:
  """Calls what `FILE.py` or `FILE.py:variant` names.

  Args:
    reference: as of `load_config`.
    *defaults: functions that are meant without a variant, the first of them
      that the file has.

  Raises:
    UserError: if there is no such file or variant, or it cannot be run.
  """
  name, _, variant = reference.partition(":")
  shipped = {p.stem: p for p in config_files()}
  path = Path(name)
  if not path.is_file():
    # Another folder's missing file must not turn into a shipped one.
    short = path.parent in (Path(), Path("configs"))
    if path.stem not in shipped or not short or path.suffix not in ("", ".py"):
      error = unknown("config", path.stem, shipped)
      raise UserError(f"no config file {name!r}: {error}")
    path = shipped[path.stem]
  make = load_function(path, *([variant] if variant else defaults))
  try:
    return make()
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f"{make.__name__} of {path} fails: {type(error).__name__}: {error}."
    ) from error


def override(
  config: ExperimentConfig, assignments: Iterable[str]
) -> ExperimentConfig:
  """Applies `section.field=value` texts, checked against the fields' types.

  Raises:
    UserError: for a field that does not exist (with the nearest name) or a
      value of the wrong type.
  """
  for text in assignments:
    path, sign, value = text.partition("=")
    if not sign:
      raise UserError(
        f"--set {text!r} has no '='; write it as search.population=64."
      )
    config = _assign(config, path.strip().split("."), value.strip(), path)
  return config


def _assign(node: Any, keys: Sequence[str], value: str, path: str) -> Any:
  hints = typing.get_type_hints(type(node))
  key = keys[0]
  if key not in hints:
    nearest = unknown(f"field {path.strip()!r}: no", key, hints)
    raise UserError(str(nearest).removeprefix("unknown "))
  current = getattr(node, key)
  if len(keys) > 1:
    if not dataclasses.is_dataclass(current):
      raise UserError(f"field {path!r}: {key!r} has no fields of its own.")
    new = _assign(current, keys[1:], value, path)
  elif dataclasses.is_dataclass(current):
    names = ", ".join(f.name for f in dataclasses.fields(current))
    raise UserError(
      f"field {path!r} is a section; set one of its fields: {names}."
    )
  else:
    new = _parse(value, hints[key], path)
  return dataclasses.replace(node, **{key: new})


def _parse(text: str, hint: Any, path: str) -> Any:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    if text not in args:
      raise unknown(f"value of {path}", text, args)
    return text
  if origin is tuple:
    items = [t.strip() for t in text.strip("()[]").split(",") if t.strip()]
    return tuple(_parse(t.strip("'\""), args[0], path) for t in items)
  if hint is bool:
    if text.lower() not in ("true", "false"):
      raise UserError(f"field {path!r} takes true or false, not {text!r}.")
    return text.lower() == "true"
  if hint is dict:
    try:
      value = json.loads(text)
    except json.JSONDecodeError:
      value = None
    if not isinstance(value, dict):
      raise UserError(f"field {path!r} takes a JSON object, not {text!r}.")
    return value
  try:
    return hint(text)
  except ValueError as error:
    raise UserError(
      f"field {path!r} takes {hint.__name__}, not {text!r}."
    ) from error


def to_json(config: ExperimentConfig) -> dict:
  """Returns the config as a JSON object, tuples as lists, 5 as 5.0 if float."""
  return json.loads(json.dumps(_plain(config, type(config))))


def _plain(value: Any, hint: Any) -> Any:
  """Gives equal configs equal JSON: 5 == 5.0, but their texts differ."""
  if dataclasses.is_dataclass(value):
    hints = typing.get_type_hints(type(value))
    return {k: _plain(getattr(value, k), h) for k, h in hints.items()}
  if typing.get_origin(hint) is tuple:
    return [_plain(v, typing.get_args(hint)[0]) for v in value]
  return float(value) if hint is float else value


def from_json(value: dict) -> ExperimentConfig:
  """Inverse of `to_json`; fields that are left out keep their defaults.

  Raises:
    UserError: for a field that does not exist.
  """
  return _build(ExperimentConfig, value)


def _build(cls: type, value: dict) -> Any:
  hints = typing.get_type_hints(cls)
  fields = {}
  for key, item in value.items():
    if key not in hints:
      raise unknown(f"field of {cls.__name__}", key, hints)
    hint = hints[key]
    if dataclasses.is_dataclass(hint):
      item = _build(hint, item)
    elif typing.get_origin(hint) is tuple:
      item = tuple(item)
    fields[key] = item
  return cls(**fields)


def fingerprint(config: ExperimentConfig) -> str:
  """Twelve hexadecimal digits that identify a resolved config."""
  text = json.dumps(to_json(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:12]
