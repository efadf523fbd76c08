"""Looks after the other hosts: one that is lost, or fails, ends them all."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

BEAT = 1.0  # seconds between two signs of life
LOST = 60.0  # seconds without one, after which a host counts as lost
LINGER = 10.0  # seconds that host 0, which the others are linked by, waits


class Watch(threading.Thread):
  """Looks after the other hosts, through JAX's own coordination service.

  Collectives on CPU fail at once when a peer is gone; on accelerators they
  wait. So every host shows that it lives, and why it ends if it does.
  """

  def __init__(self) -> None:
    super().__init__(name="hosts", daemon=True)
    # No public name gives the store that all hosts share.
    from jax._src import distributed

    state = distributed.global_state
    self._client = state.client
    self._me, self._count = state.process_id, state.num_processes
    self._over = threading.Event()
    self.start()

  def run(self) -> None:
    """Beats and looks, until `leave` or `finish`."""
    beat, seen = 0, {}
    while not self._over.wait(BEAT):
      beat += 1
      try:
        self._set("alive", str(beat))
        entries = dict(self._entries("alive"))
      except Exception:  # the service is gone; JAX ends this process itself
        return
      if failed := self.failed():
        self.end(*failed)
      now = time.monotonic()
      for host, value in entries.items():
        if seen.setdefault(host, (value, now))[0] != value or value == "done":
          seen[host] = value, now
        elif now - seen[host][1] > LOST:
          self.end(host, f"it has not been heard of for {LOST:.0f} s", 1)

  def end(self, host: int, why: str, status: int) -> NoReturn:
    """Ends this process because of another host."""
    if not self._over.is_set():
      print(f"error: host {host} ended: {why}", file=sys.stderr, flush=True)
      self.leave(None, status)
    raise SystemExit  # the main thread is on its way out

  def leave(self, why: str | None, status: int) -> NoReturn:
    """Ends this process at once, and the others soon."""
    self._over.set()
    try:
      if why is not None:
        self._set("failed", json.dumps([why, status]))
      self._set("gone", "")
      end = time.monotonic() + LINGER
      # JAX aborts the others, noisily, as soon as its service is gone.
      while self._me == 0 and time.monotonic() < end:
        if len(list(self._entries("gone"))) == self._count:
          break
        time.sleep(0.1)
    finally:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(status)  # waits for no one, unlike the exit of JAX

  def failed(self) -> tuple[int, str, int] | None:
    """A host that said why it ends, its words and its status."""
    try:
      found = dict(self._entries("failed"))
    except Exception:  # the service is gone
      return None
    found.pop(self._me, None)
    return next(((h, *json.loads(v)) for h, v in found.items()), None)

  def finish(self) -> None:
    """This host is done; its silence is no loss."""
    self._over.set()
    self._set("alive", "done")

  def _set(self, kind: str, value: str) -> None:
    key = f"jaxnas/{kind}/{self._me}"
    self._client.key_value_set(key, value, allow_overwrite=True)

  def _entries(self, kind: str) -> Iterator[tuple[int, str]]:
    for key, value in self._client.key_value_dir_get(f"jaxnas/{kind}/"):
      yield int(key.rsplit("/", 1)[1]), value
