"""A space small enough to benchmark in seconds; the tests name this file."""

from jaxnas.spaces import Conv, Layer, MBConv, Space


def get_space(layers: int = 2, unequal: bool = False) -> Space:
  """Layers of two choices on 6 x 6 images; one more choice if `unequal`."""
  pair = (MBConv(1, 3), MBConv(2, 3))
  last = (*pair, MBConv(1, 5)) if unequal else pair
  chain = [pair] * (layers - 1) + [last]
  return Space(
    name="bench-tiny", image_size=6, image_channels=3, n_classes=4,
    stem=(Layer((Conv(3),), 4),),
    layers=tuple(
      Layer(ops, 6, 2 if l == 0 else 1) for l, ops in enumerate(chain)
    ),
    head=(Layer((Conv(1),), 8),),
  )  # fmt: skip
