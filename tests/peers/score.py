"""Scoring candidates: the jaxnas engine beside eager PyTorch."""

import sys
import time

import numpy as np

from jaxnas.bench.masks import MaskWorkload
from jaxnas.bench.timing import ratio, spread
from jaxnas.bench.workload import Workload
from jaxnas.config import ScoreConfig
from jaxnas.data.augment import normalize
from jaxnas.errors import RunError
from jaxnas.scoring import Scorer
from jaxnas.sharding import make_placement

from .arms import LAYOUTS, SETTLE_SECONDS, Worker

# Two float32 compilations of a deep network with random weights.
LOSS_TOLERANCE = 1e-4
# An image whose two largest logits tie within rounding may fall either way.
ACCURACY_TOLERANCE = 1e-3


def images_of(workload: Workload | MaskWorkload) -> dict[str, np.ndarray]:
  """Calibration and validation images as both arms see them."""
  data = workload.data

  def prepared(split):
    return np.asarray(normalize(split.images, data.mean, data.std))

  return {
    "calibration": prepared(data.train),
    "x": prepared(data.validation),
    "y": data.validation.labels.astype(np.int64),
  }


def compare(
  workload: Workload,
  sets: dict[str, np.ndarray],
  sample: int,
  repeats: int,
  seed: int,
) -> dict:
  """Scores candidate sets with both, compares scores, then times.

  jaxnas scores all candidates in every repeat, PyTorch a fresh random sample
  of them in both layouts, its time scaled to all. All images are one batch.

  Args:
    workload: space, weights, images.
    sets: `int32[n, L]` by name.
    sample: candidates that PyTorch scores in each repeat.
    repeats: timed repeats, after one of each that is not timed.
    seed: of the samples.

  Returns:
    By name of the set: sizes, `seconds` for all candidates by arm,
    `torch_over_jaxnas` by layout, and the largest differences of the scores.

  Raises:
    RunError: if scores differ by more than rounding.
  """
  data, placement = workload.data, make_placement()
  n_images = len(data.train), len(data.validation)
  config = ScoreConfig(calibration_images=n_images[0], batch_size=max(n_images))
  scorer = Scorer(workload.supernet, data, config, placement)
  variables = placement.put(workload.variables)
  out = {}
  with Worker(workload.space, workload.variables, images_of(workload)) as torch:
    for layout in LAYOUTS:
      torch("start", layout=layout)
    for name, archs in sets.items():
      out[name] = _compare_set(
        scorer, variables, torch, archs, min(sample, len(archs)), repeats,
        np.random.default_rng(seed),
      )  # fmt: skip
      print(f"score {name}: {out[name]}", file=sys.stderr)
  return out


def _compare_set(scorer, variables, torch, archs, sample, repeats, rng):
  def run():
    start = time.perf_counter()
    scores = scorer(variables, archs)
    return time.perf_counter() - start, scores

  largest = {"accuracy": 0.0, "loss": 0.0}
  first, scores = run()
  times = {arm: [] for arm in ("jaxnas", *LAYOUTS)}
  # Round 0 compiles, warms caches and compares; it is not timed.
  for i in range(repeats + 1):
    rows = rng.choice(len(archs), sample, replace=False)
    for layout in LAYOUTS:
      answer = torch("score", layout=layout, archs=archs[rows].tolist())
      for name, gap in gaps(scores, rows, answer).items():
        largest[name] = max(largest[name], gap)
      if i:
        times[layout].append(answer["seconds"] * len(archs) / sample)
    if i:
      times["jaxnas"].append(run()[0])
      time.sleep(SETTLE_SECONDS)
  return {
    "n": len(archs),
    "torch_sample": sample,
    "first_call_seconds": first,
    "seconds": {arm: spread(t) for arm, t in times.items()},
    "torch_over_jaxnas": {
      layout: ratio(times[layout], times["jaxnas"]) for layout in LAYOUTS
    },
    "largest_difference": largest,
  }


def gaps(scores, rows, answer) -> dict[str, float]:
  """Mean difference in accuracy, largest relative one in loss."""
  accuracy = np.abs(scores["accuracy"][rows] - answer["accuracy"]).mean()
  loss = np.abs(scores["loss"][rows] / answer["loss"] - 1).max()
  if not (accuracy <= ACCURACY_TOLERANCE and loss <= LOSS_TOLERANCE):
    raise RunError(
      f"scores of jaxnas and PyTorch differ: accuracy by {accuracy:.3g} on"
      f" average, loss by up to {loss:.3g} (relative)."
    )
  return {"accuracy": float(accuracy), "loss": float(loss)}
