"""Pictures that were asked for as addresses: kept in memory for a while, under names nobody can guess."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict


class Shelf:
    """Files by name; the oldest go when their time is over or room is needed.

    Args:
        max_bytes: of all files together; one larger file is still kept, alone.
        keep_s: seconds a file is kept.
    """

    def __init__(self, max_bytes: int = 256 * 2**20, keep_s: float = 3600) -> None:
        self._max_bytes, self._keep_s = max_bytes, keep_s
        self._files: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, content: bytes, media_type: str) -> str:
        """Keep a file; its name."""
        name = f"img-{secrets.token_urlsafe(18)}"
        with self._lock:
            self._files[name] = (time.monotonic() + self._keep_s, content, media_type)
            self._clear()
        return name

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Content and media type; None where there is no such file, or no longer."""
        with self._lock:
            self._clear()
            found = self._files.get(name)
        return None if found is None else found[1:]

    def _clear(self) -> None:
        size = sum(len(content) for _, content, _ in self._files.values())
        while self._files:
            until, content, _ = next(iter(self._files.values()))
            if until > time.monotonic() and (size <= self._max_bytes or len(self._files) == 1):
                return
            self._files.popitem(last=False)
            size -= len(content)
