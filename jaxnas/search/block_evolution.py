"""Aging evolution of blocks: one layer changed, appended or removed."""

import dataclasses

import numpy as np

from jaxnas.search import base, block_search
from jaxnas.search.block_search import BlockSearcher, Drawn
from jaxnas.spaces import nsc
from jaxnas.spaces.nsc import Code


@dataclasses.dataclass(frozen=True)
class BlockEvolution(BlockSearcher):
  """Aging evolution (Real et al., AAAI 2019, algorithm 1) of blocks (ours).

  The population is the last `population` evaluated blocks; a child is the
  mutated winner of a tournament. The first round draws `population` random
  blocks where other algorithms draw `per_round`. A child that was evaluated
  before counts as drawn and is not evaluated again.

  Attributes:
    population: blocks alive at a time, and blocks drawn by the first round.
    tournament: blocks drawn, with replacement, to find one parent.
  """

  population: int = 64
  tournament: int = 2

  def __post_init__(self) -> None:
    super().__post_init__()
    base.check_at_least("search.population", self.population, 1)
    base.check_at_least("search.tournament", self.tournament, 1)

  def _draw(self, state: base.State, n: int | None) -> Drawn:
    alive = base.archive_archs(state, self.space)[-self.population :]
    if not len(alive):
      n = self.population if n is None else n
      return block_search.random_blocks(self, state, n)
    rng = base.round_rng(state)
    values = self.reward(state["archive"]["metrics"])[-self.population :]
    fitness = np.nan_to_num(values, nan=-np.inf)
    parents = [self.space.codes(arch) for arch in alive]

    def breed() -> np.ndarray:
      rivals = rng.integers(len(alive), size=self.tournament)
      parent = parents[rivals[np.argmax(fitness[rivals])]]
      return self.space.from_codes(mutate(rng, parent, self.space.max_layers))

    return self._draw_with(breed, n)


def mutate(
  rng: np.random.Generator, codes: tuple[Code, ...], max_layers: int
) -> tuple[Code, ...]:
  """Changes, appends or removes one layer, each as likely where possible.

  A changed layer gets any other code that is legal at its index.

  Args:
    rng: NumPy generator.
    codes: of a block.
    max_layers: T, the number of layers of `codes` or more.

  Returns:
    Codes of another block, never the same in canonical form.
  """
  m = len(codes)
  kinds = ["change"] + ["append"] * (m < max_layers) + ["remove"] * (m > 1)
  kind = kinds[rng.integers(len(kinds))]
  if kind == "remove":
    return remove(codes, int(rng.integers(1, m + 1)))
  index = m + 1 if kind == "append" else int(rng.integers(1, m + 1))
  old = _canonical(codes[index - 1]) if kind == "change" else None
  legal = [
    code for code in nsc.next_codes(index)
    if code != nsc.TERMINAL and _canonical(code) != old
  ]  # fmt: skip
  new = legal[rng.integers(len(legal))]
  return codes[: index - 1] + (new,) + codes[index:]


def remove(codes: tuple[Code, ...], index: int) -> tuple[Code, ...]:
  """Takes one layer out; what read it reads its first input instead.

  A sum or concatenation that would read one layer twice becomes the identity.

  Args:
    codes: of a block of two layers or more.
    index: of the layer, from 1.
  """
  first = codes[index - 1].pred1
  moved = lambda p: first if p == index else p - (p > index)
  rest = []
  for i, code in enumerate(codes, 1):
    if i == index:
      continue
    inputs = [moved(p) for p in nsc.reads(code)]
    if len(inputs) == 2 and inputs[0] == inputs[1]:
      rest.append(Code(nsc.IDENTITY, inputs[0], 0))
    else:
      rest.append(Code(code.op, *inputs, *[0] * (2 - len(inputs))))
  return tuple(rest)


def _canonical(code: Code) -> Code:
  """As `BlockSpace.canonical`, of one code."""
  if code.op in nsc.TWO_INPUTS:
    return Code(code.op, *sorted(nsc.reads(code)))
  same = code.op in nsc.SAME_AS_IDENTITY
  return Code(nsc.IDENTITY if same else code.op, code.pred1, 0)
