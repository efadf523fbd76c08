"""The claim to a work directory: whose config and images it was begun with."""

import logging
import platform
from pathlib import Path

import flax
import jax

import jaxnas
from jaxnas.config import ExperimentConfig, fingerprint, to_json
from jaxnas.data import Dataset
from jaxnas.errors import UserError
from jaxnas.writer import read_json, write_json

log = logging.getLogger("jaxnas")


def check_claim(workdir: Path, config: ExperimentConfig) -> None:
  """Refuses another config's directory.

  Raises:
    UserError: naming the fields that differ.
  """
  path, mine = workdir / "config.json", to_json(config)
  if path.is_file():
    theirs = read_json(path)
    if theirs != mine:
      changed = ", ".join(_differences(theirs, mine))
      raise UserError(
        f"work directory {workdir} belongs to another config (it differs"
        f" in {changed}); use another --workdir."
      )
  elif workdir.exists() and not workdir.is_dir():
    raise UserError(f"work directory {workdir} is a file.")


def check_images(workdir: Path, data: Dataset) -> None:
  """Refuses images other than those that the directory was begun with.

  Raises:
    UserError: with both fingerprints.
  """
  path = workdir / "manifest.json"
  if not path.is_file():
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
    UserError: if the directory cannot be made.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(
      f"work directory {workdir} cannot be made: {error.strerror}."
    ) from error
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
  if not path.is_file():
    write_json(path, manifest)
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
