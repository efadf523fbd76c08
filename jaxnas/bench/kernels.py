"""`bench kernels`: every form of a convolution at the shapes of a space.

The nets choose one form for each platform; this is the figure behind it.
"""

import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.bench.options import KernelOptions
from jaxnas.bench.timing import (
  Spread,
  check_counts,
  clock,
  first_call,
  header,
  spread,
)
from jaxnas.bench.workload import chain_space
from jaxnas.nets.kernels import (
  DENSE_FORMS,
  DEPTHWISE_FORMS,
  dense_conv,
  depthwise_conv,
)
from jaxnas.spaces import Conv, MBConv, Op, Shape, Space

log = logging.getLogger("jaxnas")

Form = Callable[[jax.Array, jax.Array, int], jax.Array]

BASELINE = "xla"
# What the nets call, under this name in every table.
USED = "used"
FORMS: dict[str, dict[str, Form]] = {
  "depthwise": {**DEPTHWISE_FORMS, USED: depthwise_conv},
  "dense": {**DENSE_FORMS, USED: dense_conv},
}
# A timed round lasts at least this long, so that dispatch does not decide.
LEAST_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class Convolution:
  """A convolution of a space, apart from its place.

  Attributes:
    kind: `depthwise` or `dense`.
    size: height and width of the input, in pixels.
    channels: of the input.
    features: channels of the output.
    kernel: its side, above 1.
    stride: 1 or 2.
  """

  kind: str
  size: int
  channels: int
  features: int
  kernel: int
  stride: int

  @property
  def kernel_shape(self) -> tuple[int, ...]:
    """`[k, k, C]`, or `[k, k, C, features]` of a dense one."""
    sides = (self.kernel, self.kernel, self.channels)
    return sides if self.kind == "depthwise" else (*sides, self.features)


def convolutions(space: Space) -> dict[Convolution, int]:
  """The k x k convolutions of a supernet, k > 1, and how often each occurs."""
  found = collections.Counter()
  parts = (space.stem, space.layers, space.head)
  for layers, shapes in zip(parts, space.shapes, strict=True):
    for layer, shape in zip(layers, shapes, strict=True):
      found.update(c for op in layer.choices if (c := _convolution(op, shape)))
  return dict(found)


def _convolution(op: Op, s: Shape) -> Convolution | None:
  if isinstance(op, MBConv) and op.kernel > 1:
    wide = s.in_channels * op.expand
    return Convolution("depthwise", s.in_size, wide, wide, op.kernel, s.stride)
  if isinstance(op, Conv) and op.kernel > 1:
    return Convolution(
      "dense", s.in_size, s.in_channels, s.features, op.kernel, s.stride
    )
  return None


def bench_kernels(options: KernelOptions) -> dict:
  """Times all forms of all convolutions of a space, turn about.

  Returns:
    JSON object: the options, `machine`, `rows` and `totals`. A row is one
    form of one convolution with its `uses` in the supernet, the seconds
    `forward` and `both` (forward and backward) as medians with the smallest
    and the largest, `forward_ratio` and `both_ratio`, how many times faster
    than XLA's convolution, and `largest_difference` from it, of output and
    gradients relative to their largest value. `totals` sum a form's medians
    over all uses.

  Raises:
    UserError: for an unknown space or a number out of range.
  """
  o = options
  check_counts(batch_size=o.batch_size, repeats=o.repeats)
  check_counts(least=0, seed=o.seed)
  space = chain_space(o.space)
  rows = []
  for c, uses in convolutions(space).items():
    log.info("bench kernels: %s, %d uses", c, uses)
    forms = _race(c, o)
    rows += [{**dataclasses.asdict(c), "uses": uses, **row} for row in forms]
  return {
    **header("kernels", space, o),
    "rows": rows,
    "totals": _totals(rows),
  }


def _race(c: Convolution, o: KernelOptions) -> list[dict]:
  """Rows of one convolution."""
  rng = np.random.default_rng(o.seed)
  out = math.ceil(c.size / c.stride)
  shapes = (
    (o.batch_size, c.size, c.size, c.channels),
    c.kernel_shape,
    (o.batch_size, out, out, c.features),
  )
  x, kernel, g = (
    jnp.asarray(rng.standard_normal(s), o.precision) for s in shapes
  )
  arguments = {"forward": (x, kernel), "both": (x, kernel, g)}
  runs, compiling, results = {}, {}, {}
  for form, apply in FORMS[c.kind].items():
    for task, program in _programs(apply, c.stride).items():
      run = functools.partial(program, *arguments[task])
      results[form, task], first = first_call(run)
      runs[form, task] = run
      compiling[form, task] = first.compile_seconds
  seconds = _interleave_short(runs, o.repeats)
  rows = []
  for form in FORMS[c.kind]:
    row = {"form": form}
    for task in arguments:
      row[task] = spread(seconds[form, task])
      base = spread(seconds[BASELINE, task])["median"]
      row[f"{task}_ratio"] = base / row[task]["median"]
    row["compile_seconds"] = sum(compiling[form, t] for t in arguments)
    row["largest_difference"] = _difference(
      results[form, "both"], results[BASELINE, "both"]
    )
    rows.append(row)
  return rows


def _programs(apply: Form, stride: int) -> dict[str, Callable]:
  form = functools.partial(apply, stride=stride)

  def both(x, kernel, g):
    y, backward = jax.vjp(form, x, kernel)
    return y, *backward(g)

  return {"forward": jax.jit(form), "both": jax.jit(both)}


def _interleave_short(
  runs: dict[tuple, Callable], repeats: int
) -> dict[tuple, list[float]]:
  """Seconds of one call of each, in rounds of enough calls to be timed."""
  calls = {
    name: max(1, math.ceil(LEAST_SECONDS / clock(run)[0]))
    for name, run in runs.items()
  }
  seconds = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      many = functools.partial(_repeat, run, calls[name])
      seconds[name].append(clock(many)[0] / calls[name])
  return seconds


def _repeat(run: Callable, calls: int):
  for _ in range(calls):
    # Waited for one by one: a queue of calls would overlap on the cores.
    result = jax.block_until_ready(run())
  return result


def _difference(ours: tuple, theirs: tuple) -> float:
  pairs = [
    (np.asarray(a, np.float64), np.asarray(b, np.float64))
    for a, b in zip(ours, theirs, strict=True)
  ]
  return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _totals(rows: list[dict]) -> list[dict]:
  totals: dict[tuple[str, str], Spread] = {}
  for row in rows:
    own = totals.setdefault(
      (row["kind"], row["form"]), {"forward": 0.0, "both": 0.0}
    )
    for task in own:
      own[task] += row["uses"] * row[task]["median"]
  return [
    {
      "kind": kind,
      "form": form,
      **own,
      **{
        f"{task}_ratio": totals[kind, BASELINE][task] / own[task]
        for task in own
      },
    }
    for (kind, form), own in totals.items()
  ]
