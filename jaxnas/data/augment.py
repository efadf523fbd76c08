"""Normalisation and random transforms of training images, in pure JAX."""

import math

import jax
import jax.numpy as jnp

from jaxnas.config import AugmentConfig
from jaxnas.errors import UserError

# Width over height of a random resized crop.
ASPECT = (3 / 4, 4 / 3)


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
  """Scales to 0..1, then to mean 0 and deviation 1 of the training images.

  Args:
    images: `uint8[..., C]`.
    mean: `float32[C]`.
    std: `float32[C]`, positive.

  Returns:
    `float32[..., C]`.
  """
  return (images.astype(jnp.float32) / 255 - mean) / std


def augment(
  key: jax.Array, images: jax.Array, config: AugmentConfig
) -> jax.Array:
  """Transforms each image at random: crop, flip, shift, cutout, in this order.

  Applied after `normalize`, so that the zeros of `shift` and `cutout` are the
  mean colour of the training images. What one image goes through depends on
  `key` and its position only; switching a transform on or off leaves the draws
  of the others alone.

  Args:
    key: a typed key.
    images: `float32[B, H, W, C]`, normalised.
    config: which transforms, and how strong.

  Returns:
    `float32[B, H, W, C]`; the same array if the config is the default.

  Raises:
    UserError: for a value out of range, at tracing.
  """
  _check(config)
  if config == AugmentConfig():
    return images

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    crop_key, flip_key, shift_key, cutout_key = jax.random.split(key, 4)
    height, width, _ = image.shape
    if config.crop_scale < 1:
      box = random_box(crop_key, height, width, config.crop_scale)
      image = crop_resize(image, box)
    if config.flip:
      mirror = jax.random.bernoulli(flip_key)
      image = jnp.where(mirror, image[:, ::-1], image)
    if config.shift:
      limit = config.shift
      offset = jax.random.randint(shift_key, (2,), -limit, limit + 1)
      image = translate(image, offset, limit)
    if config.cutout:
      centre = jax.random.randint(
        cutout_key, (2,), 0, jnp.array([height, width])
      )
      image = cut_square(image, centre, config.cutout)
    return image

  return jax.vmap(one)(jax.random.split(key, len(images)), images)


def random_box(
  key: jax.Array, height: int, width: int, smallest: float
) -> jax.Array:
  """Draws the box of a random resized crop.

  The area's share is uniform in (`smallest`, 1) and the aspect log-uniform in
  `ASPECT`, the inception crop of Szegedy et al. 2015 (arXiv:1409.4842), section
  6. From memory of its common implementations, with two deviations: sides and
  corners are not rounded to pixels, and a box larger than the image is clipped
  where those draw again.

  Args:
    key: a typed key.
    height: of the image, in pixels.
    width: of the image, in pixels.
    smallest: smallest share of the area.

  Returns:
    `float32[4]`: top, left, height, width of the box, in pixels.
  """
  area_key, aspect_key, corner_key = jax.random.split(key, 3)
  area = height * width * jax.random.uniform(area_key, minval=smallest)
  low, high = (math.log(a) for a in ASPECT)
  aspect = jnp.exp(jax.random.uniform(aspect_key, minval=low, maxval=high))
  image = jnp.array([height, width], jnp.float32)
  box = jnp.sqrt(area * jnp.stack([1 / aspect, aspect]))
  box = jnp.minimum(box, image)
  corner = jax.random.uniform(corner_key, (2,)) * (image - box)
  return jnp.concatenate([corner, box])


def crop_resize(image: jax.Array, box: jax.Array) -> jax.Array:
  """Enlarges a box of an image to the whole image, bilinear.

  At the box's edges, pixels just outside take part in the interpolation.

  Args:
    image: `float32[H, W, C]`.
    box: `float32[4]`: top, left, height, width, in pixels.

  Returns:
    `float32[H, W, C]`.
  """
  scale = jnp.array(image.shape[:2]) / box[2:]
  return jax.image.scale_and_translate(
    image, image.shape, (0, 1), scale, -box[:2] * scale, "linear"
  )


def translate(image: jax.Array, offset: jax.Array, limit: int) -> jax.Array:
  """Moves an image by whole pixels, filling with zeros.

  Args:
    image: `[H, W, C]`.
    offset: `int32[2]`, pixels down and to the right, within -limit..limit.
    limit: bound on the offset.

  Returns:
    `[H, W, C]`; pixel (y, x) holds what was at (y, x) - offset.
  """
  padded = jnp.pad(image, ((limit, limit), (limit, limit), (0, 0)))
  start = (limit - offset[0], limit - offset[1], 0)
  return jax.lax.dynamic_slice(padded, start, image.shape)


def cut_square(image: jax.Array, centre: jax.Array, side: int) -> jax.Array:
  """Sets a square to zero, clipped at the edges of the image.

  Cutout of DeVries and Taylor 2017, arXiv:1708.04552, section 3.2: the centre
  is any pixel, so part of the square may lie outside (from memory).

  Args:
    image: `[H, W, C]`.
    centre: `int32[2]`, row and column; an even square reaches one pixel further
      up and left than down and right.
    side: of the square, in pixels.

  Returns:
    `[H, W, C]`.
  """

  def covered(length: int, middle: jax.Array) -> jax.Array:
    first = middle - side // 2
    pixels = jnp.arange(length)
    return (pixels >= first) & (pixels < first + side)

  rows = covered(image.shape[0], centre[0])
  columns = covered(image.shape[1], centre[1])
  return jnp.where((rows[:, None] & columns)[..., None], 0, image)


def _check(config: AugmentConfig) -> None:
  for name in ("shift", "cutout"):
    if getattr(config, name) < 0:
      raise UserError(
        f"data.augment.{name} is {getattr(config, name)}; legal: 0 or more"
        " pixels."
      )
  if not 0 < config.crop_scale <= 1:
    raise UserError(
      f"data.augment.crop_scale is {config.crop_scale:g}; legal: above 0, at"
      " most 1."
    )
