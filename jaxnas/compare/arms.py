"""The arms of a comparison: read from configs, checked, and recorded."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxnas.config import ExperimentConfig, call_config, override, to_json
from jaxnas.errors import UserError
from jaxnas.experiment.claim import flat
from jaxnas.methods import make_space
from jaxnas.writer import is_file, make_folder, read_json, write_json

# What makes the stand-alone trainings of two arms the same but for the arch.
# How often a training is logged or saved changes nothing.
ALIKE = ("data", "retrain", "net.precision", "net.bn_momentum", "net.bn_affine")
IGNORED = ("retrain.log_every", "retrain.checkpoint_every")


@dataclasses.dataclass(frozen=True)
class Arm:
  """One of the methods that are compared.

  Attributes:
    name: also of its folder.
    config: of its runs; the seed is set for each.
    from_set: whether a set of configs brought it along.
  """

  name: str
  config: ExperimentConfig
  from_set: bool = False

  def seeded(self, seed: int) -> ExperimentConfig:
    """The config of one run."""
    return dataclasses.replace(self.config, seed=seed)


def load_arms(
  references: Iterable[str], settings: Sequence[str] = ()
) -> list[Arm]:
  """Reads the arms of a comparison, in order.

  Args:
    references: `FILE.py` or `FILE.py:variant`, shipped ones by name. A function
      that returns an `ExperimentConfig` is one arm, named after the file and
      the variant; one that returns a dict of them is a set of arms by name.
      Without a variant it is `get_configs`, or else `get_config`.
    settings: overrides of every arm.

  Raises:
    UserError: for what cannot be read, names that are no folder's or that come
      twice, or fewer than two arms.
  """
  arms: dict[str, Arm] = {}
  for reference in references:
    found = call_config(reference, "get_configs", "get_config")
    is_set = isinstance(found, Mapping)
    if not is_set:
      name, _, variant = reference.partition(":")
      found = {"-".join(filter(None, (Path(name).stem, variant))): found}
    for name, config in found.items():
      _check_arm(reference, name, config)
      if name in arms:
        raise UserError(
          f"two arms are called {name!r}; give each config once, or name them"
          " in a get_configs of your own."
        )
      arms[name] = Arm(name, override(config, settings), is_set)
  check_enough([*arms])
  return [*arms.values()]


def _check_arm(reference: str, name: object, config: object) -> None:
  if not isinstance(config, ExperimentConfig):
    raise UserError(
      f"{reference} returns {type(config).__name__}, not ExperimentConfig or a"
      " dict of them by name."
    )
  if not isinstance(name, str) or not re.fullmatch(r"\w[\w .+-]*", name):
    raise UserError(
      f"arm {name!r} of {reference} cannot name a folder; legal: letters,"
      " digits, and after the first of them also _ . + - and blanks."
    )


def check_enough(names: Sequence[str], why: str = "") -> None:
  """Refuses to compare fewer than two arms.

  Raises:
    UserError: if there are.
  """
  if len(names) < 2:
    given = f"only {names[0]!r}" if names else "no arm"
    raise UserError(
      f"a comparison needs two arms or more, and this has {given}{why}; give"
      " further configs, or a file with get_configs."
    )


def check_alike(arms: Sequence[Arm], table: bool) -> None:
  """Refuses arms whose results could differ for another reason than the method.

  Args:
    arms: two or more.
    table: whether they search a table, where budget and metric count instead
      of data and stand-alone training.

  Raises:
    UserError: naming the fields that differ.
  """
  first, *others = arms
  look = _table_fields if table else _training_fields
  wanted = look(first.config)
  for arm in others:
    mine = look(arm.config)
    differ = [
      f"{k} ({wanted.get(k)!r} and {mine.get(k)!r})"
      for k in {**wanted, **mine}
      if wanted.get(k) != mine.get(k)
    ]
    if differ:
      what = (
        "the same budget and first objective"
        if table
        else "the same data and the same stand-alone training"
      )
      raise UserError(
        f"arms {first.name!r} and {arm.name!r} differ in {', '.join(differ)};"
        f" a comparison needs {what}."
      )


def _table_fields(config: ExperimentConfig) -> dict[str, object]:
  return {
    "budget": config.budget,
    "search.objectives": [*config.search.objectives][:1],
  }


def _training_fields(config: ExperimentConfig) -> dict[str, object]:
  fields = flat(to_json(config))
  if config.retrain.dropout < 0:  # the space's
    space = make_space(config)
    fields["retrain.dropout"] = float(getattr(space, "dropout", 0.0))
  return {
    k: v
    for k, v in fields.items()
    if k not in IGNORED and any(f"{k}.".startswith(f"{a}.") for a in ALIKE)
  }


def check_folder(
  workdir: Path, arms: Sequence[Arm], table: str | None = None
) -> None:
  """Refuses the folder of another comparison, or of a single run.

  Args:
    workdir: of this comparison.
    arms: of this comparison.
    table: fingerprint of the table that is searched.

  Raises:
    UserError: saying what differs.
  """
  path = workdir / "arms.json"
  if is_file(path):
    if why := _differences(read_json(path), _record(arms, table)):
      raise UserError(
        f"work directory {workdir} belongs to another comparison ({why}); use"
        " another --workdir."
      )
  elif is_file(workdir / "config.json"):
    raise UserError(
      f"work directory {workdir} belongs to a single run; use another"
      " --workdir."
    )


def claim(workdir: Path, arms: Sequence[Arm], table: str | None = None) -> None:
  """Records the arms in `arms.json`; seeds are not, for more may follow.

  Args:
    workdir: made if missing.
    arms: of this comparison, none of them refused.
    table: fingerprint of the table that is searched.

  Raises:
    UserError: as `check_folder`, or if the folder cannot be made.
  """
  check_folder(workdir, arms, table)
  make_folder(workdir)
  write_json(workdir / "arms.json", _record(arms, table))


def _record(arms: Sequence[Arm], table: str | None) -> dict:
  return {
    "table": table,
    "arms": {arm.name: to_json(arm.seeded(0)) for arm in arms},
  }


def _differences(theirs: dict, mine: dict) -> str:
  """What two comparisons differ in, empty if in nothing."""
  if theirs["table"] != mine["table"]:
    what = "no table" if theirs["table"] is None else "another table"
    return f"it searches {what}"
  old, new = theirs["arms"], mine["arms"]
  if [*old] != [*new]:
    return f"its arms are {', '.join(old)}"
  changed = [name for name in old if old[name] != new[name]]
  if not changed:
    return ""
  a, b = flat(old[changed[0]]), flat(new[changed[0]])
  fields = [
    f"{k}: {a.get(k)!r} there, {b.get(k)!r} here"
    for k in {**a, **b}
    if a.get(k) != b.get(k)
  ]
  return f"arm {changed[0]!r} differs in {', '.join(fields)}"
