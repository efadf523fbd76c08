"""What a search for blocks asks: an expert's topology, a block's worth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnas.costs.block_budget import block_costs
from jaxnas.errors import UserError
from jaxnas.methods.children import Children
from jaxnas.methods.ranking import read_truth
from jaxnas.methods.setup import BlockSetup
from jaxnas.nets import Variables
from jaxnas.search import Guide, learn_guide
from jaxnas.search.features import canonical
from jaxnas.spaces import EXPERTS, expert, nsc
from jaxnas.writer import is_file, read_json, write_json

WHOLE = ("macs", "params", "distance")  # metrics that are whole numbers

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
  found, named = {}, {}
  for name in names:
    read = "@" in name
    codes = wide.codes(wide.from_string(name)) if read else expert(name)
    if named.setdefault(canonical(codes), name) != name:
      raise UserError(
        f"experts {named[canonical(codes)]!r} and {name!r} have the same"
        " structure code; name one of them."
      )
    found[name] = codes
  return found


def expert_guide(setup: BlockSetup) -> Guide:
  """Learns what the experts' topologies have in common, or reads it.

  Writes `irl.json` when it is learned.

  Returns:
    The mirror stimuli function F.
  """
  path = setup.workdir / "irl.json"
  if is_file(path):
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


class BlockObjective:
  """Objective of a search: accuracy, costs, F, and distance to the experts.

  Blocks that were evaluated before cost nothing: searches that are compared
  share what they found.

  Args:
    setup: the run.
    guide: the mirror stimuli function.
    variables: of the interpreter, with `evaluation=interpreter`.
  """

  def __init__(
    self, setup: BlockSetup, guide: Guide, variables: Variables | None
  ) -> None:
    self._space, self._guide = setup.space, guide
    self._judge = _judge(setup, variables)
    self._experts = [canonical(codes) for codes in experts(setup).values()]
    self._known: dict[bytes, dict[str, float]] = {}

  def remember(self, archive: dict) -> None:
    """Takes over what an earlier process found, the archive of a search."""
    for i, arch in enumerate(archive["archs"]):
      row = {name: values[i] for name, values in archive["metrics"].items()}
      row |= {name: int(row[name]) for name in WHOLE}
      self._known.setdefault(np.array(arch, np.int32).tobytes(), row)

  def __call__(self, archs: np.ndarray) -> Metrics:
    """Evaluates blocks.

    Args:
      archs: `int32[m, L]` in canonical form, m above 0.

    Returns:
      `accuracy`, `macs`, `params`, `density`, `mirror`, `distance` (layers to
      change to reach the nearest expert) and, of the interpreter, `loss`; each
      `[m]`.
    """
    fresh = [a for a in archs if a.tobytes() not in self._known]
    if fresh:
      found = self.evaluate(np.stack(fresh))
      for i, arch in enumerate(fresh):
        row = {name: values[i].item() for name, values in found.items()}
        self._known[arch.tobytes()] = row
    rows = [self._known[a.tobytes()] for a in archs]
    return {name: np.array([r[name] for r in rows]) for name in rows[0]}

  def evaluate(self, archs: np.ndarray) -> Metrics:
    """The same, whatever was evaluated before."""
    codes = [self._space.codes(arch) for arch in archs]
    distance = [
      min(nsc.edit_distance(c, e) for e in self._experts) for c in codes
    ]
    return {
      **self._judge(archs),
      **block_costs(self._space, archs),
      "mirror": self._guide(self._space, archs),
      "distance": np.array(distance, np.int64),
    }


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

  children = Children(setup, "children", blocks.child)
  return lambda archs: {"accuracy": children(archs)}


def read_table(setup: BlockSetup) -> dict[bytes, float]:
  """Accuracies of `blocks.table` by canonical block.

  Blocks that are not listed have no accuracy, and can never win.

  Raises:
    UserError: for a file that cannot be read or does not fit.
  """
  archs, accuracy = read_truth(Path(setup.config.blocks.table), setup.space)
  keys = [arch.tobytes() for arch in setup.space.canonical(archs)]
  return dict(zip(keys, accuracy.tolist(), strict=True))
