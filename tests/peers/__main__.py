"""One command runs both arms: `python -m tests.peers score|masks|train|all`."""

import dataclasses
import importlib.metadata
import os
import sys
from typing import Literal

import tyro

from jaxnas.bench.masks import make_mask_workload
from jaxnas.bench.options import MaskOptions
from jaxnas.bench.timing import check_counts, machine
from jaxnas.bench.workload import SETS, candidates, make_workload
from jaxnas.errors import RunError, UserError
from jaxnas.memory import keep_freed_memory
from jaxnas.writer import to_json

from . import masks, score, train

NOTES = (
  "score, masks: jaxnas scores all candidates in every repeat; PyTorch scores a"
  " fresh random sample, its time scaled to all",
  "first_call_seconds of jaxnas contain compilation; later calls are timed",
)


@dataclasses.dataclass(frozen=True)
class Options:
  """jaxnas beside PyTorch eager: same weights, images, candidates."""

  what: tyro.conf.Positional[Literal["score", "masks", "train", "all"]]
  """What to compare."""
  space: str = "fairnas-cifar"
  """Registered space, or a Python file with `get_space`."""
  uniform: int = 1000
  """Uniform candidates; 0 leaves a set out."""
  segment: int = 1000
  """Candidates of one segment."""
  offspring: int = 200
  """Candidates of an evolutionary offspring."""
  masks: int = 500
  """Channel masks."""
  masked_space: str = MaskOptions.space
  """Masked network, registered or a Python file with `get_space`."""
  masked_options: str = MaskOptions.options
  """Its arguments as JSON."""
  masked_images: int = MaskOptions.validation_images
  """Images that masks are scored on, all at once."""
  rates: str = MaskOptions.rates
  """Drop rates of masks, as in `python -m jaxnas bench masks`."""
  calibration: int = 64
  """Images that give batch-norm statistics."""
  validation: int = 64
  """Images that are scored."""
  sample: int = 24
  """Candidates that PyTorch scores in each repeat; its time is scaled."""
  batches: tuple[int, ...] = (32, 64, 128)
  """Batch sizes of the training step."""
  paths_in_flight: int = 0
  """Paths that jaxnas trains together, as in a config; 0 means all."""
  repeats: int = 5
  """Timed repeats, arms alternating."""
  seed: int = 0
  """Of weights, images, candidates and paths."""
  json: bool = False
  """Print one JSON object on stdout."""


def compare(options: Options) -> dict:
  """Runs what the options ask for.

  Raises:
    UserError: for a number out of range, or without PyTorch.
    RunError: if the arms do not compute the same.
  """
  check_counts(
    sample=options.sample, repeats=options.repeats, masks=options.masks,
    batches=min(options.batches, default=0),
  )  # fmt: skip
  try:
    torch = importlib.metadata.version("torch")
  except importlib.metadata.PackageNotFoundError as error:
    raise UserError(
      "the peers need PyTorch; install it with: pip install -e '.[peers]'."
    ) from error
  seed = options.seed
  out = {
    "machine": machine() | {"torch": torch, "torch_threads": os.cpu_count()},
    "options": dataclasses.asdict(options),
    "notes": NOTES,
  }
  if options.what in ("score", "all"):
    workload = make_workload(
      options.space, options.calibration, options.validation, seed
    )
    sets = {
      kind: candidates(workload.space, kind, n, seed)
      for kind in SETS
      if (n := getattr(options, kind))
    }
    out["score"] = score.compare(
      workload, sets, options.sample, options.repeats, seed
    )
  if options.what in ("masks", "all"):
    masked = MaskOptions(
      space=options.masked_space, options=options.masked_options,
      rates=options.rates, validation_images=options.masked_images, seed=seed,
    )  # fmt: skip
    out["masks"] = {
      "masks": masks.compare(
        make_mask_workload(masked), options.masks, options.masked_images,
        options.sample, options.repeats,
      )
    }  # fmt: skip
  if options.what in ("train", "all"):
    workload = make_workload(options.space, max(options.batches), 1, seed)
    out["train"] = train.compare(
      workload, options.batches, options.repeats, seed,
      options.paths_in_flight,
    )  # fmt: skip
  return out


def text(result: dict) -> str:
  """The figures as a table."""
  lines = [", ".join(f"{k} {v}" for k, v in result["machine"].items())]
  lines += result["notes"]
  units = {"score": "all candidates", "masks": "all masks", "train": "a step"}
  for what, unit in units.items():
    for name, row in result.get(what, {}).items():
      if what != "train":
        name = (
          f"{row['n']} {name} (PyTorch: {row['torch_sample']} of them, time"
          " scaled)"
        )
      else:
        name = f"batch {name}, {row['paths']} paths"
      lines.append(f"{what}, {name}; seconds for {unit}:")
      for arm, t in row["seconds"].items():
        theirs = arm in row["torch_over_jaxnas"]
        label = f"PyTorch {arm}" if theirs else arm
        line = f"  {label:22}{t['median']:8.2f}"
        line += f"  [{t['min']:.2f}, {t['max']:.2f}]"
        if theirs:
          r = row["torch_over_jaxnas"][arm]["median"]
          line += f"  PyTorch / jaxnas {r:.2f}, jaxnas / PyTorch {1 / r:.2f}"
        lines.append(line)
  return "\n".join(lines)


def main() -> None:
  keep_freed_memory()
  options = tyro.cli(Options, prog="python -m tests.peers")
  try:
    result = compare(options)
  except (UserError, RunError) as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, UserError) else 1)
  print(to_json(result) if options.json else text(result))


if __name__ == "__main__":
  main()
