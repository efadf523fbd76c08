"""A space whose archs are the rows of a list, such as a benchmark table (ours).

It offers what searchers use of a `Space`. Where several archs are the same
network, one of them is the row and `canonical` maps the others onto it, so that
no network counts twice.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jaxnas import arch as arch_lib
from jaxnas.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class ListedSpace:
  """The archs of a list.

  Attributes:
    name: such as `nasbench-macro`.
    choices: names of the choices of each decision, `L` tuples.
    rows: the archs, distinct and canonical, `int32[N, L]`, read-only.
    decisions: names of the decisions for messages, `L` of them; empty numbers
      them from 0 as `layer 0`, `layer 1` and so on.
    fold: maps archs `int32[n, L]` with legal indices to the canonical archs of
      the same networks; None says that every arch is a network of its own.
    presets: named archs, `((name, arch string), ...)`.
  """

  name: str
  choices: tuple[tuple[str, ...], ...]
  rows: np.ndarray
  decisions: tuple[str, ...] = ()
  fold: Callable[[np.ndarray], np.ndarray] | None = None
  presets: tuple[tuple[str, str], ...] = ()

  def __post_init__(self) -> None:
    if not self.choices or not all(self.choices):
      raise UserError(
        f"space {self.name!r}: every decision needs at least one choice."
      )
    names = self.decisions or tuple(f"layer {l}" for l in range(self.n_layers))
    if len(names) != self.n_layers:
      raise UserError(
        f"space {self.name!r}: {len(names)} names for {self.n_layers}"
        " decisions."
      )
    object.__setattr__(self, "decisions", names)
    rows = self._legal(self.rows).copy()
    if not len(rows):
      raise UserError(f"space {self.name!r} lists no arch.")
    if (self.canonical(rows) != rows).any():
      raise UserError(f"space {self.name!r}: a listed arch is not canonical.")
    rows.flags.writeable = False
    object.__setattr__(self, "rows", rows)
    if len(self._position) < len(rows):
      repeated = next(i for i, r in enumerate(rows) if self._at(r) != i)
      raise UserError(
        f"space {self.name!r} lists arch {arch_lib.to_string(rows[repeated])!r}"
        " twice."
      )

  @property
  def n_layers(self) -> int:
    """Number of decisions `L`."""
    return len(self.choices)

  @functools.cached_property
  def n_choices(self) -> np.ndarray:
    """Choices of each decision, `int32[L]`."""
    return np.array([len(names) for names in self.choices], np.int32)

  @property
  def size(self) -> int:
    """Number of rows `N`."""
    return len(self.rows)

  @functools.cached_property
  def _position(self) -> dict[bytes, int]:
    # From the end, so that the first of equal rows is the one that is found.
    return {self.rows[i].tobytes(): i for i in reversed(range(len(self.rows)))}

  def _at(self, row: np.ndarray) -> int:
    return self._position.get(row.tobytes(), -1)

  def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws `n` rows uniformly, with replacement: `int32[n, L]`."""
    return self.rows[rng.integers(0, len(self.rows), n)]

  def canonical(self, archs: np.ndarray) -> np.ndarray:
    """Maps archs with legal indices to the canonical archs of their networks.

    Args:
      archs: `int32[n, L]`, listed or not.

    Returns:
      `int32[n, L]`; equal rows exactly where the networks are equal.
    """
    return archs if self.fold is None else self.fold(archs).astype(np.int32)

  def find(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Returns the row of each arch, `int64[n]`, -1 where it is not listed.

    Args:
      archs: one arch `[L]` or many `[n, L]`, canonical or not.

    Raises:
      UserError: for an illegal index, naming decision, value and legal values.
    """
    archs = self.canonical(self._legal(archs))
    return np.array([self._at(row) for row in archs], np.int64)

  def index(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Returns the row of each arch, `int64[n]`.

    Args:
      archs: one arch `[L]` or many `[n, L]`, canonical or not.

    Raises:
      UserError: for an illegal index, or for an arch that is not listed; then
        the sentence names the nearest row.
    """
    at = self.find(archs)
    if len(at) and at.min() < 0:
      missing = int(np.flatnonzero(at < 0)[0])
      raise self._not_listed(arch_lib.as_archs(archs)[missing])
    return at

  def nearest(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Returns the row nearest to each arch, `int64[n]`.

    Near is the Hamming distance of canonical archs; the first of equals wins.

    Args:
      archs: one arch `[L]` or many `[n, L]` with legal indices.
    """
    archs = self.canonical(self._legal(archs))
    at = [(self.rows != arch).sum(1).argmin() for arch in archs]
    return np.array(at, np.int64)

  def validate(self, archs: Sequence | np.ndarray) -> np.ndarray:
    """Checks archs and returns their rows, canonical: `int32[n, L]`.

    Args:
      archs: one arch `[L]` or many `[n, L]`.

    Raises:
      UserError: see `index`.
    """
    return self.rows[self.index(archs)]

  def to_string(self, arch: Sequence[int] | np.ndarray) -> str:
    """Writes the row of one arch as text."""
    return arch_lib.to_string(self.validate(arch)[0])

  def from_string(self, text: str) -> np.ndarray:
    """Reads one arch, `int32[L]`, from text or from a preset's name.

    Returns:
      The row of that network, which may be written differently.

    Raises:
      UserError: if it is neither a preset nor a listed arch.
    """
    presets = {name.lower(): arch for name, arch in self.presets}
    key = text.strip().lower()
    try:
      arch = arch_lib.from_string(presets.get(key, text))
    except UserError as error:
      known = f", or a preset ({', '.join(presets)})" if presets else ""
      raise UserError(
        f"arch {text!r} is not {self.n_layers} choice indices of space"
        f" {self.name!r}, written 2-0-3 or 203{known}."
      ) from error
    return self.validate(arch)[0]

  def choice_names(self, arch: Sequence[int] | np.ndarray) -> list[str]:
    """Returns the names of the choices of one arch, decision by decision."""
    row = self.validate(arch)[0]
    return [names[c] for names, c in zip(self.choices, row, strict=True)]

  def _legal(self, archs: Sequence | np.ndarray) -> np.ndarray:
    archs = arch_lib.as_archs(archs)
    if archs.shape[1] != self.n_layers:
      what = f"arch {_text(archs[0])!r} has" if len(archs) else "archs have"
      raise UserError(
        f"{what} {archs.shape[1]} indices; space {self.name!r} has"
        f" {self.n_layers} decisions."
      )
    bad = np.argwhere((archs < 0) | (archs >= self.n_choices))
    if len(bad):
      row, l = bad[0]
      legal = ", ".join(f"{i} ({c})" for i, c in enumerate(self.choices[l]))
      raise UserError(
        f"arch {_text(archs[row])!r}: index {archs[row, l]} at {self._place(l)}"
        f" is not in space {self.name!r}; legal: {legal}."
      )
    return archs

  def _place(self, l: int) -> str:
    plain, name = f"layer {l}", self.decisions[l]
    return plain if name == plain else f"{plain} ({name})"

  def _not_listed(self, arch: np.ndarray) -> UserError:
    near = self.rows[self.nearest(arch)[0]]
    asked = self.canonical(arch[None])[0]
    places = np.flatnonzero(near != asked)
    changes = [
      f"{self.decisions[l]} {self.choices[l][near[l]]} for"
      f" {self.choices[l][asked[l]]}"
      for l in places[:4]
    ]
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    return UserError(
      f"arch {_text(arch)!r} is not among the {self.size:,} rows of space"
      f" {self.name!r}; the nearest row is {_text(near)!r}, with"
      f" {', '.join(changes)}{more}."
    )


def _text(arch: np.ndarray) -> str:
  """Writes an arch for a message, negative indices too."""
  if (arch < 0).any():
    return ", ".join(str(v) for v in arch)
  return arch_lib.to_string(arch)
