"""Block spaces of BlockQNN and IRLAS, and the published IRLAS-mobile."""

from jaxnas.spaces.block_graphs import IRLAS_MOBILE
from jaxnas.spaces.blocks import BlockSpace, Convs
from jaxnas.spaces.experts import presets
from jaxnas.spaces.macro import Macro


def blocks_digits(
  max_layers: int = 8, convs: Convs = "plain", **macro
) -> BlockSpace:
  """Blocks for 8x8 images: three stages of one block (ours).

  Args:
    max_layers: T.
    convs: `plain` or `separable`.
    **macro: fields of `Macro`.
  """
  stages = ((16, 1), (32, 1), (64, 1))
  macro = Macro(**{"stem": 16, "stages": stages, **_tuples(macro)})
  return _space("blocks-digits", 8, 1, 10, max_layers, convs, macro)


def blocks_cifar(
  max_layers: int = 10, convs: Convs = "plain", **macro
) -> BlockSpace:
  """BlockQNN's CIFAR macro: 32, 64 and 128 filters, four blocks each.

  From independent sources, as is the largest index of 10; the paper's 23 is
  recalled. `output="concat", hidden=1024, dropout=0.4` gives BlockQNN's child
  network; the default is its projected form, which the interpreter scores.

  Args:
    max_layers: T.
    convs: `plain` or `separable`.
    **macro: fields of `Macro`.
  """
  macro = Macro(**_tuples(macro))
  return _space("blocks-cifar", 32, 3, 10, max_layers, convs, macro)


def blocks_imagenet(
  max_layers: int = 10, convs: Convs = "separable", **macro
) -> BlockSpace:
  """A macro for 224x224 images: filters from 64 up, three blocks a stage.

  "N = 3, further down-sampling, filters from 64 up" is all that independent
  sources say of BlockQNN's; stem and number of stages are ours. Separable
  convolutions are what the published mobile block uses.

  Args:
    max_layers: T.
    convs: `plain` or `separable`.
    **macro: fields of `Macro`.
  """
  stages = ((64, 3), (128, 3), (256, 3), (512, 3))
  fields = {"stem": 64, "stem_strides": (2, 2), "stages": stages}
  macro = Macro(**{**fields, **_tuples(macro)})
  return _space("blocks-imagenet", 224, 3, 1000, max_layers, convs, macro)


def irlas_mobile() -> BlockSpace:
  """IRLAS-mobile: the published block in its macro-architecture (authors).

  9,962,600 parameters; 1,418,807,296 multiply-adds at 224 (ours, from the
  released code; the authors say 9.96M). "Mobile" is about latency here, not
  about the usual 600M multiply-adds.
  """
  return BlockSpace(
    "irlas-mobile", 224, 3, 1000, 5, Macro(published="irlas-mobile"),
    "separable", (("irlas-mobile", IRLAS_MOBILE),),
  )  # fmt: skip


def _space(name, size, channels, classes, max_layers, convs, macro):
  known = [("irlas-mobile", IRLAS_MOBILE), *presets(max_layers)]
  return BlockSpace(
    name, size, channels, classes, max_layers, macro, convs,
    tuple(p for p in known if p[1].count("-") < max_layers),
  )  # fmt: skip


def _tuples(fields: dict) -> dict:
  """Lists, as JSON has them, become tuples."""
  return {
    name: tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if isinstance(value, list)
    else value
    for name, value in fields.items()
  }
