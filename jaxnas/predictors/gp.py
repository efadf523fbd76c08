"""A Gaussian process behind a learned link (ours).

    label = g(f(arch)) + noise,     g(f) = (1 - exp(-c f)) / c
    f ~ GP(0, 1 + a * additive + b * exp(-sum of lengths of unequal nodes))

Accuracies crowd below a ceiling: what a good choice adds is small where the
rest is good already. The link takes that out, so that the additive part, which
needs few labels, explains more, and noise cannot pretend to be interaction.
With `c` and `b` near 0 this is ridge regression; with many clean labels the
exponential part learns what is left. All constants are found from the labels,
by the marginal likelihood (Laplace's approximation with the Gauss-Newton
Hessian; Rasmussen & Williams, 2006, chapters 3 and 5).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits

from jaxnas.predictors.base import Labels, check_archs, in_chunks
from jaxnas.predictors.features import offsets, one_hot

SUBSET = 600  # labels that the constants are found from
SINGLE = 2500  # labels up to which one thread does all
ROUNDS = 5  # of finding f, then the constants
RANK = (
  48  # directions that the spread knows of; more labels, a bound from above
)
NONE = -20.0  # logarithm of a variance that does not count
NUGGET = 1e-6  # least noise, in variances of the labels
CHUNK = 2048  # archs predicted at once; times the labels, what is alive
LIMIT = 30.0  # of the link's exponent


def link(c: float, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The link and its slope at `f`."""
  t = np.clip(c * f, -LIMIT, LIMIT)
  slope = np.exp(-t)
  if abs(c) < 1e-6:
    return f - 0.5 * c * f**2, slope
  return -np.expm1(-t) / c, slope


def _link_by_c(c: float, f: np.ndarray) -> np.ndarray:
  """Derivative of the link by `c`."""
  if abs(c) < 1e-4:
    return -0.5 * f**2 + c * f**3 / 3
  g, slope = link(c, f)
  return (f * slope - g) / c


@dataclasses.dataclass(frozen=True)
class Constants:
  """What the marginal likelihood decides.

  Attributes:
    additive: variance `a` of the additive part.
    interaction: variance `b` of the exponential part.
    lengths: what a node with unequal choices adds to the exponent,
      `float64[nodes]`.
    noise: variance of the labels' noise.
    curvature: `c` of the link.
  """

  additive: float
  interaction: float
  lengths: np.ndarray
  noise: float
  curvature: float

  @classmethod
  def of(cls, v: np.ndarray) -> "Constants":
    """Reads the vector that is optimised.

    Args:
      v: logarithms of `a`, `b`, noise and common length, then `c`, then for
        each node the logarithm of its length relative to the common one.
    """
    a, b, noise = np.exp(v[:3])
    return cls(a, b, np.exp(v[3] + v[5:]), noise + NUGGET, v[4])


@dataclasses.dataclass(frozen=True)
class Problem:
  """Labels as the process sees them.

  Attributes:
    x: one-hot choices, `float64[n, slots]`.
    node: the node of each slot, `int[slots]`.
    y: standardised labels, `float64[n]`.
    weights: inverse variances of their noise, up to its scale, `float64[n]`.
  """

  x: np.ndarray
  node: np.ndarray
  y: np.ndarray
  weights: np.ndarray

  def rows(self, chosen: np.ndarray) -> "Problem":
    """Some of the labels."""
    return dataclasses.replace(
      self, x=self.x[chosen], y=self.y[chosen], weights=self.weights[chosen]
    )

  @functools.cached_property
  def equal(self) -> np.ndarray:
    """Share of nodes with equal choices, `float64[n, n]`."""
    return self.x @ self.x.T / (self.node[-1] + 1)

  def decay(self, k: Constants) -> np.ndarray:
    """The exponential part for variance 1, `float64[n, n]`."""
    shared = (self.x * k.lengths[self.node]) @ self.x.T
    return np.exp(shared - k.lengths.sum())

  def kernel(self, k: Constants) -> np.ndarray:
    """Prior covariance of `f`, `float64[n, n]`."""
    return 1 + k.additive * self.equal + k.interaction * self.decay(k)

  def mode(self, k: Constants, start: np.ndarray) -> np.ndarray:
    """Finds the most probable `f = K @ dual` by damped Gauss-Newton steps.

    Args:
      k: constants.
      start: dual weights, `float64[n]`.

    Returns:
      Dual weights, `float64[n]`.
    """
    prior, noise = self.kernel(k), k.noise / self.weights

    def cost(dual, f):
      g, _ = link(k.curvature, f)
      return 0.5 * ((self.y - g) ** 2 / noise).sum() + 0.5 * dual @ f

    dual, f = start, prior @ start
    value = cost(dual, f)
    for _ in range(25):
      g, slope = link(k.curvature, f)
      covariance = slope[:, None] * prior * slope
      covariance[np.diag_indices_from(covariance)] += noise
      factor = linalg.cho_factor(covariance, overwrite_a=True)
      new = slope * linalg.cho_solve(factor, self.y - g + slope * f)
      step, step_f = new - dual, prior @ (new - dual)
      for size in 0.5 ** np.arange(8):
        found = cost(dual + size * step, f + size * step_f)
        if found <= value:
          break
      else:
        return dual
      gain = value - found
      dual, f, value = dual + size * step, f + size * step_f, found
      if gain < 1e-4 + 1e-7 * abs(value):
        return dual
    return dual

  def left_out(self, k: Constants, dual: np.ndarray) -> np.ndarray:
    """`f` at each label as the other labels have it, linearised.

    The link's slope at a label must not depend on that label's own noise, or
    the evidence takes noise for structure.

    Args:
      k: constants.
      dual: of `mode`.

    Returns:
      `float64[n]`.
    """
    prior = self.kernel(k)
    f = prior @ dual
    noise = k.noise / self.weights / link(k.curvature, f)[1] ** 2
    inverse = linalg.inv(prior + np.diag(noise), check_finite=False)
    return f + noise * dual - dual / np.diag(inverse)

  def evidence(self, v: np.ndarray, f: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus the log posterior of the constants, linearised at `f`.

    Args:
      v: see `Constants.of`.
      f: where the link is linearised, `float64[n]`.

    Returns:
      Value and gradient.
    """
    k = Constants.of(v)
    g, slope = link(k.curvature, f)
    residual = self.y - g + slope * f
    both = slope[:, None] * slope
    equal, decay = both * self.equal, both * self.decay(k)
    signal = both + k.additive * equal + k.interaction * decay
    covariance = signal + np.diag(k.noise / self.weights)
    try:
      factor = linalg.cho_factor(covariance, lower=True, overwrite_a=True)
    except linalg.LinAlgError:
      return np.inf, np.zeros_like(v)
    dual = linalg.cho_solve(factor, residual)
    inverse, _ = linalg.lapack.dpotri(factor[0], lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    value = 0.5 * residual @ dual + np.log(np.diag(factor[0])).sum()
    by = 0.5 * (inverse - np.outer(dual, dual))
    gradient = np.zeros_like(v)
    gradient[0] = k.additive * (by * equal).sum()
    m = k.interaction * by * decay
    gradient[1] = m.sum()
    gradient[2] = (k.noise - NUGGET) * (np.diag(by) / self.weights).sum()
    agree = np.bincount(self.node, (self.x * (m @ self.x)).sum(0))
    by_length = -k.lengths * (m.sum() - agree)
    gradient[3], gradient[5:] = by_length.sum(), by_length
    turn = -_link_by_c(k.curvature, f) - f**2 * slope
    gradient[4] = dual @ turn - 2 * f @ (by * signal).sum(1)
    centre, width = _prior(len(v))
    off = (v - centre) / width
    return value + 0.5 * off @ off, gradient + off / width


def _prior(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Mean and standard deviation of the constants' normal prior.

  Wide for the logarithms of variances; the link is straight and nodes have
  alike lengths unless the labels say otherwise.
  """
  centre = np.zeros(size)
  width = np.full(size, 0.25)
  centre[:4] = 0.0, -1.5, -2.0, -1.5
  width[:5] = 2.0, 2.0, 4.0, 1.0, 0.5
  return centre, width


@dataclasses.dataclass(frozen=True)
class FittedProcess:
  """The posterior of the process.

  Attributes:
    labels: that were fitted.
    constants: of the process.
    dual: `f(arch) = k(arch, fitted) @ dual`, `float64[n]`.
    basis: the variance of `f` is that before the labels minus the sum of
      squares of `k(arch, fitted) @ basis`, `float64[n, rank]`.
    info: `noise` in the unit of the labels, `curvature`, `additive`,
      `interaction` and `lengths`.
  """

  labels: Labels
  constants: Constants
  dual: np.ndarray
  basis: np.ndarray
  info: dict

  def predict(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `Fitted.predict`.

    The mean is that of `f`, sent through the link (the median of the label);
    the spread is the standard deviation of `f` times the link's slope, never
    too small: labels beyond the first directions of their kernel count as
    unknown.
    """
    archs = check_archs(self.labels.n_choices, archs)
    f, variance = in_chunks(self._latent, archs, CHUNK)
    value, slope = link(self.constants.curvature, f)
    spread = np.sqrt(np.maximum(variance, 0)) * slope
    scale = self.labels.scale
    return self.labels.mean + scale * value, scale * spread

  def _latent(self, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = self.constants
    out = _project(archs, **self._program, interactions=k.interaction > 0)
    before = 1 + k.additive + k.interaction
    return out[:, 0], before - (out[:, 1:] ** 2).sum(1)

  @functools.cached_property
  def _program(self) -> dict[str, jax.Array]:
    k, n_choices = self.constants, self.labels.n_choices
    x = one_hot(n_choices, self.labels.archs)
    columns = np.concatenate([self.dual[:, None], self.basis], 1)
    node = np.repeat(np.arange(len(n_choices)), n_choices)
    # The additive part has a weight for each slot and needs no labels.
    linear = (k.additive * (x.T @ columns) + columns.sum(0)) / len(n_choices)
    arrays = {
      "linear": linear,
      "shared": (x * k.lengths[node]).T,
      "total": k.lengths.sum(),
      "columns": k.interaction * columns,
    }
    program = {n: jnp.asarray(a, jnp.float32) for n, a in arrays.items()}
    return {"first": jnp.asarray(offsets(n_choices)), **program}


@functools.partial(jax.jit, static_argnames="interactions")
def _project(archs, first, linear, shared, total, columns, interactions):
  """`k(archs, fitted)` times columns, `float32[m, columns]`."""
  x = (archs + first)[:, :, None] == jnp.arange(len(linear))
  x = x.any(1).astype(jnp.float32)
  out = x @ linear
  return out + jnp.exp(x @ shared - total) @ columns if interactions else out


@dataclasses.dataclass(frozen=True)
class Process:
  """The Gaussian process behind a learned link.

  Attributes:
    interactions: has the exponential part; without it `f` is additive.
  """

  interactions: bool = True

  def fit(self, n_choices, archs, targets, seed, noise=None) -> FittedProcess:
    """See `Predictor.fit`; `n` labels need `8 n^2` bytes a few times over."""
    labels = Labels.of(n_choices, archs, targets, noise)
    node = np.repeat(np.arange(len(labels.n_choices)), labels.n_choices)
    problem = Problem(
      one_hot(labels.n_choices, labels.archs), node, labels.targets,
      labels.weights,
    )  # fmt: skip
    n = len(labels.targets)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(n)[:SUBSET])
    # Threads gain little on matrices this small, and on a busy machine they
    # wait for each other a hundred times longer than they work.
    with threadpool_limits(1):
      k, part = _find_constants(problem.rows(chosen), self.interactions)
    start = np.zeros(n)
    start[chosen] = part
    with threadpool_limits(1 if n <= SINGLE else None):
      dual = problem.mode(k, start)
      basis = _basis(problem, k, dual, rng)
    return FittedProcess(
      labels, k, dual, basis,
      {
        "noise": float(k.noise**0.5 * labels.scale),
        "curvature": float(k.curvature),
        "additive": float(k.additive),
        "interaction": float(k.interaction),
        "lengths": k.lengths.tolist(),
      },
    )  # fmt: skip


def _find_constants(
  problem: Problem, interactions: bool
) -> tuple[Constants, np.ndarray]:
  """Finds constants and, with them, the dual weights of these labels."""
  v = np.zeros(5 + problem.node[-1] + 1)
  v[:5] = 0.0, -1.5 if interactions else NONE, np.log(0.2), np.log(0.3), 0.3
  dual = np.zeros(len(problem.y))
  for _ in range(ROUNDS):
    k = Constants.of(v)
    dual = problem.mode(k, dual)
    f = problem.left_out(k, dual)
    v = optimize.minimize(
      problem.evidence, v, (f,), jac=True, method="L-BFGS-B",
      bounds=_bounds(len(v), interactions), options={"maxiter": 20},
    ).x  # fmt: skip
  k = Constants.of(v)
  if not interactions:
    k = dataclasses.replace(k, interaction=0.0)
  return k, problem.mode(k, dual)


def _bounds(size: int, interactions: bool) -> list[tuple[float, float]]:
  """Of the constants; a step of the search must not leave what is sane."""
  second = (-8.0, 6.0) if interactions else (NONE, NONE)
  first = [(-8, 6), second, (-14, 2), (-6, 2), (-2, 2)]
  return first + [(-3, 3)] * (size - 5)


def _basis(
  problem: Problem, k: Constants, dual: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Columns for the variance; see `FittedProcess.basis`.

  What labels tell about `f` is the largest value of `2 z.k - z'(K + N)z` over
  all `z`. Over a subspace it is less, so the variance is bounded from above;
  the subspace is that of the kernel's largest eigenvalues (one step of
  subspace iteration).
  """
  prior, n = problem.kernel(k), len(problem.y)
  _, slope = link(k.curvature, prior @ dual)
  if n <= RANK:
    q = np.eye(n)
  else:
    q = linalg.qr(
      prior @ (prior @ rng.standard_normal((n, RANK))), mode="economic"
    )[0]
  noise = k.noise / problem.weights / slope**2
  inner = q.T @ (prior @ q) + (q.T * noise) @ q
  factor = linalg.cholesky(inner, lower=True)
  return linalg.solve_triangular(factor, q.T, lower=True).T
