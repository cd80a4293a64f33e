"""Which LoRAs the workers of a pool have: all the same, those that start later too.

The first start loads what the server was told on its command line. What an administrator adds is sent to
every worker, and counts once all of them have it; where one cannot load it, the others let go of it. What is
removed stays in the workers as long as accepted requests are drawn with it. A worker that starts anew is
brought up to date before it gets requests.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from deepgen.serving.adapters import NameTaken, check_known, check_name
from deepgen.serving.jobs import NoWorker
from deepgen.serving.pool_jobs import WorkerHandle
from deepgen.serving.worker import AdapterAnswer, AddAdapter, RemoveAdapter

logger = logging.getLogger(__name__)


class PoolAdapters:
    """The LoRAs of a pool.

    Args:
        paths: name -> file or folder, of those that workers load when they start.
        changed: the pool's lock; held by callers of the methods that say so.
        workers: gives the pool's workers.
        count_uses: how many accepted requests are drawn with each LoRA, by name; called under the lock.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        changed: threading.Condition,
        workers: Callable[[], Sequence[WorkerHandle]],
        count_uses: Callable[[], Mapping[str, int]],
    ) -> None:
        self._at_start, self._added, self._leaving = dict(paths), dict[str, str](), dict[str, str]()
        self._changed, self._workers, self._count_uses = changed, workers, count_uses
        self._one_at_a_time, self._num_asked = threading.Lock(), 0

    @property
    def names(self) -> tuple[str, ...]:
        """Those that requests may ask for, in order."""
        return tuple(sorted({*self._at_start, *self._added}))

    def at_start(self) -> dict[str, str]:
        """What a worker loads when it starts."""
        return dict(self._at_start)

    # --- for administrators -------------------------------------------------------------------------------

    def add(self, name: str, path: str) -> None:
        """Have every worker load another one.

        Raises:
            NameTaken: another one has the name.
            ValueError: it cannot be used, and no worker has it.
            NoWorker: none is ready.
        """
        check_name(name)
        with self._one_at_a_time:
            while True:
                with self._changed:
                    if name in self.names or name in self._leaving:
                        raise NameTaken(name, name in self._leaving)
                    ready = [worker for worker in self._workers() if worker.is_ready]
                    if not ready:
                        raise NoWorker("the model is being loaded again; try again in a moment")
                    lacking = [worker for worker in ready if name not in worker.adapters]
                    if not lacking:  # all of them, those that have started meanwhile too
                        self._added[name] = path
                        return
                    answers = [self._ask(worker, name, path) for worker in lacking]
                errors = [error for answer in answers if (error := answer.result()) is not None]
                if errors:
                    with self._changed:
                        self._take_back(name)
                    raise ValueError(errors[0])

    def remove(self, name: str) -> int:
        """Let nothing new ask for it; how many accepted requests are still drawn with it."""
        with self._changed:
            check_known(name, self.names)
            paths = self._added if name in self._added else self._at_start
            self._leaving[name] = paths.pop(name)
            count = self._count_uses().get(name, 0)
            self.release()
            return count

    # --- for the pool, under its lock ---------------------------------------------------------------------

    def release(self) -> None:
        """Have workers let go of what was removed and is used by nothing any more."""
        if not self._leaving:
            return
        uses = self._count_uses()
        for name in [name for name in self._leaving if not uses.get(name)]:
            del self._leaving[name]
            self._take_back(name)

    def bring_up_to_date(self, worker: WorkerHandle) -> None:
        """Have a worker that has just started load what it lacks, before `worker.is_ready` is set by
        `on_answer`; where it lacks nothing, it is set here.
        """
        worker.adapters = set(worker.model.loras if worker.model is not None else ())
        wanted = {**self._at_start, **self._added, **self._leaving}
        for name in worker.adapters - set(wanted):
            worker.outbox.put(RemoveAdapter(name))
        worker.adapters &= set(wanted)
        for name in sorted(set(wanted) - worker.adapters):
            self._ask(worker, name, wanted[name])
        worker.is_ready = not worker.adapter_answers

    def on_answer(self, worker: WorkerHandle, message: AdapterAnswer) -> None:
        """A worker has loaded one, or cannot."""
        answer = worker.adapter_answers.pop(message.number)
        if message.error is None:
            worker.adapters.add(message.name)
        elif message.name in self._added:  # of a worker that was started anew
            logger.error(
                "adapter %s is dropped, for a worker cannot load it: %s", message.name, message.error
            )
            del self._added[message.name]
            self._take_back(message.name)
        worker.is_ready = worker.is_ready or not worker.adapter_answers
        answer.set_result(message.error)

    @staticmethod
    def on_exit(worker: WorkerHandle) -> None:
        """A worker has ended; what it was asked for counts as done, for its successor will have it."""
        answers, worker.adapter_answers = list(worker.adapter_answers.values()), {}
        for answer in answers:
            answer.set_result(None)

    def _ask(self, worker: WorkerHandle, name: str, path: str) -> Future[str | None]:
        """Send a LoRA to a worker; the answer is an error, or None."""
        self._num_asked += 1
        answer = worker.adapter_answers[self._num_asked] = Future[str | None]()
        worker.outbox.put(AddAdapter(self._num_asked, name, path))
        return answer

    def _take_back(self, name: str) -> None:
        for worker in self._workers():
            if name in worker.adapters:
                worker.adapters.discard(name)
                worker.outbox.put(RemoveAdapter(name))
