import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.checkpoint import Checkpoints
from jaxnas.errors import RunError


@flax.struct.dataclass
class State:
  step: jax.Array
  variables: dict


def make(seed: int) -> State:
  """A state with every type that a run saves, the values set by `seed`."""
  rng = np.random.default_rng(seed)
  normal = rng.standard_normal((4, 3)).astype(np.float32)
  normal[0] = [np.nan, -0.0, np.inf]
  return State(
    step=jnp.asarray(seed, jnp.int32),
    variables={
      "f32": jnp.asarray(normal),
      "bf16": jnp.asarray(rng.standard_normal(5), jnp.bfloat16),
      "f16": jnp.asarray(rng.standard_normal(2), jnp.float16),
      "bool": jnp.asarray(rng.random(7) < 0.5),
      "scalar": jnp.asarray(rng.random(), jnp.float32),
      "ints": (
        jnp.asarray(rng.integers(0, 255, 3), jnp.uint8),
        jnp.asarray(rng.integers(-9, 9, (2, 2)), jnp.int32),
      ),
      "key": jax.random.key_data(jax.random.key(seed)),
    },
  )


def bits(tree) -> list:
  """Types, shapes and bytes; unlike `==`, this tells -0 from 0."""
  return [
    (str(a.dtype), a.shape, np.asarray(a).tobytes())
    for a in jax.tree.leaves(tree)
  ]


META = {"seconds": 0.1, "list": [1, 2], "text": "ö", "none": None}


def meta(step: int) -> dict:
  return META | {"step": step}


@pytest.fixture
def open_(tmp_path):
  """Opens the checkpoints of one folder; closes them all at the end."""
  opened = []

  def open_():
    opened.append(Checkpoints(tmp_path / "train"))
    return opened[-1]

  yield open_
  for checkpoints in opened:
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
  """A folder with checkpoints 1 and 2, to be copied and damaged."""
  folder = tmp_path_factory.mktemp("saved") / "train"
  checkpoints = Checkpoints(folder)
  for step in (1, 2):
    checkpoints.save(step, make(step), meta(step))
  checkpoints.close()
  return folder


@pytest.fixture
def copy(saved, tmp_path) -> Path:
  return Path(shutil.copytree(saved, tmp_path / "train"))


def check(found, step: int) -> None:
  assert found is not None
  assert found[0] == step
  assert isinstance(found[1], State)
  assert bits(found[1]) == bits(make(step))
  assert found[2] == meta(step)


def test_round_trip_is_bit_equal(open_):
  checkpoints = open_()
  assert checkpoints.steps() == []
  assert checkpoints.restore(make(0)) is None
  checkpoints.save(5, make(5), meta(5))
  check(checkpoints.restore(make(0)), 5)
  check(open_().restore(make(0)), 5)
  # Shapes are enough to restore into.
  check(open_().restore(jax.eval_shape(lambda: make(0))), 5)


def test_a_tree_of_numpy_arrays(open_):
  tree = {"round": np.zeros((), np.int32), "b": np.arange(3.0, dtype="float32")}
  checkpoints = open_()
  checkpoints.save(1, tree, {})
  step, back, _ = checkpoints.restore(tree)
  assert step == 1
  assert bits(back) == bits(tree)


def test_meta_comes_back_as_json(open_):
  checkpoints = open_()
  # JSON sorts and spells keys its own way; that must not read as damage.
  odd = {"t": (1, 2), "keys": {10: "a", 9: "b"}, "nan": float("nan")}
  checkpoints.save(1, make(1), odd)
  _, _, back = checkpoints.restore(make(0))
  assert back["t"] == [1, 2]
  assert back["keys"] == {"10": "a", "9": "b"}
  assert back["nan"] != back["nan"]


def test_the_last_two_are_kept(open_):
  checkpoints = open_()
  for step in (1, 4, 5, 9):
    checkpoints.save(step, make(step), meta(step))
  assert checkpoints.steps() == [5, 9]
  check(checkpoints.restore(make(0)), 9)


def test_a_kill_before_the_sums_are_written_does_no_harm(copy, open_):
  (copy / "2" / "sha256.json").unlink()
  check(open_().restore(make(0)), 2)


@pytest.mark.parametrize("step", [3, 4])
def test_a_step_that_would_not_be_saved_is_an_error(open_, step):
  checkpoints = open_()
  checkpoints.save(4, make(4), meta(4))
  with pytest.raises(RunError, match="not above"):
    checkpoints.save(step, make(7), meta(7))
  check(checkpoints.restore(make(0)), 4)


def test_restoring_onto_a_sharding(open_):
  checkpoints = open_()
  checkpoints.save(1, make(1), meta(1))
  mesh = jax.make_mesh((1,), ("data",))
  sharding = jax.sharding.NamedSharding(mesh, jax.P())
  found = checkpoints.restore(make(0), sharding)
  check(found, 1)
  assert all(a.sharding == sharding for a in jax.tree.leaves(found[1]))


@pytest.mark.parametrize(
  "change",
  [
    lambda v: v | {"f32": v["f32"][:2]},
    lambda v: v | {"f32": v["f32"].astype(jnp.bfloat16)},
    lambda v: v | {"new": v["f32"]},
    lambda v: {k: a for k, a in v.items() if k != "bool"},
  ],
)
def test_another_configs_checkpoint_is_no_damage(copy, open_, change):
  other = make(0)
  other = other.replace(variables=change(other.variables))
  checkpoints = open_()
  with pytest.raises(RunError, match="another configuration or version"):
    checkpoints.restore(other)
  # Nothing was moved; the right program still finds it.
  assert os.listdir(copy.parent) == ["train"]
  check(checkpoints.restore(make(0)), 2)


def files(step: Path) -> list[Path]:
  return sorted(p for p in step.rglob("*") if p.is_file())


def truncate(step: Path) -> None:
  for path in files(step / "arrays"):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_files(step: Path) -> None:
  for path in files(step):
    path.write_bytes(b"")


def flip_data(step: Path) -> None:
  """Flips one byte in the middle of every data file."""
  for path in files(step / "arrays"):
    if path.parent.name == "d":
      raw = bytearray(path.read_bytes())
      raw[len(raw) // 2] ^= 0xFF
      path.write_bytes(bytes(raw))


def alter_meta(step: Path) -> None:
  path = step / "meta" / "metadata"
  raw = path.read_bytes()
  assert b"0.1" in raw
  path.write_bytes(raw.replace(b"0.1", b"0.2"))


def alter_meta_without_sums(step: Path) -> None:
  (step / "sha256.json").unlink()
  alter_meta(step)


def swap_arrays_without_sums(step: Path) -> None:
  """Readable arrays, but those of another step."""
  (step / "sha256.json").unlink()
  shutil.rmtree(step / "arrays")
  shutil.copytree(step.parent / "1" / "arrays", step / "arrays")


def add_a_file(step: Path) -> None:
  (step / "arrays" / "more").write_text("x")


def drop_meta(step: Path) -> None:
  shutil.rmtree(step / "meta")


def drop_arrays(step: Path) -> None:
  shutil.rmtree(step / "arrays")


DAMAGES = [
  truncate, empty_files, flip_data, alter_meta, drop_meta, drop_arrays,
  alter_meta_without_sums, swap_arrays_without_sums, add_a_file,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_one_is_set_aside(copy, open_, caplog, damage):
  damage(copy / "2")
  left = {p.relative_to(copy / "2"): p.read_bytes() for p in files(copy / "2")}
  checkpoints = open_()
  check(checkpoints.restore(make(0)), 1)
  (warning,) = [r for r in caplog.records if r.name == "jaxnas"]
  assert warning.levelno == logging.WARNING
  assert str(copy / "2") in warning.getMessage()
  assert "damaged" in warning.getMessage()
  assert "one before" in warning.getMessage()
  # It is not deleted, byte for byte.
  (aside,) = copy.parent.glob("train-damaged-2-*")
  assert {p.relative_to(aside): p.read_bytes() for p in files(aside)} == left
  assert aside.name in warning.getMessage()
  # The run goes on from there, and may write the same step again.
  checkpoints.save(2, make(2), meta(2))
  check(open_().restore(make(0)), 2)


def test_a_flipped_byte_in_any_file_is_found(saved, tmp_path):
  names = [p.relative_to(saved) for p in files(saved / "2")]
  assert len(names) > 8
  for i, name in enumerate(names):
    folder = Path(shutil.copytree(saved, tmp_path / f"train{i}"))
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 0x55
    (folder / name).write_bytes(bytes(raw))
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore(make(0))
    checkpoints.close()
    check(found, 1)


def test_both_damaged_gives_none_and_keeps_both(copy, open_, caplog):
  truncate(copy / "1")
  alter_meta(copy / "2")
  assert open_().restore(make(0)) is None
  assert len(list(copy.parent.glob("train-damaged-*"))) == 2
  assert [r.levelno for r in caplog.records].count(logging.WARNING) == 2


def test_nothing_is_unpickled(copy, open_, monkeypatch):
  def fail(*_, **__):
    raise AssertionError("a checkpoint was unpickled")

  for name in ("load", "loads", "Unpickler"):
    monkeypatch.setattr(pickle, name, fail)
  check(open_().restore(make(0)), 2)
  # Nor is there a pickle in it: protocol 2 and later starts with 0x80.
  for path in files(copy):
    assert not path.read_bytes().startswith(b"\x80"), path
    assert path.suffix not in (".pkl", ".pickle")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from jaxnas.checkpoint import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]))
first = (checkpoints.steps() or [0])[-1]
for step in range(first + 1, 10**6):
  tree = {"a": np.full((300, 300), step, np.float32), "s": np.int32(step)}
  checkpoints.save(step, tree, {"step": step})
  print(step, flush=True)
"""


def test_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path, repo):
  folder = tmp_path / "train"
  like = {"a": np.zeros((300, 300), np.float32), "s": np.int32(0)}
  environment = os.environ | {
    "PYTHONPATH": str(repo), "JAX_PLATFORMS": "cpu",
  }  # fmt: skip
  last = 0
  for i in range(4):
    process = subprocess.Popen(
      [sys.executable, "-c", WRITER, str(folder)],
      stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
      done = [int(process.stdout.readline()) for _ in range(3)][-1]
      time.sleep(0.007 * (i + 1))  # other moments of the next saves
    finally:
      os.kill(process.pid, signal.SIGKILL)
      rest, _ = process.communicate()
    done = max([done, *map(int, rest.split())])
    checkpoints = Checkpoints(folder)
    step, arrays, stored = checkpoints.restore(like)
    checkpoints.close()
    # Every save that returned is there; the one in flight may be.
    assert step in (done, done + 1)
    assert step > last
    assert stored == {"step": step}
    assert int(arrays["s"]) == step
    assert (np.asarray(arrays["a"]) == step).all()
    last = step
  assert not list(tmp_path.glob("train-damaged-*"))
