"""Allocator settings for memory that is freed and soon needed again.

A layer on a CPU frees tens of megabytes and the next one asks for as much. The C library gives such blocks
back to the system and takes them anew, and the system fills every page with zeros, which takes longer than
many of the operations between. Kept blocks are simply used again: the same numbers, sooner.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
_LARGEST = 2**30  # more than one layer allocates at once
_GLIBC_LARGEST = 2**25  # where glibc's own adaption ends

_lock, _depth = threading.Lock(), 0


@contextmanager
def kept_memory(is_kept: bool = True) -> Iterator[None]:
    """Let the process keep what it frees, for its next allocation, and return it to the system at the end.

    Without effect unless `is_kept`, and where the C library is not glibc. May be nested, and entered by
    several threads.
    """
    global _depth
    is_kept = is_kept and _is_glibc()
    if is_kept:
        with _lock:
            _depth += 1
            _set_thresholds(_LARGEST, 2**31 - 1)
    try:
        yield
    finally:
        if is_kept:
            with _lock:
                _depth -= 1
                if _depth == 0:
                    _set_thresholds(_GLIBC_LARGEST, 2 * _GLIBC_LARGEST)
                    ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def _set_thresholds(largest: int, trim: int) -> None:
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, largest)
    library.mallopt(_TRIM_THRESHOLD, trim)
