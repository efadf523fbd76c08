"""The two ways in which jaxnas says no, and the nearest-name helper."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
  """A mistake in the input; its message is one sentence for the user.

  The command line prints the message without a traceback and ends with status
  2. The sentence says what is wrong, where, and which values are legal.
  """


class RunError(RuntimeError):
  """A run that cannot go on, for example NaN in training (exit status 1)."""


def unknown(kind: str, name: str, legal: Iterable[str]) -> UserError:
  """Builds the error for a name that is not in a list of legal names.

  Args:
    kind: what the name stands for, such as `"space"`.
    name: the name the user gave.
    legal: the legal names.

  Returns:
    A `UserError` that offers the nearest name and lists all of them.
  """
  names = sorted(legal)
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return UserError(
    f"unknown {kind} {name!r}.{hint} Legal values: {', '.join(names)}."
  )
