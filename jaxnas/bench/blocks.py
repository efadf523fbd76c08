"""`bench blocks`: the interpreter beside a compiled network for each block."""

import functools
import logging

import jax
import numpy as np

from jaxnas.bench.options import BlockOptions
from jaxnas.bench.timing import (
  check_counts,
  first_call,
  header,
  interleave,
  ratio,
  spread,
)
from jaxnas.bench.workload import make_images, space_options
from jaxnas.compilations import Compilations
from jaxnas.config import NetConfig, ScoreConfig
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.nets import BlockSupernet, GraphNetwork, Variables, inherit_block
from jaxnas.scoring import BlockScorer, Images, calibration_split, merge_stats
from jaxnas.scoring.scorer import METRICS
from jaxnas.sharding import Placement, make_placement
from jaxnas.spaces import BLOCKS, BlockSpace, block_graph, get_space

log = logging.getLogger("jaxnas")

TOLERANCE = 1e-3  # nats; more than that is no rounding


def bench_blocks(options: BlockOptions) -> dict:
  """Times one program for all blocks and a program for each of them.

  Both score the same random blocks with the same weights, on the same images in
  the same tiles, after recalibrating batch norm on the same images; scores are
  compared first.
  What a user waits for who has a set of new blocks is the total: building,
  compiling and running each network, or compiling the interpreter once and
  running it.

  Returns:
    JSON object: the options, `machine`, `scores` (how the arms compare),
    `interpreter` and `alone` with `total_seconds` (compiling included),
    `compile_seconds`, `programs` and `seconds` of a further pass (median with
    smallest and largest); `total_ratio` and `ratio` (of the further passes),
    alone over interpreter; and `compilations_second_set`, what the interpreter
    compiled for as many other blocks.

  Raises:
    UserError: for an unknown name or a number out of range.
  """
  o = options
  check_counts(
    n=o.n, calibration_images=o.calibration_images, repeats=o.repeats,
    validation_images=o.validation_images, batch_size=o.batch_size,
  )  # fmt: skip
  check_counts(least=0, seed=o.seed)
  space, data = _workload(o)
  supernet = BlockSupernet(space, NetConfig(precision=o.precision))
  placement = make_placement()
  variables = placement.put(supernet.init(jax.random.key(o.seed)))
  rng = np.random.default_rng(o.seed)
  archs = distinct_blocks(space, rng, 2 * o.n)
  archs, others = archs[: o.n], archs[o.n :]
  config = ScoreConfig(
    calibration_images=o.calibration_images, batch_size=o.batch_size
  )
  scorer = BlockScorer(supernet, data, config, placement)
  log.info("bench blocks: the interpreter")
  together = functools.partial(scorer, variables, archs)
  found, first = first_call(together)
  with Compilations() as again:
    scorer(variables, others)
  log.info("bench blocks: %d networks", o.n)
  alone = _Alone(space, supernet.net, data, config, placement, scorer.tile)
  apart, first_alone = first_call(
    functools.partial(alone.build_and_score, variables, archs)
  )
  gap = float(np.abs(found["loss"] - apart["loss"]).max())
  agree = gap <= (TOLERANCE if o.precision == "float32" else 0.1)
  if not agree:
    log.warning("bench blocks: losses differ by %.3g: trust no ratio.", gap)
  seconds = interleave(
    {"interpreter": together, "alone": alone.score}, o.repeats
  )
  costs = {
    name: {
      "total_seconds": call.seconds,
      "compile_seconds": call.compile_seconds,
      "programs": programs,
      "seconds": spread(seconds[name]),
    }
    for name, call, programs in (
      ("interpreter", first, scorer.programs), ("alone", first_alone, o.n)
    )
  }  # fmt: skip
  return {
    **header("blocks", space, o),
    "scores": {
      "compared": o.n,
      "largest_loss_difference": gap,
      "unequal_accuracies": int((found["accuracy"] != apart["accuracy"]).sum()),
      "agree": bool(agree),
    },
    **costs,
    "total_ratio": first_alone.seconds / first.seconds,
    "ratio": ratio(seconds["alone"], seconds["interpreter"]),
    "compilations_second_set": again.count,
  }


def _workload(o: BlockOptions) -> tuple[BlockSpace, Dataset]:
  """The space and the images.

  Raises:
    UserError: for a space that is not one of blocks.
  """
  space = get_space(o.space, **space_options(o.options))
  if not isinstance(space, BlockSpace):
    raise UserError(
      f"--space is {o.space!r}, which has no blocks; bench blocks takes"
      f" {', '.join(BLOCKS)} or a Python file."
    )
  data = make_images(
    space, o.calibration_images, o.validation_images, o.seed, o.data
  )
  return space.replace(
    n_classes=data.n_classes, image_channels=data.image_channels
  ), data


def distinct_blocks(
  space: BlockSpace, rng: np.random.Generator, n: int
) -> np.ndarray:
  """Random blocks in canonical form, no two the same: `int32[n, L]`."""
  if n > space.size // 4:
    raise UserError(
      f"--n is {n // 2}; space {space.name!r} has {space.size:,} blocks, which"
      " is too few."
    )
  found: dict[bytes, np.ndarray] = {}
  while len(found) < n:
    for arch in space.canonical(space.sample(rng, n)):
      found.setdefault(arch.tobytes(), arch)
  return np.stack(list(found.values())[:n])


class _Alone:
  """Every block as a network and a program of its own."""

  def __init__(
    self, space: BlockSpace, net: NetConfig, data: Dataset,
    config: ScoreConfig, placement: Placement, tile: int,
  ) -> None:  # fmt: skip
    self._space, self._net = space, net
    self._images = Images.of(data.validation, data, tile, placement)
    self._calibration = Images.of(
      calibration_split(data, config), data, config.batch_size, placement
    )
    self._runs: list = []

  def build_and_score(
    self, variables: Variables, archs: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Builds, compiles and runs a network for each block."""
    host = jax.device_get(variables)
    self._runs, found = [], []
    for arch in archs:
      network = GraphNetwork(block_graph(self._space, arch), self._net)
      own = jax.device_put(inherit_block(self._space, arch, host))
      self._runs.append(functools.partial(_program(network), own))
      # As a loop over candidates does: one after the other.
      found.append(jax.device_get(self._run(self._runs[-1])))
    return self._means(found)

  def score(self) -> dict[str, np.ndarray]:
    """Runs all of them again."""
    return self._means([jax.device_get(self._run(run)) for run in self._runs])

  def _means(self, found: list[dict]) -> dict[str, np.ndarray]:
    return {
      name: np.array(
        [self._images.real(f[name]).mean(dtype=np.float64) for f in found]
      )
      for name in METRICS
    }

  def _run(self, run):
    return run(self._calibration, self._images)


def _program(network: GraphNetwork):
  """A compiled function that calibrates and scores one network."""

  def score(variables, calibration, images):
    def measure(x, _):
      apply = functools.partial(network.apply, mutable=["batch_stats"])
      return apply(variables, x, False)[1]["batch_stats"]

    stats = merge_stats(calibration.map(measure))
    own = {**variables, "batch_stats": {**variables["batch_stats"], **stats}}

    def batch(x, y):
      logits = network.apply(own, x)
      return {name: f(logits, y) for name, f in METRICS.items()}

    return images.map(batch)

  return jax.jit(score)
