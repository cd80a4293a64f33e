"""Memory that was freed goes back to the system, so that a server is as small after a burst as before.

glibc keeps what was freed for the next allocation, in one heap for each group of threads. A server has many
threads and rare bursts, so it is told to use few heaps, to map large buffers each on its own, and to hand
back the rest when it is idle. Other C libraries decide for themselves; there nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from functools import cache
from typing import Any

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of malloc.h
_LARGE = 1 << 20  # bytes, from which a buffer is mapped on its own and goes back when it is freed
_HEAPS = 2


def keep_little() -> None:
    """Few heaps, and large buffers on their own. To be called before threads start.

    Not for a process that runs a model: its tensors would be mapped anew at every step.
    """
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Collect what is in cycles, and hand back what is free; takes some hundredths of a second."""
    gc.collect()
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


class IdleRelease:
    """Gives memory back a moment after the last request, in a thread of its own.

    Args:
        after_s: seconds without a request.
    """

    def __init__(self, after_s: float = 1.0) -> None:
        self._after_s = after_s
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """A request has ended and no other is there."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._after_s, give_back)
            self._timer.daemon = True
            self._timer.start()


@cache
def _libc() -> Any:
    """The C library where it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
