"""A circuit breaker: a reward that failed several times in a row is left alone for a while, then probed.

While it is open no call waits for a time-out that is bound to come, and the pause doubles with each failed
probe up to a limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `after` failed calls in a row; one success closes it.

    Args:
        after: failed calls in a row.
        pause: seconds of the first pause.
        longest_pause: seconds beyond which a pause does not grow.
        now: a clock in seconds.
    """

    def __init__(
        self, after: int, pause: float, longest_pause: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._after, self._first_pause, self._longest_pause, self._now = after, pause, longest_pause, now
        self._failures, self._pause, self._opens_until, self._is_probing = 0, pause, 0.0, False
        self._lock = threading.Lock()

    def admits(self) -> bool:
        """Whether a call may be made now; after a pause one call at a time, the probe, until it succeeded."""
        with self._lock:
            if self._failures < self._after:
                return True
            if self._is_probing or self._now() < self._opens_until:
                return False
            self._is_probing = True
            return True

    def succeeded(self) -> None:
        """A call came back, whatever its verdicts: the reward is reachable."""
        with self._lock:
            self._failures, self._pause, self._is_probing = 0, self._first_pause, False

    def failed(self) -> None:
        """A call failed as a whole."""
        with self._lock:
            self._failures += 1
            if self._failures > self._after and self._is_probing:
                self._pause = min(2 * self._pause, self._longest_pause)
            if self._failures >= self._after:
                self._opens_until = self._now() + self._pause
            self._is_probing = False
