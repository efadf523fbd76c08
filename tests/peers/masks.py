"""Scoring masks: jaxnas in one call beside eager PyTorch, mask after mask."""

import sys
import time

import numpy as np

from jaxnas.bench.masks import MaskWorkload
from jaxnas.bench.timing import ratio, spread
from jaxnas.config import ScoreConfig
from jaxnas.scoring import MaskScorer
from jaxnas.sharding import make_placement

from .arms import LAYOUTS, SETTLE_SECONDS, Worker
from .score import gaps, images_of


def compare(
  workload: MaskWorkload, n: int, batch_size: int, sample: int, repeats: int
) -> dict:
  """Scores masks with both, compares scores, then times.

  Stored batch-norm statistics. jaxnas scores all masks in every repeat, PyTorch
  a fresh random sample of them in both layouts, its time scaled to all.

  Args:
    workload: network, weights, images and drop rates.
    n: masks.
    batch_size: images at once.
    sample: masks that PyTorch scores in each repeat.
    repeats: timed repeats, after one of each that is not timed.

  Returns:
    Sizes, `seconds` for all masks by arm, `torch_over_jaxnas` by layout, and
    the largest differences of the scores.

  Raises:
    RunError: if scores differ by more than rounding.
  """
  placement, space = make_placement(), workload.space
  config = ScoreConfig("running", batch_size=batch_size)
  scorer = MaskScorer(workload.supernet, workload.data, config, placement)
  variables = placement.put(workload.variables)
  archs, sample = workload.masks(n), min(sample, n)
  rng = np.random.default_rng(workload.seed)

  def run():
    start = time.perf_counter()
    scores = scorer(variables, archs)
    return time.perf_counter() - start, scores

  largest = {"accuracy": 0.0, "loss": 0.0}
  first, scores = run()
  times = {arm: [] for arm in ("jaxnas", *LAYOUTS)}
  with Worker(space, workload.variables, images_of(workload)) as torch:
    for layout in LAYOUTS:
      torch("start_masked", layout=layout)
    # Round 0 warms caches and compares; it is not timed.
    for i in range(repeats + 1):
      rows = rng.choice(n, sample, replace=False)
      texts = [space.to_string(arch) for arch in archs[rows]]
      for layout in LAYOUTS:
        answer = torch(
          "score_masks", layout=layout, masks=texts, batch_size=batch_size
        )
        for name, gap in gaps(scores, rows, answer).items():
          largest[name] = max(largest[name], gap)
        if i:
          times[layout].append(answer["seconds"] * n / sample)
      if i:
        times["jaxnas"].append(run()[0])
        time.sleep(SETTLE_SECONDS)
  out = {
    "n": n,
    "torch_sample": sample,
    "first_call_seconds": first,
    "seconds": {arm: spread(t) for arm, t in times.items()},
    "torch_over_jaxnas": {
      layout: ratio(times[layout], times["jaxnas"]) for layout in LAYOUTS
    },
    "largest_difference": largest,
  }
  print(f"masks: {out}", file=sys.stderr)
  return out
