"""Scoring: supernet metrics of archs, plain networks, ranking statistics."""

from jaxnas.scoring.ranking import compare_rankings, evenly_spaced
from jaxnas.scoring.scorer import (
  FleetEvaluator,
  Images,
  Scorer,
  calibration_split,
  check_score,
  recalibrated,
)

__all__ = [
  "FleetEvaluator", "Images", "Scorer", "calibration_split",
  "check_score", "compare_rankings", "evenly_spaced", "recalibrated",
]  # fmt: skip
