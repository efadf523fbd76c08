"""The command line: parse, call, print. All logic lives below."""

import dataclasses
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import tyro

from jaxnas import hosts
from jaxnas.bench.options import (
  BlockOptions,
  InputOptions,
  KernelOptions,
  MaskOptions,
  Options,
  PredictOptions,
  ProfileOptions,
  ScoreOptions,
  TrainOptions,
)
from jaxnas.errors import RunError, UserError
from jaxnas.prepare import PrepareOptions, prepare
from jaxnas.printing import text
from jaxnas.writer import as_folder, is_file, to_json

if TYPE_CHECKING:
  from jaxnas.experiment import Experiment

# Modules that import JAX are imported inside the commands, so that `--help`
# and a wrong flag answer at once.


@dataclasses.dataclass(kw_only=True)
class Hosts:
  """What says that several processes work together, one on each host.

  TPU slices, SLURM and Open MPI say so themselves.
  """

  coordinator: Annotated[
    str | None, tyro.conf.arg(metavar="HOST:PORT")
  ] = None  # fmt: skip
  """Host 0 and a free port there, for all hosts to find each other. TPU slices,
  SLURM and Open MPI need none of these three."""
  hosts: int | None = None
  """How many hosts (processes) work together."""
  host: int | None = None
  """Number of this one, from 0."""


@dataclasses.dataclass
class Stage(Hosts):
  """What every command on a work directory takes."""

  config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")]
  """Config file, `FILE.py` or `FILE.py:variant`; shipped ones by name."""
  workdir: Annotated[str, tyro.conf.arg(metavar="DIR")]
  """Folder for everything the run writes; in a bucket `gs://BUCKET/DIR`."""
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
class Profiled(Stage):
  """What commands that compute for long take as well."""

  profile: bool = False
  """Trace a few steady steps of each stage into WORKDIR/profile/STAGE, for
  XProf or Perfetto. (The command `profile` measures latency tables.)"""


@dataclasses.dataclass
class Planned(Profiled):
  """What commands that cost much take as well."""

  mesh: Annotated[str | None, tyro.conf.arg(metavar="DATAxPATH")] = None
  """Devices along the batch and along the paths of a step, such as 8x1; sets
  `mesh.data` and `mesh.path`."""
  dry_run: bool = False
  """Only estimate memory, operations and hours: compile the programs for the
  mesh, if need be for fake devices; run and write nothing, read no images."""
  flops: float | None = None
  """With --dry-run: operations per second of a device, such as 45e12; default
  measured on this machine."""
  efficiency: float | None = None
  """With --dry-run: share of them that is assumed to be reached; default
  0.3."""
  images: int | None = None
  """With --dry-run: training images of a source whose sizes are not known."""
  classes: int | None = None
  """With --dry-run: its classes."""


@dataclasses.dataclass
class Run(Planned):
  """All stages: train, search, rank, retrain, export, report."""


@dataclasses.dataclass
class Train(Planned):
  """Train the supernet."""


@dataclasses.dataclass
class Search(Planned):
  """Search with the trained supernet, or a benchmark table, for a winner.

  After a search with a predictor (the method gcn), each `--budget` is looked up
  in what the search left behind; the supernet is not touched again.
  """

  config: Annotated[
    tyro.conf.Positional[str], tyro.conf.arg(metavar="CONFIG")
  ] = ""
  """Config file, `FILE.py` or `FILE.py:variant`; shipped ones by name. With
  --table it may be left out: 200 evaluations of regularised evolution."""
  workdir: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
  """Folder for everything the run writes; with --table optional."""
  budget: Annotated[
    tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="BUDGET")
  ] = dataclasses.field(default_factory=list)
  """Upper bounds such as `macs<=60M,params<=5M`; after a search with a
  predictor it may be repeated."""
  table: Path | None = None
  """Search this table of results (docs/tables.md) instead of a supernet."""


@dataclasses.dataclass
class Retrain(Planned):
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
class Score(Profiled):
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
class Compare(Hosts):
  """Several methods side by side: one table, one figure, paired tests.

  Every arm runs with every seed, up to the winner's stand-alone training, on
  the same data. What is finished is not run again.
  """

  configs: Annotated[
    tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="CONFIG...")
  ]
  """Arms, `FILE.py` or `FILE.py:variant`; a file with `get_configs` brings
  several."""
  workdir: Annotated[str, tyro.conf.arg(metavar="DIR")]
  """Folder for the runs, comparison.json, .html and .svg."""
  seeds: list[int] | None = None
  """Of the runs; default 0 1 2, or 0 to 29 with --table."""
  set: Annotated[
    tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(metavar="FIELD=VALUE")
  ] = dataclasses.field(default_factory=list)
  """Override a field of every arm; may be repeated."""
  table: Path | None = None
  """Search this table of results (docs/tables.md) instead of training."""
  jobs: int = 1
  """Runs at the same time. Two fill two cores; seconds then count time in which
  runs had to share them."""
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
    | Annotated[InputOptions, tyro.conf.subcommand("input")]
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
  | Annotated[PrepareOptions, tyro.conf.subcommand("prepare")]
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
    _end(error, 2)
  except RunError as error:
    _end(error, 1)
  except KeyboardInterrupt:
    print("stopped; run the same command again to go on.", file=sys.stderr)
    hosts.leave("it was stopped", 130)
  except Exception as error:
    if hosts.is_lost(error):
      hosts.lost()
    if hosts.count() == 1:
      raise
    traceback.print_exc()
    hosts.leave(f"{type(error).__name__}: {error}", 1)
  if hosts.is_writer():
    if command.json:
      print(to_json(result))
    else:
      where = getattr(command, "workdir", None)
      print(text(_verb(command), result, where and as_folder(where)))
  hosts.finish()


def _end(error: Exception, status: int) -> NoReturn:
  if hosts.is_lost(error):
    hosts.lost()
  print(f"error: {error}", file=sys.stderr)
  hosts.leave(str(error), status)


def _join(command: Hosts) -> None:
  """Makes one of all hosts that got this command."""
  hosts.start(command.coordinator, command.hosts, command.host)
  fields = vars(command).items()
  hosts.check_same({f"--{k}": str(v) for k, v in fields if k != "host"})


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
  if isinstance(command, PrepareOptions):
    return prepare(command)
  if isinstance(command, Bench | ProfileOptions):
    return _bench(getattr(command, "what", command))
  if isinstance(command, Compare):
    _compilation_cache()
    # Every seed compiles the same programs, small ones too.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    if not command.table:
      _join(command)
    from jaxnas.compare import compare

    return compare(
      command.configs, command.workdir, command.seeds, command.set,
      command.table, command.jobs,
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
  if isinstance(command, Planned) and _only_estimates(command):
    from jaxnas.estimate import Assumptions, dry_run, set_flags

    set_flags()
    return dry_run(config, _verb(command), Assumptions(**_assumed(command)))
  _compilation_cache()
  _join(command)
  workdir = as_folder(command.workdir)
  if command.resume == "never" and is_file(workdir / "config.json"):
    raise UserError(
      f"{command.workdir} already holds a run and --resume is never; use"
      " another --workdir or --resume auto."
    )
  from jaxnas.experiment import make_experiment

  experiment = make_experiment(config, workdir)
  from jaxnas.profiling import profiled

  profile = isinstance(command, Profiled) and command.profile
  with profiled(experiment.workdir / "profile" if profile else None):
    return _act(command, experiment, budgets)


def _act(
  command: Stage, experiment: "Experiment", budgets: list[str] | None
) -> dict:
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
  return getattr(experiment, _verb(command))()


def _only_estimates(command: Planned) -> bool:
  """Whether it is a dry run; refuses flags that do not go with that."""
  if not command.dry_run:
    if assumed := _assumed(command):
      raise UserError(f"--{min(assumed)} means nothing without --dry-run.")
  elif command.profile:
    raise UserError("--dry-run runs nothing that --profile could trace.")
  return command.dry_run


def _assumed(command: Planned) -> dict[str, float]:
  names = ("flops", "efficiency", "images", "classes")
  given = {name: getattr(command, name) for name in names}
  return {name: value for name, value in given.items() if value is not None}


def _mesh(text: str) -> dict[str, str]:
  sizes = text.split("x")
  if len(sizes) != 2 or not all(s.isdecimal() and int(s) for s in sizes):
    raise UserError(f"--mesh is {text!r}; write DATAxPATH, such as 8x1.")
  return dict(zip(("mesh.data", "mesh.path"), sizes, strict=True))


def _overrides(command: Stage) -> list[str]:
  given = {"seed": command.seed, "data.source": command.data}
  if isinstance(command, Planned) and command.mesh:
    given |= _mesh(command.mesh)
  if not isinstance(command, Search):
    given["budget"] = command.budget
  return [
    *command.set,
    *(f"{k}={v}" for k, v in given.items() if v is not None),
  ]


def _search_table(command: Search) -> dict:
  from jaxnas.config import load_config, override
  from jaxnas.table_search import DEFAULT, search_table

  if command.profile:
    raise UserError(
      "a search of a table runs no programs to trace; --profile goes with a"
      " search of a supernet."
    )
  if _only_estimates(command) or command.mesh:
    raise UserError(
      "a search of a table needs no devices; --dry-run and --mesh go with a"
      " search of a supernet."
    )
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
  elif isinstance(options, InputOptions):
    from jaxnas.bench.input import bench_input as run
  elif isinstance(options, PredictOptions):
    from jaxnas.bench.predict import bench_predict as run
  elif isinstance(options, ProfileOptions):
    from jaxnas.bench.latency import profile as run
  else:
    from jaxnas.bench.kernels import bench_kernels as run
  return run(options)
