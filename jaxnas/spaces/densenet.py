"""SupNet-D-121 of PGNAS: DenseNet-121 with every dense link gated (authors)."""

from collections.abc import Sequence

from jaxnas.errors import unknown
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import Concat, Conv, Norm, Pool, Relu
from jaxnas.spaces.masks import MaskSpace

# (kernel, stride, features): the released code's stem, and the paper's.
STEMS = {"deep": ((3, 2, 32), (3, 1, 32), (3, 1, 64)), "plain": ((7, 2, 64),)}


def supnet_d121(
  stem: str = "deep", blocks: Sequence[int] = (6, 12, 24, 16),
  growth: int = 32, image_size: int = 224, n_classes: int = 1000,
  image_channels: int = 3,
) -> MaskSpace:  # fmt: skip
  """DenseNet-121: 638 groups, one for each source of each 1x1 convolution.

  Stem and classifier are not gated (authors). A source is the output of one
  dense layer, or all that the block before hands on.

  Args:
    stem: `deep`, three 3x3 convolutions (authors), or `plain`, one of 7x7
      (paper).
    blocks: dense layers of each block; (6, 12, 32, 32) makes DenseNet-169.
    growth: features that a dense layer adds.
    image_size: height and width of the images, in pixels.
    n_classes: outputs of the classifier.
    image_channels: 1 for grey, 3 for colour.

  Raises:
    UserError: for an unknown stem.
  """
  if stem not in STEMS:
    raise unknown("stem of supnet-d121", stem, STEMS)
  draft, x, channels = Draft(), "images", 0
  for i, (kernel, stride, channels) in enumerate(STEMS[stem]):
    x = draft.conv_norm(
      f"stem{i}", x, channels, kernel=kernel, stride=stride, gate="none"
    )
    x = draft.add(f"stem{i}_relu", Relu(), x)
  x = draft.add("stem_pool", Pool("max", 3, 2), x)
  for b, layers in enumerate(blocks):
    features = [x]
    for i in range(layers):
      at = draft.within(f"block{b}.layer{i}")
      features.append(_dense_layer(at, features, growth))
    x = draft.add(f"block{b}.join", Concat(), *features)
    channels += layers * growth
    if b < len(blocks) - 1:
      channels //= 2
      at = draft.within(f"transition{b}")
      x = _norm_conv(at, "conv", x, channels)
      x = at.add("pool", Pool("mean", 2, 2), x)
  x = draft.add("relu", Relu(), draft.add("norm", Norm(), x))
  draft.classify(x, "none")
  return draft.space("supnet-d121", image_size, n_classes, image_channels)


def _norm_conv(draft: Draft, name: str, x: str, features: int, **conv) -> str:
  conv = {"gate": "sources", **conv}
  x = draft.add(f"{name}_relu", Relu(), draft.add(f"{name}_norm", Norm(), x))
  return draft.add(name, Conv(features, **conv), x)


def _dense_layer(draft: Draft, features: list[str], growth: int) -> str:
  x = draft.add("join", Concat(), *features)
  x = _norm_conv(draft, "conv1", x, 4 * growth)
  return _norm_conv(draft, "conv3", x, growth, kernel=3, gate="one")
