"""A masked network of your own, as data, for the method pgnas.

python -m jaxnas cost --space docs/examples/my_masked_network.py --arch full
"""

from jaxnas.spaces import MaskSpace
from jaxnas.spaces.draft import Draft
from jaxnas.spaces.graph import Add, Pool


def get_space(width: int = 16, blocks: int = 2) -> MaskSpace:
  """Each block adds a 3x3 and a 5x5 kernel to its skip; 8 x 8 grey images.

  Every convolution gets a drop rate for its input channels; `gate="none"`
  spares one, `gate="sources"` gives each part of a concatenation its own.
  """
  draft = Draft()
  x = draft.conv_norm("stem", "images", width, kernel=3, gate="none")
  for b in range(blocks):
    block = draft.within(f"block{b}")
    branches = [
      block.relu_conv_norm(f"conv{k}", x, width, kernel=k) for k in (3, 5)
    ]
    x = block.add("sum", Add(), x, *branches)
  x = draft.add("halve", Pool("mean", 3, 2), x)
  draft.classify(x)
  return draft.space("my-masked-network", 8, 10, 1)
