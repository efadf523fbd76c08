"""Checkpoints through Orbax: arrays and JSON, checked before they are trusted.

This is the only file that knows Orbax. Nothing that is loaded runs code.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

log = logging.getLogger("jaxnas")

Tree = Any
KEEP = 2  # a damaged newest one must leave a good one behind


def digest(tree: Tree, meta: dict) -> str:
  """SHA-256 over names, types, shapes and bytes of the leaves, and the JSON."""
  total = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    array = np.asarray(leaf)
    head = f"{jax.tree_util.keystr(path)}|{array.dtype}|{array.shape}"
    total.update(head.encode())
    total.update(np.ascontiguousarray(array).tobytes())
  return total.hexdigest()


class Checkpoints:
  """The checkpoints of one stage of a run.

  Args:
    directory: folder of the stage; made if missing.
  """

  def __init__(self, directory: Path) -> None:
    self._directory = directory.absolute()
    # Orbax logs each save and restore at INFO level through absl.
    logging.getLogger("absl").setLevel(logging.WARNING)
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
      max_to_keep=KEEP, create=True, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(
      self._directory, options=options, item_names=("arrays", "meta")
    )

  def close(self) -> None:
    """Releases Orbax's threads."""
    self._manager.close()

  def steps(self) -> list[int]:
    """Steps that have a complete checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, arrays: Tree, meta: dict) -> None:
    """Writes one checkpoint; older ones beyond the last two are dropped.

    Args:
      step: its number, above all earlier ones.
      arrays: tree of arrays, not empty.
      meta: JSON object.
    """
    meta = {"digest": digest(arrays, meta), "meta": meta}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta)
      ),
    )
    self._manager.wait_until_finished()

  def restore(
    self, like: Tree, sharding: jax.sharding.Sharding | None = None
  ) -> tuple[int, Tree, dict] | None:
    """Loads the newest checkpoint that is whole.

    A damaged one is set aside under another name, never deleted, with a
    warning; then the one before it is tried.

    Args:
      like: tree of arrays or shapes with the saved structure.
      sharding: placement of the restored arrays; default the first device.

    Returns:
      `(step, arrays, meta)`, or None if there is no good checkpoint.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=sharding),
      like,
    )
    for step in reversed(self.steps()):
      try:
        loaded = self._manager.restore(
          step,
          args=ocp.args.Composite(
            arrays=ocp.args.StandardRestore(abstract),
            meta=ocp.args.JsonRestore(),
          ),
        )
        stored = loaded["meta"]
        if digest(loaded["arrays"], stored["meta"]) != stored["digest"]:
          raise ValueError("the stored digest does not match the content")
      except Exception as error:  # any damage looks different to Orbax
        self._set_aside(step, error)
        continue
      return step, loaded["arrays"], stored["meta"]
    return None

  def _set_aside(self, step: int, error: Exception) -> None:
    reason = str(error).strip().splitlines()[0][:200] if str(error) else ""
    target = self._directory.with_name(
      f"{self._directory.name}-damaged-{step}-{time.time_ns()}"
    )
    log.warning(
      "checkpoint %s is damaged (%s: %s); it was moved to %s and the one before"
      " it is used.", self._directory / str(step), type(error).__name__,
      reason, target.name,
    )  # fmt: skip
    self._manager.close()
    (self._directory / str(step)).rename(target)
    self._manager = self._open()
