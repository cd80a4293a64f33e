"""Worker processes, supervised: one for each accelerator, and what a dying one leaves is drawn by another.

The server's process holds no model. It keeps every request it has accepted until its last picture is drawn;
each worker queues, batches and draws what it is handed (`worker.py`). When a worker dies, its place is taken
by a fresh process, and its unfinished pictures go to a worker that is ready; their seeds are fixed, so the
pictures are the same. A request whose pictures had been begun in two workers that died is given up: it may be
the reason.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepgen.arguments import make_generators
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.serving.adapters import check_known
from deepgen.serving.engine import EngineConfig, seconds_until
from deepgen.serving.jobs import (
    Draining,
    EngineError,
    EngineStatus,
    Event,
    GenerationRequest,
    ImageDone,
    Job,
    JobDone,
    ModelInfo,
    NoWorker,
    Progress,
    Queued,
    QueueFull,
    WorkerFailed,
    WorkerStatus,
)
from deepgen.serving.pool_adapters import PoolAdapters
from deepgen.serving.pool_jobs import PoolJob, WorkerHandle, WorkerJob, ending, logged, runs
from deepgen.serving.worker import (
    Accepted,
    AdapterAnswer,
    Cancel,
    JobEvent,
    Measurement,
    MemoryReport,
    Ready,
    Refused,
    StartFailed,
    Submit,
    work,
)

if TYPE_CHECKING:
    from deepgen.pipeline import DeepGenPipeline
    from deepgen.serving.log import LogFormat

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
        log: the form of the workers' lines on stderr.

    Raises:
        ValueError: a worker could not load its model from what it was told; the message is its error.
        RuntimeError: a worker died while it loaded, or met an unexpected error.
    """

    def __init__(
        self,
        load: Callable[[], DeepGenPipeline],
        config: EngineConfig | None = None,
        num_workers: int = 1,
        num_devices: int = 0,
        on_measure: Callable[[str, float], None] | None = None,
        log: LogFormat = "text",
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        self.config = config or EngineConfig()
        self._load, self._num_devices, self._log = load, num_devices, log
        self._worker_config = replace(self.config, max_waiting=_MANY, max_waiting_per_key=None)
        self._measure = on_measure or (lambda name, value: None)
        self._context = multiprocessing.get_context("spawn")  # a fork would copy locks and CUDA's state
        self._pool_jobs: dict[PoolJob, float] = {}  # not ended, with the time they came
        self._orphans: list[tuple[PoolJob, list[int]]] = []  # pictures no worker has
        self._num_worker_jobs = 0
        self._sample_step_seconds: float | None = None  # a running mean
        self._changed = threading.Condition(threading.RLock())
        self._is_woken = self._is_draining = self._is_closing = False
        self._workers: list[WorkerHandle] = []
        self._adapters = PoolAdapters(
            self.config.loras, self._changed, lambda: self._workers, self._count_lora_uses
        )
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

    # --- for callers ------------------------------------------------------------------------------------

    @property
    def model(self) -> ModelInfo:
        """Facts about the model."""
        known = next(worker.model for worker in self._workers if worker.model is not None)
        return replace(known, loras=self._adapters.names)

    def submit(self, request: GenerationRequest, on_event: Callable[[Event], None] | None = None) -> Job:
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
        pool_job = PoolJob(replace(request, seed=seeds[0]), seeds, on_event)
        with self._changed:
            self._check_room(request)
            check_known(request.lora, self._adapters.names)
            ready = [worker for worker in self._workers if worker.is_ready]
            if not ready:
                raise NoWorker("the model is being loaded again; try again in a moment")
            self._pool_jobs[pool_job] = time.monotonic()
            count = -(-request.num_images // len(ready))  # the others are dealt once the first is accepted
            self._dispatch(pool_job, list(range(count)))
        try:
            return pool_job.accepted.result()
        except BaseException:
            with self._changed:
                self._pool_jobs.pop(pool_job, None)
                self._adapters.release()
            raise

    def status(self) -> EngineStatus:
        """How busy it is."""
        with self._changed:
            begun = sum(len(pool_job.begun) for pool_job in self._pool_jobs)
            missing = sum(len(pool_job.missing) for pool_job in self._pool_jobs)
            total = sum(pool_job.request.num_images for pool_job in self._pool_jobs)
            is_draining = self._is_draining or self._is_closing
            workers = tuple(
                WorkerStatus(
                    w.is_ready, w.memory.resident, w.memory.accelerator, w.num_starts, w.memory.encodings
                )
                for w in self._workers
            )
            return EngineStatus(
                waiting=total - begun,
                running=max(0, begun - (total - missing)),
                is_accepting=not is_draining and any(worker.is_ready for worker in workers),
                is_alive=not all(worker.is_given_up for worker in self._workers),
                is_draining=is_draining,
                workers=workers,
                encoding_memory=sum(worker.encoding_memory for worker in workers),
            )

    def add_adapter(self, name: str, path: str) -> None:
        """As `Engine.add_adapter`, in all workers or in none; those that start later have it too.

        Raises:
            NoWorker: all workers are starting anew.
        """
        if self._is_draining or self._is_closing:
            raise Draining("the server is shutting down and takes nothing new")
        self._adapters.add(name, path)

    def remove_adapter(self, name: str) -> int:
        """As `Engine.remove_adapter`, in all workers."""
        return self._adapters.remove(name)

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing new and finish what was accepted; whether that was done within `timeout` seconds."""
        with self._changed:
            self._is_draining = True
            return self._changed.wait_for(lambda: not self._pool_jobs, timeout)

    def close(self) -> None:
        """End the workers; jobs that are not done end with `Draining`."""
        with self._changed:
            self._is_closing = True
            self._wake()
            pool_jobs = list(self._pool_jobs)
        for worker in self._workers:
            worker.outbox.put(None)
            worker.process.kill()  # it holds nothing that would need to be put away
            worker.process.join()
        for pool_job in pool_jobs:
            self._end(pool_job, Draining("the server was stopped before the picture was done"))

    def _count_lora_uses(self) -> Counter[str]:
        return Counter(o.request.lora for o in self._pool_jobs if o.request.lora is not None)

    def _check_room(self, request: GenerationRequest) -> None:
        if self._is_draining or self._is_closing:
            raise Draining("the server is shutting down and takes nothing new")
        limit, own = self.config.max_waiting, self.config.max_waiting_per_key
        waiting = sum(o.request.num_images - len(o.begun) for o in self._pool_jobs)
        over = waiting + request.num_images - limit
        if over > 0:
            raise QueueFull(f"{waiting} pictures wait already, and {limit} may", self._seconds_until(over))
        if own is not None:
            of_key = sum(
                o.request.num_images - len(o.begun) for o in self._pool_jobs if o.request.key == request.key
            )
            over = of_key + request.num_images - own
            if over > 0:
                raise QueueFull(f"{own} pictures of one key may wait", self._seconds_until(over))

    def _seconds_until(self, num_images: int) -> float:
        steps = [(1 if o.job is None else o.job.info.num_steps, o) for o in self._pool_jobs]
        left = sorted(s for s, o in steps for index in o.missing if index in o.begun)
        waiting = [s for s, o in steps for index in o.missing if index not in o.begun]
        num_running = self.config.max_running * len(self._workers)
        return seconds_until(num_images, left, waiting, self._sample_step_seconds, num_running)

    # --- jobs and their parts, under the lock -----------------------------------------------------------

    def _dispatch(self, pool_job: PoolJob, indices: Sequence[int]) -> None:
        """Give neighbouring pictures to the ready worker that has the fewest."""
        worker = min((w for w in self._workers if w.is_ready), key=lambda w: w.load)
        self._num_worker_jobs += 1
        worker.worker_jobs[self._num_worker_jobs] = WorkerJob(pool_job, indices[0], set(indices))
        request = replace(
            pool_job.request,
            seed=pool_job.seeds[indices[0]],
            num_images=len(indices),
            timeout_s=None,  # the supervisor looks at the time
        )
        worker.outbox.put(Submit(self._num_worker_jobs, request))

    def _dispatch_orphans(self) -> None:
        num_ready = sum(worker.is_ready for worker in self._workers)
        if not num_ready:
            return
        orphans, self._orphans = self._orphans, []
        for pool_job, indices in orphans:
            if pool_job in self._pool_jobs:
                for part in runs(indices, -(-len(indices) // num_ready)):
                    self._dispatch(pool_job, part)

    def _wake(self) -> None:
        """Have the supervisor look at once; from any thread."""
        with self._changed:  # reentrant: most callers hold it
            self._is_woken = True
            self._changed.notify_all()

    def _end(self, pool_job: PoolJob, error: EngineError) -> None:
        """End a job with an error, on all workers."""
        with self._changed:
            for worker in self._workers:
                for number in [n for n, part in worker.worker_jobs.items() if part.pool_job is pool_job]:
                    del worker.worker_jobs[number]
                    worker.outbox.put(Cancel(number))
        if pool_job.job is not None:
            pool_job.job.emit(JobDone(error))
        elif not pool_job.accepted.done():
            pool_job.accepted.set_exception(error)
        self._forget(pool_job)

    def _forget(self, pool_job: PoolJob) -> None:
        with self._changed:
            came = self._pool_jobs.pop(pool_job, None)
            self._adapters.release()
            self._changed.notify_all()
        if came is not None:
            self._measure("job", time.monotonic() - came)

    # --- the supervisor ---------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_woken, _TICK_S)
                self._is_woken = False
                if self._is_closing:
                    return
                now = time.monotonic()
                self._dispatch_orphans()
                due = [(o, o.job.due_error(now)) for o in self._pool_jobs if o.job is not None]
                hopeless = all(worker.is_given_up for worker in self._workers)
                lost = list(self._pool_jobs) if hopeless else []
            for pool_job, error in due:
                if error is not None:
                    self._end(pool_job, error)
            for pool_job in lost:
                self._end(pool_job, WorkerFailed(logged("no worker can be started any more")))
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
        config = replace(self._worker_config, loras=self._adapters.at_start())
        process = self._context.Process(
            target=work,
            args=(theirs, self._load, config, device, self._log),
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
                self._on_message(worker, message)
            except Exception:  # a fault of ours in one message must not silence the worker
                logger.exception("worker %d said something that could not be handled", worker.place)
            del message  # it may hold a picture
        worker.process.join()
        worker.connection.close()
        self._on_worker_exit(worker)

    def _on_message(self, worker: WorkerHandle, message: Any) -> None:
        if isinstance(message, JobEvent):
            self._on_event(worker, message)
        elif isinstance(message, Measurement):
            self._on_measurement(worker, message)
        elif isinstance(message, MemoryReport):
            worker.memory = message
        elif isinstance(message, Accepted):
            self._on_accepted(worker, message)
        elif isinstance(message, Refused):
            self._on_refused(worker, message)
        elif isinstance(message, Ready):
            with self._changed:
                worker.model, worker.num_failures = message.model, 0
                self._adapters.bring_up_to_date(worker)
                self._wake()
        elif isinstance(message, AdapterAnswer):
            with self._changed:
                self._adapters.on_answer(worker, message)
                self._wake()
        elif isinstance(message, StartFailed):
            worker.error = message
            if worker.num_starts > 1:  # the first start's error is raised by the pool itself
                logger.error("worker %d could not start: %s", worker.place, message.message)

    def _on_accepted(self, worker: WorkerHandle, message: Accepted) -> None:
        with self._changed:
            worker_job = worker.worker_jobs.get(message.number)
            if worker_job is None or worker_job.pool_job.job is not None:
                return
            pool_job, info = worker_job.pool_job, message.info
            job = Job(pool_job.request, pool_job.seeds, info, pool_job.on_event, self._wake)
            pool_job.accepted.set_result(job)
            others = [index for index in pool_job.missing if index not in worker_job.missing]
            if others:
                self._orphans.append((pool_job, others))
                self._wake()

    def _on_refused(self, worker: WorkerHandle, message: Refused) -> None:
        with self._changed:
            worker_job = worker.worker_jobs.pop(message.number, None)
        if worker_job is None:
            return
        if message.is_request and not worker_job.pool_job.accepted.done():
            worker_job.pool_job.accepted.set_exception(ValueError(message.message))
        else:
            error_id = logged(f"a worker could not plan: {message.message}")
            self._end(worker_job.pool_job, WorkerFailed(error_id))

    def _on_event(self, worker: WorkerHandle, message: JobEvent) -> None:
        event = message.event
        with self._changed:
            worker_job = worker.worker_jobs.get(message.number)
            if worker_job is None or worker_job.pool_job.job is None:  # it has ended meanwhile
                return
            pool_job, job = worker_job.pool_job, worker_job.pool_job.job
            if isinstance(event, JobDone):
                del worker.worker_jobs[message.number]
            elif isinstance(event, Progress):
                worker_job.is_begun = True
                pool_job.begun.add(worker_job.first + event.index)
        if isinstance(event, JobDone):
            if event.error is not None:
                self._end(pool_job, event.error)
            return
        if isinstance(event, Queued):
            if worker_job.first == 0:
                job.emit(event)
            return
        event = replace(event, index=worker_job.first + event.index)
        job.emit(event)
        if isinstance(event, ImageDone):
            worker_job.missing.discard(event.index)
        if job.is_ended:
            self._forget(pool_job)

    def _on_measurement(self, worker: WorkerHandle, message: Measurement) -> None:
        if message.name == "step":
            worker.step_seconds = message.value
        elif message.name == "batch":
            each, before = worker.step_seconds / message.value, self._sample_step_seconds
            self._sample_step_seconds = each if before is None else 0.9 * before + 0.1 * each
        if message.name != "job":  # of one worker; the pool measures whole requests
            self._measure(message.name, message.value)

    def _on_worker_exit(self, worker: WorkerHandle) -> None:
        """A process has ended: take back what it held, and have it started anew."""
        with self._changed:
            if not worker.is_ready:
                worker.num_failures += 1
            worker.is_ready, worker.is_dead = False, True
            self._adapters.on_exit(worker)
            worker.restart_at = time.monotonic() + (2.0**worker.num_failures - 1)
            worker_jobs, worker.worker_jobs = list(worker.worker_jobs.values()), {}
            given_up: list[PoolJob] = []
            for pool_job in {part.pool_job for part in worker_jobs}:
                own = [part for part in worker_jobs if part.pool_job is pool_job]
                pool_job.num_deaths += any(part.is_begun for part in own)
                if pool_job.job is None or pool_job.num_deaths > _MAX_BEGUN_TWICE:
                    given_up.append(pool_job)
                else:
                    self._orphans.append((pool_job, sorted(set().union(*(part.missing for part in own)))))
            is_closing = self._is_closing
            self._wake()
        if is_closing:
            return
        logger.error("worker %d ended (%s) with %d requests", worker.place, ending(worker), len(worker_jobs))
        for pool_job in given_up:
            if pool_job.job is None:
                self._end(pool_job, NoWorker("the worker that was asked is gone; try again"))
            else:
                self._end(pool_job, WorkerFailed(logged(f"{pool_job.job.id}: two workers died of it")))
