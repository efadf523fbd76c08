"""Keeps freed memory inside the process, where that pays: on Linux CPUs."""

import ctypes
import sys

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
