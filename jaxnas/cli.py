"""The command line: parse, call, print. All logic lives below."""

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxnas.bench.options import (
  BlockOptions,
  KernelOptions,
  MaskOptions,
  Options,
  PredictOptions,
  ProfileOptions,
  ScoreOptions,
  TrainOptions,
)
from jaxnas.errors import RunError, UserError
from jaxnas.printing import text
from jaxnas.writer import to_json

# Modules that import JAX are imported inside the commands, so that `--help`
# and a wrong flag answer at once.


@dataclasses.dataclass
class Stage:
  """What every command on a work directory takes."""

  config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")]
  """Config file, `FILE.py` or `FILE.py:variant`; shipped ones by name."""
  workdir: Path
  """Folder for everything the run writes."""
  set: Annotated[
    tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=VALUE")
  ] = dataclasses.field(default_factory=list)
  """Override a field, `search.population=64`; may be repeated."""
  seed: int | None = None
  """Seed of the run; default the config's."""
  data: str | None = None
  """`digits`, `npz:PATH`, `folder:PATH`, `idx:PATH` or `tfds:NAME`."""
  budget: str | None = None
  """Upper bounds such as `macs<=60M,params<=5M`."""
  resume: Literal["auto", "never"] = "auto"
  """`never` refuses a folder that already holds a run."""
  json: bool = False
  """Print one JSON object on stdout, all else on stderr."""


@dataclasses.dataclass
class Run(Stage):
  """All stages: train, search, rank, retrain, export, report."""


@dataclasses.dataclass
class Train(Stage):
  """Train the supernet."""


@dataclasses.dataclass
class Search(Stage):
  """Search with the trained supernet, or a benchmark table, for a winner.

  After a search with a predictor (the method gcn), each `--budget` is looked up
  in what the search left behind; the supernet is not touched again.
  """

  config: Annotated[
    tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")
  ] = ""
  """Config file, `FILE.py` or `FILE.py:variant`; shipped ones by name. With
  --table it may be left out: 200 evaluations of regularised evolution."""
  workdir: Path | None = None
  """Folder for everything the run writes; with --table optional."""
  budget: Annotated[
    tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="BUDGET")
  ] = dataclasses.field(default_factory=list)
  """Upper bounds such as `macs<=60M,params<=5M`; after a search with a
  predictor it may be repeated."""
  table: Path | None = None
  """Search this table of results (docs/tables.md) instead of a supernet."""


@dataclasses.dataclass
class Retrain(Stage):
  """Train the winner, by default from scratch; reads the test split once."""


@dataclasses.dataclass
class Export(Stage):
  """Write the winner's weights and a program that needs no jaxnas."""

  weights: Literal["retrained", "inherited"] = "retrained"
  """`inherited` takes the supernet's, batch norm recalibrated."""


@dataclasses.dataclass
class Report(Stage):
  """Write report.html from the files of the work directory."""


@dataclasses.dataclass
class Score(Stage):
  """Supernet metrics of given archs."""

  archs: list[str] = dataclasses.field(default_factory=list)
  """Archs (`2-0-3`, `203`, a preset) or files: CSV with a column `arch`, or
  one arch a line."""
  race: float | None = None
  """Drop archs that are surely not the best on growing parts of the images;
  the probability of dropping the best, such as 0.05. Default `score.race`."""


@dataclasses.dataclass
class Rank(Stage):
  """Rank correlation of supernet and stand-alone accuracies, with intervals."""

  truth: Path | None = None
  """CSV with `arch` and `standalone_accuracy`; without it
  `ranking.n_archs` networks are trained from scratch."""


@dataclasses.dataclass
class Compare:
  """Several methods side by side: one table, one figure, paired tests.

  Every arm runs with every seed, up to the winner's stand-alone training, on
  the same data. What is finished is not run again.
  """

  configs: Annotated[
    tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="CONFIG...")
  ]
  """Arms, `FILE.py` or `FILE.py:variant`; a file with `get_configs` brings
  several."""
  workdir: Path
  """Folder for the runs, comparison.json, .html and .svg."""
  seeds: list[int] | None = None
  """Of the runs; default 0 1 2, or 0 to 29 with --table."""
  set: Annotated[
    tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=VALUE")
  ] = dataclasses.field(default_factory=list)
  """Override a field of every arm; may be repeated."""
  table: Path | None = None
  """Search this table of results (docs/tables.md) instead of training."""
  json: bool = False
  """Print one JSON object on stdout, all else on stderr."""


@dataclasses.dataclass
class Cost:
  """Multiply-adds and parameters of an arch, layer by layer."""

  space: str
  """Registered space, or a Python file with `get_space`."""
  arch: str
  """`2-0-3`, `203` or a preset such as `fairnas-a`."""
  options: str = "{}"
  """Arguments of the space as JSON, `{"se_ratio": 0.5}`."""
  classes: int = 0
  """Outputs of the classifier; default the space's."""
  json: bool = False
  """Print one JSON object on stdout."""


@dataclasses.dataclass
class List:
  """Spaces, methods, configs or data sources that exist."""

  what: tyro.conf.Positional[Literal["spaces", "methods", "configs", "data"]]
  json: bool = False
  """Print one JSON object on stdout."""


@dataclasses.dataclass
class Bench:
  """Speed and memory on this machine, as ratios from one run."""

  what: Annotated[
    Annotated[ScoreOptions, tyro.conf.subcommand("score")]
    | Annotated[MaskOptions, tyro.conf.subcommand("masks")]
    | Annotated[BlockOptions, tyro.conf.subcommand("blocks")]
    | Annotated[TrainOptions, tyro.conf.subcommand("train")]
    | Annotated[KernelOptions, tyro.conf.subcommand("kernels")]
    | Annotated[PredictOptions, tyro.conf.subcommand("predict")],
    tyro.conf.arg(name=""),
  ]

  @property
  def json(self) -> bool:
    """Whether to print JSON."""
    return self.what.json


Command = (
  Annotated[Run, tyro.conf.subcommand("run")]
  | Annotated[Train, tyro.conf.subcommand("train")]
  | Annotated[Search, tyro.conf.subcommand("search")]
  | Annotated[Rank, tyro.conf.subcommand("rank")]
  | Annotated[Retrain, tyro.conf.subcommand("retrain")]
  | Annotated[Export, tyro.conf.subcommand("export")]
  | Annotated[Report, tyro.conf.subcommand("report")]
  | Annotated[Score, tyro.conf.subcommand("score")]
  | Annotated[Compare, tyro.conf.subcommand("compare")]
  | Annotated[Bench, tyro.conf.subcommand("bench")]
  | Annotated[ProfileOptions, tyro.conf.subcommand("profile")]
  | Annotated[Cost, tyro.conf.subcommand("cost")]
  | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> None:
  """Parses and runs one command; the process ends with its exit status.

  Args:
    arguments: default those of the process.
  """
  command = tyro.cli(
    Command,
    prog="python -m jaxnas",
    description="Weight-sharing neural architecture search in JAX.",
    args=arguments,
  )
  logging.basicConfig(
    stream=sys.stderr, format="%(message)s", level=logging.WARNING
  )
  logging.getLogger("jaxnas").setLevel(logging.INFO)
  try:
    result = _call(command)
  except UserError as error:
    sys.exit(_say(error, 2))
  except RunError as error:
    sys.exit(_say(error, 1))
  except KeyboardInterrupt:
    print("stopped; run the same command again to go on.", file=sys.stderr)
    sys.exit(130)
  if command.json:
    print(to_json(result))
  else:
    verb = _verb(command)
    print(text(verb, result, getattr(command, "workdir", None)))


def _say(error: Exception, status: int) -> int:
  print(f"error: {error}", file=sys.stderr)
  return status


def _verb(command) -> str:
  return type(command).__name__.lower().removesuffix("options")


def _call(command) -> dict:
  if isinstance(command, List):
    from jaxnas.catalogue import catalogue

    return catalogue(command.what)
  if isinstance(command, Cost):
    from jaxnas.catalogue import cost, read_space

    space = read_space(command.space, command.options, command.classes)
    return cost(space, command.arch)
  if isinstance(command, Bench | ProfileOptions):
    return _bench(getattr(command, "what", command))
  if isinstance(command, Compare):
    _compilation_cache()
    # Every seed compiles the same programs, small ones too.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from jaxnas.compare import compare

    return compare(
      command.configs, command.workdir, command.seeds, command.set,
      command.table,
    )  # fmt: skip
  return _stage(command)


def _stage(command: Stage) -> dict:
  from jaxnas.config import load_config, override

  if isinstance(command, Search) and command.table:
    return _search_table(command)
  if not command.config or command.workdir is None:
    raise UserError(
      "search takes CONFIG and --workdir DIR, or --table PATH for a table of"
      " results."
    )
  config = override(load_config(command.config), _overrides(command))
  budgets = command.budget if isinstance(command, Search) else None
  if budgets:
    from jaxnas.methods import answers_budgets

    if not answers_budgets(config):
      if len(budgets) > 1:
        raise UserError(
          f"method {config.method} searches for one budget, not for"
          f" {len(budgets)}; several are looked up after a search with a"
          " predictor (method gcn, or search.algorithm=segments)."
        )
      config, budgets = override(config, [f"budget={budgets[0]}"]), None
  if command.resume == "never" and (command.workdir / "config.json").exists():
    raise UserError(
      f"{command.workdir} already holds a run and --resume is never; use"
      " another --workdir or --resume auto."
    )
  _compilation_cache()
  from jaxnas.experiment import make_experiment

  experiment = make_experiment(config, command.workdir)
  verb = _verb(command)
  if isinstance(command, Score):
    from jaxnas.catalogue import read_archs

    archs = read_archs(command.archs, experiment.setup.space)
    return experiment.score(archs, command.race)
  if isinstance(command, Rank):
    return experiment.rank(command.truth)
  if isinstance(command, Export):
    return experiment.export(command.weights)
  if budgets:
    return experiment.look_up(budgets)
  return getattr(experiment, verb)()


def _overrides(command: Stage) -> list[str]:
  given = {"seed": command.seed, "data.source": command.data}
  if not isinstance(command, Search):
    given["budget"] = command.budget
  return [
    *command.set,
    *(f"{k}={v}" for k, v in given.items() if v is not None),
  ]


def _search_table(command: Search) -> dict:
  from jaxnas.config import load_config, override
  from jaxnas.table_search import DEFAULT, search_table

  config = load_config(command.config) if command.config else DEFAULT
  if len(command.budget) > 1:
    raise UserError(
      "a search of a table keeps one --budget; join several bounds with commas."
    )
  budget = [f"budget={text}" for text in command.budget]
  config = override(config, [*_overrides(command), *budget])
  return search_table(config, command.table, command.workdir)


def _compilation_cache() -> None:
  """Keeps compiled programs between processes; standard variables win."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = Path(base).expanduser() / "jaxnas" / "xla"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def _bench(options: Options | PredictOptions) -> dict:
  # The compilation cache stays off: compile times are part of the result.
  from jaxnas.memory import keep_freed_memory

  keep_freed_memory()
  if isinstance(options, ScoreOptions):
    from jaxnas.bench.score import bench_score as run
  elif isinstance(options, MaskOptions):
    from jaxnas.bench.masks import bench_masks as run
  elif isinstance(options, BlockOptions):
    from jaxnas.bench.blocks import bench_blocks as run
  elif isinstance(options, TrainOptions):
    from jaxnas.bench.train import bench_train as run
  elif isinstance(options, PredictOptions):
    from jaxnas.bench.predict import bench_predict as run
  elif isinstance(options, ProfileOptions):
    from jaxnas.bench.latency import profile as run
  else:
    from jaxnas.bench.kernels import bench_kernels as run
  return run(options)
