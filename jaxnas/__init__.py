"""jaxnas: weight-sharing neural architecture search in JAX and Flax."""

__version__ = "0.1.0"
