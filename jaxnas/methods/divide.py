"""One run of DC-NAS: what is sampled, represented, divided and conquered."""

import dataclasses
import logging
import time

import numpy as np

from jaxnas.errors import UserError
from jaxnas.methods.base import load_supernet
from jaxnas.methods.checks import shares_weights
from jaxnas.methods.cohorts import ShortTrainer, probe_images, short_trainings
from jaxnas.methods.dcnas import divide_and_conquer, sampler
from jaxnas.methods.setup import PathSetup
from jaxnas.nets.change import presence
from jaxnas.nets.probe import project
from jaxnas.scoring.represent import features, gradient_changes, probe_outputs
from jaxnas.search.conquer import Conquered, vote
from jaxnas.search.partition import (
  Partition,
  cost_explained,
  principal_plane,
  reduce,
  stability,
)

log = logging.getLogger("jaxnas")
Metrics = dict[str, np.ndarray]

# Partitions by other seeds that the clusters are compared with.
STABILITY_SEEDS = 10


@dataclasses.dataclass(frozen=True)
class Represented:
  """What is known of the sampled archs before they are divided.

  Attributes:
    archs: `int32[n, L]`.
    metrics: early `accuracy` and `loss`, `float64[n]`.
    features: standardised, `float64[n, d]`.
    cost: its row of `clusters.json`.
  """

  archs: np.ndarray
  metrics: Metrics
  features: np.ndarray
  cost: dict


@dataclasses.dataclass(frozen=True)
class Divided:
  """A finished search of DC-NAS.

  Attributes:
    represented: what it began with.
    partition: the clusters.
    conquered: the best of each, and their longer training.
    winner: the merged arch, `int32[L]`.
    metrics: its `accuracy` and `loss` after the longer training.
    longer: accuracies of all that were trained longer, by number of the arch.
    voted: the arch of the reading `vote` of merge, `int32[L]`.
    costs: rows of `clusters.json`, by stage.
    seconds: spent after the representation, over all sessions.
  """

  represented: Represented
  partition: Partition
  conquered: Conquered
  winner: np.ndarray
  metrics: dict[str, float]
  longer: dict[int, float]
  voted: np.ndarray
  costs: list[dict]
  seconds: float


def sample_archs(setup: PathSetup) -> np.ndarray:
  """The archs that are divided, uniform within the budget, `int32[n, L]`.

  Raises:
    UserError: if the budget leaves fewer than the clusters asked for.
  """
  config = setup.config.divide
  rng = np.random.default_rng(setup.seed("samples"))
  archs = setup.budget.draw(rng, config.samples)
  if len(archs) < max(1, config.clusters):
    raise UserError(
      f"space and budget leave {len(archs)} archs for divide.clusters="
      f"{config.clusters}; loosen the budget or lower divide.clusters."
    )
  return archs


def represent(setup: PathSetup, trainer: ShortTrainer) -> Represented:
  """Early accuracies and features of the sampled archs, or resumes that.

  Args:
    setup: the run.
    trainer: of short trainings; shared weights need none.
  """
  config, archs = setup.config.divide, sample_archs(setup)
  start, n = time.monotonic(), len(archs)
  if shares_weights(setup.config):
    rows, images = _shared(setup, archs)
    seconds, epochs = time.monotonic() - start, 0
  else:
    rows = short_trainings(setup, trainer, archs)
    seconds, epochs = rows["seconds"].sum(), config.epochs
    images = training_images(setup, epochs)
    if config.features != "change":
      looks = 1 + (config.outputs == "difference")
      images += looks * config.probe_images
  present = presence(
    setup.space, archs, setup.supernet.variable_shapes["params"]
  )
  joined = features(
    rows.get("changes"), rows.get("outputs"), present, config.features
  )
  cost = _cost("represent", n, epochs, n * images, seconds)
  metrics = {k: rows[k] for k in ("accuracy", "loss")}
  return Represented(archs, metrics, reduce(joined, config.components), cost)


def _shared(
  setup: PathSetup, archs: np.ndarray
) -> tuple[dict[str, np.ndarray], int]:
  """The same by a supernet's shared weights (ours), and images per arch."""
  config, train = setup.config.divide, setup.config.train
  variables = load_supernet(setup, sampler(setup)).variables
  rows = setup.scorer()(variables, archs)
  x, y = probe_images(setup)
  images = len(setup.data.validation)
  if setup.config.score.bn_mode == "recalibrate":
    images += setup.config.score.calibration_images
  if config.features != "outputs":
    rows["changes"] = np.asarray(
      gradient_changes(
        setup.supernet, variables, archs, x, y, train.optimizer.learning_rate,
        config.change, train.label_smoothing,
      )
    )  # fmt: skip
    images += 3 * len(x)
  if config.features != "change":
    outputs = probe_outputs(setup.supernet, variables, archs, x)
    rows["outputs"] = project(
      outputs, config.projection, setup.seed("projection")
    )
    images += len(x)
  return rows, images


def search_divided(setup: PathSetup, trainer: ShortTrainer) -> Divided:
  """Divides, compares within clusters, merges; every training resumes.

  Args:
    setup: the run.
    trainer: of short trainings.
  """
  config, found = setup.config.divide, represent(setup, trainer)
  archs, costs = found.archs, [found.cost]
  start, spent = time.monotonic(), 0.0

  def train(stage: str, rows: np.ndarray, epochs: int) -> Metrics:
    nonlocal start, spent
    spent += time.monotonic() - start
    metrics, n = trainer.parts(stage, rows, epochs), len(rows)
    seconds = metrics.pop("seconds").sum()
    images = n * training_images(setup, epochs)
    costs.append(_cost(stage, n, epochs, images, seconds))
    start, spent = time.monotonic(), spent + seconds
    return metrics

  def rung(rows: np.ndarray, number: int) -> np.ndarray:
    epochs = config.epochs * config.halving**number
    return ordered(train(f"halving-{number}", archs[rows], epochs))

  last: dict[int, dict[str, float]] = {}

  def longer(rows: np.ndarray) -> np.ndarray:
    metrics = train("conquer", archs[rows], config.conquer_epochs)
    last.update(zip(rows.tolist(), _rows(metrics), strict=True))
    return ordered(metrics)

  clusters, best = divide_and_conquer(
    found.features, ordered(found.metrics), setup.costs["macs"](archs),
    config, setup.seed("clusters"), rung, longer,
  )  # fmt: skip
  winner, metrics = archs[best.winner], last[best.winner]
  voted = vote(archs[best.champions])
  if config.merge == "vote":
    reason = ""
    if not setup.budget.allows(voted[None])[0]:
      reason = f"breaks the budget {setup.budget}"
    else:
      of = [m for i, m in last.items() if np.array_equal(archs[i], voted)]
      own = of or _rows(train("vote", voted[None], config.conquer_epochs))
      if np.isnan(own[0]["accuracy"]):
        reason = "diverges in training"
      else:
        winner, metrics = voted, own[0]
    if reason:
      log.warning(
        "the arch that the clusters' best vote for, %s, %s: the best of them"
        " wins instead.", setup.space.to_string(voted), reason,
      )  # fmt: skip
  seconds = spent + time.monotonic() - start
  return Divided(
    found, clusters, best, winner, metrics,
    {i: m["accuracy"] for i, m in last.items()}, voted, costs, seconds,
  )  # fmt: skip


def ordered(metrics: Metrics) -> np.ndarray:
  """Accuracies, lowered a little by the loss, to tell equal ones apart (ours).

  On a small validation split accuracies are often equal; then the lower loss is
  better, as for the winner of every search. The most that a loss takes away is
  1e-6, less than one of a million images.

  Args:
    metrics: `accuracy` and `loss`, `float[n]`.
  """
  return metrics["accuracy"] - 1e-7 * np.clip(metrics["loss"], 0, 10)


def _rows(metrics: Metrics) -> list[dict[str, float]]:
  """Accuracy and loss, network by network."""
  pairs = zip(metrics["accuracy"], metrics["loss"], strict=True)
  return [{"accuracy": float(a), "loss": float(b)} for a, b in pairs]


def describe_clusters(setup: PathSetup, divided: Divided) -> dict:
  """The content of `clusters.json`."""
  config, space = setup.config.divide, setup.space
  found, best = divided.represented, divided.conquered
  labels = divided.partition.labels
  longer = divided.longer
  early, costs = found.metrics["accuracy"], {
    name: setup.costs[name](found.archs) for name in ("macs", "params")
  }  # fmt: skip
  plane, explained = principal_plane(found.features)
  rows = [
    {
      "arch": space.to_string(arch),
      "cluster": int(labels[i]),
      "x": plane[i, 0],
      "y": plane[i, 1],
      "early": early[i],
      "macs": int(costs["macs"][i]),
      "params": int(costs["params"][i]),
      "survivor": i in longer,
      "longer": longer.get(i),
    }
    for i, arch in enumerate(found.archs)
  ]
  clusters = []
  for c in range(divided.partition.k):
    # Where all longer trainings of a cluster failed there is no best.
    champion = [i for i in best.champions.tolist() if labels[i] == c]
    own = rows[champion[0]] if champion else {}
    clusters.append(
      {
        "cluster": c,
        "size": int((labels == c).sum()),
        "winner": own.get("arch"),
        **{k: own.get(k) for k in ("early", "longer", "macs")},
      }
    )
  k = divided.partition.k
  return {
    "source": config.source,
    "features": config.features,
    "distance": config.distance,
    "partition": config.partition,
    "k": k,
    "silhouette": divided.partition.silhouette,
    "merge": {
      "mode": config.merge,
      "winner": space.to_string(found.archs[best.winner]),
      "vote": space.to_string(divided.voted),
    },
    "rungs": best.rungs,
    "archs": rows,
    "clusters": clusters,
    "macs_explained": cost_explained(labels, costs["macs"]),
    # The baselines are not what k-means finds, from whatever start.
    "stability": stability(
      found.features, k, config.distance, config.restarts, STABILITY_SEEDS
    )
    if config.partition == "kmeans"
    else None,
    "explained": explained.tolist(),
    "cost": divided.costs,
  }


def training_images(setup: PathSetup, epochs: int) -> int:
  """Image evaluations of training one network, and of judging it once.

  A training image counts 3: forward, and backward as two.
  """
  size, n = setup.config.retrain.batch_size, len(setup.data.train)
  return 3 * epochs * (n // size * size) + len(setup.data.validation)


def _cost(stage: str, n: int, epochs: int, images: int, seconds: float) -> dict:
  return {
    "stage": stage, "networks": n, "epochs": epochs, "images": int(images),
    "seconds": round(float(seconds), 3),
  }  # fmt: skip
