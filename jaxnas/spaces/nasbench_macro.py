"""The NAS-Bench-Macro space (Su et al., CVPR 2021, arXiv 2103.11922).

8 layers x 3 choices on 32 x 32 images, every arch trained by its authors. The
first choice of a layer that changes the shape is a strided 1x1 convolution.
"""

from jaxnas.spaces.base import Layer, Space
from jaxnas.spaces.ops import Conv, Identity, MBConv

# (features, layers); the first layer of each stage has stride 2.
STAGES = ((64, 2), (128, 3), (256, 3))


def nasbench_macro() -> Space:
  """Builds the space: 3^8 = 6,561 archs, 3,969 of them distinct networks."""
  choices = (Identity(), MBConv(3, 3, "relu"), MBConv(6, 5, "relu"))
  layers = tuple(
    Layer(choices, features, 2 if i == 0 else 1)
    for features, depth in STAGES
    for i in range(depth)
  )
  return Space(
    name="nasbench-macro",
    image_size=32,
    image_channels=3,
    n_classes=10,
    stem=(Layer((Conv(3, "relu"),), 32),),
    layers=layers,
    head=(Layer((Conv(1, "relu"),), 1280),),
    presets=(("best", "22212202"),),
  )
