"""The claim to a work directory: whose config and images it was begun with."""

import logging
import os
import platform
import time
from pathlib import Path

import flax
import jax

import jaxnas
from jaxnas import hosts
from jaxnas.config import ExperimentConfig, fingerprint, to_json
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.writer import (
  is_file,
  make_folder,
  read_json,
  write_atomic,
  write_json,
)

log = logging.getLogger("jaxnas")

PATIENCE = 10.0  # seconds until a shared file system shows what is new


def check_claim(workdir: Path, config: ExperimentConfig) -> None:
  """Refuses another config's directory, and hosts with several configs.

  Raises:
    UserError: naming the fields that differ.
  """
  path, mine = workdir / "config.json", to_json(config)
  hosts.check_same(
    {"jaxnas": jaxnas.__version__, "jax": jax.__version__}
    | {"--workdir": str(workdir), **flat(mine)}
  )
  if is_file(path):
    theirs = read_json(path)
    if theirs != mine:
      changed = ", ".join(_differences(theirs, mine))
      raise UserError(
        f"work directory {workdir} belongs to another config (it differs"
        f" in {changed}); use another --workdir."
      )
  elif is_file(workdir):
    raise UserError(f"work directory {workdir} is a file.")


def check_images(workdir: Path, data: Dataset) -> None:
  """Refuses images other than those that the directory was begun with.

  Raises:
    UserError: with both fingerprints.
  """
  path = workdir / "manifest.json"
  hosts.check_same({f"images of {data.source}": data.fingerprint})
  if not is_file(path):
    return
  before = read_json(path)["data"]["fingerprint"]
  if before != data.fingerprint:
    raise UserError(
      f"the images of {data.source} are not those that {workdir} was begun"
      f" with (fingerprint {data.fingerprint}, then {before}); use another"
      " --workdir."
    )


def begin(workdir: Path, config: ExperimentConfig, data: Dataset) -> None:
  """Makes the directory and its `manifest.json`; an older one is kept.

  It tells what began the run, not who looked last, so a change is called out.

  Raises:
    UserError: if the directory cannot be made, or not all hosts see it.
  """
  make_folder(workdir)
  device = jax.devices()[0]
  manifest = {
    "jaxnas": jaxnas.__version__,
    "python": platform.python_version(),
    "jax": jax.__version__,
    "flax": flax.__version__,
    "device": device.device_kind,
    "n_devices": jax.device_count(),
    "platform": device.platform,
    "seed": config.seed,
    "data": {
      "source": data.source,
      "fingerprint": data.fingerprint,
      "train": len(data.train),
      "validation": len(data.validation),
      "test": len(data.test),
      "n_classes": data.n_classes,
      "class_names": list(data.class_names),
    },
    "config_fingerprint": fingerprint(config),
  }
  path = workdir / "manifest.json"
  new = not is_file(path)
  if new:
    write_json(path, manifest)
  _check_shared(path)
  if new:
    return
  begun = read_json(path)
  changed = [
    f"{k} {begun[k]}, now {manifest[k]}"
    for k in ("jaxnas", "jax", "flax", "device", "n_devices")
    if begun[k] != manifest[k]
  ]
  if changed:
    log.warning(
      "this run was begun with %s: results may differ from those of an"
      " undisturbed run.", "; ".join(changed),
    )  # fmt: skip


def _check_shared(path: Path) -> None:
  """Refuses a directory that is another one on another host.

  Args:
    path: a file in it.
  """
  if hosts.count() == 1:
    return
  mine = hosts.agree(os.urandom(8).hex())
  mark = path.with_name(f".{path.name}.seen")
  write_atomic(mark, mine)
  hosts.barrier("a file that all should see")
  end = time.monotonic() + PATIENCE
  while not (seen := _holds(mark, mine)) and time.monotonic() < end:
    time.sleep(0.2)
  blind = [i for i, saw in enumerate(hosts.every(seen)) if not saw]
  hosts.once(mark.unlink)
  if blind:
    raise UserError(
      f"host {blind[0]} does not see what host 0 wrote into {path.parent}; give"
      " a --workdir on a file system that all hosts share, or in a bucket"
      " (gs://BUCKET/DIR)."
    )


def _holds(path: Path, text: str) -> bool:
  try:
    return path.read_text() == text
  except OSError:
    return False


def flat(value: dict, prefix: str = "") -> dict[str, object]:
  """Leaves of nested objects by dotted names."""
  out = {}
  for key, item in value.items():
    if isinstance(item, dict):
      out |= flat(item, f"{prefix}{key}.")
    else:
      out[f"{prefix}{key}"] = item
  return out


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
  """Dotted names of the fields in which two configs differ, with values."""
  out = []
  for key in sorted({*old, *new}):
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      out += _differences(a, b, f"{prefix}{key}.")
    elif a != b:
      out.append(f"{prefix}{key}: {a!r} there, {b!r} here")
  return out
