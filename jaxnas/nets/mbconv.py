"""Blocks: the Linen module of each operation in a space's data."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.config import NetConfig
from jaxnas.costs import squeeze_width
from jaxnas.nets import layers
from jaxnas.spaces import Conv, Identity, MBConv, Op, Shape


class ConvBlock(nn.Module):
  """Convolution, batch norm, activation."""

  op: Conv
  shape: Shape
  bn_affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, stored: bool) -> jax.Array:
    """Applies the block; `stored` as in `layers.BatchNorm`."""
    s = self.shape
    x = layers.Conv(s.features, self.op.kernel, s.stride, name="conv")(x)
    x = layers.BatchNorm(self.bn_affine, name="bn")(x, stored)
    return layers.ACTIVATIONS[self.op.act](x)


class IdentityBlock(nn.Module):
  """Nothing, or a strided 1x1 convolution + batch norm (NAS-Bench-Macro)."""

  op: Identity
  shape: Shape
  bn_affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, stored: bool) -> jax.Array:
    """Applies the block; `stored` as in `layers.BatchNorm`."""
    s = self.shape
    if s.keeps:
      return x
    x = layers.Conv(s.features, 1, s.stride, name="conv")(x)
    return layers.BatchNorm(self.bn_affine, name="bn")(x, stored)


class MBConvBlock(nn.Module):
  """MobileNetV2 inverted bottleneck (FairNAS authors' model files)."""

  op: MBConv
  shape: Shape
  bn_affine: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, stored: bool) -> jax.Array:
    """Applies the block; `stored` as in `layers.BatchNorm`."""
    op, s = self.op, self.shape
    act = layers.ACTIVATIONS[op.act]

    def norm(y, name):
      return layers.BatchNorm(self.bn_affine, name=name)(y, stored)

    y = x
    if op.expand != 1:
      y = layers.Conv(s.in_channels * op.expand, name="expand")(y)
      y = act(norm(y, "expand_bn"))
    y = layers.DepthwiseConv(op.kernel, s.stride, name="depthwise")(y)
    y = act(norm(y, "depthwise_bn"))
    if op.se_ratio:
      y = layers.SqueezeExcite(squeeze_width(op, s), op.act, name="se")(y)
    y = norm(layers.Conv(s.features, name="project")(y), "project_bn")
    return x + y if op.residual and s.keeps else y


_MODULES = {Conv: ConvBlock, Identity: IdentityBlock, MBConv: MBConvBlock}


def make_block(op: Op, shape: Shape, net: NetConfig) -> nn.Module:
  """Returns the Linen module of one operation at one place.

  Called as `module.apply(variables, x, stored, mutable=["batch_stats"])`.
  Equal arguments give equal modules, so compiled initialisers are shared.
  """
  return _MODULES[type(op)](op=op, shape=shape, bn_affine=net.bn_affine)


def dtype_of(net: NetConfig) -> jnp.dtype:
  """Type of activations and products."""
  return jnp.dtype(net.precision)
