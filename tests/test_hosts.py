"""Several processes as hosts: equal results, one writer, a bounded end."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnas import hosts
from jaxnas.errors import UserError

HERE = Path(__file__).parent
SPACE = """
from jaxnas.spaces import Conv, Identity, Layer, MBConv, Space


def get_space():
  choices = (Identity(), MBConv(2, 3), MBConv(1, 3))
  return Space(
    name="mini", image_size=8, image_channels=1, n_classes=10,
    stem=(Layer((Conv(3),), 4, 2),), layers=(Layer(choices, 4),) * 2,
  )
"""
CONFIG = """
from pathlib import Path

from jaxnas.config import load_config, override


def get_config():
  return override(load_config({base!r}), [
    "space.name=" + str(Path(__file__).with_name("space.py")),
    "budget=", "data.limit=128", "data.augment.shift=0",
    "train.epochs=3", "train.checkpoint_every=1", "train.log_every=2",
    "score.calibration_images=64",
    "search.population=4", "search.generations=2", "ranking.n_archs=0",
    "retrain.epochs=2", "retrain.checkpoint_every=1", "retrain.log_every=2",
  ])
"""
# Compiling is most of the time, so without LLVM's optimisations.
FLAGS = (
  "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={}"
)


class Group:
  """The same command in several processes.

  Args:
    arguments: of each process; those that tell the hosts apart are added.
    n: processes.
    devices: fake ones of each process.
    env: more environment.
    worker: whether the command is one of `hosts_worker.py`.
    own: further arguments of each process.
  """

  def __init__(self, arguments, n, devices, env, worker=False, own=None):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      coordinator = f"localhost:{free.getsockname()[1]}"
    roots = [HERE, HERE / "scoring", HERE.parent]
    env = {
      **os.environ, **env, "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": FLAGS.format(devices),
      # One process with two devices takes two threads at least, and how many
      # there are decides how XLA splits long sums.
      "NPROC": "2",
      "PYTHONPATH": os.pathsep.join(map(str, roots)),
    }  # fmt: skip
    self.processes = []
    for i in range(n):
      if worker:
        name, *rest = arguments
        rest = [name, coordinator, str(n), str(i), *rest]
        command = ["-W", "error", str(HERE / "hosts_worker.py"), *rest]
      else:
        command = ["-W", "error", "-m", "jaxnas", *arguments]
        if n > 1:
          command += ["--coordinator", coordinator]
          command += ["--hosts", str(n), "--host", str(i)]
        command += own[i] if own else []
      self.processes.append(
        subprocess.Popen(
          [sys.executable, *command], env=env, text=True,
          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
      )  # fmt: skip

  def wait(self, timeout=300):
    """Status, output and messages of each process."""
    try:
      found = [p.communicate(timeout=timeout) for p in self.processes]
    finally:
      self.kill()
    codes = [p.returncode for p in self.processes]
    return [(code, *texts) for code, texts in zip(codes, found, strict=True)]

  def kill(self):
    """Ends what still runs."""
    for process in self.processes:
      process.kill()
      process.wait()
      process.stdout.close()
      process.stderr.close()

  def succeed(self):
    """The same, all of them with status 0; returns the output of host 0."""
    found = self.wait()
    assert [code for code, _, _ in found] == [0] * len(found), found
    return found[0][1]


@pytest.fixture(scope="module")
def config(tmp_path_factory, repo) -> str:
  folder = tmp_path_factory.mktemp("project")
  (folder / "space.py").write_text(SPACE)
  base = f"{repo / 'configs' / 'digits_fairnas.py'}:quicktest"
  (folder / "config.py").write_text(CONFIG.format(base=base))
  return str(folder / "config.py")


@pytest.fixture
def run(config, xla_cache):
  """Runs all stages on n processes with some devices each."""

  def run(workdir, n, devices, *more, own=None):
    arguments = ["run", config, "--workdir", str(workdir), "--json", *more]
    return Group(arguments, n, devices, xla_cache, own=own)

  return run


def outcome(workdir: Path) -> dict:
  """All that must not depend on the number of processes, or on a kill."""
  result = json.loads((workdir / "result.json").read_text())
  del result["seconds"]
  found = {"result": result}
  for name in (
    "config.json", "fairness.json", "metrics.jsonl", "retrain.json",
    "search.json", "space.json", "export/weights.npz",
  ):  # fmt: skip
    found[name] = (workdir / name).read_bytes()
  for name in ("archs.csv", "pareto.csv"):
    rows = list(csv.DictReader((workdir / name).read_text().splitlines()))
    found[name] = [{k: r[k] for k in r if k != "seconds"} for r in rows]
  return found


def differing(workdir: Path, other: Path) -> list[str]:
  one, two = outcome(workdir), outcome(other)
  return [name for name in one if one[name] != two[name]]


@pytest.fixture(scope="module")
def alone(config, xla_cache, tmp_path_factory) -> Path:
  """A run of one process with two devices."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  arguments = ["run", config, "--workdir", str(workdir), "--json"]
  Group(arguments, 1, 2, xla_cache).succeed()
  return workdir


def test_two_processes_do_what_one_does(run, alone, tmp_path):
  out = run(tmp_path / "run", 2, 1).succeed()
  # The sums of two parts are the same in any order, so to the last bit.
  assert differing(tmp_path / "run", alone) == []
  # One JSON object, from one host.
  assert json.loads(out) == json.loads(
    (tmp_path / "run" / "result.json").read_text()
  )
  assert (tmp_path / "run" / "report.html").is_file()
  assert not list((tmp_path / "run").glob(".*"))


def test_four_processes_train_and_score_as_one_does(
  config, xla_cache, alone, tmp_path
):
  arguments = ["train", config, "--workdir", str(tmp_path / "run")]
  Group([*arguments], 4, 1, xla_cache).succeed()
  rows = [
    [json.loads(r) for r in (w / "metrics.jsonl").read_text().splitlines()]
    for w in (tmp_path / "run", alone)
  ]
  rows[1] = [r for r in rows[1] if r["stage"] == "train"]
  assert [{**r}.keys() for r in rows[0]] == [{**r}.keys() for r in rows[1]]
  losses = [[r["loss"] for r in each if "loss" in r] for each in rows]
  # Other sums of float32, and training that makes much of little.
  np.testing.assert_allclose(*losses, rtol=1e-3)


def until(there, group, seconds=200):
  end = time.monotonic() + seconds
  while not there():
    late = time.monotonic() > end
    if late or any(p.poll() is not None for p in group.processes):
      group.processes[0].kill()
      raise AssertionError((late, group.wait()))
    time.sleep(0.02)


def trained(workdir: Path) -> list[str]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [line for line in lines if json.loads(line)["stage"] == "train"]


def test_a_killed_host_ends_all_and_any_number_goes_on(
  run, config, xla_cache, alone, tmp_path
):
  workdir = tmp_path / "run"
  group = run(workdir, 2, 1)
  # After the first checkpoint, in the midst of training.
  until((workdir / "checkpoints/train/4/sha256.json").exists, group)
  group.processes[1].send_signal(signal.SIGKILL)
  start = time.monotonic()
  code, _, err = group.wait(60)[0]
  assert code == 1
  assert time.monotonic() - start < 40
  (sentence,) = [s for s in err.splitlines() if s.startswith("error:")]
  assert "another host was lost" in sentence
  assert "Traceback" not in err
  assert not (workdir / "result.json").exists()
  again = shutil.copytree(workdir, tmp_path / "again")
  Group(["train", config, "--workdir", str(again)], 2, 1, xla_cache).succeed()
  assert trained(again) == trained(alone)
  run(workdir, 1, 2).succeed()
  assert differing(workdir, alone) == []


def test_hosts_exchange_messages_arrays_and_scores(xla_cache, tmp_path):
  Group(["exchange", str(tmp_path)], 2, 2, xla_cache, worker=True).succeed()


def test_a_host_that_falls_silent_ends_all(xla_cache, tmp_path):
  group = Group(["quiet", str(tmp_path)], 2, 1, xla_cache, worker=True)
  until(lambda: len(list(tmp_path.iterdir())) == 2, group)
  time.sleep(2)
  group.processes[1].send_signal(signal.SIGSTOP)
  try:
    _, err = group.processes[0].communicate(timeout=40)
  finally:
    group.kill()
  assert group.processes[0].returncode == 1
  assert "host 1 ended: it has not been heard of for 4 s" in err


@pytest.mark.parametrize("case", ["config", "workdir"])
def test_hosts_that_are_told_different_things(run, tmp_path, case):
  other = {
    "config": ["--seed", "3"],
    "workdir": ["--workdir", str(tmp_path / "b")],
  }[case]
  group = run(tmp_path / "a", 2, 1, own=[[], other])
  found = group.wait()
  assert [code for code, _, _ in found] == [2, 2], found
  for _, out, err in found:
    (sentence,) = [s for s in err.splitlines() if s.startswith("error:")]
    assert "host 1 was started with something else" in sentence
    assert f"--{'seed' if case == 'config' else 'workdir'}: " in sentence
    assert "Traceback" not in err
    assert not out
  assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (("a:1", 2, None), "--host missing"),
    ((None, 2, 0), "--coordinator missing"),
    (("a", 2, 0), "HOST:PORT"),
    (("a:1", 2, 2), "numbered from 0"),
    (("a:1", 0, 0), "1 host or more"),
  ],
)
def test_flags_that_do_not_go_together(given, message):
  with pytest.raises(UserError, match=message):
    hosts.start(*given)


def test_one_process_is_alone_and_pays_nothing(monkeypatch):
  def fail(**_):
    raise AssertionError("there is nothing to join")

  monkeypatch.setattr(jax.distributed, "initialize", fail)
  for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri"):
    monkeypatch.delenv(name, raising=False)
  hosts.start()
  hosts.start("localhost:1", 1, 0)
  assert (hosts.count(), hosts.index(), hosts.is_writer()) == (1, 0, True)
  hosts.barrier("a")
  value = object()
  assert hosts.once(lambda: value) is value
  assert hosts.every(1) == [1]
  hosts.check_same({"a": value})
  a = np.arange(3)
  assert hosts.gather(a) is a
  assert hosts.gather_rows(a, np.zeros(3, int)) is a


def test_slurm_says_itself_how_many_there_are(monkeypatch):
  seen = {}
  monkeypatch.setattr(jax.distributed, "initialize", lambda **o: seen.update(o))
  monkeypatch.setattr(hosts, "_joined", lambda: None)
  for name, value in (
    ("JOB_ID", "7"), ("STEP_NODELIST", "n[1-2]"), ("NTASKS", "2"),
    ("PROCID", "1"), ("LOCALID", "0"),
  ):  # fmt: skip
    monkeypatch.setenv(f"SLURM_{name}", value)
  hosts.start()
  assert seen.keys() == {"heartbeat_timeout_seconds"}
  monkeypatch.setenv("SLURM_NTASKS", "1")
  seen.clear()
  hosts.start()
  assert not seen
