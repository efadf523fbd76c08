"""Every shipped config loads, says how to run it, and fits its space."""

import dataclasses
import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxnas.compare import load_arms
from jaxnas.compare.arms import check_alike
from jaxnas.config import (
  ExperimentConfig,
  from_json,
  load_config,
  load_function,
  to_json,
)
from jaxnas.costs import Budget, cost_tables
from jaxnas.experiment import make_experiment
from jaxnas.methods import (
  BlockMethod,
  DivideMethod,
  MaskMethod,
  get_method,
  make_space,
  shares_weights,
)
from jaxnas.methods.checks import check_block_config, check_mask_config
from jaxnas.search import SegmentSearch
from jaxnas.search.partition import check_divide
from jaxnas.spaces import BlockSpace, MaskSpace, block_graph

FILES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))
CONFIGS = [p for p in FILES if not p.stem.startswith("compare_")]
COMPARISONS = [p for p in FILES if p not in CONFIGS]


def variants(path):
  """Names of the public functions that a config file defines."""
  get_config = load_function(path, "get_config")
  return sorted(
    name
    for name, value in get_config.__globals__.items()
    if inspect.isfunction(value)
    and value.__module__ == get_config.__module__
    and not name.startswith("_")
  )


def on_embedded_data(config):
  """Whether it runs without files, which a search of a table needs."""
  return config.data.source == "digits" and not config.divide.early


EVERY = [(path, name) for path in CONFIGS for name in variants(path)]


def test_there_are_configs():
  assert {p.name for p in CONFIGS} >= {"digits_fairnas.py", "digits_spos.py"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_header_and_variants(path):
  module = load_function(path, "get_config").__globals__
  assert f"python -m jaxnas run configs/{path.name}" in module["__doc__"]
  assert {"get_config", "quicktest"} <= set(variants(path))


@pytest.mark.parametrize(
  ("path", "variant"), EVERY, ids=[f"{p.stem}-{v}" for p, v in EVERY]
)
def test_a_config_fits_its_space_method_and_budget(path, variant):
  config = load_config(f"{path}:{variant}")
  assert isinstance(config, ExperimentConfig)
  assert from_json(to_json(config)) == config
  space = make_space(config)
  if isinstance(get_method(config.method), MaskMethod):
    check_mask_config(config)
    assert isinstance(space, MaskSpace)
    assert not config.budget
    return
  if isinstance(get_method(config.method), BlockMethod):
    check_block_config(config)
    assert isinstance(space, BlockSpace)
    given = config.blocks.block or "identity@0"
    assert block_graph(space, space.from_string(given)).nodes
    assert not config.budget
    return
  costs = cost_tables(space)
  # Refuses what cannot be kept.
  budget = Budget.parse(config.budget, costs, space)
  setup = SimpleNamespace(
    config=config, space=space, costs=costs, budget=budget
  )
  method = get_method(config.method)
  if shares_weights(config):
    assert method.sampler(setup).n_paths >= 1
  if isinstance(method, DivideMethod):
    check_divide(config.divide)
    archs = budget.draw(np.random.default_rng(0), config.divide.samples)
    assert len(archs) == config.divide.samples
    return
  searcher = method.searcher(setup)
  archs = searcher.ask(searcher.init(0))
  if isinstance(searcher, SegmentSearch):
    segments = config.search.segments
    assert len(archs) == min(segments.samples, segments.batch)
  else:
    assert len(archs) == config.search.population
  assert budget.allows(archs).all()
  # A budget that no arch exceeds would mean nothing.
  dearest = np.argmax(costs["macs"].table, 1).astype(np.int32)
  assert budget.allows(dearest[None])[0] != bool(config.budget)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_quicktest_is_the_smaller_run(path):
  whole, quick = (
    load_config(f"{path}:{v}") for v in ("get_config", "quicktest")
  )
  assert quick.method == whole.method
  assert quick.retrain.epochs <= 2
  if isinstance(get_method(quick.method), BlockMethod):
    assert quick.blocks.block == whole.blocks.block
    if quick.blocks.block:
      return
    lambdas = 1 + len(quick.blocks.compare)
    assert quick.blocks.rounds * quick.blocks.per_round * lambdas <= 100
  if shares_weights(quick):
    assert quick.train.epochs <= 2
  if isinstance(get_method(quick.method), BlockMethod):
    return
  if isinstance(get_method(quick.method), DivideMethod):
    assert quick.divide.samples <= 8
    assert quick.divide.source == whole.divide.source
    assert quick.divide.conquer_epochs <= 2
    return
  if isinstance(get_method(quick.method), MaskMethod):
    assert quick.masks.candidates <= 32
    assert whole.masks == dataclasses.replace(
      quick.masks, candidates=whole.masks.candidates, batch=whole.masks.batch
    )
    return
  if quick.method == "gcn":  # rounds and sizes of its search are its own
    segments = quick.search.segments
    assert segments.samples + segments.candidates <= 32
  else:
    assert quick.search.population * (quick.search.generations + 1) <= 32
  assert quick.ranking.n_archs <= 4


@pytest.mark.parametrize(
  ("path", "variant"),
  [e for e in EVERY if on_embedded_data(load_config(f"{e[0]}:{e[1]}"))],
  ids=lambda v: getattr(v, "stem", v),
)
def test_a_config_on_embedded_data_is_ready_to_run(path, variant, tmp_path):
  make_experiment(load_config(f"{path}:{variant}"), tmp_path / "w")
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)
def test_a_comparison_says_how_to_run_it(path):
  module = load_function(path, "get_configs").__globals__
  assert f"python -m jaxnas compare configs/{path.name}" in module["__doc__"]
  whole, quick = (load_arms([f"{path}{v}"]) for v in ("", ":quicktest"))
  assert [a.name for a in whole] == [a.name for a in quick]
  assert [a.config.method for a in whole] == [a.config.method for a in quick]
  for arms in (whole, quick):
    # Refused otherwise: other data, or another training of the winners.
    check_alike(arms, table="macro" in path.stem)


def test_the_small_comparison_has_the_arms_of_digits():
  small, digits = (
    load_arms([name])
    for name in ("compare_fashion_mnist:small", "compare_digits")
  )
  check_alike(small, table=False)
  for one, other in zip(small, digits, strict=True):
    assert (one.name, one.config.divide) == (other.name, other.config.divide)
    assert one.config.space.image_size == 14


@pytest.mark.parametrize("variant", ["", ":quicktest"])
def test_all_arms_on_digits_are_ready_to_run(variant, tmp_path):
  arms = load_arms([f"compare_digits{variant}"])
  assert {a.config.method for a in arms} >= {
    "evolution", "spos", "fairnas", "gcn", "pgnas", "irlas", "dcnas",
  }  # fmt: skip
  for arm in arms:
    make_experiment(arm.config, tmp_path / "w")
