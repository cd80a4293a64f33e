"""Budgets: how much all requests together may hold at one time, in bytes or in pixels.

A request takes a `Lease` and adds to it what it is about to hold, before it holds it. What does not fit is
refused at once: with `OverBudget.never_fits` where it would not fit into an empty server either, otherwise
with the time after which it may. Waiting instead would keep the bytes that came with the request.

`WorkSpace` is the other kind: memory that a decoder needs for a moment. There requests wait for their turn.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from deepgen.uploads.decoding import MAX_WORK_BYTES
from deepgen.uploads.memory import IdleRelease


class OverBudget(Exception):
    """A request that would hold too much.

    Attributes:
        asked: what the request would hold in all.
        free: what it might hold now.
        limit: what all requests together may hold.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, unit: str, asked: int, free: int, limit: int, retry_after: float) -> None:
        self.unit, self.asked, self.free, self.limit = unit, asked, free, limit
        self.retry_after = retry_after
        if self.never_fits:
            text = f"this request takes {asked:,} {unit}; all requests together may hold {limit:,}"
        else:
            text = (
                f"this request takes {asked:,} {unit}, and of the {limit:,} that all requests together may "
                f"hold {free:,} are free now; send it again later"
            )
        super().__init__(text)

    @property
    def never_fits(self) -> bool:
        """Whether it is too large for the server even when nothing else is there."""
        return self.asked > self.limit


class Budget:
    """So many bytes or pixels for all requests together. Safe from any thread.

    Args:
        limit: of all leases together, at least 1.
        unit: what is counted, for messages.
        on_empty: called when the last lease is given back; must be quick.
    """

    def __init__(self, limit: int, unit: str, on_empty: Callable[[], None] | None = None) -> None:
        if limit < 1:
            raise ValueError(f"a budget of {unit} must be at least 1, got {limit}")
        self.limit, self.unit = limit, unit
        self._used, self._seconds = 0, 1.0  # a running mean of how long leases are held
        self._on_empty = on_empty or (lambda: None)
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """What all leases hold now."""
        return self._used

    def lease(self) -> Lease:
        """A new lease that holds nothing yet."""
        return Lease(self)

    def _take(self, held: int, amount: int) -> None:
        with self._lock:
            free = self.limit - self._used
            if amount > free:
                wait = min(30.0, max(1.0, self._seconds))
                raise OverBudget(self.unit, held + amount, held + free, self.limit, wait)
            self._used += amount

    def _give_back(self, amount: int, seconds: float) -> None:
        with self._lock:
            self._used -= amount
            self._seconds += 0.1 * (seconds - self._seconds)
            is_empty = not self._used
        if is_empty:
            self._on_empty()


class Lease:
    """What one request holds of a budget, from several threads if need be."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._held, self._is_over = budget, 0, False
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """What this request holds."""
        return self._held

    def add(self, amount: int) -> None:
        """Hold so much more; `OverBudget` where it does not fit, and nothing has changed then."""
        with self._lock:
            if self._is_over:  # the request has ended while a thread of it still worked
                raise OverBudget(self._budget.unit, amount, 0, self._budget.limit, 1.0)
            if amount:
                self._budget._take(self._held, amount)
                self._held += amount

    def give_back(self, amount: int | None = None) -> None:
        """Hold so much less, or nothing more; at most what is held."""
        with self._lock:
            amount = self._held if amount is None else min(amount, self._held)
            self._held -= amount
        if amount:
            self._budget._give_back(amount, time.monotonic() - self._began)

    def end(self) -> None:
        """Give everything back; nothing can be added any more."""
        with self._lock:
            self._is_over = True
        self.give_back()


class WorkSpace:
    """Bytes that decoders may use at the same time; who needs more than is free waits in a queue.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._waiting: deque[Turn] = deque()
        self._changed = threading.Condition()

    def join(self, cost: int) -> Turn:
        """Queue for `cost` bytes, of which no more than the limit are counted. End the turn with `leave`."""
        turn = Turn(self, min(cost, self.limit))
        with self._changed:
            self._waiting.append(turn)
        return turn


class Turn:
    """A place in the queue of a `WorkSpace`, and what it holds once it is up."""

    def __init__(self, space: WorkSpace, cost: int) -> None:
        self._space, self._cost, self._is_up = space, cost, False

    def is_up(self) -> bool:
        """Whether the bytes are there now; from then on they are held."""
        with self._space._changed:
            return self._look()

    def wait(self) -> None:
        """Block this thread until they are."""
        with self._space._changed:
            self._space._changed.wait_for(self._look)

    def leave(self) -> None:
        """Give them back, or leave the queue."""
        with self._space._changed:
            if self._is_up:
                self._space._used -= self._cost
                self._is_up = False
            elif self in self._space._waiting:
                self._space._waiting.remove(self)
            self._space._changed.notify_all()

    def _look(self) -> bool:
        space = self._space
        is_first = bool(space._waiting) and space._waiting[0] is self
        if is_first and space._used + self._cost <= space.limit:
            space._waiting.popleft()
            space._used += self._cost
            self._is_up = True
            space._changed.notify_all()
        return self._is_up


@dataclass(frozen=True)
class ServerBudget:
    """What all requests of a server hold together.

    Attributes:
        bodies: bytes of what clients send, until its pictures are decoded.
        pixels: of decoded pictures and of those to be answered.
        decoding: bytes that decoders use for a moment.
    """

    bodies: Budget
    pixels: Budget
    decoding: WorkSpace

    @staticmethod
    def of(max_body_bytes: int, max_pixels: int) -> ServerBudget:
        """Budgets of that size; when nothing is held any more, memory goes back to the system."""
        release = IdleRelease()
        return ServerBudget(
            Budget(max_body_bytes, "bytes", release),
            Budget(max_pixels, "pixels", release),
            WorkSpace(MAX_WORK_BYTES // 2),  # what takes more is decoded alone
        )
