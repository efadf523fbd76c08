"""The command line: parse, call, print. All logic lives below."""

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxnas.bench.options import (
  KernelOptions,
  Options,
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
  """Search with the trained supernet and pick the winner."""


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
    | Annotated[TrainOptions, tyro.conf.subcommand("train")]
    | Annotated[KernelOptions, tyro.conf.subcommand("kernels")],
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
  | Annotated[Bench, tyro.conf.subcommand("bench")]
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
    verb = type(command).__name__.lower()
    print(text(verb, result, getattr(command, "workdir", None)))


def _say(error: Exception, status: int) -> int:
  print(f"error: {error}", file=sys.stderr)
  return status


def _call(command) -> dict:
  if isinstance(command, List):
    return _list(command.what)
  if isinstance(command, Cost):
    return _cost(command)
  if isinstance(command, Bench):
    return _bench(command.what)
  return _stage(command)


def _stage(command: Stage) -> dict:
  from jaxnas.config import load_config, override

  config = load_config(command.config)
  given = {
    "seed": command.seed,
    "data.source": command.data,
    "budget": command.budget,
  }
  config = override(
    config,
    [*command.set, *(f"{k}={v}" for k, v in given.items() if v is not None)],
  )
  if command.resume == "never" and (command.workdir / "config.json").exists():
    raise UserError(
      f"{command.workdir} already holds a run and --resume is never; use"
      " another --workdir or --resume auto."
    )
  _compilation_cache()
  from jaxnas.experiment import Experiment

  experiment = Experiment(config, command.workdir)
  verb = type(command).__name__.lower()
  if isinstance(command, Score):
    archs = _read_archs(command.archs, experiment.setup.space)
    return experiment.score(archs, command.race)
  if isinstance(command, Rank):
    return experiment.rank(command.truth)
  if isinstance(command, Export):
    return experiment.export(command.weights)
  return getattr(experiment, verb)()


def _compilation_cache() -> None:
  """Keeps compiled programs between processes; standard variables win."""
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    folder = Path(base).expanduser() / "jaxnas" / "xla"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def _read_archs(given: list[str], space):
  import csv

  import numpy as np

  archs = []
  for item in given:
    path = Path(item)
    if not path.is_file():
      if path.suffix in (".csv", ".txt"):
        raise UserError(f"no file {item!r}.")
      archs.append(space.from_string(item))
      continue
    try:
      lines = path.read_text().splitlines()
    except UnicodeDecodeError as error:
      raise UserError(f"{path} is not a text file ({error}).") from error
    if lines and "arch" in lines[0].split(","):
      found = [row["arch"] for row in csv.DictReader(lines)]
    else:
      found = [line for line in lines if line.strip()]
    archs += [space.from_string(line) for line in found]
  if not archs:
    raise UserError("no archs given; use --archs 2-0-3 or --archs FILE.")
  return np.stack(archs)


def _bench(options: Options) -> dict:
  # The compilation cache stays off: compile times are part of the result.
  from jaxnas.memory import keep_freed_memory

  keep_freed_memory()
  if isinstance(options, ScoreOptions):
    from jaxnas.bench.score import bench_score as run
  elif isinstance(options, TrainOptions):
    from jaxnas.bench.train import bench_train as run
  else:
    from jaxnas.bench.kernels import bench_kernels as run
  return run(options)


def _cost(command: Cost) -> dict:
  from jaxnas.costs import cost_tables, layer_rows
  from jaxnas.spaces import get_space

  try:
    options = json.loads(command.options)
  except json.JSONDecodeError:
    options = None
  if not isinstance(options, dict):
    raise UserError(f"--options takes a JSON object, not {command.options!r}.")
  space = get_space(command.space, **options)
  if command.classes:
    space = space.replace(n_classes=command.classes)
  arch = space.from_string(command.arch)
  costs = {n: int(t(arch[None])[0]) for n, t in cost_tables(space).items()}
  return {
    "space": space.name,
    "arch": space.to_string(arch),
    **costs,
    "layers": layer_rows(space, arch),
  }


def _list(what: str) -> dict:
  if what == "spaces":
    from jaxnas.spaces import SPACES, get_space

    rows = []
    for name in SPACES:
      space = get_space(name)
      rows.append(
        {
          "name": name,
          "layers": space.n_layers,
          "choices": int(space.n_choices.max()),
          "archs": space.size,
          "image_size": space.image_size,
          "presets": [p for p, _ in space.presets],
        }
      )
  elif what == "methods":
    from jaxnas.methods import METHODS

    rows = [
      {"name": m.name, "paper": m.paper, "fidelity": m.fidelity}
      for m in METHODS.values()
    ]
  elif what == "configs":
    import ast

    from jaxnas.config import config_files

    rows = []
    for path in config_files():
      tree = ast.parse(path.read_text())
      variants = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
      ]
      about = (ast.get_docstring(tree) or "").splitlines()[:1]
      rows.append(
        {
          "name": f"configs/{path.name}",
          "variants": variants,
          "about": " ".join(about),
        }
      )
  else:
    from jaxnas.data import SOURCES

    rows = [
      {"name": name, "about": " ".join((f.__doc__ or "").split("\n")[:1])}
      for name, f in SOURCES.items()
    ]
  return {what: rows}
