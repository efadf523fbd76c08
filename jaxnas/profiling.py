"""Traces of a few steady steps of the long stages, for the usual viewers.

JAX has one profiler for a process, so what is traced is a matter of the
process as well: inside `profiled`, each stage that is watched leaves one trace.
Tracing only listens; a stage computes the same with it and without.
"""

import contextlib
import gzip
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger("jaxnas")

# Steps of a training, after those that compile and warm up.
FIRST, COUNT = 10, 5
# A long call is cut off, so that its trace still opens in a browser.
SECONDS = 5.0


class _Profiler:
  """Traces one stage after the other into its own folder.

  Args:
    folder: traces go into `folder/STAGE`.
  """

  def __init__(self, folder: Path) -> None:
    self.folder = folder
    self.stages: set[str] = set()
    self._lock = threading.Lock()
    self._active: tuple[str, str] | None = None
    self._local: tempfile.TemporaryDirectory | None = None
    self._timer: threading.Timer | None = None

  def claims(self, stage: str) -> bool:
    """Whether a stage is traced: once, and while no other stage is."""
    # One process of several is enough: all of them run the same programs.
    if self._active or stage in self.stages or jax.process_index():
      return False
    self.stages.add(stage)
    return True

  def start(self, stage: str, what: str, seconds: float | None) -> None:
    """Begins to trace; `seconds` bounds how long."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # its cost would distort the steps
    # The profiler writes to disk only; a work directory may be a bucket.
    self._local = tempfile.TemporaryDirectory()
    jax.profiler.start_trace(self._local.name, profiler_options=options)
    self._active = stage, what
    if seconds:
      self._timer = threading.Timer(seconds, self.stop)
      self._timer.daemon = True
      self._timer.start()

  def stop(self) -> None:
    """Ends the trace, if there is one, and says how to open it."""
    with self._lock:
      if not self._active:
        return
      if self._timer:
        self._timer.cancel()
      stage, what = self._active
      jax.profiler.stop_trace()
      self._active = self._timer = None
      with self._local as local:
        path = _deliver(Path(local), self.folder / stage)
    log.info(
      "profile of %s (%s): open %s at https://ui.perfetto.dev, or run"
      " `tensorboard --logdir %s` (pip install tensorboard xprof)",
      stage, what, path, self.folder,
    )  # fmt: skip


_profiler: _Profiler | None = None


@contextlib.contextmanager
def profiled(folder: Path | None) -> Iterator[None]:
  """Within it, watched stages leave traces under `folder/STAGE`; None: none.

  Stages that were too short for that are named in the log.
  """
  global _profiler
  if folder is None:
    yield
    return
  _profiler = _Profiler(folder)
  try:
    yield
  finally:
    _profiler.stop()
    _profiler = None


class Watch:
  """Calls the steps of one stage, and traces some of them if that is wanted.

  Args:
    stage: name of the trace's folder.
    calls: how many there will be; a short stage is traced near its end.
    first: the call that is traced first, from 1; earlier ones compile.
    count: calls that are traced.
    seconds: cut a call off after so long; None ends with a call.
  """

  def __init__(
    self,
    stage: str,
    calls: int,
    first: int = FIRST,
    count: int = COUNT,
    seconds: float | None = None,
  ) -> None:
    self._stage, self._seconds, self._calls = stage, seconds, 0
    self._first = max(2, min(first, calls - count + 1))
    self._last = min(self._first + count - 1, calls)
    self.on = bool(_profiler) and _profiler.claims(stage)
    if self.on and calls < 2:
      log.info("%s takes one step only, which compiles: no profile", stage)

  def __call__(self, function: Callable, *args: Any) -> Any:
    """Returns `function(*args)`."""
    self._calls += 1
    if not self.on or not self._first <= self._calls <= self._last:
      return function(*args)
    if self._calls == self._first:
      what = f"call {self._first}"
      if self._first < self._last:
        what = f"calls {self._first} to {self._last}"
      _profiler.start(self._stage, what, self._seconds)
      self._until = time.monotonic() + SECONDS
    with jax.profiler.StepTraceAnnotation(self._stage, step_num=self._calls):
      found = jax.block_until_ready(function(*args))
    if self._calls == self._last or time.monotonic() > self._until:
      self.on = False
      _profiler.stop()
    return found


def watch_rounds(stage: str, calls: int) -> Watch:
  """Watches long calls: the second one is traced, or its first seconds."""
  return Watch(stage, calls, first=2, count=1, seconds=SECONDS)


def call_again(stage: str, function: Callable, *args: Any) -> Any:
  """Calls a function; to trace it, once more when it has been compiled.

  Args:
    stage: name of the trace's folder.
    function: changes nothing.
    args: its own.

  Returns:
    The result of the first call.
  """
  watch = watch_rounds(stage, 2)
  found = watch(function, *args)
  if watch.on:
    watch(function, *args)
  return found


# Files ------------------------------------------------------------------------


def _deliver(local: Path, folder: Path) -> Path:
  """Moves a trace where XProf looks for it; returns the file for Perfetto."""
  (made,) = (local / "plugins" / "profile").iterdir()
  target = folder / "plugins" / "profile" / made.name
  target.mkdir(parents=True, exist_ok=True)
  (xspace,) = (path.read_bytes() for path in made.glob("*.xplane.pb"))
  (trace,) = (path.read_bytes() for path in made.glob("*.trace.json.gz"))
  path = target / "perfetto_trace.json.gz"
  path.write_bytes(for_perfetto(trace, op_names(xspace)))
  for source in made.iterdir():
    (target / source.name).write_bytes(source.read_bytes())
  return path


def for_perfetto(trace: bytes, names: dict[tuple[str, str], str]) -> bytes:
  """A trace as Perfetto reads it, scopes included.

  Each operation gets its scope, such as `layer_03/E6K5`, as the argument
  `op_name`; XProf looks that up itself.

  Args:
    trace: JAX's `trace.json.gz`.
    names: of `op_names`.

  Returns:
    Content of a `.json.gz` file.
  """
  content = json.loads(gzip.decompress(trace))
  content.pop("metadata", None)  # Perfetto refuses it
  for event in content["traceEvents"]:
    args = event.get("args", {})
    key = args.get("hlo_module", ""), args.get("hlo_op", "")
    if key in names:
      args["op_name"] = names[key]
  return gzip.compress(json.dumps(content).encode())


def op_names(xspace: bytes) -> dict[tuple[str, str], str]:
  """Reads from a trace which scope each operation of its programs is in.

  The programs lie in the trace as serialised messages: `XSpace.planes`,
  `XPlane.event_metadata`, `XEventMetadata.stats`, `XStat.bytes_value`, in which
  `HloProto.hlo_module` holds computations of instructions with metadata.

  Args:
    xspace: content of an `.xplane.pb` file.

  Returns:
    `op_name` by (module, instruction).
  """
  names = {}
  for plane in _fields(xspace, 1):
    for entry in _fields(plane, 4):
      for proto in _path(entry, 2, 5, 6):
        for module in _fields(proto, 1):
          title = _text(module, 1)
          for instruction in _path(module, 3, 2):
            if name := "".join(_text(m, 2) for m in _fields(instruction, 7)):
              names[title, _text(instruction, 1)] = name
  return names


def _path(message: bytes, *numbers: int) -> list[bytes]:
  """All values at the end of a path of nested fields."""
  found = [message]
  for number in numbers:
    found = [value for m in found for value in _fields(m, number)]
  return found


def _text(message: bytes, number: int) -> str:
  return b"".join(_fields(message, number)[:1]).decode(errors="replace")


def _fields(message: bytes, number: int) -> list[bytes]:
  """Length-delimited values of one field of a serialised protobuf message."""
  at, found = 0, []

  def varint():
    nonlocal at
    value = shift = 0
    while True:
      byte = message[at]
      at += 1
      value |= (byte & 127) << shift
      shift += 7
      if byte < 128:
        return value

  while at < len(message):
    key = varint()
    kind = key & 7
    if kind == 0:
      varint()
      continue
    size = {1: 8, 5: 4}.get(kind)
    size = varint() if size is None else size
    if kind == 2 and key >> 3 == number:
      found.append(message[at : at + size])
    at += size
  return found
