"""Ctrl-C and SIGTERM: a step is finished and saved, and a second Ctrl-C does not wait for that."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

# Terminals and launchers often deliver one Ctrl-C twice.
_ONE_PRESS_S = 0.5


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that is empty until the first SIGINT or SIGTERM, so that a step is never cut in half.

    A second SIGINT raises KeyboardInterrupt at once: what the last checkpoint does not hold is lost, and a
    checkpoint that is being written is still finished. SIGTERM is sent again and again by some schedulers,
    and only asks.
    """
    stopped: list[int] = []
    previous = {}
    first = 0.0

    def handle(received: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if received == signal.SIGINT and signal.SIGINT in stopped and now - first > _ONE_PRESS_S:
            raise KeyboardInterrupt
        if received not in stopped:
            first = now if received == signal.SIGINT else first
            stopped.append(received)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread, where no signal arrives
        yield stopped
        return
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
