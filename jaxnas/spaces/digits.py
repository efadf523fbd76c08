"""A small space for grey 8 x 8 or 16 x 16 images, made for a laptop CPU (ours).

8 layers x 6 inverted bottlenecks. The largest network costs more than eight
times as many multiply-adds as the smallest, so that a budget means something,
and kernel 1 sees no neighbours, so that choices differ in quality by more than
the noise of a few hundred test images. Only layer 3 changes the shape: with
more such layers, where no residual carries features past a choice, a supernet
this small takes several times longer to train.
"""

from jaxnas.errors import UserError
from jaxnas.spaces.base import Layer, Space
from jaxnas.spaces.ops import Conv, MBConv

# (features, stride of the first layer).
STAGES = ((12, 1), (24, 2))


def digits(
  image_size: int = 8, depths: tuple[int, int] | list[int] = (3, 5)
) -> Space:
  """Builds the space, 6^8 = 1,679,616 archs.

  Args:
    image_size: 8 (scikit-learn digits as they are) or 16.
    depths: searched layers of the two stages, each 1 or more; fewer are for
      trials.

  Raises:
    UserError: for another size, or depths that are not two such numbers.
  """
  if len(depths) != len(STAGES) or any(
    not isinstance(d, int) or d < 1 for d in depths
  ):
    raise UserError(
      f"space 'digits' takes depths [n, m], layers of its two stages, 1 or more"
      f" each, not {list(depths)}."
    )
  if image_size not in (8, 16):
    raise UserError(
      f"space 'digits' takes image_size 8 or 16, not {image_size}."
    )
  choices = tuple(MBConv(e, k) for e in (1, 4) for k in (1, 3, 5))
  layers = tuple(
    Layer(choices, features, stride if i == 0 else 1)
    for (features, stride), depth in zip(STAGES, depths, strict=True)
    for i in range(depth)
  )
  return Space(
    name="digits",
    image_size=image_size,
    image_channels=1,
    n_classes=10,
    stem=(Layer((Conv(3),), 12),),
    layers=layers,
    head=(Layer((Conv(1),), 96),),
  )
