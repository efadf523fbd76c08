"""The space of channel masks of a graph: one bit for each gated channel.

An arch is `int32[L]`, L the gated input channels of all products in the order
of `Graph.groups`: 1 keeps a channel, 0 drops it. Written `x` and hexadecimal
digits, the first channel being the highest bit; the preset `full` keeps all.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError
from jaxnas.spaces.graph import Dropout, Graph, Group


@dataclasses.dataclass(frozen=True)
class MaskSpace:
  """All masks of a graph.

  Attributes:
    graph: the network that is masked.
  """

  graph: Graph

  def __post_init__(self) -> None:
    if not self.graph.groups:
      raise UserError(f"graph {self.graph.name!r} has no gated channels.")
    for node in self.graph.nodes:
      # What a mask leaves would be constants of a kind that is not handled.
      if getattr(node.op, "bias", False) or isinstance(node.op, Dropout):
        raise UserError(
          f"graph {self.graph.name!r}, node {node.name!r}: a network whose"
          " channels are masked has no biased convolutions and no dropout."
        )

  @property
  def name(self) -> str:
    """Name of the graph."""
    return self.graph.name

  @property
  def groups(self) -> tuple[Group, ...]:
    """Channels that share a drop rate, in the order of an arch."""
    return self.graph.groups

  @functools.cached_property
  def n_layers(self) -> int:
    """Number of decisions L: gated channels."""
    return sum(g.channels for g in self.groups)

  @functools.cached_property
  def n_choices(self) -> np.ndarray:
    """Two for every channel, `int32[L]`."""
    return np.full(self.n_layers, 2, np.int32)

  @property
  def size(self) -> int:
    """Exact number of masks."""
    return 2**self.n_layers

  @property
  def presets(self) -> tuple[tuple[str, str], ...]:
    """The full network."""
    return (("full", self.to_string(np.ones(self.n_layers, np.int32))),)

  @property
  def image_size(self) -> int:
    """Height and width of the images, in pixels."""
    return self.graph.image_size

  @functools.cached_property
  def group_of(self) -> np.ndarray:
    """The group of each channel, `int32[L]`."""
    counts = [g.channels for g in self.groups]
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

  def replace(self, **fields) -> "MaskSpace":
    """A copy whose graph has some fields changed, such as `n_classes`."""
    return MaskSpace(self.graph.replace(**fields))

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws `n` masks uniformly, with replacement: `int32[n, L]`."""
    return rng.integers(0, 2, (n, self.n_layers), np.int32)

  def draw(
    self, rng: np.random.Generator, rates: np.ndarray, n: int = 1
  ) -> np.ndarray:
    """Draws masks whose channels are dropped independently.

    `drop = floor(u + p)`, u uniform in 0..1, as in the authors' code.

    Args:
      rng: NumPy generator.
      rates: drop rate of each group, `float[G]`.
      n: number of masks.

    Returns:
      `int32[n, L]`.
    """
    u = rng.random((n, self.n_layers))
    return 1 - np.floor(u + np.asarray(rates)[self.group_of]).astype(np.int32)

  def validate(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Checks archs and returns them as `int32[n, L]`.

    Raises:
      UserError: for a wrong length, or a value other than 0 and 1.
    """
    archs = arch_lib.as_archs(archs)
    if archs.shape[1] != self.n_layers:
      raise UserError(
        f"a mask of {archs.shape[1]} channels; {self.name!r} has"
        f" {self.n_layers} gated channels."
      )
    bad = np.argwhere((archs < 0) | (archs > 1))
    if len(bad):
      row, l = bad[0]
      raise UserError(
        f"value {archs[row, l]} at channel {l} of a mask of {self.name!r};"
        " legal: 0 (drop) and 1 (keep)."
      )
    return archs

  def to_string(self, arch: Sequence[int] | np.ndarray) -> str:
    """Writes one mask as `x` and hexadecimal digits."""
    bits = self.validate(arch)[0].astype(bool)
    return "x" + np.packbits(bits).tobytes().hex()

  def from_string(self, text: str) -> np.ndarray:
    """Reads one mask, `int32[L]`, from its text or from `full`.

    Raises:
      UserError: if it is neither.
    """
    clean = text.strip().lower()
    if clean == "full":
      return np.ones(self.n_layers, np.int32)
    length = -(-self.n_layers // 8)
    try:
      if not clean.startswith("x"):
        raise ValueError
      packed = np.frombuffer(bytes.fromhex(clean[1:]), np.uint8)
    except ValueError:
      packed = np.zeros(0, np.uint8)
    bits = np.unpackbits(packed)
    if len(packed) != length or bits[self.n_layers :].any():
      raise UserError(
        f"{text[:24]!r} is not a mask of {self.name!r}: x and {2 * length}"
        f" hexadecimal digits for {self.n_layers} gated channels, or full."
      )
    return bits[: self.n_layers].astype(np.int32)

  def kept_operations(self, archs: np.ndarray) -> np.ndarray:
    """Share of groups that keep a channel (paper, sec. 2), `float64[n]`."""
    archs = self.validate(archs)
    starts = [g.offset for g in self.groups]
    return (np.maximum.reduceat(archs, starts, axis=1) > 0).mean(1)

  def to_json(self) -> dict:
    """Returns the graph as a JSON object."""
    return self.graph.to_json()

  @classmethod
  def from_json(cls, value: dict) -> "MaskSpace":
    """Inverse of `to_json`."""
    return cls(Graph.from_json(value))
