"""REINFORCE over blocks: the policy-gradient variant of the guided search.

That a mirror stimuli function may guide other search algorithms is IRLAS's
claim (paper); this policy and all its constants are ours.
"""

import dataclasses

import numpy as np

from jaxnas.config import BlocksConfig
from jaxnas.search import base, block_search
from jaxnas.search.block_search import BlockSearcher, Drawn
from jaxnas.spaces import nsc

# Weight of the mean entropy of a categorical, share of the old baseline kept,
# decays and floor of Adam. What no block of a round chose has a gradient of
# rounding errors only; with a floor of 1e-8 they would become full steps.
ENTROPY, MOMENTUM = 0.01, 0.9
BETAS, FLOOR = (0.9, 0.999), 1e-5

# Logits of operations [T, 11] and of both inputs [T, T], along the last axis.
Logits = np.ndarray


@dataclasses.dataclass(frozen=True)
class BlockReinforce(BlockSearcher):
  """A factorised policy, made likelier to draw what beats a moving baseline.

  Each layer has independent categoricals over its operation and both of its
  inputs; the policy ends a block by the operation 0. Repeated blocks are not
  evaluated again but learned from again; blocks over budget and failed ones
  count as the worst so far; blocks told without being drawn take part as if
  they had been.

  Attributes:
    learning_rate: step size of Adam, one step a round.
  """

  learning_rate: float = 0.05

  def __post_init__(self) -> None:
    super().__post_init__()
    block_search.check_step(self.learning_rate)

  @classmethod
  def constants_of(cls, config: BlocksConfig) -> dict:
    """See `BlockSearcher`."""
    return {"learning_rate": config.policy_learning_rate}

  def init(self, seed: int) -> base.State:
    """Returns the state of round 0: see `Searcher.init`.

    Returns:
      Beside what every state has, `logits` `[T, 11 + 2 T]`, Adam's `moments`
      (first and second) and `steps`, and `baseline`, the moving mean reward,
      None before the first.
    """
    t = self.space.max_layers
    zeros = np.zeros((t, len(nsc.OPS) + 2 * t)).tolist()
    return base.new_state(
      seed, logits=zeros, moments=[zeros, zeros], steps=0, baseline=None
    )

  def probabilities(
    self, state: base.State
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The policy: operations `float64[T, 11]`, inputs `float64[T, T]` twice.

    Those of the second input are before the first one is left out and the rest
    scaled up. Illegal choices have 0.
    """
    return _split(np.exp(log_policy(np.array(state["logits"]))))

  def tell(
    self, state: base.State, archs: np.ndarray, metrics: base.Metrics
  ) -> base.State:
    """See `Searcher.tell`; no blocks need no metrics."""
    drawn = self._draw(state, None)
    new = block_search.advance(state, self, archs, metrics)
    learned, rewards = block_search.lessons(new, self, drawn, archs)
    if not len(learned):
      return new
    mean = float(rewards.mean())
    baseline = mean if state["baseline"] is None else state["baseline"]
    logits = np.array(state["logits"])
    gain = np.zeros_like(logits)
    for arch, advantage in zip(learned, rewards - baseline, strict=True):
      gain += advantage / len(learned) * gradient(logits, arch)
    gain += ENTROPY * entropy_gradient(logits)
    stepped = _adam(state, logits, gain, self.learning_rate)
    baseline = MOMENTUM * baseline + (1 - MOMENTUM) * mean
    return {**new, **stepped, "baseline": baseline}

  def _draw(self, state: base.State, n: int | None) -> Drawn:
    rng = base.round_rng(state)
    policy = self.probabilities(state)
    return self._draw_with(lambda: draw_block(rng, *policy), n)


def draw_block(
  rng: np.random.Generator,
  op: np.ndarray,
  pred1: np.ndarray,
  pred2: np.ndarray,
) -> np.ndarray:
  """Draws one block, `int32[3 T]`, from `probabilities`."""
  arch = np.zeros((len(op), 3), np.int32)
  for row, *layer in zip(arch, op, pred1, pred2, strict=True):
    row[0] = _pick(rng, layer[0])
    if row[0] == nsc.NONE:
      break
    row[1] = _pick(rng, layer[1])
    if row[0] in nsc.TWO_INPUTS:
      rest = layer[2].copy()
      rest[row[1]] = 0
      row[2] = _pick(rng, rest)
  return arch.reshape(-1)


def log_policy(logits: Logits) -> np.ndarray:
  """Log-probabilities of each categorical, minus infinity where illegal.

  Args:
    logits: `float64[T, 11 + 2 T]`.

  Returns:
    The same shape; each layer has one over operations and two over inputs.
  """
  parts = _split(np.where(_legal(len(logits)), logits, -np.inf))
  return np.concatenate([_log_softmax(part) for part in parts], axis=1)


def log_probability(logits: Logits, arch: np.ndarray) -> float:
  """Log of the probability that the policy draws exactly this block.

  Args:
    logits: `float64[T, 11 + 2 T]`.
    arch: legal, `int32[3 T]`.
  """
  total = 0.0
  for _, choice, log in _decisions(logits, arch):
    total += log[choice]
  return float(total)


def gradient(logits: Logits, arch: np.ndarray) -> np.ndarray:
  """Gradient of `log_probability` in the logits, `float64[T, 11 + 2 T]`."""
  result = np.zeros_like(logits)
  for (layer, columns), choice, log in _decisions(logits, arch):
    result[layer, columns] = -np.exp(log)
    result[layer, columns.start + choice] += 1
  return result


def entropy(logits: Logits) -> float:
  """Mean entropy of the 3 T categoricals, in nats."""
  log = log_policy(logits)
  return -float(_times_log(log).sum()) / (3 * len(logits))


def entropy_gradient(logits: Logits) -> np.ndarray:
  """Gradient of `entropy` in the logits, `float64[T, 11 + 2 T]`."""
  log = log_policy(logits)
  terms = _times_log(log)
  sums = [
    np.broadcast_to(part.sum(1, keepdims=True), part.shape)
    for part in _split(terms)
  ]
  change = np.exp(log) * np.concatenate(sums, axis=1) - terms
  return change / (3 * len(logits))


def _decisions(logits, arch):
  """Yields ((layer, columns), choice, its log-probabilities) of a block."""
  log, t = log_policy(logits), len(logits)
  n = len(nsc.OPS)
  heads = slice(0, n), slice(n, n + t), slice(n + t, n + 2 * t)
  for layer, (op, first, second) in enumerate(arch.reshape(-1, 3).tolist()):
    yield (layer, heads[0]), op, log[layer, heads[0]]
    if op == nsc.NONE:
      break
    yield (layer, heads[1]), first, log[layer, heads[1]]
    if op in nsc.TWO_INPUTS:
      rest = log[layer, heads[2]].copy()
      rest[first] = -np.inf
      yield (layer, heads[2]), second, _log_softmax(rest[None])[0]


def _legal(t: int) -> np.ndarray:
  """Which choices a layer has, `bool[T, 11 + 2 T]`."""
  ops = np.ones((t, len(nsc.OPS)), bool)
  # The first layer neither ends the block nor finds two layers to read.
  ops[0, [nsc.NONE, *nsc.TWO_INPUTS]] = False
  earlier = np.tri(t, dtype=bool)
  return np.concatenate([ops, earlier, earlier], axis=1)


def _split(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  n, t = len(nsc.OPS), len(table)
  return table[:, :n], table[:, n : n + t], table[:, n + t :]


def _log_softmax(rows: np.ndarray) -> np.ndarray:
  shifted = rows - rows.max(1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _times_log(log: np.ndarray) -> np.ndarray:
  """The terms of negative entropy: p log p, 0 where p is 0."""
  return np.exp(log) * np.where(np.isfinite(log), log, 0.0)


def _pick(rng: np.random.Generator, weights: np.ndarray) -> int:
  sums = np.cumsum(weights)
  return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _adam(state: base.State, logits, gain, rate: float) -> dict:
  """One step of Adam that raises what `gain` is the gradient of."""
  steps = state["steps"] + 1
  first, second = (np.array(m) for m in state["moments"])
  first = BETAS[0] * first + (1 - BETAS[0]) * gain
  second = BETAS[1] * second + (1 - BETAS[1]) * gain**2
  mean = first / (1 - BETAS[0] ** steps)
  spread = np.sqrt(second / (1 - BETAS[1] ** steps))
  logits = logits + rate * mean / (spread + FLOOR)
  return {
    "logits": logits.tolist(),
    "moments": [first.tolist(), second.tolist()],
    "steps": steps,
  }
