"""The FairNAS space (arXiv 1907.01845): 19 layers of 6 inverted bottlenecks.

Widths, strides, block and the three published archs are read from the authors'
model files and agree with the paper's Fig. 8. The index order of the choices is
that of an independent reimplementation (UniNAS). That layer 19 is searched is
an assumption: all published models use E6K5 there.
"""

from jaxnas.spaces.base import Layer, Space
from jaxnas.spaces.ops import Conv, MBConv

# (features, layers, stride of the first): 19 layers in six stages.
STAGES = (
  (32, 2, 2),
  (40, 4, 2),
  (80, 4, 2),
  (96, 4, 1),
  (192, 4, 2),
  (320, 1, 1),
)
PRESETS = (
  ("fairnas-a", "20" "2350" "0551" "3113" "3535" "4"),
  ("fairnas-b", "10" "1031" "2031" "0320" "5453" "4"),
  ("fairnas-c", "10" "2000" "0003" "0000" "5533" "4"),
)  # fmt: skip


def fairnas(se_ratio: float = 0.0, act: str = "relu6") -> Space:
  """Builds the ImageNet space, 224 x 224, 6^19 archs.

  Args:
    se_ratio: squeeze-and-excitation ratio of the searched blocks; the authors
      publish 1.0 and 0.5, both with `act="swish"`.
    act: activation inside the searched blocks.
  """
  return _chain("fairnas", 224, 1000, se_ratio, act, stem_stride=2, first=2)


def fairnas_cifar(se_ratio: float = 0.0, act: str = "relu6") -> Space:
  """Builds the same space for 32 x 32 images (ours).

  The first two downsamplings are left out, so that the last layers see 4 x 4.
  """
  return _chain("fairnas-cifar", 32, 10, se_ratio, act, stem_stride=1, first=1)


def _chain(name, size, n_classes, se_ratio, act, stem_stride, first) -> Space:
  choices = tuple(
    MBConv(expand, kernel, act, se_ratio)
    for expand in (3, 6)
    for kernel in (3, 5, 7)
  )
  layers = []
  for stage, (features, depth, stride) in enumerate(STAGES):
    strides = [first if stage == 0 else stride] + [1] * (depth - 1)
    layers += [Layer(choices, features, s) for s in strides]
  stem = (
    Layer((Conv(3),), 32, stem_stride),
    Layer((MBConv(1, 3, residual=False),), 16),
  )
  return Space(
    name, size, 3, n_classes, stem, tuple(layers),
    head=(Layer((Conv(1),), 1280),), dropout=0.2, presets=PRESETS,
  )  # fmt: skip
