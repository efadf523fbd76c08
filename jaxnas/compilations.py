"""What this process compiles, counted through JAX's own events."""

from typing import Any

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Compilations:
  """Counts compilations from its making, or inside a `with` block.

  Attributes:
    count: programs compiled (or fetched from the persistent cache).
    seconds: time that took, without tracing.
  """

  def __init__(self) -> None:
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._hear)

  def __enter__(self) -> "Compilations":
    return self

  def __exit__(self, *exc: Any) -> None:
    jax.monitoring.unregister_event_duration_listener(self._hear)

  def take(self) -> float:
    """Seconds since the last call."""
    seconds, self.seconds = self.seconds, 0.0
    return seconds

  def _hear(self, event: str, duration: float, **_: Any) -> None:
    if event == _EVENT:
      self.count += 1
      self.seconds += duration
