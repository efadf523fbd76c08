"""What the benchmarks take; the command line reads flags from here.

No JAX is imported, so that help and a wrong flag answer at once.
"""

import dataclasses
from typing import Literal

from jaxnas.config import BnMode, PredictorConfig, ScoreConfig


@dataclasses.dataclass(frozen=True)
class Options:
  """What every benchmark takes."""

  space: str = "fairnas-cifar"
  """Registered space, or a Python file with `get_space`."""
  precision: Literal["float32", "bfloat16"] = "float32"
  """Type of activations and products."""
  repeats: int = 5
  """Timed rounds; each arm takes one turn in each."""
  seed: int = 0
  """Of all that is drawn: weights, images, candidates, paths."""
  json: bool = False
  """Print one JSON object on stdout."""


@dataclasses.dataclass(frozen=True)
class ScoreOptions(Options):
  """Candidates per second: the scoring engine beside the serial loop.

  Both arms score the same candidates on the same images with the same weights,
  turn about in one process; their scores are compared first. A `segment` shares
  one prefix and varies the last 7 layers; `offspring` descend from 20 parents
  with 10 % of their layers redrawn.
  """

  n: int = 1000
  """Candidates of a set that does not give its own number."""
  sets: tuple[str, ...] = ("uniform", "segment", "offspring:200")
  """`uniform`, `segment`, `offspring`, each with its number if it has one."""
  calibration_images: int = 64
  """Images that recalibrate batch norm for each candidate."""
  validation_images: int = 64
  """Images that are scored."""
  batch_size: int = 64
  """Images at once, in both arms."""
  data: str | None = None
  """Source of images such as `digits`; default seeded noise."""
  engine: Literal["auto", "wavefront", "routed", "serial"] = "auto"
  """Engine under test, as `score.engine` of a config."""
  max_live_bytes: int = ScoreConfig().max_live_bytes
  """Bound on the activations that the engine keeps."""
  serial_sample: int = 32
  """Candidates that the serial loop times; scaled to the set."""
  growth: bool = False
  """Also score 10, 100, 1,000 and 10,000 candidates with the engine."""


@dataclasses.dataclass(frozen=True)
class MaskOptions(Options):
  """Masks per second: many masks of one network beside a serial loop.

  All arms score the same masks on the same images with the same weights, turn
  about in one process; their scores are compared first. A serial loop is one
  compiled program that takes a mask a call over all images; the faster of two
  counts, whole batches and few images at once.
  """

  space: str = "supnet-small"
  """Registered masked network, or a Python file with `get_space`."""
  options: str = "{}"
  """Arguments of the space as JSON, `{"width": 32}`."""
  n: int = 500
  """Masks, scored in one call."""
  rates: str = "0.3"
  """Drop rates that masks are drawn from: one for all groups; `published`, each
  group's own from the histogram of the released DenseNet-121 run; or the
  `posterior.json` of a run."""
  bn_mode: BnMode = "running"
  """Where batch-norm statistics come from, as `score.bn_mode`."""
  calibration_images: int = 64
  """Images that recalibrate batch norm for each mask, if they do."""
  validation_images: int = 256
  """Images that are scored."""
  batch_size: int = 256
  """Images at once, in all arms."""
  data: str | None = None
  """Source of images such as `digits`; default seeded noise."""
  chunks: tuple[int, ...] = (2, 4, 8, 16, 32)
  """Masks vectorised together, to compare with the default of this device."""
  max_live_bytes: int = ScoreConfig().max_live_bytes
  """Bound on the activations of a chunk."""
  sample: int = 64
  """Masks that all but the default form time; scaled to all."""


@dataclasses.dataclass(frozen=True)
class BlockOptions(Options):
  """New blocks per minute: the interpreter beside a network for each block.

  Both arms score the same random blocks on the same images with the same
  weights; their scores are compared first. The interpreter is compiled once,
  each network of its own is built and compiled before it runs.
  """

  space: str = "blocks-digits"
  """Registered space of blocks, or a Python file with `get_space`."""
  options: str = "{}"
  """Arguments of the space as JSON, `{"max_layers": 10}`."""
  n: int = 24
  """Blocks, all of them different."""
  calibration_images: int = 256
  """Images that recalibrate batch norm for each block."""
  validation_images: int = 359
  """Images that are scored."""
  batch_size: int = 512
  """Images at once."""
  data: str | None = None
  """Source of images such as `digits`; default seeded noise."""


@dataclasses.dataclass(frozen=True)
class TrainOptions(Options):
  """Images per second of the strict-fair step beside its paths in turn.

  Both arms take the same steps from the same weights, turn about in one
  process; loss, gradient norm and new weights are compared first.
  """

  batch_sizes: tuple[int, ...] = (32, 64, 128)
  """Images of a path's batch."""
  remat: bool = False
  """Recompute each layer's inner activations in the backward pass."""
  data: str | None = None
  """Source of images such as `digits`; default seeded noise."""
  steps: int = 1
  """Steps of one timed round."""


@dataclasses.dataclass(frozen=True)
class KernelOptions(Options):
  """Every form of each convolution of a space, beside XLA's own."""

  batch_size: int = 32
  """Images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileOptions(Options):
  """Latency table of a space, measured on this device.

  Every distinct block is timed as a compiled inference program of its own, and
  so are whole networks that the table has not seen, all turn about. What the
  table predicts for them is reported before and after correction.
  """

  space: str = dataclasses.field()
  """Registered space, or a Python file with `get_space`."""
  out: str
  """File of the table, `.csv` (or `.yaml`, as ProxylessNAS writes it)."""
  options: str = "{}"
  """Arguments of the space as JSON, `{"se_ratio": 0.5}`."""
  batch_size: int = 1
  """Images of one call."""
  repeats: int = 10
  """Timed rounds; every program takes one turn in each."""
  held_out: int = 20
  """Whole networks, uniformly drawn; half of them fit the correction."""


@dataclasses.dataclass(frozen=True)
class InputOptions(Options):
  """Images per second of the stream beside those of a training step.

  The stream decodes batches as a training would take them, for a number of
  threads each; the step is the strict-fair one on images in memory. A stream
  keeps up if its ratio to the step is above 1.
  """

  data: str | None = None
  """Source of images such as `tfds:NAME@DIR`; default smooth seeded noise,
  prepared as JPEG files of the space's size."""
  batch_size: int = 128
  """Images of a batch."""
  threads: tuple[int, ...] = ()
  """Threads that decode; default 1, 2, 4, ... up to one for each core."""
  batches: int = 20
  """Batches of a timed round of the stream."""
  repeats: int = 3
  """Timed rounds; each arm takes one turn in each."""


@dataclasses.dataclass(frozen=True)
class PredictOptions:
  """Sub-archs per second: every predictor over all of one segment.

  Labels are random; what is timed does not depend on them. Seconds of the fit
  are those of a second one, compiled before.
  """

  nodes: int = 7
  """Cells of the segment, its super-cell included."""
  choices: int = 6
  """Choices of each."""
  labels: int = 2000
  """Scored archs that the predictors are fitted to."""
  kinds: tuple[Literal["default", "gcn", "ridge", "mlp"], ...] = (
    "default", "gcn", "ridge", "mlp",
  )  # fmt: skip
  """Predictors."""
  ensemble: int = PredictorConfig().ensemble
  """Networks of a neural predictor."""
  repeats: int = 3
  """Timed rounds; each predictor takes one turn in each."""
  seed: int = 0
  """Of labels and fits."""
  json: bool = False
  """Print one JSON object on stdout."""
