"""Measured latencies of 5,000 networks of the FBNet space, 27 devices.

HELP (Lee et al., NeurIPS 2021, arXiv 2106.08630), github.com/HayeonLee/HELP,
`data/fbnet/`, as one `.npz` file.
"""

import io
import zipfile
import zlib

import numpy as np

from jaxnas.errors import UserError
from jaxnas.tables import base

FILES = ("fbnet_arch_latency.npz",)
ORIGIN = (
  "data/fbnet from github.com/HayeonLee/HELP (commit 45f70eb9) and save it as"
  " arrays arch int8[5000, 22], op_names [9] and lat_DEVICE float64[5000]"
)
SHA256 = "f6f05ddda3e83502c622d7bc09c92a17ebe78d77b6d72a914c54d89f24040e10"
SHAPE, OPS, DEVICES = (5000, 22), 9, 27
ABOUT = (
  "No accuracies: latencies of whole networks in ms, to be minimised. The"
  " figures of pixel3, raspi4, eyeriss and fpga are sums over layers"
  " (HW-NAS-Bench), those of other devices are measured; essential_ph_1, pixel2"
  " and the samsung phones report whole milliseconds."
)


def matches(source: base.Source) -> bool:
  """Whether the file is for this format to read."""
  # The names of a zip file's members stand in it as they are.
  return source.kind == "npz" and b"op_names.npy" in source.data


def load(sources: list[base.Source]) -> base.Table:
  """Reads the table.

  Args:
    sources: the one file.

  Returns:
    A table of 22 decisions with the costs `latency.DEVICE` (ms) and no metric.

  Raises:
    UserError: if the file does not have the expected arrays.
  """
  (source,) = sources
  try:
    with np.load(io.BytesIO(source.data), allow_pickle=False) as file:
      arrays = {name: file[name] for name in file.files}
    missing = {"arch", "op_names"} - set(arrays)
    if missing:
      raise ValueError(
        f"it holds {', '.join(sorted(arrays)[:6])} but no"
        f" {' and no '.join(sorted(missing))}"
      )
    archs, names = arrays["arch"], arrays["op_names"]
    if archs.shape != SHAPE or archs.dtype.kind not in "iu":
      raise ValueError(f"arch is {archs.dtype}{list(archs.shape)}")
    if names.shape != (OPS,) or names.dtype.kind != "U":
      raise ValueError(f"op_names is {names.dtype}{list(names.shape)}")
    if archs.min() < 0 or archs.max() >= OPS:
      raise ValueError(f"arch holds {archs.min()}..{archs.max()}, not 0..8")
    latencies = {
      f"latency.{name.removeprefix('lat_').lower()}": values
      for name, values in sorted(arrays.items())
      if name.startswith("lat_")
    }
    if len(latencies) != DEVICES:
      raise ValueError(f"{len(latencies)} arrays lat_*, not {DEVICES}")
    for name, values in latencies.items():
      if values.shape != SHAPE[:1] or values.dtype != np.float64:
        raise ValueError(f"{name} is {values.dtype}{list(values.shape)}")
      if not np.isfinite(values).all():
        raise ValueError(f"{name} lacks values")
  except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile,
          zlib.error) as error:  # fmt: skip
    raise UserError(
      f"{source.path} is not the table of FBNet latencies: {error}; get"
      f" {ORIGIN}."
    ) from error
  base.check_published(source, SHA256)
  return base.build_table(
    "fbnet",
    (tuple(str(name) for name in names),) * SHAPE[1],
    archs.astype(np.int32),
    {},
    latencies,
    source.sha256,
    ABOUT,
  )
