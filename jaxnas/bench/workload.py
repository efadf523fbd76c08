"""Workloads of the benchmarks: candidate sets, images, weights, all seeded."""

import dataclasses
import json
import zlib

import jax
import numpy as np

from jaxnas.config import DataConfig, NetConfig
from jaxnas.data import Dataset, Split, load
from jaxnas.data.sources import fingerprint, moments
from jaxnas.errors import UserError, unknown
from jaxnas.nets import PathSupernet, Variables
from jaxnas.spaces import CHAINS, Graph, MaskSpace, Space, get_space

SETS = ("uniform", "segment", "offspring")
PARENTS = 20
MUTATION_RATE = 0.1
VARYING = 7  # layers of a segment that vary


def candidates(space: Space, kind: str, n: int, seed: int) -> np.ndarray:
  """Draws a candidate set such as a search would ask for.

  Args:
    space: the space.
    kind: `uniform`; `segment`, one random prefix of L - 7 layers (at least
      5/12 of L) shared by all, the rest uniform; or `offspring`, children of
      20 uniform parents, each a uniform pick of a parent in which every layer
      is redrawn with probability 0.1.
    n: size, at least 1; repeats are possible.
    seed: 0 or more; kinds draw from independent streams, and so do sizes.

  Returns:
    `int32[n, L]`.

  Raises:
    UserError: for an unknown kind, or a size or seed out of range.
  """
  if kind not in SETS:
    raise unknown("candidate set", kind, SETS)
  for name, value, least in (("n", n, 1), ("seed", seed, 0)):
    if value < least:
      raise UserError(f"{name} is {value}; it must be at least {least}.")
  rng = np.random.default_rng([seed, n, zlib.crc32(kind.encode())])
  archs = space.sample(rng, n)
  if kind == "segment":
    fixed = fixed_layers(space)
    archs[:, :fixed] = space.sample(rng, 1)[:, :fixed]
  elif kind == "offspring":
    parents = space.sample(rng, PARENTS)[rng.integers(0, PARENTS, n)]
    redrawn = rng.random(archs.shape) < MUTATION_RATE
    archs = np.where(redrawn, archs, parents)
  return archs


def fixed_layers(space: Space) -> int:
  """Layers at the start that the candidates of a `segment` share."""
  return max(space.n_layers - VARYING, -(-5 * space.n_layers // 12))


def space_options(text: str) -> dict:
  """Reads the arguments of a space, a JSON object.

  Raises:
    UserError: for anything else.
  """
  try:
    options = json.loads(text)
  except json.JSONDecodeError:
    options = None
  if not isinstance(options, dict):
    raise UserError(f"--options takes a JSON object, not {text!r}.")
  return options


def chain_space(name: str, **options) -> Space:
  """A space of choices, for what cannot use a masked network.

  Raises:
    UserError: for an unknown space, or a masked network.
  """
  space = get_space(name, **options)
  if not isinstance(space, Space):
    masked = isinstance(space, MaskSpace)
    kind, verb = (
      ("a masked network", "masks") if masked else ("of blocks", "blocks")
    )
    raise UserError(
      f"space {space.name!r} is {kind}, which has no chain of layers to choose"
      f" for; this takes {', '.join(CHAINS)} or a file with a Space, and"
      f" `bench {verb}` takes this one."
    )
  return space


@dataclasses.dataclass(frozen=True)
class Workload:
  """What a benchmark runs on, apart from the candidates.

  Attributes:
    space: with the data's classes and channels.
    supernet: the network.
    variables: its weights, `supernet.init(jax.random.key(seed))`.
    data: `train` holds the calibration images, `validation` the scored ones.
    seed: of weights and images.
  """

  space: Space
  supernet: PathSupernet
  variables: Variables
  data: Dataset
  seed: int


def make_workload(
  space_name: str,
  calibration_images: int,
  validation_images: int,
  seed: int,
  data: str | None = None,
  net: NetConfig | None = None,
) -> Workload:
  """Builds a workload.

  Args:
    space_name: registered space, or a Python file with `get_space`.
    calibration_images: images of the training split.
    validation_images: images of the validation split.
    seed: of weights and images.
    data: source of `jaxnas.data`, such as `digits`; None draws images of
      standard normal noise, quantised to uint8, with uniform labels.
    net: numerics of the supernet; default `NetConfig()`.

  Raises:
    UserError: for an unknown space or source, a size or seed out of range, or
      a source with fewer images.
  """
  space = chain_space(space_name)
  dataset = make_images(
    space, calibration_images, validation_images, seed, data
  )
  space = space.replace(
    n_classes=dataset.n_classes, image_channels=dataset.image_channels
  )
  supernet = PathSupernet(space, net or NetConfig())
  variables = supernet.init(jax.random.key(seed))
  return Workload(space, supernet, variables, dataset, seed)


def make_images(
  space: Space | Graph,
  calibration_images: int,
  validation_images: int,
  seed: int,
  data: str | None = None,
) -> Dataset:
  """The images of a workload; arguments and errors as of `make_workload`.

  Args:
    space: gives the size, channels and classes of noise.
    calibration_images: images of the training split.
    validation_images: images of the validation split.
    seed: of noise.
    data: source; None for noise.
  """
  sizes = {"train": calibration_images, "validation": validation_images}
  for name, n in sizes.items():
    if n < 1:
      raise UserError(f"the {name} images are {n}; they must be at least 1.")
  if seed < 0:
    raise UserError(f"seed is {seed}; it must be at least 0.")
  if data is None:
    return _noise(space, sizes, seed)
  return _read(space, sizes, data)


def _noise(space: Space | Graph, sizes: dict[str, int], seed: int) -> Dataset:
  rng = np.random.default_rng([seed, zlib.crc32(b"images")])
  side = space.image_size

  def split(n: int) -> Split:
    z = rng.standard_normal((n, side, side, space.image_channels))
    # Four deviations to either side fill the range of uint8.
    pixels = np.clip(np.rint(127.5 + 32 * z), 0, 255).astype(np.uint8)
    labels = rng.integers(0, space.n_classes, n).astype(np.int32)
    return Split(pixels, labels)

  splits = (split(sizes["train"]), split(sizes["validation"]), split(1))
  mean, std = moments(splits[0].images)
  return Dataset(
    *splits,
    class_names=tuple(str(c) for c in range(space.n_classes)),
    mean=mean,
    std=std,
    fingerprint=fingerprint(splits),
    source="noise",
  )


def _read(space: Space | Graph, sizes: dict[str, int], source: str) -> Dataset:
  full = load(DataConfig(source=source), space.image_size)
  parts = {}
  for name, n in sizes.items():
    split = getattr(full, name)
    if n > len(split):
      raise UserError(
        f"{source!r} has {len(split)} {name} images, not {n}; ask for fewer."
      )
    parts[name] = split.take(np.arange(n))
  return dataclasses.replace(
    full,
    **parts,
    fingerprint=fingerprint((parts["train"], parts["validation"], full.test)),
  )
