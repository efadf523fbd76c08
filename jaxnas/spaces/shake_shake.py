"""SupNet-M and SupNet-MI of PGNAS: shake-shake residual networks (authors).

As in the released TensorFlow code, but for the padding of strided convolutions:
that pads one pixel at the lower right, here it is one at the upper left (ours).
"""

from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import Add, Relu, Shake
from jaxnas.spaces.masks import MaskSpace

# The stem has 16 channels, stage s has 16 * 2^s * width (authors).
STEM = 16


def supnet_m(width: int = 6, **options) -> MaskSpace:
  """SupNet-M, `26 2x96d` (paper): 26,170,042 weights for 10 classes.

  Args:
    width: factor on the stages' 16, 32 and 64 channels, k of the paper.
    **options: `blocks` of each of the three stages, default 4; `image_size` 32,
      `n_classes` 10, `image_channels` 3.
  """
  return _shake_shake("supnet-m", width, **options)


def supnet_mi(width: int = 10, **options) -> MaskSpace:
  """SupNet-MI: 72,657,082 weights; arguments as of `supnet_m`.

  Width 10 and not 12: the paper says that the channels double, but its 72.7M
  parameters are those of the code's `shake_shake_160` (ours).
  """
  return _shake_shake("supnet-mi", width, **options)


def _shake_shake(
  name, width, blocks=4, image_size=32, n_classes=10, image_channels=3
):
  draft = Draft()
  x, channels = draft.conv_norm("stem", "images", STEM, kernel=3), STEM
  for stage in range(3):
    features = 16 * 2**stage * width
    for block in range(blocks):
      stride = 2 if stage and not block else 1
      at = draft.within(f"stage{stage}.block{block}")
      x = _block(at, x, features, stride, channels)
      channels = features
  draft.classify(draft.add("relu", Relu(), x))
  return draft.space(name, image_size, n_classes, image_channels)


def _block(
  draft: Draft, x: str, features: int, stride: int, channels: int
) -> str:
  branches = []
  for branch in "ab":
    y = draft.relu_conv_norm(f"{branch}1", x, features, kernel=3, stride=stride)
    branches.append(draft.relu_conv_norm(f"{branch}2", y, features, kernel=3))
  if channels != features:
    # Also in stage 0, whose stride is 1: both paths see every pixel, and the
    # second one is still moved by one (authors).
    x = draft.factorized_reduction("skip", x, features, stride)
  return draft.add("sum", Add(), x, draft.add("shake", Shake(), *branches))
