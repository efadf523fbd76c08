"""What a prediction is worth: the same rules for training and scoring."""

import jax
import jax.numpy as jnp
import optax


@jax.named_scope("loss")
def cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """Softmax cross-entropy per example, in nats.

  Args:
    logits: `float32[..., n_classes]`.
    labels: `int32[...]`, broadcast against leading axes of `logits`.
    smoothing: share of the target spread evenly over all classes.

  Returns:
    `float32[...]`.
  """
  targets = jax.nn.one_hot(labels, logits.shape[-1])
  if smoothing:
    targets = optax.smooth_labels(targets, smoothing)
  return optax.softmax_cross_entropy(logits, targets)


@jax.named_scope("loss")
def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether the largest logit is the label: `bool[...]`.

  An example with a NaN among its logits counts as wrong.
  """
  finite = jnp.isfinite(logits).all(-1)
  return (jnp.argmax(logits, -1) == labels) & finite
