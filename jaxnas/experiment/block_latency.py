"""Latency of the blocks found, beside random ones of equal accuracy."""

import jax

from jaxnas.bench.networks import network_latencies
from jaxnas.methods import BlockSetup, block_network, fresh_network
from jaxnas.writer import write_json

BATCHES = (1, 16)  # images of a call
TURNS = 30


def write_latencies(
  setup: BlockSetup, rows: list[dict], equal: list[dict]
) -> None:
  """Measures blocks on the present device and writes `latency.json`.

  Args:
    setup: the run.
    rows: of `guidance.json`, the blocks found.
    equal: random blocks of equal accuracy.
  """
  names = ("arch", "accuracy", "macs", "params", "guidance")
  blocks = [
    {"kind": "chosen" if row["chosen"] else "compared"}
    | {name: row[name] for name in names}
    for row in rows
  ]
  blocks += [
    {"kind": "random"} | {name: row.get(name) for name in names}
    for row in equal
  ]
  networks = {}
  for block in blocks:
    network = block_network(setup, setup.space.from_string(block["arch"]))
    fresh = fresh_network(setup, network, "latency")
    networks[block["arch"]] = network, fresh
  times = network_latencies(networks, BATCHES, TURNS, setup.seed("latency"))
  for block in blocks:
    block["times"] = {
      str(batch): {"ms": t.ms, "low": t.low_ms, "high": t.high_ms}
      for batch, t in times[block["arch"]].items()
    }
  device = jax.devices()[0].device_kind
  write_json(
    setup.workdir / "latency.json",
    {
      "device": device, "batches": list(BATCHES), "turns": TURNS,
      "blocks": blocks,
    },
  )  # fmt: skip
