"""Seeded, stratified draws of held-out images."""

import numpy as np

from jaxnas.errors import UserError


def stratified(
  labels: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Draws `count` positions so that every class has its share of them.

  Shares are rounded by largest remainder (ties to the lower class), so the
  number of a class is within one of `count * size / n`.

  Args:
    labels: `int32[n]`.
    count: positions to draw, 0..n.
    rng: source of randomness.

  Returns:
    Distinct positions `int64[count]` in random order.
  """
  classes, sizes = np.unique(labels, return_counts=True)
  # Integers throughout: rounding of floats must not decide a split.
  quotas, remainders = np.divmod(count * sizes, len(labels))
  extra = np.argsort(-remainders, kind="stable")[: count - quotas.sum()]
  quotas[extra] += 1
  drawn = [
    rng.permutation(np.flatnonzero(labels == c))[:quota]
    for c, quota in zip(classes, quotas, strict=True)
  ]
  return rng.permutation(np.concatenate(drawn))


def held_out_count(amount: float, n: int, field: str) -> int:
  """Turns a share (below 1) or a number of images into a number of images.

  Args:
    amount: the value of `field`.
    n: images of the source that the share refers to.
    field: names the value in error messages.

  Raises:
    UserError: if the result is not in 1..n-1.
  """
  if amount >= 1 and not float(amount).is_integer():
    raise UserError(
      f"{field} is {amount:g}; legal: a share between 0 and 1, or a whole"
      " number of images."
    )
  # Written so that NaN, which compares false, is refused too.
  count = 0
  if amount > 0:
    count = round(amount * n) if amount < 1 else int(amount)
  if not 1 <= count < n:
    raise UserError(
      f"{field} is {amount:g}, which holds out {count} of {n} images;"
      f" legal: a share between 0 and 1, or 1..{n - 1} images."
    )
  return count
