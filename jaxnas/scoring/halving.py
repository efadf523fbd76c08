"""Successive halving: many candidates on few images, few on all."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Halving:
  """What a run of successive halving found.

  Attributes:
    hits: correct images among those seen, `int64[n]`.
    loss: sum of losses over those, nats, `float64[n]`.
    images: images that each candidate has seen, `int64[n]`.
    rungs: images seen by those that reached the end of each rung.
    remaining: candidates left after each rung.
  """

  hits: np.ndarray
  loss: np.ndarray
  images: np.ndarray
  rungs: tuple[int, ...]
  remaining: tuple[int, ...]


def halve(
  score: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
  n: int,
  n_images: int,
  first: int,
  eta: int,
  order_seed: int,
) -> Halving:
  """Keeps one in `eta` candidates and multiplies the images, until all are in.

  Candidates are ordered by correct images so far, then by loss, those without a
  finite loss last. Images come in one random order for all, and none is scored
  twice for a candidate.

  Args:
    score: `(candidates int[m], images int[k]) -> {"accuracy", "loss"}`, each
      `[m, k]`.
    n: number of candidates.
    n_images: validation images.
    first: images of the first rung.
    eta: 2 or more.
    order_seed: of the order of the images.
  """
  order = np.random.default_rng(order_seed).permutation(n_images)
  alive = np.arange(n)
  hits, loss = np.zeros(n, np.int64), np.zeros(n)
  images = np.zeros(n, np.int64)
  rungs, remaining = [], []
  seen, until = 0, min(first, n_images)
  while True:
    found = score(alive, order[seen:until])
    hits[alive] += found["accuracy"].astype(bool).sum(1)
    loss[alive] += found["loss"].sum(1, dtype=np.float64)
    images[alive] = seen = until
    rungs.append(until)
    if until == n_images:
      remaining.append(len(alive))
      break
    keep = -(-len(alive) // eta)
    # Who has no finite loss can never win, however many hits there are.
    lost = ~np.isfinite(loss[alive])
    ranks = np.lexsort([alive, loss[alive], -hits[alive], lost])
    alive = np.sort(alive[ranks[:keep]])
    remaining.append(len(alive))
    # A single survivor has won; it only has to see the rest.
    until = n_images if len(alive) == 1 else min(n_images, until * eta)
  return Halving(hits, loss, images, tuple(rungs), tuple(remaining))
