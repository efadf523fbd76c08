"""The mobile space of ProxylessNAS (arXiv 1812.00332), for its latency tables.

21 layers of 6 inverted bottlenecks, with "nothing" as a seventh choice wherever
the shape is kept; widths, depths and strides are the defaults of the authors'
search script.
"""

from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space

# (features, layers, stride of the first) of each stage.
STAGES = (
  (24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1),
)  # fmt: skip


def get_space() -> Space:
  """Builds the space, 224 x 224, 6^6 x 7^15 archs."""
  choices = tuple(MBConv(e, k) for k in (3, 5, 7) for e in (3, 6))
  layers = []
  for features, depth, stride in STAGES:
    layers.append(Layer(choices, features, stride))
    layers += [Layer((*choices, Identity()), features)] * (depth - 1)
  return Space(
    name="proxyless",
    image_size=224,
    image_channels=3,
    n_classes=1000,
    stem=(
      Layer((Conv(3),), 32, stride=2),
      Layer((MBConv(1, 3, residual=False),), 16),
    ),
    layers=tuple(layers),
    head=(Layer((Conv(1),), 1280),),
  )
