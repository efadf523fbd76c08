"""A super-network of parallel kernels for small grey images (ours).

For digits and Fashion-MNIST on a laptop CPU. A block adds convolutions of three
sizes to its skip, so that whole operations can be dropped.
"""

from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import Add, Conv, Norm, Relu
from jaxnas.spaces.masks import MaskSpace

KERNELS = (1, 3, 5)


def supnet_small(
  width: int = 16, blocks: int = 2, image_size: int = 8, n_classes: int = 10,
  image_channels: int = 1, stem_stride: int = 1,
) -> MaskSpace:  # fmt: skip
  """Two stages of residual blocks, the second one of half size, double width.

  Args:
    width: channels of the stem and the first stage.
    blocks: residual blocks of each stage.
    image_size: height and width of the images, in pixels.
    n_classes: outputs of the classifier.
    image_channels: 1 for grey, 3 for colour.
    stem_stride: 1, or 2 to halve the images at once.
  """
  draft = Draft()
  # Not gated: its inputs are the raw pixels.
  x = draft.add("stem", Conv(width, 3, stem_stride, gate="none"), "images")
  x = draft.add("stem_norm", Norm(), x)
  for stage in range(2):
    for block in range(blocks):
      stride = 2 if stage and not block else 1
      at = draft.within(f"stage{stage}.block{block}")
      x = _block(at, x, width * 2**stage, stride)
  draft.classify(draft.add("relu", Relu(), x))
  return draft.space("supnet-small", image_size, n_classes, image_channels)


def _block(draft: Draft, x: str, features: int, stride: int) -> str:
  branches = [
    draft.relu_conv_norm(f"conv{k}", x, features, kernel=k, stride=stride)
    for k in KERNELS
  ]
  if stride > 1:
    x = draft.conv_norm("skip", x, features, stride=stride)
  return draft.add("sum", Add(), x, *branches)
