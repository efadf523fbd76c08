"""`bench score`: the scoring engine beside the serial compiled loop."""

import dataclasses
import functools
import logging
import zlib

import numpy as np

from jaxnas.bench.options import ScoreOptions
from jaxnas.bench.timing import (
  check_counts,
  clock,
  first_call,
  header,
  interleave,
  peak_memory,
  ratio,
  spread,
)
from jaxnas.bench.workload import SETS, Workload, candidates, make_workload
from jaxnas.compilations import Compilations
from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.errors import UserError, unknown
from jaxnas.scoring import Scorer
from jaxnas.sharding import make_placement

log = logging.getLogger("jaxnas")

GROWTH = (10, 100, 1000, 10000)
# Largest difference of losses, in nats, that is put down to rounding.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def bench_score(options: ScoreOptions) -> dict:
  """Times the engine and the serial loop on the same candidates and images.

  Both arms run in one process, turn about. The serial arm times a random
  sample of each set, and its seconds are scaled to all distinct candidates.
  Scores of the sample are compared before anything is timed.

  Returns:
    JSON object: the options (`engine` is the one that `auto` means),
    `machine`, `sets` (one row each) and `growth`.
    Seconds and ratios are medians with the smallest and the largest; seconds
    leave out `setup`, the tracing and compiling of the first call, and
    `total_seconds` has it. A growth row has the engine alone score `repeats`
    sets of n (one above 1,000), each another.

  Raises:
    UserError: for an unknown name or a number out of range.
  """
  o = options
  check_counts(
    n=o.n, calibration_images=o.calibration_images, repeats=o.repeats,
    validation_images=o.validation_images, batch_size=o.batch_size,
    serial_sample=o.serial_sample, max_live_bytes=o.max_live_bytes,
  )  # fmt: skip
  sizes = [_parse_set(text, o.n) for text in o.sets]
  if not sizes:
    raise UserError(f"--sets is empty; legal: {', '.join(SETS)}.")
  workload = make_workload(
    o.space, o.calibration_images, o.validation_images, o.seed, o.data,
    NetConfig(precision=o.precision),
  )  # fmt: skip
  config = ScoreConfig(
    calibration_images=o.calibration_images, batch_size=o.batch_size,
    engine=o.engine, max_live_bytes=o.max_live_bytes,
  )  # fmt: skip
  arms = _Arms(workload, config)
  rows = [_compare(arms, kind, n, o) for kind, n in sizes]
  growth = [
    _grow(arms, kind, n, o.repeats)
    for kind in dict.fromkeys(kind for kind, _ in sizes)
    for n in (GROWTH if o.growth else ())
  ]
  return {
    **header("score", workload.space, o),
    "engine": arms.name,
    "sets": rows,
    "growth": growth,
  }


def _parse_set(text: str, n: int) -> tuple[str, int]:
  kind, colon, size = text.partition(":")
  if kind not in SETS:
    raise unknown("candidate set", kind, SETS)
  if colon and not (size.isdecimal() and int(size)):
    raise UserError(
      f"--sets {text!r} has no number of candidates, 1 or more, after the"
      f" colon; write it as {kind}:200."
    )
  return kind, int(size) if colon else n


class _Arms:
  """Scorers of one workload, each built by its first call."""

  def __init__(self, workload: Workload, config: ScoreConfig) -> None:
    self.space, self.seed = workload.space, workload.seed
    self._workload, self._config = workload, config
    self._placement = make_placement()
    self._variables = self._placement.put(workload.variables)

  @functools.cached_property
  def _engine(self) -> Scorer:
    return self._scorer(self._config)

  @functools.cached_property
  def _serial(self) -> Scorer:
    return self._scorer(dataclasses.replace(self._config, engine="serial"))

  def _scorer(self, config: ScoreConfig) -> Scorer:
    w = self._workload
    return Scorer(w.supernet, w.data, config, self._placement)

  @property
  def name(self) -> str:
    """The engine under test, `auto` resolved."""
    return self._engine.engine

  def engine(self, archs: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by the engine."""
    return self._engine(self._variables, archs)

  def serial(self, archs: np.ndarray) -> dict[str, np.ndarray]:
    """Scores one candidate after the other."""
    return self._serial(self._variables, archs)

  def nodes(self, archs: np.ndarray) -> dict:
    """Nodes that the engine computes, and those of the serial loop."""
    computed, naive = self._engine.count_nodes(archs)
    return {
      "computed": computed, "naive": naive, "share": computed / naive,
    }  # fmt: skip


def _compare(arms: _Arms, kind: str, n: int, o: ScoreOptions) -> dict:
  """One row: both arms on one candidate set."""
  log.info("bench score: %s, %d candidates", kind, n)
  archs = candidates(arms.space, kind, n, arms.seed)
  rng = np.random.default_rng([arms.seed, n, zlib.crc32(kind.encode())])
  # Neither arm scores an arch twice, so the sample is of distinct ones.
  _, firsts = np.unique(archs, axis=0, return_index=True)
  distinct = len(firsts)
  timed = min(o.serial_sample, distinct)
  picked = np.sort(rng.choice(firsts, timed, replace=False))
  some = archs[picked]
  theirs, serial_first = first_call(lambda: arms.serial(some))
  ours, engine_first = first_call(lambda: arms.engine(archs))
  scores = _difference(
    {name: ours[name][picked] for name in theirs},
    theirs,
    TOLERANCE[o.precision],
  )
  if not scores["agree"]:
    log.warning(
      "bench score: the arms disagree on %s (losses by %.3g): do not trust the"
      " ratio.", kind, scores["largest_loss_difference"],
    )  # fmt: skip
  serial_memory = peak_memory(lambda: arms.serial(some))
  other = candidates(arms.space, kind, n, arms.seed + 1)
  with Compilations() as again:
    engine_memory = peak_memory(lambda: arms.engine(other))
  seconds = interleave(
    {"serial": lambda: arms.serial(some), "engine": lambda: arms.engine(archs)},
    o.repeats,
  )
  scale = distinct / timed
  serial = _arm(seconds["serial"], n, scale, serial_first, serial_memory)
  engine = _arm(seconds["engine"], n, 1.0, engine_first, engine_memory)
  return {
    "set": kind,
    "n": n,
    "distinct": distinct,
    "nodes": arms.nodes(archs),
    "scores": scores,
    "serial": {"timed": timed, **serial},
    "engine": engine,
    "ratio": ratio(seconds["serial"], seconds["engine"], scale),
    "total_ratio": serial["total_seconds"] / engine["total_seconds"],
    "compilations_second_set": again.count,
  }


def _arm(seconds, n: int, scale: float, first, memory: dict) -> dict:
  whole = spread(seconds, scale)
  setup = first.setup(spread(seconds)["median"])
  return {
    "seconds": whole,
    "candidates_per_second": n / whole["median"],
    "setup": setup,
    "total_seconds": whole["median"] + setup["seconds"],
    "peak": memory,
    "largest_program": first.program,
  }


def _difference(ours: dict, theirs: dict, tolerance: float) -> dict:
  loss = np.abs(ours["loss"] - theirs["loss"]).max()
  return {
    "compared": len(theirs["loss"]),
    "largest_loss_difference": float(loss),
    "unequal_accuracies": int(
      (ours["accuracy"] != theirs["accuracy"]).sum()
    ),
    # Written so that NaN, which compares false, disagrees.
    "agree": bool(loss <= tolerance),
  }  # fmt: skip


def _grow(arms: _Arms, kind: str, n: int, repeats: int) -> dict:
  """One row: the engine alone on sets of n, every one another."""
  log.info("bench score: growth, %s, %d candidates", kind, n)
  rounds = repeats if n <= 1000 else 1
  seconds, nodes = [], []
  with Compilations() as compiled:
    for r in range(rounds):
      archs = candidates(arms.space, kind, n, arms.seed + 2 + r)
      seconds.append(clock(lambda: arms.engine(archs))[0])  # noqa: B023
      nodes.append(arms.nodes(archs))
  taken = spread(seconds)
  return {
    "set": kind,
    "n": n,
    "repeats": rounds,
    "nodes_share": spread([row["share"] for row in nodes])["median"],
    "seconds": taken,
    "candidates_per_second": n / taken["median"],
    "compilations": compiled.count,
    "compile_seconds": compiled.seconds,
  }
