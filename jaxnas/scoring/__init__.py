"""Scoring: supernet metrics of archs, plain networks, ranking statistics."""

from jaxnas.scoring.blocks import BlockScorer, calibrated_block
from jaxnas.scoring.calibration import merge_stats, recalibrated
from jaxnas.scoring.halving import Halving, halve
from jaxnas.scoring.images import Images, calibration_split
from jaxnas.scoring.masked import MaskForm, MaskScorer, calibrated
from jaxnas.scoring.partition_ranking import compare_partitions
from jaxnas.scoring.racing import Race, race
from jaxnas.scoring.racing_scorer import race_archs
from jaxnas.scoring.ranking import compare_rankings, evenly_spaced
from jaxnas.scoring.scorer import (
  FleetEvaluator,
  NetworkEvaluator,
  Scorer,
  check_score,
)
from jaxnas.scoring.selection import fold_hits, selection_curve

__all__ = [
  "BlockScorer", "FleetEvaluator", "Halving", "Images", "MaskForm",
  "MaskScorer", "NetworkEvaluator", "Race", "Scorer", "calibrated",
  "calibrated_block", "calibration_split", "check_score",
  "compare_partitions", "compare_rankings", "evenly_spaced", "fold_hits",
  "halve",
  "merge_stats", "race", "race_archs", "recalibrated", "selection_curve",
]  # fmt: skip
