"""What the pool knows: requests on their way, the parts of them that workers draw, and the workers.

Nothing here locks; the pool does.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from deepgen.serving.jobs import Event, GenerationRequest, Job, ModelInfo, new_error_id
from deepgen.serving.worker import MemoryReport, StartFailed

logger = logging.getLogger(__name__)

MAX_FAILED_STARTS = 5  # in a row, after which a worker is not started any more


@dataclass(eq=False)
class PoolJob:
    """A request and the workers' progress with it."""

    request: GenerationRequest
    seeds: list[int]
    on_event: Callable[[Event], None] | None
    accepted: Future[Job] = field(default_factory=Future)
    begun: set[int] = field(default_factory=set)
    num_deaths: int = 0

    @property
    def job(self) -> Job | None:
        """The job, once a worker has accepted it."""
        return self.accepted.result() if self.accepted.done() and not self.accepted.exception() else None

    @property
    def missing(self) -> list[int]:
        """Pictures not drawn yet."""
        return list(range(self.request.num_images)) if self.job is None else self.job.missing


@dataclass(eq=False)
class WorkerJob:
    """Pictures `first` and following of a request, which one worker draws."""

    pool_job: PoolJob
    first: int
    missing: set[int]
    is_begun: bool = False


class WorkerHandle:
    """A process, and what the pool knows of it."""

    def __init__(self, place: int, process: Any, connection: Any, num_starts: int, num_failures: int) -> None:
        self.place, self.process, self.connection = place, process, connection
        self.num_starts, self.num_failures = num_starts, num_failures
        self.outbox: queue.SimpleQueue[Any] = (
            queue.SimpleQueue()
        )  # so that the pool does not wait for a slow worker
        self.worker_jobs: dict[int, WorkerJob] = {}
        self.model: ModelInfo | None = None
        self.adapters: set[str] = set()  # those it has loaded, or can
        self.adapter_answers: dict[int, Future[str | None]] = {}  # of those it was asked to load
        self.error: StartFailed | None = None
        self.is_ready = self.is_dead = False
        self.heard = time.monotonic()
        self.restart_at = 0.0
        self.memory = MemoryReport(0, 0)
        self.step_seconds = 0.0

    @property
    def load(self) -> int:
        """Pictures it has still to draw."""
        return sum(len(worker_job.missing) for worker_job in self.worker_jobs.values())

    @property
    def is_given_up(self) -> bool:
        """Whether it is not started any more."""
        return self.is_dead and self.num_failures >= MAX_FAILED_STARTS

    def send_all(self) -> None:
        """The life of the thread that writes to the process; None ends it."""
        with suppress(OSError):  # a broken pipe: the thread that reads knows better what that means
            while (message := self.outbox.get()) is not None:
                self.connection.send(message)
                del message  # it holds pictures, and the next one may be long in coming


def runs(indices: Sequence[int], longest: int) -> list[list[int]]:
    """Neighbours together, at most so many."""
    found: list[list[int]] = []
    for index in indices:
        if found and found[-1][-1] == index - 1 and len(found[-1]) < longest:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def ending(worker: WorkerHandle) -> str:
    """How its process ended, in words."""
    code = worker.process.exitcode
    return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def logged(message: str) -> str:
    """Log an error; the id of its line, for the client."""
    error_id = new_error_id()
    logger.error("%s [%s]", message, error_id)
    return error_id
