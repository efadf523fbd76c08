"""A race of archs over validation images, through the scorer's engine."""

import dataclasses

import numpy as np

from jaxnas.nets.paths import Variables
from jaxnas.scoring.racing import Race, race
from jaxnas.scoring.scorer import Scorer
from jaxnas.scoring.trie import sort_archs


def race_archs(
  scorer: Scorer,
  variables: Variables,
  archs: np.ndarray,
  error: float,
  first: int | None = None,
  growth: float = 2.0,
  order_seed: int = 0,
) -> tuple[Race, dict[str, np.ndarray]]:
  """Scores archs without those that are surely not the most accurate.

  For picking *one* winner by accuracy out of archs that were chosen before;
  `jaxnas.scoring.racing` says what is promised, and why. Not for the rounds
  of a search over several objectives: an arch that is less accurate than the
  leader may be the smallest, and on the front.

  Each rung walks the archs that are left anew, calibration included, so an
  arch that survives pays for its calibration once per rung. Racing pays where
  few survive and the validation images are many against the calibration images.

  Args:
    scorer: scores them; its programs serve every rung.
    variables: of the supernet.
    archs: `int32[n, L]`, any order; repeats are raced once.
    error: bound on the probability that the most accurate arch is dropped.
    first: images of the first rung; default one batch of the scorer. A batch
      costs the same however many of its images are asked for.
    growth: factor from one rung to the next.
    order_seed: seed of the order of the images.

  Returns:
    The race, with one entry for each of `archs` in `alive`, `accuracy` and
    `images` and counts of distinct archs elsewhere; and what `scorer` returns,
    `float64[n]`: for survivors the same values (to the last bit on CPU; where
    a kernel's rounding depends on an image's place in its batch, to that
    rounding), NaN for those that were dropped.

  Raises:
    UserError: for a value out of range, or a scorer in the mode `batch`.
  """
  distinct, rows = sort_archs(scorer.space.validate(archs))
  n, n_images = len(distinct), scorer.n_images
  values: dict[str, np.ndarray] = {}

  def correct(ids, images):
    found = scorer.score_images(variables, distinct[ids], images)
    for name, new in found.items():
      if name not in values:
        values[name] = np.empty((n, n_images), new.dtype)
      values[name][np.ix_(ids, images)] = new
    return found["accuracy"]

  if first is None:
    first = scorer.batch_size
  found = race(correct, n, n_images, error, first, growth, order_seed)
  metrics = {}
  for name, table in values.items():
    # Survivors have seen every image, so their rows are complete.
    mean = np.full(n, np.nan)
    mean[found.alive] = table[found.alive].mean(1, dtype=np.float64)
    metrics[name] = mean[rows]
  each = {k: getattr(found, k)[rows] for k in ("alive", "accuracy", "images")}
  return dataclasses.replace(found, **each), metrics
