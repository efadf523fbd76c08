"""The side file of a prepared data set: labels, digests and channel sums.

With it a data set opens without reading its records. Other readers of the
format ignore it.
"""

import io
from typing import Any

import numpy as np

from jaxnas.errors import UserError

SIDE = "jaxnas.npz"
# Arrays of each split, one row a record, as `SPLIT_NAME`.
FACTS = {
  "labels": np.int32, "digests": np.uint64, "sums": np.uint64,
  "squares": np.uint64,
}  # fmt: skip


def read_side(folder: Any) -> dict[str, np.ndarray]:
  """Reads the side file of a data set.

  Args:
    folder: of the data set, a path of any file system that it is on.

  Returns:
    Arrays by name; `{}` if there is no such file.

  Raises:
    UserError: if it cannot be read or lacks an array.
  """
  path = folder / SIDE
  if not path.exists():
    return {}
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
      arrays = dict(file)
    splits = {name.rpartition("_")[0] for name in arrays}
    return {
      f"{split}_{name}": arrays[f"{split}_{name}"].astype(kind, casting="safe")
      for split in splits
      for name, kind in FACTS.items()
    }
  except Exception as error:
    raise UserError(
      f"{str(path)!r} is damaged ({type(error).__name__}); run `python -m"
      " jaxnas prepare` again."
    ) from error
