"""Floating-point operations of a program, loops and switches included.

XLA's own count is taken of the program before it is optimised, and corrected
where it is known to be off, by walking the program's jaxpr (multiplications of
convolutions and matrix products only, two operations each):

* the body of a loop counts once, whatever its trip count: products inside are
  multiplied by it;
* of a conditional the dearest branch counts: a switch over choices, which are
  drawn uniformly, counts their mean;
* inside `shard_map` one device's part counts: it is multiplied by the devices;
* kernel gradients of depthwise convolutions have a stand-in, see
  `nets.kernels.estimating`.
"""

import dataclasses
import math
from typing import Any

import jax

from jaxnas.nets.kernels import STAND_IN


@dataclasses.dataclass(frozen=True)
class Products:
  """Operations of the products of a program, counted in three ways.

  Attributes:
    xla: as XLA counts them.
    spread: the same, but on all devices.
    true: as they will be executed.
  """

  xla: float = 0.0
  spread: float = 0.0
  true: float = 0.0

  def __add__(self, other: "Products") -> "Products":
    return Products(
      self.xla + other.xla, self.spread + other.spread, self.true + other.true
    )


@dataclasses.dataclass(frozen=True)
class Rules:
  """What a program does not say of itself.

  Attributes:
    trips: of a loop whose number of turns is data.
    taken: probability that a branch is run that may be skipped as a whole.
  """

  trips: float = 1.0
  taken: float = 1.0


def count(jaxpr: Any, rules: Rules) -> Products:
  """Counts the products of a (closed) jaxpr."""
  total = Products()
  for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    total += _count_one(eqn, rules)
  return total


def _count_one(eqn: Any, rules: Rules) -> Products:
  params, name = eqn.params, eqn.primitive.name
  if name in ("dot_general", "conv_general_dilated"):
    n = _dot(eqn) if name == "dot_general" else _conv(eqn)
    return Products(n, n, n)
  if params.get("name") == STAND_IN:
    size = math.prod(eqn.invars[1].aval.shape)
    kernel = eqn.outvars[0].aval.shape
    # A product and a sum of each element, where the kernel has k^2.
    return Products(2 * size, 2 * size, 2 * size * kernel[0] * kernel[1])
  if name == "cond":
    return _branches([count(b, rules) for b in params["branches"]], rules)
  inner = [count(j, rules) for j in _inner(params)]
  total = sum(inner, Products())
  if name == "scan":
    return dataclasses.replace(total, true=total.true * params["length"])
  if name == "while":
    return dataclasses.replace(total, true=total.true * rules.trips)
  if name == "shard_map":
    axes = params.get("manual_axes") or params["mesh"].axis_names
    ways = math.prod(params["mesh"].shape[a] for a in axes)
    return Products(total.xla, total.spread * ways, total.true * ways)
  return total


def _branches(found: list[Products], rules: Rules) -> Products:
  dearest = max(found, key=lambda f: f.xla)
  true = [f.true for f in found]
  if len(true) == 2 and not min(true):  # run or skip
    return dataclasses.replace(dearest, true=max(true) * rules.taken)
  return dataclasses.replace(dearest, true=sum(true) / len(true))


def _inner(params: dict) -> list[Any]:
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if hasattr(item, "eqns") or hasattr(item, "jaxpr"):
        found.append(item)
  return found


def _dot(eqn: Any) -> float:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  shape = eqn.invars[0].aval.shape
  inner = math.prod(shape[i] for i in contracted)
  return 2.0 * math.prod(eqn.outvars[0].aval.shape) * inner


def _conv(eqn: Any) -> float:
  params, kernel = eqn.params, eqn.invars[1].aval.shape
  features = kernel[params["dimension_numbers"].rhs_spec[0]]
  # Zeros between the elements of a strided gradient are not multiplied.
  holes = math.prod(params["lhs_dilation"])
  each = math.prod(kernel) / features / holes
  return 2.0 * math.prod(eqn.outvars[0].aval.shape) * each


@dataclasses.dataclass(frozen=True)
class Program:
  """What is known of a compiled program.

  Attributes:
    flops: of one call, on all devices together, as corrected.
    flops_per_device: on the busiest device, work done by all included.
    memory: bytes on each device: `arguments`, `temporaries`, `outputs` (those
      that are not written over arguments) and `total`.
  """

  flops: float
  flops_per_device: float
  memory: dict[str, int]


# LLVM's optimisations change neither the memory nor the operations.
OPTIONS = {"xla_backend_optimization_level": 0}


def compile_program(traced: jax.stages.Traced, rules: Rules) -> Program:
  """Compiles a traced program and reads off what it needs; runs nothing.

  Args:
    traced: on abstract arguments, inside `nets.kernels.estimating`.
    rules: of the count.
  """
  lowered = traced.lower()
  found = count(traced.jaxpr, rules)
  before = float(lowered.cost_analysis()["flops"])
  compiled = lowered.compile(compiler_options=OPTIONS)
  after = float(compiled.cost_analysis()["flops"])
  flops = before - found.xla + found.true
  share = after / (before - found.xla + found.spread)
  memory = compiled.memory_analysis()
  outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
  parts = {
    "arguments": int(memory.argument_size_in_bytes),
    "temporaries": int(memory.temp_size_in_bytes),
    "outputs": int(outputs),
  }
  parts["total"] = sum(parts.values())
  return Program(flops, flops * share, parts)
