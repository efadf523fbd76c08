"""Scoring: supernet metrics of archs, plain networks, ranking statistics."""

from jaxnas.scoring.calibration import merge_stats, recalibrated
from jaxnas.scoring.images import Images, calibration_split
from jaxnas.scoring.racing import Race, race
from jaxnas.scoring.racing_scorer import race_archs
from jaxnas.scoring.ranking import compare_rankings, evenly_spaced
from jaxnas.scoring.scorer import FleetEvaluator, Scorer, check_score

__all__ = [
  "FleetEvaluator", "Images", "Race", "Scorer", "calibration_split",
  "check_score", "compare_rankings", "evenly_spaced", "merge_stats", "race",
  "race_archs", "recalibrated",
]  # fmt: skip
