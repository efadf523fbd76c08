"""Reads a work directory into one frozen value; no computation, no drawing."""

import csv
import dataclasses
import json
import math
import zipfile
from pathlib import Path

from jaxnas import config as config_lib
from jaxnas.config import ExperimentConfig
from jaxnas.errors import UserError
from jaxnas.spaces import BLOCKS, SUPERNETS, BlockSpace, MaskSpace, Space
from jaxnas.writer import read_arrays

OPTIONAL = (
  "manifest.json", "space.json", "metrics.jsonl", "archs.csv", "pareto.csv",
  "result.json",
)  # fmt: skip
# What only a supernet of single paths leaves, only a masked network, only a
# search for blocks, and only clusters of archs.
OF_PATHS = ("fairness.json", "ranking.json")
OF_MASKS = ("posterior.json", "selection.json")
OF_BLOCKS = ("search.json", "irl.json", "guidance.json", "latency.json")
OF_CLUSTERS = ("search.json", "clusters.json")


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """One evaluated arch.

  Attributes:
    arch: its text.
    accuracy: supernet accuracy, 0..1; NaN if halving dropped it before.
    macs: multiply-adds.
    params: parameters.
    candidate: number of a mask that was drawn, -1 for the threshold mask; None
      where candidates have no numbers.
    images: validation images that it was scored on, NaN unless by halving.
    guidance: lambda of the search that evaluated a block, NaN of others.
  """

  arch: str
  accuracy: float
  macs: float
  params: float
  candidate: int | None = None
  images: float = math.nan
  guidance: float = math.nan


@dataclasses.dataclass(frozen=True)
class Run:
  """What the files of a work directory say.

  Attributes:
    config: the resolved config.
    space: the resolved space; None if absent or not a chain of layers.
    masks: the same for a masked network, None for a chain.
    blocks: the same for blocks that are stacked.
    manifest: `manifest.json`, `{}` if absent; likewise `result` and
      `searched`.
    result: `result.json`.
    searched: `search.json`.
    metrics: rows of `metrics.jsonl`, in the order of the file.
    archs: every evaluated arch.
    front: the final front, from `pareto.csv` or else from `result.json`.
    fairness: `fairness.json`, None if absent; likewise `ranking`.
    ranking: `ranking.json`.
    predictors: `predictors.json`, None without a search that fits any.
    lookup: arrays `archs`, `predicted` and `spread` of `lookup.npz`, or None.
    answers: budgets that were looked up, of `lookup.json`.
    groups: rows of `posterior.json`, one for each drop rate; empty if absent.
    selection: `selection.json`, None if absent.
    irl: `irl.json`, `{}` if absent; what was learned from experts.
    guidance: rows of `guidance.json`, one for each lambda; empty if absent.
    latency: `latency.json`, `{}` if absent.
    clusters: `clusters.json`, `{}` if absent.
    missing: names of the optional files that are absent.
  """

  config: ExperimentConfig
  space: Space | None
  masks: MaskSpace | None
  blocks: BlockSpace | None
  manifest: dict
  result: dict
  searched: dict
  metrics: tuple[dict, ...]
  archs: tuple[Evaluated, ...]
  front: tuple[Evaluated, ...]
  fairness: dict | None
  ranking: dict | None
  predictors: dict | None
  lookup: dict | None
  answers: tuple[dict, ...]
  groups: tuple[dict, ...]
  selection: dict | None
  irl: dict
  guidance: tuple[dict, ...]
  latency: dict
  clusters: dict
  missing: tuple[str, ...]

  @property
  def winner(self) -> str:
    """The chosen arch as text, empty before there is a result."""
    return str(self.result.get("arch") or "")

  @property
  def stacked(self) -> bool:
    """Whether the run is one of blocks that are stacked."""
    known = self.config.space.name in BLOCKS
    return self.blocks is not None or known

  @property
  def masked(self) -> bool:
    """Whether the run is one of a masked network."""
    known = self.config.space.name in SUPERNETS
    return self.masks is not None or known or bool(self.groups)

  @property
  def divided(self) -> bool:
    """Whether archs are put into clusters, and the clusters' best merged."""
    return self.config.method == "dcnas"

  @property
  def brief(self) -> bool:
    """Whether each candidate was trained briefly: there is no supernet."""
    if self.divided:
      source = self.clusters.get("source") or self.config.divide.source
      return source == "short-training"
    return self.config.method == "evolution"

  @property
  def scored(self) -> str:
    """What the accuracies of `archs` are called."""
    return "early accuracy" if self.brief else "supernet accuracy"

  @property
  def budget(self) -> str:
    """The budget as text, empty for none."""
    return self.result.get("budget") or self.config.budget

  def series(self, stage: str, x: str, *keys: str) -> list[tuple[float, ...]]:
    """Rows `(x, *keys)` of a stage that have all of them, sorted by x.

    A resumed run repeats the steps after its checkpoint; the last one counts.
    """
    rows = {}
    for row in self.metrics:
      if row.get("stage") == stage and all(k in row for k in (x, *keys)):
        values = tuple(number(row[k]) for k in (x, *keys))
        if math.isfinite(values[0]):
          rows[values[0]] = values
    return [rows[k] for k in sorted(rows)]


def number(value: object) -> float:
  """Returns a JSON or CSV cell as a float, NaN where there is none."""
  if value is None or value == "":
    return math.nan
  return float(value)


def load(workdir: Path) -> Run:
  """Reads all files of a work directory.

  Raises:
    UserError: if `config.json` is missing or a file cannot be read.
  """
  value = _json(workdir / "config.json")
  if value is None:
    raise UserError(
      f"no config.json in {str(workdir)!r}, so there is no run to report on;"
      " make one with `python -m jaxnas run CONFIG --workdir DIR`."
    )
  try:
    config = config_lib.from_json(value)
  except (AttributeError, KeyError, TypeError) as error:
    raise UserError(
      f"{workdir / 'config.json'} is not an experiment of this version of"
      f" jaxnas ({type(error).__name__}: {error}); run it again with"
      " `python -m jaxnas run CONFIG --workdir DIR`."
    ) from error
  space = _json(workdir / "space.json") or {}
  result = _json(workdir / "result.json") or {}
  front = _csv(workdir / "pareto.csv")
  if not front:
    front = [_evaluated(row) for row in result.get("front", ())]
  run = Run(
    config=config,
    space=Space.from_json(space) if "layers" in space else None,
    masks=MaskSpace.from_json(space) if "nodes" in space else None,
    blocks=BlockSpace.from_json(space) if "macro" in space else None,
    manifest=_json(workdir / "manifest.json") or {},
    result=result,
    searched=_json(workdir / "search.json") or {},
    metrics=tuple(_jsonl(workdir / "metrics.jsonl")),
    archs=tuple(_csv(workdir / "archs.csv")),
    front=tuple(front),
    fairness=_json(workdir / "fairness.json"),
    ranking=_json(workdir / "ranking.json"),
    predictors=_json(workdir / "predictors.json"),
    lookup=_arrays(workdir / "lookup.npz"),
    answers=tuple((_json(workdir / "lookup.json") or {}).get("answers", ())),
    groups=tuple((_json(workdir / "posterior.json") or {}).get("groups", ())),
    selection=_json(workdir / "selection.json"),
    irl=_json(workdir / "irl.json") or {},
    guidance=tuple((_json(workdir / "guidance.json") or {}).get("rows", ())),
    latency=_json(workdir / "latency.json") or {},
    clusters=_json(workdir / "clusters.json") or {},
    missing=(),
  )
  missing = tuple(n for n in _expected(run) if not (workdir / n).is_file())
  return dataclasses.replace(run, missing=missing)


def _expected(run: Run) -> tuple[str, ...]:
  """Names of the optional files of such a run."""
  if run.masked:
    return OPTIONAL + OF_MASKS
  if not run.stacked:
    if not run.divided:
      return OPTIONAL + (() if run.brief else OF_PATHS)
    return OPTIONAL + OF_CLUSTERS + OF_PATHS[run.brief :]
  blocks = run.config.blocks
  # A front of two objectives is not what this search looks for.
  names = [n for n in OPTIONAL if n != "pareto.csv"]
  if blocks.block:
    return tuple(n for n in names if n != "archs.csv")
  names += OF_BLOCKS if blocks.latency_blocks else OF_BLOCKS[:-1]
  return tuple(names)


def _evaluated(row: dict) -> Evaluated:
  numbers = (number(row.get(k)) for k in ("accuracy", "macs", "params"))
  candidate = row.get("candidate")
  return Evaluated(
    str(row["arch"]),
    *numbers,
    candidate=int(candidate) if candidate not in (None, "") else None,
    images=number(row.get("images")),
    guidance=number(row.get("guidance")),
  )


def _text(path: Path) -> str | None:
  try:
    return path.read_text(encoding="utf-8")
  except FileNotFoundError:
    return None
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read: {error}.") from error


def _json(path: Path) -> dict | None:
  text = _text(path)
  if text is None:
    return None
  try:
    value = json.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(f"{path} is not valid JSON: {error}.") from error
  if not isinstance(value, dict):
    raise UserError(f"{path} must hold one JSON object.")
  return value


def _arrays(path: Path) -> dict | None:
  if not path.is_file():
    return None
  try:
    return read_arrays(path)
  except (OSError, ValueError, zipfile.BadZipFile) as error:
    raise UserError(f"{path} cannot be read: {error}.") from error


def _jsonl(path: Path) -> list[dict]:
  lines = (_text(path) or "").splitlines()
  rows = []
  for i, line in enumerate(lines):
    if not line.strip():
      continue
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      # A run that was killed while it logged leaves half of its last row.
      if i == len(lines) - 1:
        break
      raise UserError(
        f"{path}, line {i + 1} is not valid JSON: {error}."
      ) from error
  return rows


def _csv(path: Path) -> list[Evaluated]:
  text = _text(path)
  if not text:
    return []
  reader = csv.DictReader(text.splitlines())
  names = reader.fieldnames or ()
  for name in ("arch", "accuracy", "macs", "params"):
    if name not in names:
      raise UserError(
        f"{path} has no column {name!r}; its columns are {', '.join(names)}."
      )
  rows = list(reader)
  # As above: the last row of a killed run may lack cells.
  if rows and None in rows[-1].values():
    rows.pop()
  found = []
  for i, row in enumerate(rows):
    try:
      found.append(_evaluated(row))
    except ValueError as error:
      raise UserError(f"{path}, row {i + 1}: {error}.") from error
  return found
