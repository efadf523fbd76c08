"""Numbers into words: what may be claimed, and nothing more."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Literal

from jaxnas.costs import format_count
from jaxnas.report.load import number

NONE = "–"  # shown where a file holds no value


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A statistic with the bounds of its interval; NaN where unknown."""

  value: float
  low: float
  high: float

  @classmethod
  def from_json(cls, value: Mapping | None) -> "Estimate":
    """Reads `{"value", "low", "high"}`; None is unknown."""
    value = value or {}
    return cls(*(number(value.get(k)) for k in ("value", "low", "high")))

  @property
  def excludes_zero(self) -> bool:
    """Whether the interval lies on one side of zero; unknown bounds do not."""
    return self.low > 0 or self.high < 0

  def __str__(self) -> str:
    return f"{decimal(self.value)} [{decimal(self.low)}, {decimal(self.high)}]"


def percent(value: float | None) -> str:
  """Writes a share as `97.22%`."""
  value = number(value)
  return f"{100 * value:.2f}%" if math.isfinite(value) else NONE


def decimal(value: float | None) -> str:
  """Writes a statistic as `0.713`, with a real minus sign."""
  value = number(value)
  text = f"{value:.3f}".replace("-", "−")
  return text if math.isfinite(value) else NONE


def count(value: float | None) -> str:
  """Writes a count as `388.1M`."""
  value = number(value)
  return format_count(value) if math.isfinite(value) else NONE


def exact(value: float | None) -> str:
  """Writes a count with every digit, `388,120,480`."""
  value = number(value)
  return f"{value:,.0f}" if math.isfinite(value) else NONE


def duration(seconds: float) -> str:
  """Writes `840 ms`, `12.3 s`, `4 min 10 s` or `3 h 05 min`."""
  if not math.isfinite(seconds):
    return NONE
  if seconds < 1:
    return f"{1000 * seconds:.0f} ms"
  if seconds < 59.95:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


def wilson(
  share: float, n: int, confidence: float = 0.95
) -> tuple[float, float]:
  """Score interval of a binomial share (Wilson 1927, equation 6).

  Args:
    share: observed share, 0..1.
    n: number of trials, at least 1.
    confidence: coverage.

  Returns:
    Lower and upper bound, inside 0..1.
  """
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  scale = 1 + z * z / n
  centre = (share + z * z / (2 * n)) / scale
  half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
  return max(0.0, centre - half), min(1.0, centre + half)


def compare(
  supernet: Estimate, baseline: Estimate
) -> Literal["better", "worse", "undecided"]:
  """Whether one rank correlation beats another, judged by their intervals.

  A cost that orders the archs backwards informs as well as one that orders
  them forwards, so the baseline counts with its magnitude. Intervals that
  touch decide nothing; this is stricter than a test of paired differences.
  """
  bounds = (baseline.low, baseline.high)
  if any(math.isnan(v) for v in (*bounds, supernet.low, supernet.high)):
    return "undecided"
  smallest, largest = sorted(abs(v) for v in bounds)
  if supernet.low > largest:
    return "better"
  backed = baseline.excludes_zero and supernet.high < smallest
  return "worse" if backed or supernet.high < baseline.low else "undecided"


def judge(
  supernet: Estimate, baseline: Estimate, gain: Estimate | None
) -> Literal["better", "worse", "undecided"]:
  """As `compare`, but by the paired difference where there is one.

  Both taus come from the same networks, so their difference is known better
  than either. It says nothing of a baseline that orders archs backwards, which
  `compare` takes by magnitude.
  """
  if gain is None or not baseline.value >= 0:
    return compare(supernet, baseline)
  if gain.low > 0:
    return "better"
  return "worse" if gain.high < 0 else "undecided"


_COMPARED = {
  "better": "{judge} ranks better than {name} alone",
  "worse": "{judge} ranks worse than {name} alone",
  "undecided": "{judge} cannot be told apart from {name} alone",
}
_WHY = {
  "better": "its interval lies above the other's",
  "worse": "its interval lies below the other's",
  "undecided": "their intervals do not separate them, so nothing is claimed",
}
_PAIRED = {
  "better": "the paired difference lies above zero,",
  "worse": "the paired difference lies below zero,",
  "undecided": "the paired difference includes zero, so nothing is claimed,",
}
COST_NAMES = {"macs": "MACs", "params": "the number of parameters"}


def ranking_claims(
  ranking: Mapping,
  judge_name: str = "the supernet",
  scored: str = "supernet accuracy",
) -> tuple[list[str], list[str]]:
  """What `ranking.json` supports.

  Args:
    ranking: its content.
    judge_name: whose ranking it is.
    scored: what it ranks by.

  Returns:
    Warnings and plain statements, each a list of sentences.
  """
  n, k = ranking.get("n"), ranking.get("top_k")
  tau = Estimate.from_json(ranking.get("kendall_tau_b"))
  level = f"{100 * number(ranking.get('confidence', 0.95)):g}%"
  warnings, claims = [], []
  if not tau.excludes_zero:
    warnings.append(
      f"The {level} interval of Kendall τ-b includes zero: with these {n}"
      f" archs {judge_name}'s ranking cannot be told apart from chance."
    )
  elif tau.high < 0:
    warnings.append(
      f"Kendall τ-b is negative: {judge_name} ranks these archs backwards."
    )
  if ranking.get("kendall_tau_a") is not None:
    ties = f", τ-a {decimal(ranking['kendall_tau_a'])}"
  else:
    ties = ""
  pairs = f"{ranking['pairs']:,} pairs of " if ranking.get("pairs") else ""
  claims.append(
    f"Kendall τ-b {tau} ({level} bootstrap interval{ties}) over {pairs}{n}"
    f" archs; selection: {ranking.get('selection', 'unknown')}, batch norm:"
    f" {ranking.get('bn_mode', 'unknown')}."
  )
  if ranking.get("selection") == "evenly-spaced":
    claims.append(
      f"Archs that are evenly spaced in {scored} spread wider than a"
      " uniform sample, which raises a rank correlation; compare only with"
      " numbers selected in the same way."
    )
  if ranking.get("spearman"):
    rho = Estimate.from_json(ranking["spearman"])
    claims.append(f"Spearman ρ {rho}.")
  if ranking.get("top_k_overlap") and k and n:
    overlap = Estimate.from_json(ranking["top_k_overlap"])
    claims.append(
      f"Top-{k} overlap {overlap}: the share of the {k} best stand-alone"
      f" archs that are among {judge_name}'s {k} best; by chance it is"
      f" {decimal(k / n)}."
    )
  if ranking.get("regret") is not None:
    claims.append(
      f"Regret: {judge_name}'s first choice is"
      f" {100 * ranking['regret']:.2f} points below the best of the {n} in"
      " stand-alone accuracy."
    )
  for name, value in (ranking.get("baselines") or {}).items():
    baseline = Estimate.from_json(value)
    paired = value.get("gain") if baseline.value >= 0 else None
    gain = Estimate.from_json(paired) if paired else None
    verdict = judge(tau, baseline, gain)
    text = _COMPARED[verdict].format(
      judge=judge_name[0].upper() + judge_name[1:],
      name=COST_NAMES.get(name, name),
    )
    sign = ", taken by magnitude" if baseline.value < 0 else ""
    why = _WHY[verdict] if gain is None else f"{_PAIRED[verdict]} {gain}"
    claims.append(f"{text} (τ-b {baseline}{sign}): {why}.")
  return warnings, claims
