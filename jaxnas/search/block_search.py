"""What the searchers of blocks share, and random search over blocks.

Every algorithm draws the same number of blocks in each of the same number of
rounds. A draw of a block that is known already is not evaluated again, so a
round may evaluate fewer blocks, or none: `tell` of no blocks ends it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from jaxnas.config import BlocksConfig
from jaxnas.errors import UserError, unknown
from jaxnas.search import base
from jaxnas.spaces import BlockSpace

# A round gives up when so many times its size was drawn and most blocks were
# over budget.
TRIES = 10


class BlockBudget(Protocol):
  """Bounds on blocks."""

  def allows(self, archs: np.ndarray) -> np.ndarray:
    """Whether each of `archs` `int32[n, L]` keeps every bound: `bool[n]`."""


@dataclasses.dataclass(frozen=True)
class BlockReward:
  """What a block is worth.

  The accuracy, minus BlockQNN's penalties mu log(FLOPs) and rho log(density)
  (from independent sources; a hundredth of them, as theirs are for accuracies
  in percent), plus lambda F with the mirror stimuli function F scaled to 0..1
  (ours, after IRLAS). A term whose factor is 0 is left out, not added as 0, so
  that lambda = 0 is BlockQNN bit for bit.

  Attributes:
    guidance: lambda.
    flops_penalty: mu.
    density_penalty: rho.
  """

  guidance: float = 0.0
  flops_penalty: float = 0.0
  density_penalty: float = 0.0

  def __post_init__(self) -> None:
    for field in ("guidance", "flops_penalty", "density_penalty"):
      value = getattr(self, field)
      if not (math.isfinite(value) and value >= 0):
        raise UserError(f"blocks.{field} is {value}; it must be 0 or more.")

  @classmethod
  def from_config(cls, config: BlocksConfig, guidance: float) -> "BlockReward":
    """Takes the penalties from a config, and lambda apart from it."""
    return cls(guidance, config.flops_penalty, config.density_penalty)

  def __call__(self, metrics: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Rewards of blocks.

    Args:
      metrics: `[n]` by name: `accuracy` (a share, 0 to 1), and with a factor
        above 0 `mirror` (F), `macs` and `density` (edges over nodes).

    Returns:
      `float64[n]`, NaN where a value needed is not finite.

    Raises:
      UserError: for a metric that is missing.
    """

    def column(name: str) -> np.ndarray:
      if name not in metrics:
        raise unknown("metric in the reward of blocks", name, metrics)
      return np.asarray(metrics[name], np.float64)

    reward = column("accuracy").copy()
    with np.errstate(divide="ignore", invalid="ignore"):
      if self.flops_penalty:
        reward -= self.flops_penalty / 100 * np.log(column("macs"))
      if self.density_penalty:
        reward -= self.density_penalty / 100 * np.log(column("density"))
      if self.guidance:
        reward += self.guidance * column("mirror")
    return np.where(np.isfinite(reward), reward, np.nan)


class Drawn(NamedTuple):
  """The blocks that a round draws, in order.

  Attributes:
    archs: as drawn, not canonical, `int32[n, L]`.
    allowed: whether each keeps the budget, `bool[n]`.
  """

  archs: np.ndarray
  allowed: np.ndarray


def draw_blocks(
  space: BlockSpace,
  budget: BlockBudget,
  draw: Callable[[], np.ndarray],
  n: int,
) -> Drawn:
  """Draws until n blocks keep the budget, 10 n times at most (ours).

  Args:
    space: of the blocks.
    budget: bounds on them.
    draw: returns one block `int32[L]`. What it returns at a call does not
      depend on n, so fewer blocks are a beginning of more.
    n: blocks within the budget; repeated ones count.
  """
  archs, allowed = np.zeros((0, space.n_layers), np.int32), np.zeros(0, bool)
  while (missing := n - int(allowed.sum())) > 0 and len(archs) < TRIES * n:
    size = min(missing, TRIES * n - len(archs))
    batch = np.array([draw() for _ in range(size)], np.int32)
    archs = np.concatenate([archs, batch])
    kept = np.asarray(budget.allows(space.canonical(batch)), bool)
    allowed = np.concatenate([allowed, kept])
  return Drawn(archs, allowed)


def unseen(space: BlockSpace, state: base.State, drawn: Drawn) -> np.ndarray:
  """Canonical forms of the drawn blocks to evaluate, `int32[m, L]`.

  Args:
    space: of the blocks.
    state: blocks of its archive are left out.
    drawn: those over budget and repeated ones are left out.
  """
  taken = _keys(space.canonical(base.archive_archs(state, space)))
  rows = []
  for row in space.canonical(drawn.archs[drawn.allowed]):
    if (key := row.tobytes()) not in taken:
      taken[key] = len(taken)
      rows.append(row)
  return np.array(rows, np.int32).reshape(-1, space.n_layers)


def advance(
  state: base.State, searcher: Any, archs: np.ndarray, metrics: base.Metrics
) -> base.State:
  """As `base.advance`; no blocks need no metrics, and only end the round."""
  if not len(archs):
    return {**state, "round": state["round"] + 1}
  return base.advance(state, searcher, archs, metrics)


def lessons(
  state: base.State, searcher: Any, drawn: Drawn, told: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What a round teaches, repeated blocks included.

  Blocks over budget, and those without a finite reward, count as the worst
  block so far (ours): an agent that forgot them would draw them forever.

  Args:
    state: after the round's blocks were archived.
    searcher: gives space and reward.
    drawn: the blocks that the round drew.
    told: blocks that were told, asked or not, `int32[n, L]`.

  Returns:
    Archs `int32[m, L]` as drawn (those not drawn behind them, as told), and
    finite rewards `float64[m]`. Drawn blocks that nobody evaluated are left
    out, as are the worst ones before there is any finite reward.
  """
  space = searcher.space
  known = _keys(space.canonical(base.archive_archs(state, space)))
  metrics = state["archive"]["metrics"]
  values = searcher.reward(metrics) if known else np.zeros(0)
  finite = values[np.isfinite(values)]
  worst = finite.min() if len(finite) else np.nan
  canonical = space.canonical(drawn.archs)
  extra = told.reshape(-1, space.n_layers)
  own = _keys(canonical)
  extra = extra[[row.tobytes() not in own for row in space.canonical(extra)]]
  archs, rewards = [], []
  for row, form, allowed in zip(
    np.concatenate([drawn.archs, extra]),
    np.concatenate([canonical, space.canonical(extra)]),
    np.concatenate([drawn.allowed, np.ones(len(extra), bool)]),
    strict=True,
  ):
    place = known.get(form.tobytes())
    if place is None and allowed:
      continue
    value = np.nan if place is None else values[place]
    value = value if np.isfinite(value) else worst
    if np.isfinite(value):
      archs.append(row)
      rewards.append(value)
  rows = np.array(archs, np.int32).reshape(-1, space.n_layers)
  return rows, np.array(rewards, np.float64)


@dataclasses.dataclass(frozen=True)
class BlockSearcher:
  """What all searchers of blocks have; a further one says what it draws.

  Attributes:
    space: the space.
    budget: bounds on every evaluated block.
    reward: what a block is worth.
    rounds: planned rounds.
    per_round: blocks drawn in each.
  """

  space: BlockSpace
  budget: BlockBudget
  reward: BlockReward = BlockReward()
  rounds: int = 178
  per_round: int = 64
  objectives: ClassVar[tuple[str, ...]] = ("accuracy",)

  def __post_init__(self) -> None:
    base.check_at_least("blocks.rounds", self.rounds, 1)
    base.check_at_least("blocks.per_round", self.per_round, 1)

  @classmethod
  def from_config(
    cls,
    config: BlocksConfig,
    guidance: float,
    space: BlockSpace,
    budget: BlockBudget,
    **constants,
  ) -> Self:
    """Builds the searcher from a config.

    Args:
      config: sizes and penalties; its `guidance` is not read.
      guidance: lambda.
      space: the space.
      budget: bounds on every block.
      **constants: what the searcher has of its own from elsewhere.
    """
    return cls(
      space, budget, BlockReward.from_config(config, guidance),
      config.rounds, config.per_round, **cls.constants_of(config), **constants,
    )  # fmt: skip

  @classmethod
  def constants_of(cls, config: BlocksConfig) -> dict:
    """The searcher's own constants in a config, by name."""
    del config
    return {}

  @property
  def random_rounds(self) -> int:
    """Rounds at the start whose blocks are random; the first, if not said."""
    return 1

  def init(self, seed: int) -> base.State:
    """See `Searcher.init`."""
    return base.new_state(seed)

  def ask(self, state: base.State, n: int | None = None) -> np.ndarray:
    """Draws n blocks (None: a round's); returns the new ones among them."""
    return unseen(self.space, state, self._draw(state, n))

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`; no blocks need no metrics."""
    return advance(state, self, archs, metrics)

  def _draw(self, state: base.State, n: int | None) -> Drawn:
    """The blocks of the state's round."""
    raise NotImplementedError

  def _draw_with(self, draw: Callable[[], np.ndarray], n: int | None) -> Drawn:
    n = self.per_round if n is None else n
    return draw_blocks(self.space, self.budget, draw, n)


def check_step(rate: float) -> None:
  """Checks `blocks.policy_learning_rate`.

  Raises:
    UserError: if it is negative or not finite.
  """
  if not (math.isfinite(rate) and rate >= 0):
    raise UserError(
      f"blocks.policy_learning_rate is {rate}; it must be 0 or more."
    )


class BlockRandom(BlockSearcher):
  """Random blocks, drawn as BlockQNN's agent explores: the baseline."""

  @property
  def random_rounds(self) -> int:
    """All rounds."""
    return self.rounds

  def _draw(self, state: base.State, n: int | None) -> Drawn:
    return random_blocks(self, state, self.per_round if n is None else n)


def random_blocks(searcher: Any, state: base.State, n: int) -> Drawn:
  """Random blocks of the state's round, n within the budget."""
  rng = base.round_rng(state)
  draw = lambda: searcher.space.sample(rng, 1)[0]
  return draw_blocks(searcher.space, searcher.budget, draw, n)


def _keys(archs: np.ndarray) -> dict[bytes, int]:
  """The place where each row appears first."""
  places = {}
  for i, row in enumerate(archs):
    places.setdefault(row.tobytes(), i)
  return places
