"""Checkpoints through Orbax: arrays and JSON, checked before they are trusted.

This is the only file that knows Orbax. Nothing that is loaded runs code. All
hosts save and restore together; host 0 says which checkpoint that is.
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
from jax.sharding import Sharding

from jaxnas import hosts
from jaxnas.errors import RunError
from jaxnas.writer import flush, in_bucket, read_json, write_json

log = logging.getLogger("jaxnas")

Tree = Any
KEEP = 2  # a damaged newest one must leave a good one behind
SUMS = "sha256.json"


def layout(tree: Tree) -> list[str]:
  """Name, type and shape of every leaf, in order; leaves may be abstract."""
  return [
    f"{jax.tree_util.keystr(path)} {leaf.dtype} {list(leaf.shape)}"
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def digest(tree: Tree) -> str:
  """SHA-256 over layout and bytes of the leaves, in hexadecimal.

  The leaves may be spread over hosts; then all of these have to ask.
  """
  total = hashlib.sha256(json.dumps(layout(tree)).encode())
  for leaf in jax.tree.leaves(tree):
    total.update(np.ascontiguousarray(hosts.gather(leaf)).tobytes())
  return total.hexdigest()


def _file_sums(folder: Path) -> dict[str, str]:
  sums = {}
  for path in _files(folder):
    if path.name != SUMS:
      with path.open("rb") as file:
        name = path.relative_to(folder).as_posix()
        sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
  return sums


def _files(folder: Path) -> list[Path]:
  """All files below a folder, on disk or in a bucket, in order."""
  found = []
  for path in folder.iterdir():
    found += _files(path) if path.is_dir() else [path]
  return sorted(found)


def _seal(stored: dict) -> str:
  text = json.dumps([stored[k] for k in ("digest", "layout", "meta")])
  return hashlib.sha256(text.encode()).hexdigest()


class Checkpoints:
  """The checkpoints of one stage of a run.

  Args:
    directory: folder of the stage; made if missing.
  """

  def __init__(self, directory: Path) -> None:
    bucket = in_bucket(directory)
    self._directory = directory if bucket else directory.absolute()
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
    return hosts.agree(sorted(self._manager.all_steps()))

  def save(self, step: int, arrays: Tree, meta: dict) -> None:
    """Writes one checkpoint; older ones beyond the last two are dropped.

    Args:
      step: its number, above all earlier ones.
      arrays: tree of arrays, none of them of size 0 (Orbax refuses those).
      meta: JSON object.

    Raises:
      RunError: if `step` is not above all earlier ones.
    """
    stored = {
      "digest": digest(arrays),
      "layout": layout(arrays),
      # As it will be read back: text keys, lists for tuples.
      "meta": json.loads(json.dumps(meta)),
    }
    stored["seal"] = _seal(stored)
    self._check_hosts(step, stored["digest"])
    flush()  # of log rows, which a checkpoint must not be ahead of
    saved = self._manager.save(
      step,
      args=ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(stored)
      ),
    )
    if not saved:  # Orbax skips it without a word
      raise RunError(
        f"checkpoint {step} of {self._directory} is not above the steps that"
        f" are there, {self.steps()}."
      )
    self._manager.wait_until_finished()
    folder = self._directory / str(step)
    hosts.once(lambda: write_json(folder / SUMS, _file_sums(folder)))

  def _check_hosts(self, step: int, digest: str) -> None:
    """Stops before hosts that have come apart save half of a state each.

    Raises:
      RunError: naming such a host.
    """
    digests = hosts.every(digest)
    other = [i for i, found in enumerate(digests) if found != digests[0]]
    if other:
      raise RunError(
        f"host {other[0]} has other values than host 0 at step {step} of"
        f" {self._directory}: their machines or programs differ; nothing was"
        " saved."
      )

  def restore(
    self, like: Tree, sharding: Sharding | Tree | None = None
  ) -> tuple[int, Tree, dict] | None:
    """Loads the newest checkpoint that is whole.

    A damaged one is set aside under another name, never deleted, with a
    warning; then the one before it is tried.

    Args:
      like: tree of arrays or shapes with the saved structure.
      sharding: placement of the restored arrays, one for all or a tree of
        them; default the first device, or every device of several hosts.

    Returns:
      `(step, arrays, meta)`, or None if there is no good checkpoint.

    Raises:
      RunError: if a whole checkpoint holds other arrays than `like`.
    """
    sharding = sharding or _everywhere()
    if isinstance(sharding, Sharding):
      sharding = jax.tree.map(lambda _: sharding, like)
    abstract = jax.tree.map(
      lambda a, s: jax.ShapeDtypeStruct(np.shape(a), a.dtype, sharding=s),
      like,
      sharding,
    )
    for step in reversed(self.steps()):
      arrays, meta, damage = None, None, None
      try:
        arrays, meta = self._restored(step, abstract)
      except RunError:
        raise
      except Exception as error:  # any damage looks different to Orbax
        if hosts.is_lost(error):
          raise
        reason = " ".join(str(error).split())[:200]
        damage = f"{type(error).__name__}: {reason}"
      if found := [d for d in hosts.every(damage) if d]:
        self._set_aside(step, found[0])
        continue
      return step, arrays, meta
    return None

  def _restored(self, step: int, abstract: Tree) -> tuple[Tree, dict]:
    """Arrays and description of one checkpoint; any error is damage."""
    if fault := hosts.once(lambda: self._fault(step)):
      raise ValueError(fault)
    stored = self._load(step, meta=ocp.args.JsonRestore())
    if _seal(stored) != stored["seal"]:
      raise ValueError("its description has been altered")
    self._compare(step, stored["layout"], layout(abstract))
    arrays = self._load(step, arrays=ocp.args.StandardRestore(abstract))
    if digest(arrays) != stored["digest"]:
      raise ValueError("the stored digest does not match the content")
    return arrays, stored["meta"]

  def _fault(self, step: int) -> str:
    """Finds damage before Orbax does, whose readers fail late and loudly.

    A kill just after the commit leaves the sums out; the digest of the content
    then stands alone.

    Returns:
      What is wrong, empty for nothing.
    """
    folder = self._directory / str(step)
    sums = folder / SUMS
    try:
      if not sums.exists() or read_json(sums) == _file_sums(folder):
        return ""
    except ValueError as error:  # not even JSON
      return str(error)
    return "files differ from their SHA-256 sums"

  def _load(self, step: int, **item: Any) -> Any:
    loaded = self._manager.restore(step, args=ocp.args.Composite(**item))
    return loaded[next(iter(item))]

  def _compare(self, step: int, there: list[str], here: list[str]) -> None:
    """Stops on a whole checkpoint of another program, which is no damage."""
    if there != here:
      lost, new = (
        sorted(set(a) - set(b))[:1] for a, b in [(there, here), (here, there)]
      )
      raise RunError(
        f"checkpoint {self._directory / str(step)} was written by another"
        f" configuration or version: it holds {len(there)} arrays, with"
        f" {lost or 'nothing'} where this run has {new or 'nothing'}; use"
        " another work directory."
      )

  def _set_aside(self, step: int, damage: str) -> None:
    target = self._directory.with_name(
      f"{self._directory.name}-damaged-{step}-{time.time_ns()}"
    )
    log.warning(
      "checkpoint %s is damaged (%s); it was moved to %s and the one before it"
      " is used.", self._directory / str(step), damage, target.name,
    )  # fmt: skip
    self._manager.close()

    def move() -> None:
      (self._directory / str(step)).rename(target)

    hosts.once(move)
    self._manager = self._open()


def _everywhere() -> Sharding:
  """Copies on every device of several hosts, or the first device of one."""
  if hosts.count() == 1:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("all",))
  return jax.sharding.NamedSharding(mesh, jax.P())
