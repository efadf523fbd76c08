"""Architectures as integer arrays: text forms and array checks.

An arch is `int32[L]`: one choice index per decision of a space. Many archs are
`int32[n, L]`. The text form is `2-0-3`, or `203` when every index is below 10.
"""

from collections.abc import Sequence

import numpy as np

from jaxnas.errors import UserError

Arch = np.ndarray
Archs = np.ndarray


def to_string(arch: Sequence[int] | np.ndarray) -> str:
  """Writes one arch as text; the inverse of `from_string`.

  Args:
    arch: integers `[L]`, none of them negative.

  Returns:
    `"203"` when every index is below 10, else `"2-0-13"`.
  """
  values = [int(v) for v in np.asarray(arch).reshape(-1)]
  wide = any(v > 9 for v in values)
  text = ("-" if wide else "").join(str(v) for v in values)
  # A single index above 9 has no dash and would read as several decisions.
  return f"{text}-" if wide and len(values) == 1 else text


def from_string(text: str) -> Arch:
  """Reads one arch from text.

  Args:
    text: `2-0-3`, `203`, or with any of space, comma, slash and colon as
      separator.

  Returns:
    `int32[L]`.

  Raises:
    UserError: if the text holds anything but digits and separators.
  """
  clean = text.strip().strip("[]()")
  for sign in ",/: ":
    clean = clean.replace(sign, "-")
  parts = [p for p in clean.split("-") if p]
  if len(parts) == 1 and "-" not in clean:
    parts = list(parts[0])
  # Ten digits and more do not fit int32.
  if not parts or not all(
    p.isascii() and p.isdigit() and len(p) < 10 for p in parts
  ):
    raise UserError(
      f"arch {text!r} is not a list of choice indices; write it as 2-0-3 or"
      " 203, one index per layer."
    )
  return np.array([int(p) for p in parts], np.int32)


def as_archs(archs: Sequence | np.ndarray) -> Archs:
  """Returns `int32[n, L]` from one arch or many.

  Raises:
    UserError: if the values are not integers of 32 bits in one or two axes.
  """
  array = np.atleast_2d(np.asarray(archs))
  if array.dtype.kind not in "iu":
    raise UserError(f"archs must be integers, not {array.dtype}.")
  narrow = array.astype(np.int32)
  if array.ndim != 2 or (narrow != array).any():
    raise UserError(
      f"archs must be int32 [L] or [n, L], not {array.dtype} {array.shape}"
      f" with values up to {array.max(initial=0)}."
    )
  return narrow


def unique(archs: Archs) -> Archs:
  """Drops repeated rows and keeps the order of first appearance."""
  _, first = np.unique(archs, axis=0, return_index=True)
  return archs[np.sort(first)]
