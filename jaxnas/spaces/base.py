"""A search space as data: a chain of layers, each with its choices."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError
from jaxnas.spaces.ops import Op, Shape, is_count, op_from_json, op_to_json


@dataclasses.dataclass(frozen=True)
class Layer:
  """One place in the chain, with the operations that may fill it.

  Attributes:
    choices: the candidate operations; one for a layer that is not searched.
    features: channels of the output, whichever choice is taken.
    stride: 1 or 2.
  """

  choices: tuple[Op, ...]
  features: int
  stride: int = 1


@dataclasses.dataclass(frozen=True)
class Space:
  """All archs of a chain of layers.

  Attributes:
    name: registered name.
    image_size: height and width of the images, in pixels.
    image_channels: 1 for grey, 3 for colour.
    n_classes: outputs of the classifier.
    stem: fixed layers before the searched ones (one choice each).
    layers: the searched layers, in order.
    head: fixed layers after them; then global average pooling, dropout and a
      linear classifier with bias.
    dropout: rate before the classifier for stand-alone training.
    presets: named archs, `((name, arch string), ...)`.
  """

  name: str
  image_size: int
  image_channels: int
  n_classes: int
  stem: tuple[Layer, ...]
  layers: tuple[Layer, ...]
  head: tuple[Layer, ...] = ()
  dropout: float = 0.0
  presets: tuple[tuple[str, str], ...] = ()

  def __post_init__(self) -> None:
    for field in ("image_size", "image_channels", "n_classes"):
      if not is_count(getattr(self, field)):
        raise UserError(
          f"space {self.name!r}: {field} is {getattr(self, field)!r}; legal: a"
          " whole number, 1 or more."
        )
    if not 0 <= self.dropout < 1:
      raise UserError(
        f"space {self.name!r}: dropout is {self.dropout}; legal: 0 or more,"
        " below 1."
      )
    if not self.layers:
      raise UserError(f"space {self.name!r} has no searched layer.")
    for l, layer in enumerate(self.layers):
      names = [op.name for op in layer.choices]
      if not names or len(set(names)) < len(names):
        raise UserError(
          f"space {self.name!r}, layer {l}: choices {names} must be distinct"
          " and at least one."
        )
    for layer in self.stem + self.head:
      if len(layer.choices) != 1:
        raise UserError(
          f"space {self.name!r}: stem and head layers have one choice each."
        )
    for part in ("stem", "layers", "head"):
      for i, layer in enumerate(getattr(self, part)):
        where = f"space {self.name!r}, {part}[{i}]"
        if layer.stride not in (1, 2):
          raise UserError(f"{where}: stride is {layer.stride!r}; legal: 1, 2.")
        if not is_count(layer.features):
          raise UserError(
            f"{where}: features is {layer.features!r}; legal: a whole number, 1"
            " or more."
          )

  @property
  def n_layers(self) -> int:
    """Number of decisions `L`."""
    return len(self.layers)

  @functools.cached_property
  def n_choices(self) -> np.ndarray:
    """Choices of each layer, `int32[L]`."""
    return np.array([len(layer.choices) for layer in self.layers], np.int32)

  @property
  def size(self) -> int:
    """Exact number of archs."""
    return math.prod(int(n) for n in self.n_choices)

  @functools.cached_property
  def shapes(self) -> tuple[tuple[Shape, ...], ...]:
    """Shapes of the stem, the searched layers and the head, in order."""
    size, channels = self.image_size, self.image_channels
    parts = []
    for part in (self.stem, self.layers, self.head):
      shapes = []
      for layer in part:
        out = -(-size // layer.stride)
        shapes.append(Shape(size, channels, out, layer.features, layer.stride))
        size, channels = out, layer.features
      parts.append(tuple(shapes))
    return tuple(parts)

  @property
  def layer_shapes(self) -> tuple[Shape, ...]:
    """Shapes of the searched layers."""
    return self.shapes[1]

  @property
  def out_features(self) -> int:
    """Inputs of the classifier."""
    return (self.stem + self.layers + self.head)[-1].features

  def replace(self, **fields) -> "Space":
    """Returns a copy with some fields changed, such as `n_classes`."""
    return dataclasses.replace(self, **fields)

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws `n` archs uniformly, with replacement: `int32[n, L]`."""
    draws = rng.integers(0, self.n_choices, size=(n, self.n_layers))
    return draws.astype(np.int32)

  def validate(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Checks archs and returns them as `int32[n, L]`.

    Args:
      archs: one arch `[L]` or many `[n, L]`.

    Raises:
      UserError: naming the layer, the value and the legal range.
    """
    archs = arch_lib.as_archs(archs)
    if archs.shape[1] != self.n_layers:
      raise UserError(
        f"arch {arch_lib.to_string(archs[0])!r} has {archs.shape[1]} indices;"
        f" space {self.name!r} has {self.n_layers} layers."
      )
    bad = np.argwhere((archs < 0) | (archs >= self.n_choices))
    if len(bad):
      row, l = bad[0]
      raise UserError(
        f"arch {arch_lib.to_string(archs[row])!r}: index {archs[row, l]} at"
        f" layer {l} is outside 0..{self.n_choices[l] - 1} of space"
        f" {self.name!r}."
      )
    return archs

  def to_string(self, arch: Sequence[int] | np.ndarray) -> str:
    """Writes one arch as text."""
    return arch_lib.to_string(self.validate(arch)[0])

  def from_string(self, text: str) -> np.ndarray:
    """Reads one arch, `int32[L]`, from text or from a preset's name.

    Raises:
      UserError: if it is neither a preset nor a legal arch of this space.
    """
    presets = {name.lower(): text for name, text in self.presets}
    key = text.strip().lower()
    if key in presets:
      return self.validate(arch_lib.from_string(presets[key]))[0]
    try:
      arch = arch_lib.from_string(text)
    except UserError as error:
      known = f", or a preset ({', '.join(presets)})" if presets else ""
      raise UserError(
        f"arch {text!r} is not {self.n_layers} choice indices of space"
        f" {self.name!r}, written 2-0-3 or 203{known}."
      ) from error
    return self.validate(arch)[0]

  def choice_names(self, arch: Sequence[int] | np.ndarray) -> list[str]:
    """Returns the operation names of one arch, layer by layer."""
    arch = self.validate(arch)[0]
    return [
      layer.choices[c].name for layer, c in zip(self.layers, arch, strict=True)
    ]

  def to_json(self) -> dict:
    """Returns the whole space as a JSON object."""
    value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    for part in ("stem", "layers", "head"):
      value[part] = [
        {
          "choices": [op_to_json(op) for op in layer.choices],
          "features": layer.features,
          "stride": layer.stride,
        }
        for layer in value[part]
      ]
    value["presets"] = [list(p) for p in self.presets]
    return value

  @classmethod
  def from_json(cls, value: dict) -> "Space":
    """Inverse of `to_json`."""
    fields = dict(value)
    for part in ("stem", "layers", "head"):
      fields[part] = tuple(
        Layer(
          tuple(op_from_json(op) for op in layer["choices"]),
          layer["features"],
          layer["stride"],
        )
        for layer in fields[part]
      )
    fields["presets"] = tuple(tuple(p) for p in fields["presets"])
    return cls(**fields)
