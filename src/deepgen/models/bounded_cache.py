"""Results that were computed before, by key: the last used ones, up to a number of bytes.

Safe from several threads. What two threads miss at the same time is computed by both, since a forward of the
model under a lock would make every other lookup wait for it; one of the results is kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class BoundedCache(Generic[V]):
    """Keeps values until they take more than `max_bytes`; the least recently used go first.

    Args:
        max_bytes: of all values together; a value that is larger alone is not kept. 0 keeps nothing.
        size: bytes of a value.

    Attributes:
        hits: lookups that were answered from what is kept.
        misses: lookups that were computed.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self.max_bytes, self.hits, self.misses = max_bytes, 0, 0
        self._size, self._nbytes = size, 0
        self._kept: OrderedDict[Any, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, compute: Callable[[], V]) -> V:
        """What is kept under the key, or what `compute` returns, which is then kept."""
        with self._lock:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                return self._kept[key][0]
            self.misses += 1
        value = compute()
        self._keep(key, value)
        return value

    def discard(self, is_stale: Callable[[Any], bool]) -> None:
        """Let go of every value whose key is stale."""
        with self._lock:
            for key in [key for key in self._kept if is_stale(key)]:
                self._nbytes -= self._kept.pop(key)[1]

    def clear(self) -> None:
        """Keep nothing."""
        self.discard(lambda _: True)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._kept)

    def _keep(self, key: Any, value: V) -> None:
        nbytes = self._size(value)
        if nbytes > self.max_bytes or not self.max_bytes:
            return
        with self._lock:
            if key in self._kept:
                self._nbytes -= self._kept.pop(key)[1]
            self._kept[key] = (value, nbytes)
            self._nbytes += nbytes
            while self._nbytes > self.max_bytes:
                self._nbytes -= self._kept.popitem(last=False)[1][1]
