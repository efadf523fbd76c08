"""The process's memory: freed memory is kept, programs are dropped in time."""

import ctypes
import sys
from pathlib import Path

# A third of what Linux allows a process; beyond that XLA crashes.
MOST_MAPS = 20_000

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Tells the C allocator not to hand freed memory back to the system.

  XLA's CPU backend allocates the buffers of every program it starts and frees
  them afterwards. Large ones come fresh from the kernel, page by page and
  zeroed, and that takes longer than many a layer. Memory in use then stays at
  its peak until the process ends. `MALLOC_*` variables that are set when it
  starts do the same.

  Returns:
    Whether the allocator took it; false where there is no glibc.
  """
  if not sys.platform.startswith("linux"):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):  # another C library
    return False
  # One arena, as those of further threads are too small for large arrays.
  settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
  return all([mallopt(*s) == 1 for s in settings])


def drop_programs(most: int = MOST_MAPS) -> bool:
  """Drops compiled programs before the process may map no more memory.

  Each program keeps several maps, and a process that does many runs compiles
  many programs. For between two runs.

  Args:
    most: memory maps that are left alone.

  Returns:
    Whether they were dropped; false where maps cannot be counted.
  """
  maps = Path("/proc/self/maps")
  if not maps.exists() or maps.read_bytes().count(b"\n") <= most:
    return False
  import jax

  jax.clear_caches()
  return True
