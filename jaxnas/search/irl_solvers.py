"""What inverse reinforcement learning solves, on feature counts alone.

Each finds w such that the experts' `w . mu_E` lies above the `w . mu_j` of
others. Apprenticeship learning is Abbeel and Ng's (2004), maximum entropy
Ziebart's and others' (2008); how IRLAS solves for its linear reward is not
known, so the choice of these is ours.
"""

import numpy as np
from scipy import optimize, special
from sklearn.svm import LinearSVC

from jaxnas.errors import UserError

# Below this length, relative to the longest, a vector is rounding.
TINY = 1e-9


def max_margin(
  experts: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, float]:
  """The direction that separates the experts most, without slack.

  It points to the point nearest 0 of the convex hull of all differences
  `mu_E - mu_j`. That is the dual of the shortest w with `w . (mu_E - mu_j) >=
  1`, which least squares with signs solve exactly (Lawson and Hanson 1974,
  least distance programming).

  Args:
    experts: feature counts, `float[E, F]`.
    counts: of policies or blocks, `float[n, F]`.

  Returns:
    w `float64[F]` of length 1, and the margin, the least `w . (mu_E - mu_j)`;
    zeros and 0 if the hull holds 0, so that nothing separates.
  """
  deltas = differences(experts, counts)
  size = np.linalg.norm(deltas, axis=1).max()
  if size == 0:
    return np.zeros(deltas.shape[1]), 0.0
  matrix = np.vstack([deltas.T / size, np.ones(len(deltas))])
  target = np.append(np.zeros(len(matrix) - 1), 1.0)
  duals, _ = optimize.nnls(matrix, target, maxiter=100 * len(deltas) + 1000)
  nearest = deltas.T @ duals / max(duals.sum(), TINY)
  length = np.linalg.norm(nearest)
  if length <= TINY * size:
    return np.zeros(deltas.shape[1]), 0.0
  w = nearest / length
  return w, float((deltas @ w).min())


def soft_margin(
  experts: np.ndarray, counts: np.ndarray, slack: float
) -> tuple[np.ndarray, float]:
  """The direction that separates the experts most, with slack.

  Minimises `|w|^2 / 2 + C sum xi` subject to `w . (mu_E - mu_j) >= 1 - xi`, xi
  >= 0: a support vector machine on differences. It has no bias and ignores
  whatever is common to all counts, unlike one that labels the experts 1 and the
  others -1.

  Args:
    experts: feature counts, `float[E, F]`.
    counts: of policies or blocks, `float[n, F]`.
    slack: C, above 0.

  Returns:
    w `float64[F]` of length 1, and the least `w . (mu_E - mu_j)`, negative if
    some constraint is violated that much; zeros and 0 if all counts are equal.

  Raises:
    UserError: if C is not above 0.
  """
  if not slack > 0:
    raise UserError(f"expert.slack is {slack}; it must be above 0.")
  deltas = differences(experts, counts)

  if np.abs(deltas).max() <= TINY:
    return np.zeros(deltas.shape[1]), 0.0
  # Two classes, mirror images of each other, each violation counted by half. A
  # quasi-Newton method on the dual, which is singular, ended up to 0.03 away.
  machine = LinearSVC(
    loss="hinge", C=slack / 2, fit_intercept=False, tol=1e-10,
    max_iter=10_000_000, random_state=0,
  )  # fmt: skip
  classes = np.repeat([1, -1], len(deltas))
  machine.fit(np.concatenate([deltas, -deltas]), classes)
  w = machine.coef_[0]
  length = np.linalg.norm(w)
  if length <= TINY * slack * np.abs(deltas).sum():
    return np.zeros_like(w), 0.0
  w = w / length
  return w, float((deltas @ w).min())


def project(
  mu_bar: np.ndarray, expert: np.ndarray, mu: np.ndarray
) -> np.ndarray:
  """One projection step (Abbeel and Ng 2004).

  Args:
    mu_bar: mixture of policies so far, `float[F]`.
    expert: feature counts of the expert, `float[F]`.
    mu: of the new policy, `float[F]`.

  Returns:
    The point nearest the expert between `mu_bar` and `mu`, so the gap to the
    expert never grows; w is the expert minus this point. (Without clipping, it
    would be the nearest point of the line through both, which no mixture may
    reach.)
  """
  step, gap = mu - mu_bar, expert - mu_bar
  squared = step @ step
  if squared == 0:
    return mu_bar
  return mu_bar + np.clip(step @ gap / squared, 0, 1) * step


def max_entropy(
  experts: np.ndarray, pool: np.ndarray, l2: float = 1e-3
) -> np.ndarray:
  """The w under which the experts are likeliest, drawn from a fixed pool.

  Blocks of pool and experts have probabilities proportional to `exp(w . mu)`;
  w maximises the mean log-probability of the experts minus `l2 |w|^2 / 2`.
  Without that penalty w would grow forever where the expert is extreme.

  Args:
    experts: feature counts, `float[E, F]`.
    pool: of random blocks, `float[n, F]`.
    l2: the penalty, above 0.

  Returns:
    w `float64[F]`, where the expected feature counts fall short of the
    experts' mean by `l2 w`.
  """
  value = lambda w: entropy_loss(w, experts, pool, l2)
  found = optimize.minimize(
    value,
    np.zeros(pool.shape[1]),
    jac=True,
    method="L-BFGS-B",
    options={"ftol": 0, "gtol": 1e-9, "maxiter": 20_000, "maxfun": 100_000},
  )
  return found.x


def entropy_loss(
  w: np.ndarray, experts: np.ndarray, pool: np.ndarray, l2: float
) -> tuple[float, np.ndarray]:
  """What `max_entropy` minimises, and its gradient `float64[F]` in w."""
  # Relative to the experts, so that nothing common to all can matter.
  counts = np.concatenate([pool, experts]) - experts.mean(0)
  logits = counts @ w
  loss = special.logsumexp(logits) + l2 * (w @ w) / 2
  return float(loss), special.softmax(logits) @ counts + l2 * w


def differences(experts: np.ndarray, counts: np.ndarray) -> np.ndarray:
  """All `mu_E - mu_j`: `float64[E n, F]`."""
  experts, counts = np.asarray(experts, float), np.asarray(counts, float)
  pairs = experts[:, None] - counts[None]
  return pairs.reshape(-1, pairs.shape[-1])
