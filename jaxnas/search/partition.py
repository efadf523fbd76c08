"""Puts archs that learn alike into clusters (DC-NAS, arXiv 2005.14456).

That k-means puts similar networks into one cluster is the paper's (abstract);
what similar means, how many clusters there are, and what tells whether they
mean anything, is ours. Features come as numbers, so any description will do.
"""

import dataclasses
import itertools
import typing
import warnings

import numpy as np
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_score
from threadpoolctl import threadpool_limits

from jaxnas.config import DivideConfig
from jaxnas.errors import UserError, unknown

# Features are float32: what varies less, relative to its size, is rounding.
TINY = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
  """A partition of n archs.

  Attributes:
    labels: cluster of each arch, `int32[n]`, numbered by first appearance.
    silhouette: `{"k", "value"}` of each k that was tried; empty if k was given.
  """

  labels: np.ndarray
  silhouette: list[dict[str, float]]

  @property
  def k(self) -> int:
    """Number of clusters."""
    return int(self.labels.max()) + 1


_LEAST = {
  "samples": 1, "clusters": 0, "restarts": 1, "keep": 1, "halving": 0,
  "first_epoch": 0, "epochs": 1, "conquer_epochs": 1, "together": 1,
  "probe_images": 1, "projection": 1, "components": 0,
}  # fmt: skip


def check_divide(config: DivideConfig) -> None:
  """Refuses values that nothing can use, and options that nothing would read.

  Raises:
    UserError: naming the field.
  """
  for name, hint in typing.get_type_hints(DivideConfig).items():
    value = getattr(config, name)
    legal = typing.get_args(hint)
    if legal and value not in legal:
      raise unknown(f"value of divide.{name}", value, legal)
    least = _LEAST.get(name)
    if least is not None and value < least:
      raise UserError(f"divide.{name} is {value}; it must be at least {least}.")
  if config.clusters > config.samples:
    raise UserError(
      f"divide.clusters is {config.clusters}; legal: 1 to divide.samples,"
      f" {config.samples}, or 0 for the largest silhouette."
    )
  if not config.clusters and config.max_clusters < 2:
    raise UserError(
      f"divide.max_clusters is {config.max_clusters}; it must be at least 2."
    )
  if config.halving == 1:
    raise UserError("divide.halving is 1; legal: 0, or 2 and more.")
  for name, reason in _unread(config):
    value = getattr(config, name)
    if value != getattr(DivideConfig(), name):
      raise UserError(
        f"divide.{name} is {value!r}, but {reason} does not use it; leave it at"
        " its default."
      )
  if (
    config.source == "short-training" and config.conquer_epochs < config.epochs
  ):
    raise UserError(
      f"divide.conquer_epochs is {config.conquer_epochs}; the longer training"
      f" takes at least divide.epochs, {config.epochs}."
    )
  if config.first_epoch >= config.epochs:
    raise UserError(
      f"divide.first_epoch is {config.first_epoch}; it must lie below"
      f" divide.epochs, {config.epochs}."
    )


def _unread(config: DivideConfig) -> list[tuple[str, str]]:
  """Fields that nothing reads, each with the choice that is the reason."""
  found = []
  if config.clusters:
    found.append(("max_clusters", f"divide.clusters={config.clusters}"))
  if config.source == "shared-weights":
    reason = "divide.source=shared-weights"
    found += [("outputs", reason), ("first_epoch", reason)]
    if not config.halving:  # which trains networks, and counts in epochs
      found.append(("epochs", f"{reason} without divide.halving"))
  if config.features == "change":
    names = ["outputs", "projection"]
    if config.source == "short-training":  # gradients need images too
      names.append("probe_images")
    found += [(name, "divide.features=change") for name in names]
  if config.features == "outputs":
    found.append(("change", "divide.features=outputs"))
    if config.outputs == "late":
      reason = "divide.features=outputs with divide.outputs=late"
      found.append(("first_epoch", reason))
  return found


def standardise(features: np.ndarray) -> np.ndarray:
  """Gives each feature mean 0 and variance 1 over the archs (ours).

  Constant features become 0. An arch with a feature that is not finite, because
  its training failed, has no part in that and stands at the mean: all 0.

  Args:
    features: `float[n, d]`.

  Returns:
    `float64[n, d]`.
  """
  features = np.asarray(features, np.float64)
  finite = np.isfinite(features).all(1)
  known = features[finite]
  rows = np.zeros_like(features)
  if known.size:
    centred = known - known.mean(0)
    deviation = centred.std(0)
    varies = deviation > TINY * np.abs(known).max(0)
    rows[finite] = np.where(varies, centred / np.where(varies, deviation, 1), 0)
  return rows


def reduce(features: np.ndarray, components: int) -> np.ndarray:
  """Keeps some principal components of features (ours), not scaled again.

  Args:
    features: standardised, or blocks of such in a scale of their own, `float[n,
      d]`. An arch with one that is not finite, because its training failed,
      stands at the mean.
    components: how many; 0 keeps the features themselves.

  Returns:
    `float64[n, d']`.
  """
  features = np.asarray(features, np.float64)
  finite = np.isfinite(features).all(1, keepdims=True)
  rows = np.where(finite, features, 0.0)
  return _principal(rows)[0][:, :components] if components else rows


def kmeans(
  features: np.ndarray, k: int, distance: str, restarts: int, seed: int
) -> np.ndarray:
  """Clusters by k-means with k-means++ starts, the best of some restarts.

  The order of the archs changes nothing but the numbers of the clusters. Archs
  with the same features share a cluster, unless k is n: then each arch is
  alone. So with fewer distinct archs than k, there are only so many clusters.

  Args:
    features: as `standardise` gives them, `float[n, d]`.
    k: clusters, 1 to n.
    distance: `euclidean`; or `cosine`, Euclid on rows of length 1, where the
      squared distance is 2 (1 - cos). Rows of zeros stay there, 1 from all.
    restarts: the one with the least inertia counts.
    seed: of the starts.

  Returns:
    `int32[n]`, clusters numbered by first appearance.

  Raises:
    UserError: if k is not 1 to n.
  """
  n = len(features)
  if not 1 <= k <= n:
    raise UserError(f"{k} clusters of {n} archs; legal: 1 to {n}.")
  if k == n:
    return np.arange(n, dtype=np.int32)
  # Sorted and distinct: neither order nor copies can matter.
  points, which, copies = np.unique(
    _points(features, distance), axis=0, return_inverse=True, return_counts=True
  )
  if len(points) <= k:
    return _canonical(which)
  # No tolerance: a step ends only where no arch would move.
  model = KMeans(
    k, init="k-means++", n_init=restarts, random_state=seed % 2**32, tol=0
  )
  # Sums on several threads may differ from run to run.
  with threadpool_limits(1), warnings.catch_warnings():
    # Points as near as rounding may end in fewer clusters, as said above.
    warnings.simplefilter("ignore", ConvergenceWarning)
    model.fit(points, sample_weight=copies)
  return _canonical(model.labels_[which])


def choose_clusters(
  features: np.ndarray,
  distance: str,
  max_clusters: int,
  restarts: int,
  seed: int,
) -> tuple[int, list[dict[str, float]]]:
  """Takes the k whose clusters are the most compact for their distance (ours).

  Args:
    features: as `standardise` gives them, `float[n, d]`.
    distance: as in `kmeans`, of which the silhouette is too.
    max_clusters: largest k; n - 1 if that is less.
    restarts: of k-means.
    seed: of k-means.

  Returns:
    The k with the largest mean silhouette, the smaller one of equals, and
    `{"k", "value"}` of each k from 2 on. A k above the number of distinct archs
    is not tried; if none is left, k is 1.
  """
  points = _points(features, distance)
  rows = []
  for k in range(2, min(max_clusters, len(points) - 1) + 1):
    labels = kmeans(features, k, distance, restarts, seed)
    if labels.max() + 1 < k:
      break
    value = float(silhouette_score(points, labels))
    rows.append({"k": k, "value": value})
  best = max(rows, key=lambda row: row["value"], default={"k": 1})
  return best["k"], rows


def partition(
  features: np.ndarray, costs: np.ndarray, config: DivideConfig, seed: int
) -> Partition:
  """The partition that the config asks for.

  The baselines `random` and `macs` have clusters as large as k-means makes
  them, so only who is in them differs.

  Args:
    features: as `standardise` gives them, `float[n, d]`.
    costs: multiply-adds, `float[n]`.
    config: which one; `components` is for `standardise`.
    seed: of k-means and of chance.
  """
  k, rows = config.clusters, []
  if not k:
    k, rows = choose_clusters(
      features, config.distance, config.max_clusters, config.restarts, seed
    )
  labels = kmeans(features, k, config.distance, config.restarts, seed)
  sizes = np.bincount(labels)
  if config.partition == "random":
    labels = random_partition(sizes, np.random.default_rng(seed))
  if config.partition == "macs":
    labels = sorted_partition(costs, sizes)
  return Partition(_canonical(labels), rows)


def random_partition(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws one of all partitions into clusters of these sizes, `int32[n]`."""
  return rng.permutation(
    np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  )


def sorted_partition(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Puts neighbours in value into clusters of these sizes, least first.

  Args:
    values: `float[n]`; the earlier arch of equals counts as the lesser.
    sizes: `int[k]`, of sum n.

  Returns:
    `int32[n]`.
  """
  labels = np.empty(len(values), np.int32)
  order = np.argsort(values, kind="stable")
  labels[order] = np.repeat(np.arange(len(sizes)), sizes)
  return labels


def cost_explained(labels: np.ndarray, costs: np.ndarray) -> float:
  """How much of a cost the clusters tell, 0..1 (ours).

  The share of the variance of the costs' ranks, equals at their mean rank, that
  lies between clusters: the correlation ratio eta squared; 0 if all are equal.
  k clusters at random have (k - 1) / (n - 1) on average.

  Args:
    labels: `int[n]`.
    costs: `float[n]`.
  """
  ranks = stats.rankdata(costs)
  ranks -= ranks.mean()
  total = ranks @ ranks
  if not total:
    return 0.0
  sizes = np.maximum(np.bincount(labels), 1)
  return float((np.bincount(labels, ranks) ** 2 / sizes).sum() / total)


def stability(
  features: np.ndarray, k: int, distance: str, restarts: int, seeds: int
) -> dict:
  """Whether k-means finds the same clusters from other starts (ours).

  Args:
    features: as `standardise` gives them, `float[n, d]`.
    k: clusters.
    distance: as in `kmeans`.
    restarts: of each k-means.
    seeds: partitions that are compared, from seeds 0, 1, ...; 2 or more.

  Returns:
    `{"seeds", "adjusted_rand": {"value", "low", "high"}}`: mean of the adjusted
    Rand index of all pairs of partitions, 1 if all are equal, and the 2.5 and
    97.5 percentiles of the pairs: their spread, not an error of the mean.
  """
  found = [
    kmeans(features, k, distance, restarts, seed) for seed in range(seeds)
  ]
  pairs = [adjusted_rand_score(*p) for p in itertools.combinations(found, 2)]
  low, high = np.percentile(pairs, [2.5, 97.5])
  return {
    "seeds": seeds,
    "adjusted_rand": {
      "value": float(np.mean(pairs)), "low": float(low), "high": float(high),
    },
  }  # fmt: skip


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The plane in which the archs lie farthest apart, to draw them.

  Args:
    features: as `standardise` gives them, `float[n, d]`.

  Returns:
    Coordinates `float64[n, 2]`, zeros for a component that does not exist, and
    the share of the variance along each, `float64[2]`.
  """
  scores, shares = _principal(np.asarray(features, np.float64))
  plane, explained = np.zeros((len(scores), 2)), np.zeros(2)
  m = min(2, len(shares))
  plane[:, :m], explained[:m] = scores[:, :m], shares[:m]
  return plane, explained


def _principal(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """All principal components `[n, min(n, d)]` and their shares of variance."""
  centred = features - features.mean(0)
  left, lengths, axes = np.linalg.svd(centred, full_matrices=False)
  # An axis may point either way; the largest of its entries shall be positive.
  largest = np.abs(axes).argmax(1)
  signs = np.sign(axes[np.arange(len(axes)), largest])
  total = (lengths**2).sum()
  return left * lengths * signs, lengths**2 / total if total else lengths


def _points(features: np.ndarray, distance: str) -> np.ndarray:
  """The points of which k-means takes Euclid's distance, `float64[n, d]`."""
  points = np.asarray(features, np.float64)
  if distance == "cosine":
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    nowhere = lengths <= TINY * lengths.max(initial=0)
    points = np.where(nowhere, 0, points / np.where(nowhere, 1, lengths))
  # Sums in another order must not tell equal archs apart.
  scale = np.abs(points).max(initial=0) or 1.0
  return np.round(points / scale, 10) + 0.0  # no -0


def _canonical(labels: np.ndarray) -> np.ndarray:
  """Numbers clusters by first appearance, so equal partitions are equal."""
  _, first, which = np.unique(labels, return_index=True, return_inverse=True)
  return np.argsort(np.argsort(first))[which].astype(np.int32)
