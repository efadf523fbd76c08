"""A search space of your own, as data: 4 layers x 3 choices on 32 x 32 RGB.

python -m jaxnas cost --space docs/examples/my_space.py --arch 0120
"""

from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space


def get_space(width: int = 16) -> Space:
  """Costs, text forms and the supernet all derive from this one value."""
  choices = (Identity(), MBConv(expand=3, kernel=3), MBConv(6, 5))
  return Space(
    name="my-space",
    image_size=32,
    image_channels=3,
    n_classes=10,  # replaced by the data's
    stem=(Layer((Conv(3),), width),),
    layers=(
      Layer(choices, width),
      Layer(choices, 2 * width, stride=2),
      Layer(choices, 2 * width),
      Layer(choices, 4 * width, stride=2),
    ),
    head=(Layer((Conv(1),), 128),),
  )
