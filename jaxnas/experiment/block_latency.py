"""Latency of the blocks found, beside random ones of equal accuracy."""

import jax
import numpy as np

from jaxnas.bench.networks import network_latencies
from jaxnas.methods import BlockSetup, block_network, fresh_network
from jaxnas.writer import write_json

BATCHES = (1, 16)  # images of a call
TURNS = 30


def write_latencies(
  setup: BlockSetup, rows: list[dict], state: dict, equal: list[int]
) -> None:
  """Measures blocks on the present device and writes `latency.json`.

  Args:
    setup: the run.
    rows: of `guidance.json`, the blocks found.
    state: last state of the search that chose.
    equal: positions in its archive of random blocks of equal accuracy.
  """
  archive = state["archive"]
  names = ("arch", "accuracy", "macs", "params", "guidance")
  blocks = [
    {"kind": "chosen" if row["chosen"] else "compared"}
    | {name: row[name] for name in names}
    for row in rows
  ]
  for i in equal:
    values = {n: c[i] for n, c in archive["metrics"].items() if n in names}
    arch = setup.space.to_string(np.array(archive["archs"][i]))
    blocks.append({"kind": "random", "arch": arch, "guidance": None, **values})
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
