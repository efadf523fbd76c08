"""What a training step costs on many devices, on paper.

    python docs/studies/scaling.py count CONFIG --mesh 8x1 --out FILE.json \
      [--set FIELD=VALUE ...] [--batch N]
    python docs/studies/scaling.py table FILE.json... [--rate 0.2]

`count` lowers and compiles the supernet step of a config for a mesh of fake CPU
devices, with abstract arguments: no data, nothing is run. From the optimised
program it reads the arithmetic of one device and every exchange between
devices. `table` turns such counts into step times and efficiencies of chips by
public figures. Fake devices say nothing about speed; no time here is measured.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

from exchanges import Collective, collectives

# Counting ---------------------------------------------------------------------


def least_waits(stats: dict, chain: int) -> int:
  """Exchanges of a step that must wait for each other.

  Batch norms of one layer's choices do not depend on each other, those that
  follow each other in a block do, forwards and backwards; the gradients can
  all go together.

  Args:
    stats: shapes of the batch-norm statistics of a supernet.
    chain: exchanges in turn in the program; fewer where replicas measure alone.
  """

  def norms(tree: dict) -> int:
    if "mean" in tree:
      return 1
    return sum(norms(t) for t in tree.values() if isinstance(t, dict))

  deepest = sum(
    max((norms(choice) for choice in tree.values()), default=0)
    if name.startswith("layer_") else norms(tree)
    for name, tree in stats.items()
  )  # fmt: skip
  return min(chain, 2 * deepest + 1)


def count(config, batch: int = 0) -> dict:
  """Compiles the supernet step of a config for its mesh and counts.

  The program is the one of a dry run: kernels as on accelerators, but for the
  kernel gradients of depthwise convolutions, which have a stand-in that sums
  over the images and is then k x k times smaller. That is added here.

  Args:
    config: an experiment's.
    batch: images of one path's batch on all devices; 0 takes the config's.
  """
  import jax
  import numpy as np

  from jaxnas.estimate.counting import OPTIONS
  from jaxnas.estimate.paths import supernet_macs
  from jaxnas.estimate.sizes import data_sizes
  from jaxnas.estimate.stage import abstract
  from jaxnas.methods import get_method
  from jaxnas.methods.setup import make_setup, make_space
  from jaxnas.nets.kernels import estimating
  from jaxnas.training import init_state, make_optimizer, make_supernet_step
  from jaxnas.training import paths_in_flight as in_flight

  train = config.train
  train = dataclasses.replace(train, batch_size=batch or train.batch_size)
  config = dataclasses.replace(config, train=train)
  size = make_space(config).image_size
  data, _ = data_sizes(config.data, size)
  setup = abstract(make_setup(config, Path(), data))
  placement, supernet = setup.placement, setup.supernet
  sampler = get_method(config.method).sampler(setup)
  tx = make_optimizer(train.optimizer, lambda _: 0.1)
  feed = setup.feed(setup.data.train)
  step = make_supernet_step(supernet, sampler, tx, train, feed)
  shapes = supernet.variable_shapes

  def fresh():
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    return init_state(zeros, tx, setup.space.n_choices)

  state = placement.scatter(placement.put(jax.eval_shape(fresh)))
  k, start = sampler.n_paths, time.monotonic()
  shape = (train.batch_size,) if train.share_batch else (k, train.batch_size)
  key = jax.eval_shape(lambda: jax.random.key(0))
  with estimating(True):
    lowered = step.trace(state, key, feed.abstract(shape)).lower()
    compiled = lowered.compile(compiler_options=OPTIONS)
  found, chain = collectives(compiled.as_text(), placement.n_devices)
  flight = in_flight(train, sampler, supernet, placement)
  macs = supernet_macs(setup, sampler, k // flight)
  leaves = jax.tree.leaves_with_path(shapes["params"])
  return {
    "mesh": "x".join(str(n) for n in placement.mesh.shape.values()),
    "devices": placement.n_devices,
    "batch": train.batch_size,
    "paths": k,
    "bn_parts": config.net.bn_parts,
    # Forward and, twice that, backward; a multiply-add is two operations.
    "model_flops": 6.0 * train.batch_size * macs,
    "program_flops": float(compiled.cost_analysis()["flops"]),
    "weights": int(sum(np.prod(a.shape) for _, a in leaves)),
    "stand_in": 4 * int(sum(
      np.prod(a.shape) - a.shape[-1]
      for path, a in leaves if path[-2].key == "depthwise"
    )),
    "chain": chain,
    "least": least_waits(shapes["batch_stats"], chain),
    "seconds": time.monotonic() - start,
    "collectives": [dataclasses.asdict(c) for c in found],
  }  # fmt: skip


# Chips ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Chip:
  """Public figures of a chip.

  Attributes:
    name: for the table.
    flops: bf16 operations per second at the peak.
    link: bytes per second that a chip sends in an all-reduce.
    hop: seconds until a message is at the neighbour (assumed).
    torus: a 2D torus; else a switch, with rings of `node` chips.
    node: chips behind the fast switch.
    between: bytes per second of a chip between nodes.
    far: seconds of a message between nodes (assumed).
  """

  name: str
  flops: float
  link: float
  hop: float
  torus: bool = True
  node: int = 256
  between: float = 0.0
  far: float = 0.0

  def seconds(self, row: dict, devices: int, number: int) -> tuple:
    """Seconds of sending bytes, and of waiting, in one step.

    Args:
      row: a count.
      devices: that share the work.
      number: exchanges that wait for each other.
    """
    sent = row["stand_in"] * 2
    for c in row["collectives"]:
      twice = 2 if c["kind"] == "all-reduce" else 1
      sent += twice * c["bytes"] * c["times"]
    sent *= (devices - 1) / devices
    if self.torus:
      # A ring along each axis, there and back: hops grow with the side.
      side = devices**0.5
      return sent / self.link, number * 2 * side * self.hop
    nodes = -(-devices // self.node)
    wait = number * self.hop
    if nodes == 1:
      return sent / self.link, wait
    # Between nodes each chip sends the share that it reduced within its own.
    slow = sent / self.node / self.between * (nodes - 1) / nodes
    return sent / self.link + slow, wait + number * self.far * 2


CHIPS = (
  Chip("TPU v5e", 197e12, 200e9, 1e-6),
  Chip("TPU v6e", 918e12, 400e9, 1e-6),
  Chip(
    "H100", 989e12, 450e9, 10e-6, torus=False, node=8, between=50e9, far=10e-6
  ),
)


def predict(
  chip: Chip, row: dict, devices: int, images: float, rate: float,
  together: bool,
) -> tuple[float, float, float]:  # fmt: skip
  """Seconds of computing, of sending and of waiting in one step.

  Args:
    chip: the hardware.
    row: a count on any mesh of more than one device along `data`.
    devices: to predict for.
    images: of one path's batch on one device.
    rate: share of the peak that the arithmetic reaches.
    together: exchanges that do not wait for each other are one; else as the
      compiler combined them.
  """
  each = row["model_flops"] / row["batch"]
  number = row["least"] if together else sum(
    c["times"] for c in row["collectives"]
  )  # fmt: skip
  sent, wait = chip.seconds(row, devices, number)
  return each * images / chip.flops / rate, sent, wait


def summary(row: dict) -> dict[str, tuple[int, int]]:
  """Number and bytes of the exchanges of a step, by reason."""
  out: dict[str, tuple[int, int]] = {}
  for c in map(lambda c: Collective(**c), row["collectives"]):
    key = f"{c.reason}, {c.kind}"
    n, size = out.get(key, (0, 0))
    out[key] = n + c.times, size + c.times * c.bytes
  return out


def counts_table(rows: list[dict]) -> str:
  """Markdown: what each program computes and exchanges."""
  lines = [
    "| mesh | BN parts | GFLOP per device: program / model | MB, number:"
    " gradient | batch norm | other | waits in turn | at least |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    cells = []
    for reason in ("gradient", "batch norm", "other"):
      own = [v for k, v in summary(row).items() if k.startswith(reason)]
      size, n = sum(v[1] for v in own) / 1e6, sum(v[0] for v in own)
      if reason == "gradient" and row["devices"] > 1:
        size += row["stand_in"] / 1e6
      cells.append(f"{size:.2f}, {n}")
    flops = [row["program_flops"], row["model_flops"] / row["devices"]]
    lines.append(
      f"| {row['mesh']} | {row['bn_parts']} |"
      f" {flops[0] / 1e9:.1f} / {flops[1] / 1e9:.1f} | {' | '.join(cells)} |"
      f" {row['chain']} | {row['least']} |"
    )
  return "\n".join(lines)


def efficiency_table(row: dict, rate: float) -> str:
  """Markdown: predicted efficiency on 8 to 256 chips.

  Weak: 32 images a chip. Strong: 256 images on all chips together. Of each the
  range between exchanges as the compiler combined them and as few as their
  order allows, computing and exchanging never at the same time.
  """
  sizes = (8, 32, 64, 256)
  lines = [
    "| chip | scaling | " + " | ".join(f"{n} chips" for n in sizes) + " |",
    "| --- | --- |" + " --- |" * len(sizes),
  ]
  for chip in CHIPS:
    for name in ("weak", "strong"):
      cells = []
      for n in sizes:
        images = 32 if name == "weak" else 256 / n
        ends = []
        for together in (False, True):
          work, sent, wait = predict(chip, row, n, images, rate, together)
          ends.append(work / (work + sent + wait))
        cells.append(
          f"{100 * ends[0]:.0f}-{100 * ends[1]:.0f} % of {work * 1e3:.1f} ms"
        )
      lines.append(f"| {chip.name} | {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def parts_table(row: dict, rate: float) -> str:
  """Markdown: what a step of 32 images a chip spends its time on."""
  lines = [
    "| chip | chips | computing | sending | waiting: as compiled | waiting: at"
    " least |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for chip in CHIPS:
    for n in (8, 256):
      work, sent, slow = predict(chip, row, n, 32, rate, False)
      fast = predict(chip, row, n, 32, rate, True)[2]
      cells = [f"{1e3 * s:.2f} ms" for s in (work, sent, slow, fast)]
      lines.append(f"| {chip.name} | {n} | {' | '.join(cells)} |")
  return "\n".join(lines)


def main() -> None:
  """Runs one of the two commands."""
  parser = argparse.ArgumentParser(description=__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  one = commands.add_parser("count")
  one.add_argument("config")
  one.add_argument("--mesh", default="8x1")
  one.add_argument("--batch", type=int, default=0)
  one.add_argument("--set", action="append", default=[])
  one.add_argument("--out", type=Path, required=True)
  two = commands.add_parser("table")
  two.add_argument("files", nargs="+", type=Path)
  two.add_argument("--rate", type=float, default=0.2)
  args = parser.parse_args()
  if args.command == "count":
    devices = 1
    for size in args.mesh.split("x"):
      devices *= int(size)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = (
      f"--xla_force_host_platform_device_count={devices}"
    )
    from jaxnas.config import load_config, override

    data, path = args.mesh.split("x")
    mesh = [f"mesh.data={data}", f"mesh.path={path}"]
    config = override(load_config(args.config), [*args.set, *mesh])
    found = count(config, args.batch)
    args.out.write_text(json.dumps(found))
    print(counts_table([found]))
    print(f"{found['seconds']:.0f} s", file=sys.stderr)
    return
  rows = [json.loads(path.read_text()) for path in args.files]
  print(counts_table(rows))
  for row in rows:
    if row["devices"] > 1 and row["mesh"].endswith("x1"):
      print(f"\nmesh {row['mesh']}, bn_parts {row['bn_parts']}\n")
      print(efficiency_table(row, args.rate))
      print()
      print(parts_table(row, args.rate))


if __name__ == "__main__":
  main()
