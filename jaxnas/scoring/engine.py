"""What the engines share: their inputs, and the spreading over devices."""

import abc
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from jaxnas import hosts
from jaxnas.config import BnMode
from jaxnas.errors import UserError
from jaxnas.nets import PathSupernet
from jaxnas.nets.mbconv import dtype_of
from jaxnas.nets.paths import Tree, Variables
from jaxnas.scoring.images import Images
from jaxnas.scoring.nodes import Place, chain
from jaxnas.sharding import Placement

Metric = Callable[[jax.Array, jax.Array], jax.Array]
# Of each metric its values, `[paths, b, B]`.
Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Engine(abc.ABC):
  """Scores distinct archs on batches of images.

  Attributes:
    supernet: the network.
    bn_mode: where batch-norm statistics come from.
    calibration: images that give them in the mode `recalibrate`.
    batch_size: images scored at once.
    metrics: functions of logits `[..., B, n_classes]` and labels `[B]`.
    placement: each of its devices takes a share of the candidates.
    max_live_bytes: bound on activations and statistics kept on each device,
      for engines that keep any.

  Raises:
    UserError: if a single path needs more.
  """

  supernet: PathSupernet
  bn_mode: BnMode
  calibration: Images
  batch_size: int
  metrics: Mapping[str, Metric]
  placement: Placement
  max_live_bytes: int

  @abc.abstractmethod
  def __call__(
    self,
    variables: Variables,
    archs: np.ndarray,
    images: Images,
    n: int,
  ) -> Values:
    """Scores archs.

    Args:
      variables: of the supernet.
      archs: `int32[m, L]`, distinct, in lexicographic order.
      images: always as many batches b.
      n: the first n batches are scored, at most b.

    Returns:
      Of each metric its values `[m, n, B]`.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class SharingEngine(Engine):
  """An engine that computes what candidates have in common once.

  Each device takes neighbouring candidates, so that sharing goes on there. Of
  several hosts each looks after its own devices.
  """

  def __post_init__(self) -> None:
    need = 2 * max(sum(self.node_bytes), sum(self.row_bytes))
    if need > self.max_live_bytes:
      raise UserError(
        f"score.max_live_bytes is {self.max_live_bytes:,}; one path of"
        f" {self.batch_size:,} images needs {need:,}. Raise it, or lower"
        " score.batch_size."
      )

  @functools.cached_property
  def places(self) -> tuple[Place, ...]:
    """The whole chain of the supernet."""
    return chain(self.supernet)

  @functools.cached_property
  def node_bytes(self) -> list[int]:
    """Activations behind a node of each place, for one batch of images."""
    item = dtype_of(self.supernet.net).itemsize
    shapes = [p.shape for p in self.places]
    return [self.batch_size * s.out_size**2 * s.features * item for s in shapes]

  @functools.cached_property
  def row_bytes(self) -> list[int]:
    """Statistics of a node of each place, on every calibration batch."""
    batches = self.calibration.n_batches * (self.bn_mode == "recalibrate")
    return [8 * p.width * batches for p in self.places]

  @property
  def half(self) -> int:
    """Bytes for activations between layers, and bytes for statistics."""
    return self.max_live_bytes // 2

  @abc.abstractmethod
  def walk(
    self,
    variables: Variables,
    archs: np.ndarray,
    calibration: Images,
    images: Images,
    n: int,
    out: list,
  ) -> Iterator[None]:
    """Scores the candidates of one device, on which all arrays lie.

    Yields after each call of a program, and appends to `out` functions that
    wait for results and return `Values` of runs of candidates, in order.
    `archs` are `int32[m, places]`; else as in `__call__`.
    """

  def __call__(
    self,
    variables: Variables,
    archs: np.ndarray,
    images: Images,
    n: int,
  ) -> Values:
    """See `Engine`."""
    before, after = len(self.supernet.stem), len(self.supernet.head)
    archs = np.pad(archs, [(0, 0), (before, after)])  # their only choice
    devices = list(self.placement.mesh.devices.flat)
    shares = np.array_split(archs, min(len(devices), len(archs)))
    owners = [d.process_index for d in devices[: len(shares)]]
    results = [[] for _ in shares]
    walks = []
    for device, share, out in zip(devices, shares, results, strict=False):
      if device.process_index != hosts.index():
        continue
      local = on_device((variables, self.calibration, images), device)
      walks.append(self.walk(local[0], share, *local[1:], n, out))
    # Calls return before they have run: dealing them out in turn keeps all
    # devices busy.
    for _ in itertools.zip_longest(*walks):
      pass
    parts = [fetch() for fetch in itertools.chain(*results)]
    # A host may have less candidates than devices, and none of its own.
    size, y = images.batch_size, images.y[0]
    logits = jax.ShapeDtypeStruct(
      (size, self.supernet.space.n_classes), np.float32
    )
    owners = np.repeat(owners, [len(share) for share in shares])
    values = {}
    for name, metric in self.metrics.items():
      kind = jax.eval_shape(metric, logits, y).dtype
      none = np.zeros((0, n, size), kind)
      own = np.concatenate([none, *(part[name] for part in parts)])
      values[name] = hosts.gather_rows(own, owners)
    return values


def on_device(tree: Tree, device: jax.Device) -> Tree:
  """A replicated tree as arrays of one device, copied only if it must be."""

  def local(a):
    if isinstance(a, jax.Array) and a.is_fully_replicated:
      for shard in a.addressable_shards:
        if shard.device == device:
          return shard.data
    return jax.device_put(a, device)

  return jax.tree.map(local, tree)
