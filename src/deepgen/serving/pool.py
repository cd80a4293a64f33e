"""Worker processes, supervised: one for each accelerator, and what a dying one leaves is drawn by another.

The server's process holds no model. It keeps every request it has accepted until its last picture is drawn;
each worker queues, batches and draws what it is handed (`worker.py`). When a worker dies, its place is taken
by a fresh process, and its unfinished pictures go to whoever is ready; their seeds are fixed, so nobody can
tell. A request whose pictures had been begun in two workers that died is given up: it may be the reason.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepgen.arguments import make_generators
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.serving.engine import EngineConfig, seconds_until
from deepgen.serving.jobs import (
    Draining,
    Drawn,
    DrawRequest,
    Ended,
    EngineError,
    EngineStatus,
    Event,
    Job,
    ModelFacts,
    NoWorker,
    Placed,
    Progress,
    QueueFull,
    WorkerFailed,
    WorkerStatus,
)
from deepgen.serving.orders import Order, Share, WorkerHandle, ending, logged, runs
from deepgen.serving.worker import (
    Accepted,
    Cancel,
    Measured,
    Memory,
    Ready,
    Refused,
    StartFailed,
    Submit,
    Told,
    work,
)

if TYPE_CHECKING:
    from deepgen.pipeline import DeepGenPipeline

logger = logging.getLogger(__name__)

_TICK_S = 0.5
_SILENT_S = 120.0  # a worker speaks every other second; one that is silent for so long is stuck
_MAX_BEGUN_TWICE = 1  # deaths a request may have been part of and still be tried again
_MANY = 2**31  # the pool itself counts what waits


class Pool:
    """Draws in worker processes, behind the interface of `Engine`. Use it as a context manager, or `close`.

    Args:
        load: makes the pipeline in each worker; must be picklable, as functions of a module are.
        config: how much is taken on; `max_batch` and `max_running` hold for each worker, the rest for all.
        num_workers: processes.
        num_devices: accelerators they are dealt to in turn, by CUDA_VISIBLE_DEVICES; 0 leaves the choice to
            `load`.
        on_measure: as for `Engine`; called from several threads.

    Raises:
        ValueError: a worker could not load its model from what it was told; the message is its error.
        RuntimeError: a worker died while it loaded, or met an error that nobody expected.
    """

    def __init__(
        self,
        load: Callable[[], DeepGenPipeline],
        config: EngineConfig | None = None,
        num_workers: int = 1,
        num_devices: int = 0,
        on_measure: Callable[[str, float], None] | None = None,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.config = config or EngineConfig()
        self._load, self._num_devices = load, num_devices
        self._worker_config = replace(self.config, max_waiting=_MANY, max_waiting_per_key=None)
        self._measure = on_measure or (lambda name, value: None)
        self._context = multiprocessing.get_context("spawn")  # a fork would copy locks and CUDA's state
        self._orders: dict[Order, float] = {}  # not ended, with the time they came
        self._orphans: list[tuple[Order, list[int]]] = []  # pictures no worker has
        self._num_shares = 0
        self._sample_step_seconds: float | None = None  # a running mean
        self._changed = threading.Condition(threading.RLock())
        self._is_stirred = self._is_draining = self._is_closing = False
        self._workers = [self._start(place, 1, 0) for place in range(num_workers)]
        with self._changed:
            self._changed.wait_for(lambda: all(w.is_ready or w.is_dead for w in self._workers))
            failed = next((worker for worker in self._workers if worker.is_dead), None)
        if failed is not None:
            self.close()
            if failed.error is None:
                raise RuntimeError(f"a worker died while it loaded the model: {ending(failed)}")
            if failed.error.is_of_file:
                raise CheckpointError(failed.error.message)
            raise (ValueError if failed.error.is_expected else RuntimeError)(failed.error.message)
        self._supervisor = threading.Thread(target=self._supervise, name="deepgen-pool", daemon=True)
        self._supervisor.start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- for everybody ----------------------------------------------------------------------------------

    @property
    def model(self) -> ModelFacts:
        """What is told about the model."""
        return next(worker.model for worker in self._workers if worker.model is not None)

    def submit(self, request: DrawRequest, on_event: Callable[[Event], None] | None = None) -> Job:
        """Accept a request, as `Engine.submit` does.

        Raises:
            NoWorker: all workers are starting anew.
        """
        if not 1 <= request.num_images <= self.config.max_waiting:
            raise ValueError(
                f"num_images must be between 1 and {self.config.max_waiting}, which may wait, "
                f"got {request.num_images}"
            )
        seeds = make_generators(request.seed, None, request.num_images)[0]
        assert seeds is not None
        order = Order(replace(request, seed=seeds[0]), seeds, on_event)
        with self._changed:
            self._check_room(request)
            ready = [worker for worker in self._workers if worker.is_ready]
            if not ready:
                raise NoWorker("the model is being loaded again; try again in a moment")
            self._orders[order] = time.monotonic()
            share = -(-request.num_images // len(ready))  # the others are dealt once the first is accepted
            self._hand(order, list(range(share)))
        try:
            return order.accepted.result()
        except BaseException:
            with self._changed:
                self._orders.pop(order, None)
            raise

    def status(self) -> EngineStatus:
        """How busy it is."""
        with self._changed:
            begun = sum(len(order.begun) for order in self._orders)
            missing = sum(len(order.missing) for order in self._orders)
            total = sum(order.request.num_images for order in self._orders)
            is_draining = self._is_draining or self._is_closing
            workers = tuple(
                WorkerStatus(w.is_ready, w.memory.resident, w.memory.accelerator, w.num_starts)
                for w in self._workers
            )
            return EngineStatus(
                waiting=total - begun,
                running=max(0, begun - (total - missing)),
                is_accepting=not is_draining and any(worker.is_ready for worker in workers),
                is_alive=not all(worker.is_given_up for worker in self._workers),
                is_draining=is_draining,
                workers=workers,
            )

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing new and finish what was accepted; whether that was done within `timeout` seconds."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(lambda: not self._orders, timeout)

    def close(self) -> None:
        """End the workers; jobs that are not done end with `Draining`."""
        with self._changed:
            self._is_closing = True
            self._stir()
            orders = list(self._orders)
        for worker in self._workers:
            worker.outbox.put(None)
            worker.process.kill()  # it holds nothing that would need to be put away
            worker.process.join()
        for order in orders:
            self._end(order, Draining("the server was stopped before the picture was done"))

    def _check_room(self, request: DrawRequest) -> None:
        if self._is_draining or self._is_closing:
            raise Draining("the server is shutting down and takes nothing new")
        limit, own = self.config.max_waiting, self.config.max_waiting_per_key
        waiting = sum(o.request.num_images - len(o.begun) for o in self._orders)
        over = waiting + request.num_images - limit
        if over > 0:
            raise QueueFull(f"{waiting} pictures wait already, and {limit} may", self._seconds_until(over))
        if own is not None:
            of_key = sum(
                o.request.num_images - len(o.begun) for o in self._orders if o.request.key == request.key
            )
            over = of_key + request.num_images - own
            if over > 0:
                raise QueueFull(f"{own} pictures of one key may wait", self._seconds_until(over))

    def _seconds_until(self, num_images: int) -> float:
        steps = [(o.job.facts.settings.num_inference_steps if o.job else 1, o) for o in self._orders]
        left = sorted(s for s, o in steps for index in o.missing if index in o.begun)
        waiting = [s for s, o in steps for index in o.missing if index not in o.begun]
        num_running = self.config.max_running * len(self._workers)
        return seconds_until(num_images, left, waiting, self._sample_step_seconds, num_running)

    # --- orders and shares, under the lock --------------------------------------------------------------

    def _hand(self, order: Order, indices: Sequence[int]) -> None:
        """Give neighbouring pictures to the ready worker that has the fewest."""
        worker = min((w for w in self._workers if w.is_ready), key=lambda w: w.load)
        self._num_shares += 1
        worker.shares[self._num_shares] = Share(order, indices[0], set(indices))
        request = replace(
            order.request,
            seed=order.seeds[indices[0]],
            num_images=len(indices),
            timeout_s=None,  # the supervisor looks at the time
        )
        worker.outbox.put(Submit(self._num_shares, request))

    def _hand_orphans(self) -> None:
        num_ready = sum(worker.is_ready for worker in self._workers)
        if not num_ready:
            return
        orphans, self._orphans = self._orphans, []
        for order, indices in orphans:
            if order in self._orders:
                for part in runs(indices, -(-len(indices) // num_ready)):
                    self._hand(order, part)

    def _stir(self) -> None:
        self._is_stirred = True
        self._changed.notify_all()

    def _end(self, order: Order, error: EngineError) -> None:
        """End an order with an error, wherever its shares are."""
        with self._changed:
            for worker in self._workers:
                for number in [n for n, share in worker.shares.items() if share.order is order]:
                    del worker.shares[number]
                    worker.outbox.put(Cancel(number))
        if order.job is not None:
            order.job.tell(Ended(error))
        elif not order.accepted.done():
            order.accepted.set_exception(error)
        self._forget(order)

    def _forget(self, order: Order) -> None:
        with self._changed:
            came = self._orders.pop(order, None)
            self._changed.notify_all()
        if came is not None:
            self._measure("job", time.monotonic() - came)

    # --- the supervisor ---------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stirred, _TICK_S)
                self._is_stirred = False
                if self._is_closing:
                    return
                now = time.monotonic()
                self._hand_orphans()
                due = [(o, o.job.due_error(now)) for o in self._orders if o.job is not None]
                hopeless = all(worker.is_given_up for worker in self._workers)
                lost = list(self._orders) if hopeless else []
            for order, error in due:
                if error is not None:
                    self._end(order, error)
            for order in lost:
                self._end(order, WorkerFailed(logged("no worker can be started any more")))
            for worker in list(self._workers):
                if worker.is_ready and now - worker.heard > _SILENT_S:
                    logger.error("worker %d is silent for %.0f s and is killed", worker.place, _SILENT_S)
                    worker.process.kill()
                elif worker.is_dead and not worker.is_given_up and now >= worker.restart_at:
                    self._replace(worker)

    def _replace(self, worker: WorkerHandle) -> None:
        fresh = self._start(worker.place, worker.num_starts + 1, worker.num_failures)
        with self._changed:
            self._workers[worker.place] = fresh
            is_late = self._is_closing
        if is_late:  # `close` has not seen it
            fresh.process.kill()

    def _start(self, place: int, num_starts: int, num_failures: int) -> WorkerHandle:
        ours, theirs = self._context.Pipe()
        device = str(place % self._num_devices) if self._num_devices else None
        process = self._context.Process(
            target=work,
            args=(theirs, self._load, self._worker_config, device),
            name=f"deepgen-worker-{place}",
            daemon=True,
        )
        process.start()
        theirs.close()  # so that the pipe ends with the process
        worker = WorkerHandle(place, process, ours, num_starts, num_failures)
        threading.Thread(target=worker.send_all, daemon=True).start()
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        return worker

    # --- what workers say -------------------------------------------------------------------------------

    def _read(self, worker: WorkerHandle) -> None:
        """The life of the thread that listens to a worker."""
        while True:
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                break
            worker.heard = time.monotonic()
            try:
                self._hear(worker, message)
            except Exception:  # a fault of ours in one message must not silence the worker
                logger.exception("worker %d said something that could not be handled", worker.place)
        worker.process.join()
        worker.connection.close()
        self._lose(worker)

    def _hear(self, worker: WorkerHandle, message: Any) -> None:
        if isinstance(message, Told):
            self._tell(worker, message)
        elif isinstance(message, Measured):
            self._note(worker, message)
        elif isinstance(message, Memory):
            worker.memory = message
        elif isinstance(message, Accepted):
            self._accept(worker, message)
        elif isinstance(message, Refused):
            self._refuse(worker, message)
        elif isinstance(message, Ready):
            with self._changed:
                worker.model, worker.is_ready, worker.num_failures = message.model, True, 0
                self._stir()
        elif isinstance(message, StartFailed):
            worker.error = message
            if worker.num_starts > 1:  # the first start's error is raised by the pool itself
                logger.error("worker %d could not start: %s", worker.place, message.message)

    def _accept(self, worker: WorkerHandle, message: Accepted) -> None:
        with self._changed:
            share = worker.shares.get(message.share)
            if share is None or share.order.job is not None:
                return
            order, facts = share.order, message.facts
            order.accepted.set_result(Job(order.request, order.seeds, facts, order.on_event, self._wake))
            others = [index for index in order.missing if index not in share.missing]
            if others:
                self._orphans.append((order, others))
                self._stir()

    def _wake(self) -> None:
        with self._changed:
            self._stir()

    def _refuse(self, worker: WorkerHandle, message: Refused) -> None:
        with self._changed:
            share = worker.shares.pop(message.share, None)
        if share is None:
            return
        if message.is_request and not share.order.accepted.done():
            share.order.accepted.set_exception(ValueError(message.message))
        else:
            self._end(share.order, WorkerFailed(logged(f"a worker could not plan: {message.message}")))

    def _tell(self, worker: WorkerHandle, message: Told) -> None:
        event = message.event
        with self._changed:
            share = worker.shares.get(message.share)
            if share is None or share.order.job is None:  # it has ended meanwhile
                return
            order, job = share.order, share.order.job
            if isinstance(event, Ended):
                del worker.shares[message.share]
            elif isinstance(event, Progress):
                share.is_begun = True
                order.begun.add(share.first + event.index)
        if isinstance(event, Ended):
            if event.error is not None:
                self._end(order, event.error)
            return
        if isinstance(event, Placed):
            if share.first == 0:
                job.tell(event)
            return
        event = replace(event, index=share.first + event.index)
        job.tell(event)
        if isinstance(event, Drawn):
            share.missing.discard(event.index)
        if job.is_ended:
            self._forget(order)

    def _note(self, worker: WorkerHandle, message: Measured) -> None:
        if message.name == "step":
            worker.step_seconds = message.value
        elif message.name == "batch":
            each, before = worker.step_seconds / message.value, self._sample_step_seconds
            self._sample_step_seconds = each if before is None else 0.9 * before + 0.1 * each
        if message.name != "job":  # a share; the pool measures orders
            self._measure(message.name, message.value)

    def _lose(self, worker: WorkerHandle) -> None:
        """A process has ended: take its shares back, and have it started anew."""
        with self._changed:
            if not worker.is_ready:
                worker.num_failures += 1
            worker.is_ready, worker.is_dead = False, True
            worker.restart_at = time.monotonic() + (2.0**worker.num_failures - 1)
            shares, worker.shares = list(worker.shares.values()), {}
            given_up: list[Order] = []
            for order in {share.order for share in shares}:
                own = [share for share in shares if share.order is order]
                order.num_deaths += any(share.is_begun for share in own)
                if order.job is None or order.num_deaths > _MAX_BEGUN_TWICE:
                    given_up.append(order)
                else:
                    self._orphans.append((order, sorted(set().union(*(share.missing for share in own)))))
            is_closing = self._is_closing
            self._stir()
        if is_closing:
            return
        logger.error("worker %d ended (%s) with %d requests", worker.place, ending(worker), len(shares))
        for order in given_up:
            if order.job is None:
                self._end(order, NoWorker("the worker that was asked is gone; try again"))
            else:
                self._end(order, WorkerFailed(logged(f"{order.job.id}: two workers died of it")))
