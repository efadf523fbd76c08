import dataclasses
import json
import math
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxnas import config as config_lib
from jaxnas.config import (
  ExperimentConfig,
  config_files,
  fingerprint,
  from_json,
  load_config,
  load_function,
  override,
  to_json,
)
from jaxnas.errors import UserError

BASE = ExperimentConfig()


def leaves(node, prefix=""):
  """Lists `(dotted path, type, value)` of every field that can be set."""
  for name, hint in typing.get_type_hints(type(node)).items():
    value = getattr(node, name)
    if dataclasses.is_dataclass(value):
      yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", hint, value


LEAVES = {path: (hint, value) for path, hint, value in leaves(BASE)}


def get(config, path):
  for key in path.split("."):
    config = getattr(config, key)
  return config


def another(path):
  """A legal text for a field, and the other value that it stands for."""
  hint, value = LEAVES[path]
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Literal:
    new = next(a for a in args if a != value)
    return new, new
  if origin is tuple:
    new = ("x", "-y") if args[0] is str else (0.25, 0.75)
    return ",".join(map(str, new)), new
  if hint is bool:
    return str(not value).lower(), not value
  if hint is int:
    return str(value + 3), value + 3
  if hint is float:
    return repr(value + 0.5), value + 0.5
  if hint is dict:
    return '{"se_ratio": 0.5}', {"se_ratio": 0.5}
  assert hint is str, hint  # a new field type needs a case here and in override
  return f"{value}x", f"{value}x"


@pytest.mark.parametrize("path", LEAVES)
def test_every_field_can_be_set_and_survives_json(path):
  text, want = another(path)
  changed = override(BASE, [f"{path}={text}"])
  assert get(changed, path) == want
  assert type(get(changed, path)) is type(want)
  # Nothing else moves.
  back = dict((p, v) for p, _, v in leaves(changed) if p != path)
  assert back == {p: v for p, (_, v) in LEAVES.items() if p != path}
  again = from_json(json.loads(json.dumps(to_json(changed))))
  assert again == changed
  assert fingerprint(again) == fingerprint(changed) != fingerprint(BASE)


def test_every_section_is_reachable_and_documented():
  sections = {p.rsplit(".", 1)[0] for p in LEAVES if "." in p}
  assert {"space", "data.augment", "train.optimizer", "mesh"} <= sections
  for name, cls in vars(config_lib).items():
    if name.endswith("Config") and cls is not ExperimentConfig:
      for field in dataclasses.fields(cls):
        assert f"    {field.name}: " in cls.__doc__, (name, field.name)


def test_overrides_apply_in_order_and_leave_the_original_alone():
  changed = override(
    BASE, ["seed=3", " train.epochs = 2 ", "seed=4", "budget=macs<=60M"]
  )
  assert (changed.seed, changed.train.epochs) == (4, 2)
  assert changed.budget == "macs<=60M"  # only the first '=' splits
  assert ExperimentConfig() == BASE
  assert override(BASE, []) is BASE


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("(0.5, 0.25, 0.25)", (0.5, 0.25, 0.25)), ("[1,0,0]", (1.0, 0.0, 0.0)),
    ("1", (1.0,)), ("1,", (1.0,)), ("()", ()), ("", ()),
  ],
)  # fmt: skip
def test_tuples_of_numbers(text, want):
  got = override(BASE, [f"search.mutators={text}"]).search.mutators
  assert got == want
  assert all(type(v) is float for v in got)


@pytest.mark.parametrize(
  "text", ["accuracy,-macs", "('accuracy', '-macs')", '["accuracy", "-macs"]']
)
def test_tuples_of_names(text):
  got = override(BASE, [f"search.objectives={text}"]).search.objectives
  assert got == ("accuracy", "-macs")


@pytest.mark.parametrize("text", ["True", "true", "TRUE"])
def test_booleans(text):
  assert override(BASE, [f"net.remat={text}"]).net.remat is True


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("train.epochs=ten", "'train.epochs' takes int, not 'ten'"),
    ("train.epochs=1.5", "'train.epochs' takes int, not '1.5'"),
    ("train.label_smoothing=low", "'train.label_smoothing' takes float"),
    ("net.remat=1", "'net.remat' takes true or false, not '1'"),
    ("search.mutators=0.5,half", "'search.mutators' takes float, not 'half'"),
    ("space.options=[1]", "'space.options' takes a JSON object"),
    ("space.options={a", "'space.options' takes a JSON object"),
    ("score.bn_mode=runing", "Did you mean 'running'"),
    ("score.bn_mode=zzz", "batch, recalibrate, running"),
    ("search.populaton=4", "Did you mean 'population'"),
    ("serch.population=4", "Did you mean 'search'"),
    ("train.optimizer.lerning_rate=1", "Did you mean 'learning_rate'"),
    ("train=4", "'train' is a section; set one of its fields: epochs"),
    ("train.optimizer=sgd", "'train.optimizer' is a section"),
    ("seed.low=4", "'seed' has no fields of its own"),
    ("=4", "Legal values: blocks, budget"),
    ("seed", "'seed' has no '='"),
  ],
)
def test_a_wrong_assignment_is_named(text, message):
  with pytest.raises(UserError) as caught:
    override(BASE, [text])
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, st.integers(-(2**60), 2**60), st.text(), st.lists(numbers))
def test_json_round_trip_of_any_values(rate, seed, text, weights):
  config = dataclasses.replace(
    BASE,
    seed=seed,
    method=text,
    train=dataclasses.replace(BASE.train, label_smoothing=rate),
    search=dataclasses.replace(BASE.search, objective_weights=tuple(weights)),
  )
  back = from_json(json.loads(json.dumps(to_json(config))))
  assert back == config
  assert fingerprint(back) == fingerprint(config)


def test_equal_configs_have_equal_fingerprints_whatever_their_spelling():
  typed = dataclasses.replace(
    BASE,
    train=dataclasses.replace(BASE.train, label_smoothing=0),
    retrain=dataclasses.replace(
      BASE.retrain,
      optimizer=dataclasses.replace(BASE.retrain.optimizer, warmup_epochs=5),
    ),
    search=dataclasses.replace(BASE.search, mutators=(1, 0, 0)),
  )
  said = override(
    BASE,
    [
      "train.label_smoothing=0",
      "retrain.optimizer.warmup_epochs=5",
      "search.mutators=1,0,0",
    ],
  )
  assert typed == said
  assert fingerprint(typed) == fingerprint(said)
  assert json.dumps(to_json(typed)) == json.dumps(to_json(said))
  first = dataclasses.replace(
    BASE,
    space=config_lib.SpaceConfig("fairnas", {"act": "swish", "se_ratio": 1}),
  )
  second = dataclasses.replace(
    BASE,
    space=config_lib.SpaceConfig("fairnas", {"se_ratio": 1, "act": "swish"}),
  )
  assert first == second
  assert fingerprint(first) == fingerprint(second)


def test_fingerprint_is_stable_text():
  text = fingerprint(BASE)
  assert len(text) == 12
  assert int(text, 16) >= 0
  assert text == fingerprint(ExperimentConfig())


def test_json_with_missing_or_unknown_fields():
  assert from_json({}) == BASE
  assert from_json({"train": {"epochs": 3}}).train.epochs == 3
  with pytest.raises(UserError, match="TrainConfig 'epoch'. Did you mean"):
    from_json({"train": {"epoch": 3}})
  with pytest.raises(UserError, match="ExperimentConfig 'sead'"):
    from_json({"sead": 3})


SINGLE = [p for p in config_files() if not p.stem.startswith("compare_")]


def test_a_set_of_configs_is_for_compare():
  for variant in ("", ":quicktest"):
    with pytest.raises(UserError, match="jaxnas compare"):
      load_config(f"compare_digits{variant}")


@pytest.mark.parametrize("path", SINGLE, ids=lambda p: p.stem)
def test_shipped_configs(path):
  full, quick = load_config(str(path)), load_config(f"{path}:quicktest")
  assert full == load_config(path.stem) == load_config(f"configs/{path.name}")
  assert full != quick
  for config in (full, quick):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    for field, hint, value in leaves(config):
      if hint is float:
        assert math.isfinite(value), field
      elif hint in (int, bool, str, dict):
        assert type(value) is hint, field
      elif typing.get_origin(hint) is typing.Literal:
        assert value in typing.get_args(hint), field
  assert quick.train.epochs <= full.train.epochs
  # The header says how to run it.
  assert f"configs/{path.name}" in path.read_text().split('"""')[1]


def test_there_are_shipped_configs():
  assert "digits_fairnas" in {p.stem for p in config_files()}


FILE = """
from dataclasses import replace
from jaxnas.config import ExperimentConfig
import math

def get_config():
  return ExperimentConfig(seed=7)

def small():
  return replace(get_config(), seed=8)

def number():
  return 3

def typo():
  return ExperimentConfig(sede=7)
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(FILE)
  return path


def test_variants_of_a_file(file):
  assert load_config(str(file)).seed == 7
  assert load_config(f"{file}:small").seed == 8


@pytest.mark.parametrize(
  ("variant", "message"),
  [
    ("smal", "Did you mean 'small'"),
    # What the file imports is none of its variants.
    ("replace", "Legal values: get_config, number, small, typo."),
    ("number", "returns int, not ExperimentConfig"),
    ("typo", "typo of .*mine.py fails: TypeError.*'sede'"),
  ],
)
def test_wrong_variants(file, variant, message):
  with pytest.raises(UserError, match=message):
    load_config(f"{file}:{variant}")


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("def get_config(:", "cannot be run: SyntaxError"),
    ("import absent_module", "cannot be run: ModuleNotFoundError"),
    ("1 / 0", "cannot be run: ZeroDivisionError"),
    ("x = 1", "unknown variant"),
  ],
)
def test_files_that_cannot_be_run(tmp_path, source, message):
  path = tmp_path / "bad.py"
  path.write_text(source)
  with pytest.raises(UserError, match=message):
    load_config(str(path))


def test_missing_files(tmp_path):
  with pytest.raises(UserError, match="Did you mean 'digits_fairnas'"):
    load_config("digits_fairnass")
  # Another folder's missing file is not silently a shipped one.
  with pytest.raises(UserError, match="no config file"):
    load_config(str(tmp_path / "digits_fairnas.py"))
  with pytest.raises(UserError, match="no config file"):
    load_config("digits_fairnas.yaml")
  with pytest.raises(UserError, match="no file"):
    load_function(tmp_path / "absent.py", "f")
  (tmp_path / "notes.txt").write_text("x = 1")
  with pytest.raises(UserError, match="not a Python file"):
    load_config(str(tmp_path / "notes.txt"))


def test_a_users_own_error_passes_through(tmp_path):
  path = tmp_path / "own.py"
  path.write_text(
    "from jaxnas.errors import UserError\n"
    "def get_config():\n  raise UserError('choose a data set.')\n"
  )
  with pytest.raises(UserError, match=r"^choose a data set\.$"):
    load_config(str(path))
