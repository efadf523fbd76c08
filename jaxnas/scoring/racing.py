"""Racing: candidates that are worse with confidence stop being scored.

Images come in a random order, in growing rungs; after each rung but the last,
the leader faces every other candidate on the images that only one of the two
classifies correctly (discordant images). The promise: *the candidate that is
best on the whole split is dropped with probability at most `error`*, over the
order of the images, whatever the table of correctness.

Why it holds. Let t be best and b another candidate. They differ on D images of
the split, of which b wins B <= D / 2. After k of N images they differ on m
seen ones, and given m, the wins of b are hypergeometric(D, B, m): its upper
tail is the test. B and D are unknown.

* The tail grows with B, so B = floor(D / 2) is the worst; removing a loss of b
  from the urn raises the tail, so an odd D is no worse than D - 1.
* Between even D = 2h and 2h + 2, the ratio of the probabilities of x wins is
  a constant / ((h + 1 - x) (h + 1 - m + x)), which grows with |x - m / 2|:
  both tails grow. So the largest even D possible is the worst.
* Surely D <= m + N - k. A tighter bound U holds with probability 1 - slack:
  the exact upper confidence limit of D given that k random images hold m. The
  p-value slack + tail(U) is valid (Berger & Boos 1994, JASA 89:1012), and
  smaller once a good part of the split is seen.
* t can only be dropped by one of n - 1 opponents at one of the rungs where
  tests are made, whoever leads then; with alpha = error / ((n - 1) rungs) per
  test the union bound gives `error`.

Ties: each of several equally good best candidates keeps this guarantee, so at
least one of them survives with probability 1 - error or more. The argument
needs candidates that were chosen before the order was drawn: a search that
races one generation after another takes a fresh `order_seed` for each.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from jaxnas.errors import UserError

# Share of each test's level that pays for the bound on discordant images.
SLACK = 0.1

Correct = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Race:
  """What a race found and what it cost.

  Attributes:
    alive: `bool[n]`, the survivors; at least one.
    accuracy: `float64[n]`, 0..1, on the images seen by each candidate: the
      whole split for survivors, so only these may be compared or reported.
    images: `int64[n]`, images seen by each candidate.
    rungs: images seen after each rung.
    remaining: candidates left after each rung.
    error: bound on the probability that the best candidate was dropped.
    alpha: level of each single test.
    evaluations: (candidate, image) pairs that were evaluated.
    plain_evaluations: the pairs that scoring without a race evaluates.
  """

  alive: np.ndarray
  accuracy: np.ndarray
  images: np.ndarray
  rungs: tuple[int, ...]
  remaining: tuple[int, ...]
  error: float
  alpha: float
  evaluations: int
  plain_evaluations: int


def race(
  correct: Correct,
  n_archs: int,
  n_images: int,
  error: float = 0.05,
  first: int = 64,
  growth: float = 2.0,
  order_seed: int = 0,
) -> Race:
  """Scores candidates on ever more images, without those that cannot win.

  Args:
    correct: of candidate indices `int64[m]` and image indices `int64[k]`,
      both ascending and without repeats; returns `bool[m, k]`. No pair is
      asked for twice.
    n_archs: number of candidates, n.
    n_images: images of the whole split.
    error: bound on the probability that the best candidate is dropped.
    first: images of the first rung.
    growth: factor from one rung to the next.
    order_seed: seed of the order of the images.

  Returns:
    The race; survivors have seen all images.

  Raises:
    UserError: for a value out of range.
    ValueError: if `correct` returns another shape or type.
  """
  _check(n_archs, n_images, error, first, growth, order_seed)
  sizes = rung_sizes(n_images, first, growth)
  alpha = error / max(1, (n_archs - 1) * (len(sizes) - 1))
  order = np.random.default_rng(order_seed).permutation(n_images)
  ids = np.arange(n_archs)
  seen = np.empty((n_archs, 0), bool)  # rows of `ids`
  hits = np.zeros(n_archs, np.int64)
  images = np.zeros(n_archs, np.int64)
  rungs, remaining = [], []
  for size in sizes:
    if len(ids) == 1:
      size = n_images
    new = _evaluate(correct, ids, np.sort(order[seen.shape[1] : size]))
    seen = np.concatenate([seen, new], axis=1)
    hits[ids] = seen.sum(1)
    images[ids] = size
    if size < n_images:
      keep = ~_beaten(seen, n_images, alpha)
      ids, seen = ids[keep], seen[keep]
    rungs.append(size)
    remaining.append(len(ids))
    if size == n_images:
      break
  return Race(
    alive=np.isin(np.arange(n_archs), ids),
    accuracy=hits / images,
    images=images,
    rungs=tuple(rungs),
    remaining=tuple(remaining),
    error=error,
    alpha=alpha,
    evaluations=int(images.sum()),
    plain_evaluations=n_archs * n_images,
  )


def rung_sizes(n_images: int, first: int, growth: float) -> list[int]:
  """Images seen after each rung, ascending, the last being all of them."""
  sizes = []
  size = first
  while size < n_images:
    sizes.append(size)
    # The product may be infinite, and may round down to no growth at all.
    size = int(min(max(size * growth, size + 1), n_images))
  return [*sizes, n_images]


def worst_tail(
  wins: np.ndarray, losses: np.ndarray, most: np.ndarray
) -> np.ndarray:
  """Largest chance of so many wins for an opponent that is not better.

  The supremum, over all D <= most and B <= D / 2, of P(X >= wins) for X
  hypergeometric: `wins + losses` draws from D discordant images of which the
  opponent wins B (the module says why it has a closed form).

  Args:
    wins: discordant images seen that the opponent wins, `int[n]`.
    losses: those that it loses, `int[n]`.
    most: bound on the discordant images of the whole split, `int[n]`, at
      least `wins + losses`.

  Returns:
    `float64[n]`; 1 where the opponent does not lead.
  """
  half = most // 2
  tail = stats.hypergeom.sf(wins - 1, 2 * half, half, wins + losses)
  # An opponent that is not better has no more wins than half in all.
  return np.select([wins <= losses, wins > half], [1.0, 0.0], tail)


def most_discordant(
  discordant: np.ndarray, n_seen: int, n_images: int, slack: float
) -> np.ndarray:
  """Upper confidence limit of the discordant images of the whole split.

  Args:
    discordant: those among the images seen, `int[n]`.
    n_seen: images seen, drawn without replacement.
    n_images: images of the split.
    slack: probability with which the limit may be too low, above 0.

  Returns:
    `int64[n]`: the largest D for which a sample with so few discordant images
    has a probability above `slack`.
  """
  found, back = np.unique(discordant, return_inverse=True)
  n_left = n_images - n_seen
  low, high = found, found + n_left
  while (low < high).any():
    middle = (low + high + 1) // 2
    # So few among the seen means that many among the unseen: an upper tail,
    # which keeps its relative precision.
    chance = stats.hypergeom.sf(middle - found - 1, n_images, middle, n_left)
    low = np.where(chance > slack, middle, low)
    high = np.where(chance > slack, high, middle - 1)
  return low[back]


def paired_p_value(
  wins: np.ndarray, losses: np.ndarray, n_seen: int, n_images: int, slack: float
) -> np.ndarray:
  """One-sided p-value of "the opponent is not better on the whole split".

  Args:
    wins: images seen that only the opponent classifies correctly, `int[n]`.
    losses: images seen that only the other one does, `int[n]`.
    n_seen: images seen, drawn without replacement.
    n_images: images of the split.
    slack: part of the p-value that pays for `most_discordant`.

  Returns:
    `float64[n]`, 0 where the images left could not turn the result.
  """
  most = most_discordant(wins + losses, n_seen, n_images, slack)
  p = np.minimum(1, slack + worst_tail(wins, losses, most))
  return np.where(wins - losses > n_images - n_seen, 0.0, p)


def _beaten(seen: np.ndarray, n_images: int, alpha: float) -> np.ndarray:
  """Which rows of `bool[m, k]` lose to the leading one with confidence."""
  n_seen = seen.shape[1]
  leader = seen[np.argmax(seen.sum(1))]
  wins = (leader & ~seen).sum(1)
  losses = (seen & ~leader).sum(1)
  # The confidence limit is the costly part, and is above the plain estimate:
  # those that pass even with the latter stay. Keeping more is always valid.
  likely = (wins + losses) * n_images // n_seen
  near = np.flatnonzero(worst_tail(wins, losses, likely) <= alpha)
  p = paired_p_value(wins[near], losses[near], n_seen, n_images, SLACK * alpha)
  beaten = np.zeros(len(seen), bool)
  beaten[near] = p <= alpha
  return beaten


def _evaluate(
  correct: Correct, ids: np.ndarray, images: np.ndarray
) -> np.ndarray:
  new = np.asarray(correct(ids, images))
  shape = (len(ids), len(images))
  if new.shape != shape or new.dtype != bool:
    raise ValueError(
      f"correct returned {new.dtype}{list(new.shape)}; a race needs"
      f" bool{list(shape)}."
    )
  return new


def _check(n_archs, n_images, error, first, growth, order_seed) -> None:
  for name, value, low in (
    ("n_archs", n_archs, 1),
    ("n_images", n_images, 1),
    ("first", first, 1),
    ("order_seed", order_seed, 0),
  ):
    if value < low:
      raise UserError(f"race: {name} is {value}; it must be at least {low}.")
  if not 0 < error < 1:
    raise UserError(
      f"race: error is {error}; it must lie between 0 and 1, both excluded."
    )
  if not (growth > 1 and math.isfinite(growth)):
    raise UserError(
      f"race: growth is {growth}; it must be a finite number above 1."
    )
