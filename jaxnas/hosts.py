"""Many hosts as one: the same command on each, JAX's own runtime in between.

Every host computes; host 0 alone writes the files of a run and reads them, and
tells the others what it read, so that no decision depends on a local clock, a
local file or the cache of a shared file system. With one process everything
here is a plain call. A host is a process; usually there is one per machine.
"""

import atexit
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np

from jaxnas import watch
from jaxnas.errors import RunError, UserError
from jaxnas.watch import Watch

log = logging.getLogger("jaxnas")

T = TypeVar("T")

# Environments with several hosts whose first host and own number JAX knows.
KNOWN = ("gcetpu", "gketpu", "slurm", "ompi")
FIRST = 4096  # bytes of a message that cost one program; longer ones two

# Whether host 0 is at work alone, see `once`.
_alone = False
_watch: Watch | None = None


def start(
  coordinator: str | None = None,
  hosts: int | None = None,
  host: int | None = None,
) -> None:
  """Joins the other hosts, if there are any; before JAX touches a device.

  On a TPU slice, under SLURM and under Open MPI nothing need be said.

  Args:
    coordinator: `HOST:PORT` of host 0, a free port there.
    hosts: how many there are.
    host: number of this one, from 0.

  Raises:
    UserError: if only some are given, or for a value that cannot be used.
    RunError: if the others cannot be reached.
  """
  given = {"--coordinator": coordinator, "--hosts": hosts, "--host": host}
  missing = [name for name, value in given.items() if value is None]
  options = {}
  if not missing:
    _check(coordinator, hosts, host)
    if hosts == 1:
      return
    options = {
      "coordinator_address": coordinator,
      "num_processes": hosts,
      "process_id": host,
      "cluster_detection_method": "deactivate",
    }
  elif len(missing) < len(given):
    raise UserError(
      f"{' and '.join(missing)} missing: --coordinator HOST:PORT, --hosts N and"
      " --host I go together; on a TPU slice, under SLURM or Open MPI leave all"
      " of them out."
    )
  elif _detected() == 1:
    return
  import jax

  # It would swallow SIGTERM; any checkpoint is good enough to go on from.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      **options, heartbeat_timeout_seconds=int(2 * watch.LOST)
    )
  except (RuntimeError, ValueError, OSError) as error:
    reason = " ".join(str(error).split())[:200]
    raise RunError(f"this host could not join the others: {reason}") from error
  _joined()


def _joined() -> None:
  """Looks after the others from now on, and speaks for all or not at all."""
  global _watch
  _watch = Watch()
  # Gloo talks on the standard output, which belongs to the result.
  sys.stdout.flush()
  sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
  atexit.register(sys.stdout.close)
  os.dup2(2, 1)
  if not is_writer():
    log.setLevel(logging.ERROR)  # host 0 says it for all
  log.info("host %d of %d", index(), count())


def _check(coordinator: str, hosts: int, host: int) -> None:
  if not re.fullmatch(r"[^\s:]+:\d+", coordinator):
    raise UserError(
      f"--coordinator is {coordinator!r}; legal: HOST:PORT, of host 0."
    )
  if hosts < 1 or not 0 <= host < hosts:
    raise UserError(
      f"--host is {host} of --hosts {hosts}; legal: 1 host or more, numbered"
      " from 0."
    )


def _detected() -> int:
  """Hosts of the TPU slice or job that this process is a part of."""
  # JAX says by no public name whether there is anything to initialise.
  from jax._src.clusters import ClusterEnv

  for kind in ClusterEnv._cluster_types:
    try:
      if kind.name in KNOWN and kind.is_env_present():
        return kind.get_process_count()
    except Exception as error:  # such as a notebook's TPU without metadata
      log.debug("%s is no environment of hosts: %s", kind.name, error)
  return 1


def count() -> int:
  """How many hosts there are; 1 inside `once`."""
  jax = sys.modules.get("jax")
  if _alone or jax is None or not jax.distributed.is_initialized():
    return 1
  return jax.process_count()


def index() -> int:
  """Number of this host, from 0."""
  return sys.modules["jax"].process_index() if count() > 1 else 0


def is_writer() -> bool:
  """Whether this host writes files and log lines: host 0."""
  return index() == 0


def barrier(name: str) -> None:
  """Waits until all hosts are here.

  Args:
    name: says where; all must say the same.
  """
  if count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def once(task: Callable[[], T]) -> T:
  """Runs a task on host 0 alone, and tells all what it returns.

  Args:
    task: touches no array that is spread over hosts; returns bytes or what
      JSON can hold.

  Raises:
    UserError: what the task raises, on all hosts; likewise RunError. Others
      become a RunError on the hosts that wait.
  """
  global _alone
  if count() == 1:
    return task()
  if not is_writer():
    return _open(_broadcast(b""))
  _alone = True
  try:
    value = task()
  except Exception as error:
    _alone = False
    kind = "U" if isinstance(error, UserError) else "R"
    text = str(error)
    if not isinstance(error, UserError | RunError):
      text = f"host 0 failed with {type(error).__name__}: {text}"
    _broadcast((kind + text).encode())
    raise
  finally:
    _alone = False
  raw = isinstance(value, bytes)
  return _open(_broadcast(b"B" + value if raw else b"J" + _json(value)))


def agree(value: T) -> T:
  """Returns host 0's value on every host; bytes or what JSON can hold."""
  return once(lambda: value)


def _json(value: Any) -> bytes:
  return json.dumps(value).encode()


def _open(message: bytes) -> Any:
  kind, rest = message[:1], message[1:]
  if kind == b"B":
    return rest
  if kind == b"J":
    return json.loads(rest)
  raise (UserError if kind == b"U" else RunError)(rest.decode())


def _broadcast(message: bytes) -> bytes:
  """Host 0's message, on every host."""
  from jax.experimental import multihost_utils

  def send(part: bytes, room: int) -> bytes:
    # In words, for not every backend adds bytes.
    words = np.frombuffer(part.ljust(room, b"\0"), np.int32)
    return multihost_utils.broadcast_one_to_all(words).tobytes()

  size = len(message).to_bytes(8, "little")
  first = send(size + message[: FIRST - 8], FIRST)
  size, start_ = int.from_bytes(first[:8], "little"), first[8:]
  left = size - len(start_)
  if left <= 0:
    return start_[:size]
  # Rooms of few sizes, because each is a program.
  room = max(FIRST, 1 << left.bit_length())
  return (start_ + send(message[FIRST - 8 :], room))[:size]


def every(value: Any) -> list:
  """The values of all hosts, in their order; what JSON can hold."""
  if count() == 1:
    return [value]
  from jax.experimental import multihost_utils

  raw = _json(value)
  sizes = multihost_utils.process_allgather(np.int32(len(raw)))
  room = max(FIRST, 1 << int(sizes.max()).bit_length())
  words = np.frombuffer(raw.ljust(room, b"\0"), np.int32)
  rows = multihost_utils.process_allgather(words)
  return [
    json.loads(row.tobytes()[:size])
    for row, size in zip(rows, sizes.reshape(-1).tolist(), strict=True)
  ]


def check_same(values: dict[str, Any]) -> None:
  """Refuses hosts that were started differently.

  Args:
    values: by name, what JSON can hold; nothing that differs rightly.

  Raises:
    UserError: on all hosts, naming the first host and value that differ.
  """
  if count() == 1:
    return
  mine = json.loads(_json(values))
  first = agree(mine)
  names = sorted({*first, *mine})
  other = [k for k in names if first.get(k) != mine.get(k)]
  found = [
    f"{k}: {mine.get(k)!r} there, {first.get(k)!r} on host 0" for k in other
  ]
  for number, differences in enumerate(every(found)):
    if differences:
      raise UserError(
        f"host {number} was started with something else than host 0"
        f" ({', '.join(differences)}); run the same command on every host."
      )


def gather(array: Any) -> np.ndarray:
  """The whole of an array on this host, wherever its parts are.

  Args:
    array: of the host, or of devices; all hosts must ask for it.
  """
  parts = count() > 1 and not getattr(array, "is_fully_addressable", True)
  if not parts or array.is_fully_replicated:
    return np.asarray(array)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(array, tiled=True)


def gather_rows(rows: np.ndarray, owners: np.ndarray) -> np.ndarray:
  """Puts together rows that hosts have computed.

  Args:
    rows: of this host, `[own, ...]`, in order.
    owners: which host has each row of the result, `int[n]`.

  Returns:
    `[n, ...]` on every host.
  """
  if count() == 1:
    return rows
  from jax.experimental import multihost_utils

  most = np.bincount(owners, minlength=count()).max()
  padded = np.zeros((most, *rows.shape[1:]), rows.dtype)
  padded[: len(rows)] = rows
  found = multihost_utils.process_allgather(padded)
  out = np.zeros((len(owners), *rows.shape[1:]), rows.dtype)
  for host in range(count()):
    mine = owners == host
    out[mine] = found[host, : mine.sum()]
  return out


# Ends -------------------------------------------------------------------------


def finish() -> None:
  """Says that this host has done its work."""
  if _watch:
    _watch.finish()


def is_lost(error: BaseException) -> bool:
  """Whether an error comes from another host that is gone."""
  text = ""
  while error is not None:
    text, error = f"{text} {error}", error.__cause__ or error.__context__
  signs = "Gloo|NCCL|oordination|UNAVAILABLE|DEADLINE_EXCEEDED|Barrier"
  return _watch is not None and re.search(signs, text) is not None


def leave(message: str, status: int) -> NoReturn:
  """Ends this host, and with it all others, which say why.

  Args:
    message: one sentence.
    status: of the process, and of the others.
  """
  if _watch is None:
    sys.exit(status)
  _watch.leave(message, status)


def lost() -> NoReturn:
  """Ends this host because another one is gone."""
  time.sleep(2 * watch.BEAT)  # it may have said why
  if found := _watch.failed():
    _watch.end(*found)
  print(
    "error: another host was lost; run the same command again on all of them"
    " to go on from the last checkpoint.",
    file=sys.stderr, flush=True,
  )  # fmt: skip
  _watch.leave(None, 1)
