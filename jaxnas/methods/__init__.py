"""Published methods, one page each. A new one: a file and a line here."""

from jaxnas.config import ExperimentConfig
from jaxnas.errors import unknown
from jaxnas.methods import (
  dcnas,
  evolution,
  fairnas,
  gcn,
  irlas,
  pgnas,
  spos,
)
from jaxnas.methods.base import (
  BlockMethod,
  MaskMethod,
  Method,
  PathMethod,
  fleet_batches,
  load_supernet,
  search_archs,
  supernet_batches,
  supernet_objective,
  train_fleet,
  train_supernet,
  write_archs,
  write_fairness,
)
from jaxnas.methods.block_objective import (
  BlockObjective,
  expert_guide,
  experts,
  read_table,
)
from jaxnas.methods.block_ranking import ranking_blocks, standalone_blocks
from jaxnas.methods.block_search import (
  algorithm_of,
  best_blocks,
  best_first,
  block_searcher,
  equal_blocks,
  guidance_row,
  guidances,
  search_blocks,
  write_blocks,
)
from jaxnas.methods.checks import shares_weights, uses_interpreter
from jaxnas.methods.cohorts import ShortTrainer
from jaxnas.methods.compact_winner import compact_winner, tune_winner
from jaxnas.methods.dcnas import DivideMethod
from jaxnas.methods.divide import (
  Divided,
  Represented,
  describe_clusters,
  represent,
  sample_archs,
  search_divided,
  training_images,
)
from jaxnas.methods.divide_table import divide_table
from jaxnas.methods.evolution import ChildMethod
from jaxnas.methods.interpreter import (
  block_batches,
  block_network,
  inherited_block,
  load_interpreter,
  random_blocks,
  train_interpreter,
)
from jaxnas.methods.lookup import (
  answer,
  evidence,
  fitted_accuracies,
  read_lookup,
  write_lookup,
)
from jaxnas.methods.masked import (
  load_masked,
  mask_objective,
  mask_sizes,
  masked_batches,
  posterior,
  select_mask,
  train_masked,
  winning_mask,
  write_posterior,
)
from jaxnas.methods.networks import (
  check_network,
  child_accuracy,
  fresh_network,
  judge_winner,
  network_batches,
  origin_of,
  train_network,
)
from jaxnas.methods.ranking import (
  ranking_archs,
  read_truth,
  standalone_accuracies,
)
from jaxnas.methods.relaxed import check_relaxed, search_relaxed
from jaxnas.methods.setup import (
  BlockSetup,
  MaskSetup,
  PathSetup,
  Setup,
  make_block_setup,
  make_mask_setup,
  make_setup,
  make_space,
)
from jaxnas.methods.winner import check_inherited, inherited, train_winner

METHODS: dict[str, Method] = {
  m.name: m
  for m in (
    fairnas.METHOD,
    spos.METHOD,
    gcn.METHOD,
    pgnas.METHOD,
    irlas.METHOD,
    dcnas.METHOD,
    evolution.METHOD,
  )  # fmt: skip
}


def get_method(name: str) -> Method:
  """Returns a method by name.

  Raises:
    UserError: for an unknown name.
  """
  if name not in METHODS:
    raise unknown("method", name, METHODS)
  return METHODS[name]


def answers_budgets(config: ExperimentConfig) -> bool:
  """Whether a search leaves behind what budgets are looked up in."""
  method = get_method(config.method)
  return (
    isinstance(method, PathMethod)
    and method.search_config(config.search).algorithm == "segments"
  )


__all__ = [
  "METHODS", "algorithm_of", "answer", "answers_budgets", "best_blocks",
  "best_first", "block_batches", "block_network", "block_searcher",
  "BlockMethod", "BlockObjective", "BlockSetup", "check_inherited",
  "check_network", "check_relaxed", "child_accuracy", "ChildMethod",
  "compact_winner", "describe_clusters", "divide_table", "Divided",
  "DivideMethod",
  "equal_blocks", "evidence", "expert_guide", "experts", "fitted_accuracies",
  "fleet_batches", "fresh_network", "get_method", "guidance_row", "guidances",
  "inherited", "inherited_block", "judge_winner", "load_interpreter",
  "load_masked", "load_supernet", "make_block_setup", "make_mask_setup",
  "make_setup", "make_space", "mask_objective", "mask_sizes", "masked_batches",
  "MaskMethod", "MaskSetup", "Method", "network_batches",
  "origin_of", "PathMethod", "PathSetup", "posterior", "random_blocks",
  "ranking_archs", "ranking_blocks", "read_lookup", "read_table", "read_truth",
  "represent", "Represented", "sample_archs", "search_archs", "search_blocks",
  "search_divided", "search_relaxed", "select_mask", "Setup", "shares_weights",
  "ShortTrainer", "standalone_accuracies", "standalone_blocks",
  "supernet_batches", "supernet_objective", "train_fleet", "train_interpreter",
  "train_masked", "train_network", "train_supernet", "train_winner",
  "training_images", "tune_winner", "uses_interpreter", "winning_mask",
  "write_archs", "write_blocks", "write_fairness", "write_lookup",
  "write_posterior",
]  # fmt: skip
