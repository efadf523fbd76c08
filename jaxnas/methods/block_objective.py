"""What a search for blocks asks: an expert's topology, a block's worth."""

import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxnas.costs.block_budget import block_costs
from jaxnas.errors import UserError
from jaxnas.methods.interpreter import block_network
from jaxnas.methods.networks import child_accuracy
from jaxnas.methods.ranking import read_truth
from jaxnas.methods.setup import BlockSetup
from jaxnas.nets import Variables
from jaxnas.search import Guide, learn_guide
from jaxnas.spaces import EXPERTS, expert, nsc
from jaxnas.writer import read_json, write_json

Metrics = dict[str, np.ndarray]


def experts(setup: BlockSetup) -> dict[str, tuple[nsc.Code, ...]]:
  """The experts of a config by their names, or as written.

  Raises:
    UserError: for what is neither a name nor a block, or for none.
  """
  names = setup.config.expert.blocks
  if not names:
    raise UserError(
      f"expert.blocks is empty; legal: {', '.join(EXPERTS)}, or blocks such as"
      " conv3@0-add@0+1."
    )
  # Experts may have more layers than the blocks that are searched.
  wide = setup.space.replace(max_layers=64)
  return {
    name: wide.codes(wide.from_string(name)) if "@" in name else expert(name)
    for name in names
  }


def expert_guide(setup: BlockSetup) -> Guide:
  """Learns what the experts' topologies have in common, or reads it.

  Writes `irl.json` when it is learned.

  Returns:
    The mirror stimuli function F.
  """
  path = setup.workdir / "irl.json"
  if path.is_file():
    return Guide.from_json(read_json(path)["guide"])
  known = experts(setup)
  guide, found = learn_guide(
    setup.space, list(known.values()), setup.config.expert, setup.seed("expert")
  )
  rows = [
    {"name": name, "arch": "-".join(map(nsc.to_text, codes))}
    for name, codes in known.items()
  ]
  write_json(path, {**found, "experts": rows, "guide": guide.to_json()})
  return guide


def block_objective(
  setup: BlockSetup, guide: Guide, variables: Variables | None
) -> Callable[[np.ndarray], Metrics]:
  """Objective of a search: accuracy, costs, F, and distance to the experts.

  Blocks that were evaluated before cost nothing: searches that are compared
  share what they found.

  Args:
    setup: the run.
    guide: the mirror stimuli function.
    variables: of the interpreter, with `evaluation=interpreter`.

  Returns:
    A function of archs `int32[m, L]` in canonical form; metrics `accuracy`,
    `macs`, `params`, `density`, `mirror`, `distance` (layers to change to reach
    the nearest expert) and, of the interpreter, `loss`; each `[m]`.
  """
  judge = _judge(setup, variables)
  known = [codes for codes in experts(setup).values()]
  cache: dict[bytes, dict[str, float]] = {}

  def evaluate(archs):
    codes = [setup.space.codes(arch) for arch in archs]
    distance = [min(nsc.edit_distance(c, e) for e in known) for c in codes]
    return {
      **judge(archs),
      **block_costs(setup.space, archs),
      "mirror": guide(setup.space, archs),
      "distance": np.array(distance, np.int64),
    }

  def objective(archs):
    fresh = [a for a in archs if a.tobytes() not in cache]
    if fresh:
      found = evaluate(np.stack(fresh))
      for i, arch in enumerate(fresh):
        cache[arch.tobytes()] = {k: v[i].item() for k, v in found.items()}
    rows = [cache[a.tobytes()] for a in archs]
    return {name: np.array([r[name] for r in rows]) for name in rows[0]}

  return objective


def _judge(
  setup: BlockSetup, variables: Variables | None
) -> Callable[[np.ndarray], Metrics]:
  blocks = setup.config.blocks
  if blocks.evaluation == "interpreter":
    scorer = setup.scorer()
    return lambda archs: scorer(variables, archs)
  if blocks.evaluation == "table":
    table = read_table(setup)

    def look_up(archs):
      rows = [table.get(arch.tobytes(), np.nan) for arch in archs]
      return {"accuracy": np.array(rows)}

    return look_up

  def train(archs):
    # Its own key for each block: neither the order nor other blocks matter.
    keys = [
      jax.random.fold_in(setup.key("child"), zlib.crc32(arch.tobytes()))
      for arch in archs
    ]
    rows = [
      child_accuracy(setup, block_network(setup, arch), blocks.child, key)
      for arch, key in zip(archs, keys, strict=True)
    ]
    return {"accuracy": np.array(rows)}

  return train


def read_table(setup: BlockSetup) -> dict[bytes, float]:
  """Accuracies of `blocks.table` by canonical block.

  Blocks that are not listed have no accuracy, and can never win.

  Raises:
    UserError: for a file that cannot be read or does not fit.
  """
  archs, accuracy = read_truth(Path(setup.config.blocks.table), setup.space)
  keys = [arch.tobytes() for arch in setup.space.canonical(archs)]
  return dict(zip(keys, accuracy.tolist(), strict=True))
