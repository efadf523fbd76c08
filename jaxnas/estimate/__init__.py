"""What a run will take, before it is paid for: `--dry-run`.

The real programs are lowered and compiled for the config's mesh, on arguments
without values; nothing is run or written, and no images are needed.
"""

import dataclasses
import logging
import os
import time
from pathlib import Path

import jax
from jax.extend.backend import clear_backends

from jaxnas.config import ExperimentConfig, MeshConfig
from jaxnas.errors import UserError
from jaxnas.estimate.graphs import block_stages, mask_stages
from jaxnas.estimate.paths import path_stages
from jaxnas.estimate.rate import measured_rate
from jaxnas.estimate.sizes import data_sizes
from jaxnas.estimate.stage import Stage, abstract
from jaxnas.methods import (
  BlockMethod,
  MaskMethod,
  get_method,
  make_block_setup,
  make_mask_setup,
  make_setup,
  make_space,
)

log = logging.getLogger("jaxnas")

# Share of the rate that a network is assumed to reach.
EFFICIENCY = 0.3
STAGES = ("train", "search", "rank", "retrain")


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What an estimate takes for granted.

  Attributes:
    flops: operations per second of a device; 0 measures this machine's.
    efficiency: share of them that networks reach.
    images: training images of a source that is not known; 0 for none given.
    classes: its classes.
  """

  flops: float = 0.0
  efficiency: float = EFFICIENCY
  images: int = 0
  classes: int = 0


def set_flags() -> None:
  """Sets what XLA reads when it starts, for programs that are not run.

  Combining hundreds of reductions takes its CPU backend most of a minute, and
  changes neither memory nor operations.
  """
  flag = "--xla_disable_hlo_passes=cpu-all-reduce-combiner"
  given = os.environ.get("XLA_FLAGS", "")
  if "xla_disable_hlo_passes" not in given:
    os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()


def dry_run(
  config: ExperimentConfig, verb: str, given: Assumptions
) -> dict[str, object]:
  """Estimates a run, or one stage of it.

  Args:
    config: of the run. If its mesh needs more devices than there are, the
      process goes on with so many fake CPU devices.
    verb: `run`, or the stage.
    given: what is taken for granted.

  Returns:
    A JSON object; see `printing.estimate`.

  Raises:
    UserError: for what the run would refuse as well, an illegal assumption, or
      unknown sizes of the data.
  """
  if given.flops < 0 or not 0 < given.efficiency <= 1:
    raise UserError(
      f"--flops is {given.flops:g} and --efficiency {given.efficiency:g};"
      " legal: above 0, and above 0 up to 1."
    )
  clock, method = time.monotonic(), get_method(config.method)
  data, where = data_sizes(
    config.data, make_space(config).image_size, given.images, given.classes
  )
  timed_on = jax.devices()[0].device_kind
  rate = given.flops or measured_rate(config.net.precision)
  fake = _devices_for(config.mesh)
  wanted = set(STAGES) if verb == "run" else {verb}
  workdir = Path()  # nothing is written
  if isinstance(method, MaskMethod):
    setup = abstract(make_mask_setup(config, workdir, data))
    stages = mask_stages(setup, wanted)
  elif isinstance(method, BlockMethod):
    setup = abstract(make_block_setup(config, workdir, data))
    stages = block_stages(setup, wanted)
  else:
    setup = abstract(make_setup(config, workdir, data))
    stages = path_stages(setup, method, wanted)
  mesh, devices = setup.placement.mesh.shape, setup.placement.n_devices
  # Fake devices share one CPU.
  shared = devices if not given.flops and timed_on == "cpu" else 1
  reached = rate / shared * given.efficiency
  rows = [stage.to_json(devices, reached) for stage in stages]
  hours = sum(row["hours"] for row in rows)
  for row in rows:
    row["share"] = row["hours"] / hours if hours else 0.0
  return {
    "estimate": True,
    "method": config.method,
    "space": setup.space.name,
    "mesh": dict(mesh),
    "devices": devices,
    "compiled_for": f"{devices} {'fake ' if fake else ''}"
    f"{jax.devices()[0].device_kind} devices",
    "fake_devices": fake,
    "data": {
      "source": config.data.source,
      "sizes": where,
      "train": len(data.train),
      "validation": len(data.validation),
      "test": len(data.test),
      "classes": data.n_classes,
      "streamed": data.streamed,
    },
    "rate": {
      "flops": rate / shared,
      "from": "given"
      if given.flops
      else f"measured here ({timed_on}, products"
      f" of {config.net.precision} matrices)",
      "efficiency": given.efficiency,
    },
    "stages": rows,
    "hours": hours,
    "device_hours": hours * devices,
    "seconds": time.monotonic() - clock,
  }


def _devices_for(mesh: MeshConfig) -> bool:
  """Makes fake CPU devices if the mesh needs more than there are.

  Returns:
    Whether the devices are fake: on a CPU more than one always are.
  """
  needed = max(1, mesh.data) * max(1, mesh.path)
  if needed > jax.device_count():
    log.info("compiling for %d fake CPU devices", needed)
    clear_backends()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", needed)
  return jax.default_backend() == "cpu" and max(needed, jax.device_count()) > 1


__all__ = ["Assumptions", "Stage", "dry_run", "set_flags"]
