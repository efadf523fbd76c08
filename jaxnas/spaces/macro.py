"""How blocks are stacked into a network."""

import dataclasses
from typing import Literal

from jaxnas.errors import UserError, unknown
from jaxnas.spaces.ops import is_count


@dataclasses.dataclass(frozen=True)
class Macro:
  """A macro-architecture: stem, stages of equal blocks, head.

  Attributes:
    stem: channels of the first convolutions, 3x3 each.
    stem_strides: one convolution for each; 1 or 2.
    stages: `(features, blocks)` of each stage; 2x2 max pooling between stages.
    output: `concat` joins the leaves of a block at full width (BlockQNN);
      `project` brings the input of a block and the joined leaves to the stage's
      features, by a rectifier, a 1x1 convolution and batch norm, so that
      everything inside has one width (ours, what the interpreter computes).
    hidden: features of a fully connected layer with rectifier before the
      classifier; 0 for none.
    dropout: rate between that layer and the classifier.
    published: a network with rules of its own instead of all of the above,
      `irlas-mobile`; only its own block can be built.
  """

  stem: int = 32
  stem_strides: tuple[int, ...] = (1,)
  stages: tuple[tuple[int, int], ...] = ((32, 4), (64, 4), (128, 4))
  output: Literal["concat", "project"] = "project"
  hidden: int = 0
  dropout: float = 0.0
  published: str = ""

  def __post_init__(self) -> None:
    if self.output not in ("concat", "project"):
      raise unknown("output of a macro", self.output, ("concat", "project"))
    if self.published not in ("", "irlas-mobile"):
      raise unknown("published macro", self.published, ("irlas-mobile",))
    counts = [self.stem, *(n for stage in self.stages for n in stage)]
    if not self.stages or not all(map(is_count, counts)):
      raise UserError(
        f"macro with stem {self.stem!r} and stages {self.stages!r}; legal:"
        " whole numbers, 1 or more, and at least one stage."
      )
    if not set(self.stem_strides) <= {1, 2} or not self.stem_strides:
      raise UserError(
        f"macro with stem_strides {self.stem_strides!r}; legal: 1 and 2."
      )
    if self.hidden and not is_count(self.hidden):
      raise UserError(
        f"macro with hidden {self.hidden!r}; legal: a whole number, 0 or more."
      )
    if not 0 <= self.dropout < 1 or (self.dropout and not self.hidden):
      raise UserError(
        f"macro with dropout {self.dropout!r}; legal: 0 or more, below 1, and"
        " only behind a hidden layer."
      )

  def to_json(self) -> dict:
    """Returns the macro as a JSON object."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: dict) -> "Macro":
    """Inverse of `to_json`."""
    stages = tuple(tuple(stage) for stage in value["stages"])
    strides = tuple(value["stem_strides"])
    return cls(**{**value, "stages": stages, "stem_strides": strides})
