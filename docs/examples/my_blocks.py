"""A space of blocks of your own, as data, for the method irlas.

python -m jaxnas cost --space docs/examples/my_blocks.py --arch two-paths
"""

from jaxnas.spaces import BlockSpace
from jaxnas.spaces.macro import Macro


def get_space(width: int = 8, max_layers: int = 5) -> BlockSpace:
  """Blocks of separable convolutions, stacked twice; 8 x 8 grey images.

  A block is written layer by layer: the operation, and the layers that it
  reads, 0 being the block's input. What no layer reads is joined at its end.
  """
  return BlockSpace(
    name="my-blocks",
    image_size=8,
    image_channels=1,
    n_classes=10,
    max_layers=max_layers,
    convs="separable",
    macro=Macro(stem=width, stages=((width, 1), (2 * width, 1))),
    presets=(
      ("two-paths", "conv3@0-conv5@0-add@1+2"),
      ("residual", "conv3@0-conv3@1-add@0+2"),
    ),
  )
