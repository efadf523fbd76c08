"""`profile`: a latency table of a space, measured on the present device (ours).

A block timed alone is not what it costs in a network: every call pays for being
dispatched, a lone block may find its weights in the cache, and the compiler may
fuse across seams. So the table is corrected twice, and judged on whole networks
after each step:

* `measured`: the plain sum of blocks timed alone;
* `empty_call`: the time of a program that only multiplies two small matrices is
  taken off every block and added once;
* `calibrated`: scale and offset by least squares on one half of the held-out
  networks. This is the table that is written; the other half judges it.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.bench.options import ProfileOptions
from jaxnas.bench.timing import check_counts, clock, first_call, header
from jaxnas.bench.workload import chain_space, space_options
from jaxnas.config import NetConfig
from jaxnas.costs import CostTable
from jaxnas.costs.additive import agreement
from jaxnas.costs.blocks import Block, blocks
from jaxnas.costs.latency import (
  YAML,
  cost_of,
  rest_row,
  write_latency,
  write_latency_yaml,
)
from jaxnas.errors import UserError
from jaxnas.nets import PlainNetwork, Variables, initial
from jaxnas.nets.layers import Classifier
from jaxnas.nets.mbconv import dtype_of, make_block
from jaxnas.spaces import Space
from jaxnas.writer import Progress

log = logging.getLogger("jaxnas")

# A turn lasts at least this long, so that the clock does not decide.
LEAST_SECONDS = 0.02
# With fewer held-out networks nothing is calibrated: all of them judge.
LEAST_CALIBRATED = 6
# Distance of the quartiles, relative, from which a machine is called busy.
BUSY = 0.1
EMPTY = "empty call"
# Side of its matrices. On a CPU, XLA runs smaller work on the spot; blocks are
# handed to a thread, which takes several times longer.
EMPTY_SIDE = 32

Program = Callable[[], jax.Array]


@dataclasses.dataclass(frozen=True)
class Times:
  """Milliseconds of one program over all rounds: median and quartiles."""

  ms: float
  low_ms: float
  high_ms: float

  @classmethod
  def of(cls, seconds: list[float]) -> "Times":
    """Sums up the rounds."""
    low, middle, high = np.percentile(seconds, [25, 50, 75]) * 1e3
    return cls(_short(middle), _short(low), _short(high))

  @property
  def spread(self) -> float:
    """Distance of the quartiles relative to the median."""
    return (self.high_ms - self.low_ms) / self.ms


@dataclasses.dataclass(frozen=True)
class Correction:
  """`scale * sum of (block - empty call) + rest`, all in ms.

  Attributes:
    empty: taken off every block.
    scale: 1 if nothing was calibrated.
    offset: added to the scaled prediction; 0 if nothing was calibrated.
  """

  empty: float = 0.0
  scale: float = 1.0
  offset: float = 0.0

  def block(self, ms: float) -> float:
    """What a block adds to a network."""
    return _short(self.scale * max(0.0, ms - self.empty))

  @property
  def rest(self) -> float:
    """What every network takes on top."""
    return _short(self.scale * self.empty + self.offset)


def profile(options: ProfileOptions) -> dict:
  """Measures a table, judges it on whole networks, and writes it.

  The table is one row per block in forward order, in ms: `ms`, corrected, as
  `read_latency` takes it; `measured_ms`, `low_ms` and `high_ms`, the block
  timed alone, median and quartiles over rounds; its place, and the device. Free
  blocks are not timed. The row `rest` holds the empty call and the offset.

  Returns:
    JSON object: the options, `machine`, `table` (the file), `rows`, `programs`;
    `compile` (`seconds` in the compiler, `setup_seconds` with tracing, of all
    programs and networks), `measure_seconds`; `empty_call` (`ms`, `low_ms`,
    `high_ms`); `spread` (median and largest distance of the quartiles, relative
    to the median, of blocks and networks); `correction` (`empty_ms`, `scale`,
    `offset_ms`, `networks` it was fitted to); and `held_out` with `sampling`,
    `networks` (`arch`, `use`, `ms`, `low_ms`, `high_ms` and `predicted_ms` by
    step) and `errors`, by step what `costs.additive.agreement` says of the
    networks whose `use` is `judge`; None without held-out networks.

  Raises:
    UserError: for an unknown space, a number out of range, or a file that
      cannot be written.
  """
  o = options
  check_counts(batch_size=o.batch_size, repeats=o.repeats)
  check_counts(least=0, held_out=o.held_out, seed=o.seed)
  path = _out(o.out)
  space = chain_space(o.space, **space_options(o.options))
  places = blocks(space)
  rng = np.random.default_rng(o.seed)
  archs = _held_out(space, rng, o.held_out)
  programs, compiling, setup = _compile(space, places, archs, o, rng)
  start = time.perf_counter()
  seconds = take_turns(programs, o.repeats, rng)
  measuring = time.perf_counter() - start
  times = {key: Times.of(values) for key, values in seconds.items()}

  steps = {"measured": Correction()}
  steps["empty_call"] = Correction(empty=times[EMPTY].ms)
  tables = _tables(steps, places, times, space)
  measured = np.array([times[tuple(a)].ms for a in archs.tolist()])
  fitted = len(archs) // 2 if len(archs) >= LEAST_CALIBRATED else 0
  if fitted:
    steps["calibrated"] = _calibrate(
      tables["empty_call"], steps["empty_call"].empty, archs[:fitted],
      measured[:fitted],
    )  # fmt: skip
    tables = _tables(steps, places, times, space)
  last = list(steps)[-1]
  rows = _rows(steps[last], places, times, o)
  if path.suffix in YAML:
    write_latency_yaml(path, space, rows)
  else:
    write_latency(path, rows)
  networks = [
    {
      "arch": space.to_string(arch),
      "use": "fit" if i < fitted else "judge",
      **dataclasses.asdict(times[tuple(arch.tolist())]),
      "predicted_ms": {s: float(t(arch[None])[0]) for s, t in tables.items()},
    }
    for i, arch in enumerate(archs)
  ]
  keys = {tuple(a) for a in archs.tolist()}
  spread = {
    "blocks": _spread([t for k, t in times.items() if k not in keys]),
    "networks": _spread([t for k, t in times.items() if k in keys]),
  }
  if spread["blocks"]["median"] > BUSY:
    log.warning(
      "times of a block vary by %.0f %% between rounds; measure on an idle"
      " machine, or raise --repeats.", 100 * spread["blocks"]["median"],
    )  # fmt: skip
  return {
    **header("profile", space, o),
    "table": str(path),
    "rows": len(rows),
    "programs": len(programs),
    "compile": {"seconds": compiling, "setup_seconds": setup},
    "measure_seconds": measuring,
    "empty_call": dataclasses.asdict(times[EMPTY]),
    "spread": spread,
    "correction": {
      "empty_ms": steps[last].empty,
      "scale": steps[last].scale,
      "offset_ms": steps[last].offset,
      "networks": fitted,
    },
    "held_out": {
      "sampling": "uniform over archs, distinct",
      "networks": networks,
      "errors": {
        step: agreement(
          table(archs[fitted:]), measured[fitted:],
          np.random.default_rng(o.seed), resamples=1000,
        )
        for step, table in tables.items()
      },
    } if len(archs) else None,
  }  # fmt: skip


def _out(out: str) -> Path:
  path = Path(out)
  if path.suffix not in (".csv", *YAML):
    raise UserError(f"--out is {out!r}; legal endings: .csv, .yaml, .yml.")
  if not path.parent.is_dir():
    raise UserError(f"--out is {out!r}, but there is no folder {path.parent}.")
  return path


def _held_out(space: Space, rng: np.random.Generator, n: int) -> np.ndarray:
  """Distinct uniform archs `int32[m, L]`; m < n only in a tiny space."""
  draws = space.sample(rng, 4 * n)
  _, first = np.unique(draws, axis=0, return_index=True)
  return draws[np.sort(first)[:n]]


# Programs ---------------------------------------------------------------------


def _compile(
  space: Space,
  places: list[Block],
  archs: np.ndarray,
  o: ProfileOptions,
  rng: np.random.Generator,
) -> tuple[dict[Hashable, Program], float, float]:
  """Compiles what is timed: the empty call, distinct blocks, networks.

  Returns:
    Programs by `EMPTY`, `(op, shape)` or the tuple of an arch; seconds in the
    compiler, and with tracing.
  """
  net = NetConfig(precision=o.precision)
  size, channels = space.image_size, space.image_channels

  def images(side, depth, dtype):
    x = rng.standard_normal((o.batch_size, side, side, depth))
    return jnp.asarray(x, dtype)

  first = images(size, channels, jnp.float32)
  small = rng.standard_normal((EMPTY_SIDE, EMPTY_SIDE)).astype(np.float32)
  multiply = jax.jit(lambda x: x @ small)
  programs: dict[Hashable, Program] = {
    EMPTY: functools.partial(multiply, jnp.asarray(small))
  }
  for block in places:
    key = block.op, block.shape
    if block.free or key in programs:
      continue
    s = block.shape
    x = images(s.in_size, s.in_channels, dtype_of(net))
    if block.op is None:
      programs[key] = _program(Classifier(s.features), x, (), rng)
    else:
      module = make_block(block.op, s, net)
      programs[key] = _program(module, x, (True,), rng)
  for arch in map(tuple, archs.tolist()):
    programs[arch] = _program(PlainNetwork(space, arch, net), first, (), rng)
  compiling = setup = 0.0
  with Progress("compile", len(programs)) as progress:
    for done, run in enumerate(programs.values(), 1):
      _, cost = first_call(run)
      compiling += cost.compile_seconds
      setup += cost.seconds
      progress.update(done)
  return programs, compiling, setup


def _program(module, x, more: tuple, rng: np.random.Generator) -> Program:
  """A module's inference with its weights inside, as an export has them."""
  variables = _variables(module, x, more, rng)
  return functools.partial(
    jax.jit(lambda x: module.apply(variables, x, *more)), x
  )


def _variables(module, x, more: tuple, rng: np.random.Generator) -> Variables:
  shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, *more), x)

  def leaf(path, a):
    # Off their initial values, or the compiler would drop a shift by zero.
    if path[-1].key in ("kernel", "linear"):
      return a
    return a + np.abs(0.1 * rng.standard_normal(a.shape, np.float32))

  drawn = initial.draw(shapes, rng)
  return jax.tree_util.tree_map_with_path(leaf, drawn)


def take_turns(
  programs: Mapping[Hashable, Program], repeats: int, rng: np.random.Generator,
  title: str = "profile",
) -> dict[Hashable, list[float]]:  # fmt: skip
  """Seconds of one call of each, one figure a round.

  Every program takes a turn in each round, in a new random order, so that a
  drifting clock rate and the neighbours' traces in the caches hit all alike. A
  turn begins with an untimed call.
  """
  calls = {
    key: max(1, math.ceil(LEAST_SECONDS / clock(run)[0]))
    for key, run in programs.items()
  }
  seconds = {key: [] for key in programs}
  keys = list(programs)
  with Progress(title, repeats) as progress:
    for done in range(1, repeats + 1):
      for i in rng.permutation(len(keys)):
        run, n = programs[keys[i]], calls[keys[i]]
        jax.block_until_ready(run())
        elapsed, _ = clock(functools.partial(_repeat, run, n))
        seconds[keys[i]].append(elapsed / n)
      progress.update(done)
  return seconds


def _repeat(run: Program, calls: int) -> None:
  for _ in range(calls):
    jax.block_until_ready(run())


# The table --------------------------------------------------------------------


def _calibrate(
  table: CostTable, empty: float, archs: np.ndarray, measured: np.ndarray
) -> Correction:
  """Scale and offset by least squares.

  If that would turn the table round or promise a network for nothing, noise has
  won: then the scale alone is fitted, to the mean. The fixed part may become
  negative, where networks take less than their blocks.
  """
  predicted = table(archs)
  scale, offset = 0.0, 0.0
  if np.ptp(predicted) > 0:
    scale, offset = np.polyfit(predicted, measured, 1)
  if scale <= 0 or scale * table.smallest + offset <= 0:
    scale, offset = measured.mean() / predicted.mean(), 0.0
  return Correction(empty, float(scale), float(offset))


def _tables(steps, places, times, space: Space) -> dict[str, CostTable]:
  return {
    step: cost_of(_plain_rows(c, places, times), space, step, "profile")
    for step, c in steps.items()
  }


def _plain_rows(c: Correction, places, times) -> list[dict]:
  rows = []
  for b in places:
    ms = 0.0 if b.free else c.block(times[b.op, b.shape].ms)
    rows.append(b.row(ms))
  return [*rows, rest_row(c.rest)]


def _rows(c: Correction, places, times, o: ProfileOptions) -> list[dict]:
  """The rows of the file: `_plain_rows` with what was measured, and on what."""
  about = {
    "device": jax.devices()[0].device_kind,
    "batch_size": o.batch_size,
    "precision": o.precision,
  }
  *own, rest = _plain_rows(c, places, times)
  for b, row in zip(places, own, strict=True):
    t = {} if b.free else dataclasses.asdict(times[b.op, b.shape])
    row["measured_ms"] = t.get("ms", "")
    row |= {k: t.get(k, "") for k in ("low_ms", "high_ms")} | about
  return [*own, rest | about]


def _spread(times: list[Times]) -> dict | None:
  if not times:
    return None
  values = [t.spread for t in times]
  return {"median": float(np.median(values)), "largest": max(values)}


def _short(ms: float) -> float:
  """Six digits: what a clock can tell, and the same number in the file."""
  return float(f"{ms:.6g}")
