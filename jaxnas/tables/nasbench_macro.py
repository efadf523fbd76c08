"""NAS-Bench-Macro: every network of a space, trained from scratch three times.

Su et al., CVPR 2021, arXiv 2103.11922; `data/nas-bench-macro_cifar10.json` of
github.com/xiusu/NAS-Bench-Macro.
"""

import json

import numpy as np

from jaxnas.errors import UserError
from jaxnas.spaces import get_space
from jaxnas.spaces.nasbench_macro import STAGES
from jaxnas.tables import base

FILES = ("nas-bench-macro_cifar10.json",)
ORIGIN = (
  "data/nas-bench-macro_cifar10.json from github.com/xiusu/NAS-Bench-Macro"
  " (commit 61a2bfc2)"
)
SHA256 = "686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297"
ABOUT = (
  "Accuracy is the mean of three stand-alone trainings (50 epochs, CIFAR-10),"
  " each the best epoch on the 10,000 test images: there was no validation"
  " split. One training against the mean of the other two has a Kendall tau of"
  " 0.896. The 6,561 archs are 3,969 distinct networks; each is one row."
)


def matches(source: base.Source) -> bool:
  """Whether the file is for this format to read."""
  return source.kind == "json" and b'"test_acc"' in source.data


def canonical(archs: np.ndarray) -> np.ndarray:
  """Moves identities to the end of their stage, where they are the same.

  The first layer of a stage changes the shape, so it stays where it is.

  Args:
    archs: `int32[n, 8]`.

  Returns:
    `int32[n, 8]`.
  """
  archs, start = np.array(archs, np.int32), 0
  for _, depth in STAGES:
    rest = archs[:, start + 1 : start + depth]
    order = np.argsort(rest == 0, axis=1, kind="stable")
    archs[:, start + 1 : start + depth] = np.take_along_axis(rest, order, 1)
    start += depth
  return archs


def load(sources: list[base.Source]) -> base.Table:
  """Reads the table.

  Args:
    sources: the one file.

  Returns:
    A table with the metrics `accuracy` (mean of three seeds), `accuracy_std`
    (over the seeds, population form) and `accuracy_seed0` to `2`, shares from 0
    to 1, and the exact counts `macs` and `params`.

  Raises:
    UserError: if the file does not have the published shape.
  """
  (source,) = sources
  space = get_space("nasbench-macro")
  try:
    entries = json.loads(source.data)
    if set(entries) != {space.to_string(a) for a in _all(space)}:
      raise ValueError(
        f"its {len(entries)} keys are not the {space.size} archs of the space"
      )
    archs = np.array([[int(c) for c in key] for key in entries], np.int32)
    rows = list(entries.values())
    seeds = np.array([row["test_acc"] for row in rows], np.float64)
    macs = np.array([row["flops"] for row in rows])
    params = np.array([row["params"] for row in rows])
    if seeds.shape != (len(rows), 3) or not np.isfinite(seeds).all():
      raise ValueError("test_acc does not hold three numbers for every arch")
    if macs.dtype.kind != "i" or params.dtype.kind != "i":
      raise ValueError("flops or params are not whole numbers")
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    reason = f"no entry {error}" if isinstance(error, KeyError) else error
    raise UserError(
      f"{source.path} is not the table of NAS-Bench-Macro: {reason}; get"
      f" {ORIGIN}."
    ) from error
  base.check_published(source, SHA256)
  seeds = seeds / 100
  metrics = {"accuracy": seeds.mean(1), "accuracy_std": seeds.std(1)}
  metrics |= {f"accuracy_seed{s}": seeds[:, s] for s in range(3)}
  return base.build_table(
    space.name,
    tuple(tuple(op.name for op in layer.choices) for layer in space.layers),
    archs,
    metrics,
    {"macs": macs, "params": params},
    source.sha256,
    ABOUT,
    fold=canonical,
    presets=space.presets,
  )


def _all(space) -> np.ndarray:
  return np.indices(space.n_choices).reshape(space.n_layers, -1).T
