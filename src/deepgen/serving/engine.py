"""The engine: one thread that owns the model and draws for all requests, a step at a time.

Each turn it drops what was cancelled or is late, lets waiting pictures in while there is room, and takes one
solver step for a batch of pictures that agree in latent size, number of references and guidance. So a new
request waits for a step and not for a picture, and a finished one leaves at once. Requests wait in a bounded
queue in which keys take turns (`fair_queue.py`); what does not fit is refused with the time after which it
may.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from deepgen.arguments import make_generators
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.adapters import check_name, open_lora
from deepgen.serving.encoding_cache import MAX_BYTES
from deepgen.serving.fair_queue import FairQueue
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
    OutOfMemory,
    Preview,
    Progress,
    Queued,
    QueueFull,
    WorkerFailed,
    new_error_id,
)
from deepgen.serving.sampler import BatchKey, Conditions, LatentPreview, Plan, Sample, Sampler

logger = logging.getLogger(__name__)

Measure = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much the engine takes on.

    Attributes:
        max_batch: pictures in one forward. With 1, each picture is bit for bit what it is alone, and they
            still take turns.
        max_running: pictures begun and not finished; each holds its latents and conditions.
        max_waiting: pictures that wait to be begun.
        max_waiting_per_key: the same for one key; None sets no limit beside `max_waiting`.
        is_exact: every forward has `max_batch` rows, filled up where pictures are fewer, so that in any
            company each is bit for bit what it is alone here; few pictures then cost as much as a full batch.
        loras: name -> file or folder of adapters that requests may ask for.
        preset: of requests that name none.
        max_encoding_bytes: what encoded prompts and references may take that are kept for further requests;
            0 keeps none.
    """

    max_batch: int = 8
    max_running: int = 16
    max_waiting: int = 64
    max_waiting_per_key: int | None = None
    is_exact: bool = False
    loras: Mapping[str, str] = field(default_factory=dict)
    preset: str = "exact"
    max_encoding_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if self.max_encoding_bytes < 0:
            raise ValueError(f"max_encoding_bytes must be 0 or more, got {self.max_encoding_bytes}")
        for name in ("max_batch", "max_running", "max_waiting", "max_waiting_per_key"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(eq=False)
class _Task:
    """A job inside the engine: its plan, and its conditions once they are made."""

    job: Job
    plan: Plan
    conditions: Conditions | None = None
    preview_steps: dict[int, int] = field(default_factory=dict)  # after this step -> number of the preview


@dataclass(eq=False)
class _Running:
    """One picture that is being drawn, the turn it was last moved in, and its share of the model's time."""

    task: _Task
    index: int
    sample: Sample
    turn: int = 0
    seconds: float = 0.0


class Engine:
    """Draws for many at once. Use it as a context manager, or call `close`.

    Example:
        >>> with Engine(pipe) as engine:
        ...     job = engine.submit(GenerationRequest(prompt="a cat", seed=1))
        ...     picture = job.result()[0].image

    Args:
        pipe: a pipeline that nothing else uses meanwhile.
        config: how much is taken on.
        on_measure: told ("step", seconds), ("batch", pictures), ("encode", seconds), ("decode", seconds),
            ("job", seconds) from the engine's thread, and for each kind of encoding (`encoding_cache.py`) 1
            where it was kept and 0 where it was computed.
    """

    def __init__(
        self, pipe: DeepGenPipeline, config: EngineConfig | None = None, on_measure: Measure | None = None
    ) -> None:
        self.config = config or EngineConfig()
        self.sampler = Sampler(
            pipe,
            self.config.loras,
            self.config.preset,
            self.config.max_running,
            self.config.max_encoding_bytes,
        )
        if self.config.is_exact:
            self.sampler.loras.load_all()
        self._preview = LatentPreview.fit(pipe.vae, pipe._execution_device)
        self._measure = on_measure or (lambda name, value: None)
        self.sampler.encodings.on_lookup = lambda kind, is_hit: self._measure(kind, is_hit)
        self._waiting: FairQueue[tuple[_Task, int]] = FairQueue()
        self._running: list[_Running] = []
        self._jobs: dict[str, tuple[Job, float]] = {}  # not ended, with the time they were accepted
        self._limits: dict[BatchKey, int] = {}  # rows that fit, where fewer than max_batch do
        self._sample_step_seconds: float | None = None  # a running mean
        self._turn = 0
        self._changed = threading.Condition()
        self._is_draining = self._is_closing = False
        self._chores: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._thread = threading.Thread(target=self._run, name="deepgen-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- for callers ------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, on_event: Callable[[Event], None] | None = None) -> Job:
        """Accept a request, from any thread.

        Args:
            request: what to draw.
            on_event: called with each event from the engine's thread, and must be quick; None keeps them for
                `Job.events`.

        Raises:
            ValueError: a value is out of range or does not fit another; the message names it.
            QueueFull: too much waits; the error says when to come back.
            Draining: the engine is shutting down.
        """
        if request.num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {request.num_images}")
        if request.num_images > self.config.max_waiting:
            raise ValueError(
                f"num_images {request.num_images} is more than the {self.config.max_waiting} that may wait"
            )
        self._check_room(request)  # before pictures are resized for a request that is refused anyway
        plan = self.sampler.plan(request)
        seeds = make_generators(request.seed, None, request.num_images)[0]
        assert seeds is not None
        job = Job(request, seeds, plan.info, on_event)
        count = min(request.num_previews, plan.num_steps - 1)
        steps = {plan.num_steps * (k + 1) // (count + 1): k for k in range(count)}
        task = _Task(job, plan, preview_steps=steps)
        with self._changed:
            self._check_room(request)
            self.sampler.loras.check(request.lora)  # it may have been removed since the plan was made
            self._jobs[job.id] = (job, time.monotonic())
            for index in range(request.num_images):
                self._waiting.push(request.key, (task, index))
            self._emit_queue_positions()
            self._changed.notify_all()
        return job

    def status(self) -> EngineStatus:
        """How busy it is."""
        with self._changed:
            accepting = not (self._is_draining or self._is_closing)
            alive = self._thread.is_alive()
            return EngineStatus(
                len(self._waiting),
                len(self._running),
                accepting,
                alive,
                self._is_draining or self._is_closing,
                encoding_memory=self.sampler.encodings.nbytes,
            )

    @property
    def model(self) -> ModelInfo:
        """Facts about the model."""
        return self.sampler.model_info

    def add_adapter(self, name: str, path: str) -> None:
        """Load another LoRA that requests may ask for from now on; drawing goes on meanwhile, but for the
        moment in which it is put in.

        Raises:
            LoraError: it is no LoRA, damaged, or does not fit; the model is as it was.
            FileNotFoundError: there is nothing.
            ValueError: the name is taken, or cannot be used.
            Draining: the engine is shutting down.
        """
        check_name(name)
        file = open_lora(name, path)
        self._in_thread(lambda: self.sampler.loras.add(name, file))

    def remove_adapter(self, name: str) -> int:
        """Let nothing new ask for a LoRA. Requests that were accepted are drawn with it to their end, and
        then its weights are let go.

        Returns:
            How many requests still use it.

        Raises:
            ValueError: there is none of that name.
        """
        with self._changed:
            self.sampler.loras.leave(name)
            self._changed.notify_all()
            return sum(job.request.lora == name for job, _ in self._jobs.values())

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing new and finish what was accepted; whether that was done within `timeout` seconds."""
        with self._changed:
            self._is_draining = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._jobs, timeout)

    def close(self) -> None:
        """Stop after the current step; jobs that are not done end with `Draining`."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def _check_room(self, request: GenerationRequest) -> None:
        with self._changed:
            if self._is_draining or self._is_closing:
                raise Draining("the server is shutting down and takes nothing new")
            limit, own = self.config.max_waiting, self.config.max_waiting_per_key
            over = len(self._waiting) + request.num_images - limit
            if over > 0:
                raise QueueFull(
                    f"{len(self._waiting)} pictures wait already, and {limit} may", self._seconds_until(over)
                )
            if own is not None:
                over = self._waiting.count(request.key) + request.num_images - own
                if over > 0:
                    raise QueueFull(f"{own} pictures of one key may wait", self._seconds_until(over))

    def _seconds_until(self, num_images: int) -> float:
        """About how long until so many have left the queue: what runs must be finished to make room."""
        left = sorted(r.task.plan.num_steps - r.sample.step for r in self._running)
        waiting = [task.plan.num_steps for task, _ in self._waiting.in_order()]
        return seconds_until(num_images, left, waiting, self._sample_step_seconds, self.config.max_running)

    # --- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._is_closing:
                    break
            try:
                self._drop_unwanted()
                self._do_chores()
                self._admit()
                self._step_next_batch()
                self._finish_done()
            except Exception:  # a fault of the engine itself: no client may wait for ever because of it
                logger.exception("the engine failed; what it was drawing is given up")
                self._end([r.task for r in self._running], WorkerFailed(new_error_id()))
        for _, done in self._chores:
            done.set_exception(Draining("the server was stopped"))
        for job in [job for job, _ in self._jobs.values()]:
            self._end_job(job, Draining("the server was stopped before the picture was done"))

    def _has_work(self) -> bool:
        return bool(
            self._waiting or self._running or self._chores or self._unused_adapters() or self._is_closing
        )

    def _in_thread(self, chore: Callable[[], None]) -> None:
        """Have the engine's thread do this between two steps, and wait for it."""
        done: Future[None] = Future()
        with self._changed:
            if self._is_draining or self._is_closing:
                raise Draining("the server is shutting down and takes nothing new")
            self._chores.append((chore, done))
            self._changed.notify_all()
        done.result()

    def _do_chores(self) -> None:
        """What was asked for by `_in_thread`, after adapters that nothing uses any more are taken out."""
        for name in self._unused_adapters():
            self.sampler.encodings.forget(self.sampler.loras.remove(name))
            logger.info("adapter %s is removed", name)
        while self._chores:
            chore, done = self._chores.popleft()
            try:
                chore()
            except Exception as error:  # whatever it is, it is told to the one who asked
                done.set_exception(error)
            else:
                done.set_result(None)

    def _unused_adapters(self) -> list[str]:
        """Adapters that are to be removed and that no request uses."""
        leaving = self.sampler.loras.leaving()
        if not leaving:
            return []
        with self._changed:
            used = {job.request.lora for job, _ in self._jobs.values()}
        return [name for name in leaving if name not in used]

    def _drop_unwanted(self) -> None:
        """End jobs that were cancelled or are late."""
        now = time.monotonic()
        with self._changed:
            jobs = [job for job, _ in self._jobs.values()]
        for job in jobs:
            error = job.due_error(now)
            if error is not None:
                self._end_job(job, error)

    def _admit(self) -> None:
        """Begin waiting pictures while there is room."""
        while len(self._running) < self.config.max_running:
            with self._changed:
                if not self._waiting:
                    return
                task, index = self._waiting.pop()
                self._emit_queue_positions()
            task.job.emit(Progress(index, 0, task.plan.num_steps))
            started = time.perf_counter()
            try:
                sample = self._with_retry(lambda: self._begin(task, index))  # noqa: B023 - called at once
            except EngineError as error:
                self._end([task], error)
                continue
            seconds = time.perf_counter() - started
            with self._changed:
                self._running.append(_Running(task, index, sample, self._turn, seconds))

    def _begin(self, task: _Task, index: int) -> Sample:
        if task.conditions is None:
            with self._timed("encode"):
                task.conditions = self.sampler.encode(task.plan)
        return self.sampler.begin(task.plan, task.conditions, task.job.seeds[index])

    def _step_next_batch(self) -> None:
        """One step for the group that has waited longest, at most as many as fit, longest waiting first."""
        if not self._running:
            return
        self._turn += 1
        in_turn = sorted(self._running, key=lambda r: r.turn)
        key = self._key(in_turn[0].sample)
        limit = self._limits.get(key, self.config.max_batch)
        batch = [r for r in in_turn if self._key(r.sample) == key][:limit]
        for running in batch:
            running.turn = self._turn
        self._step(batch)

    def _key(self, sample: Sample) -> BatchKey:
        return sample.exact_key if self.config.is_exact else sample.batch_key

    def _step(self, batch: list[_Running]) -> None:
        """Step a batch; retry an error once, and halve what does not fit into memory."""
        started = time.perf_counter()
        try:
            self._with_retry(lambda: self._forward([running.sample for running in batch]))
        except OutOfMemory as error:
            rows = self._limits.get(self._key(batch[0].sample), self.config.max_batch)
            rows = rows if self.config.is_exact else len(batch)  # what did not fit
            if rows == 1:
                self._end([batch[0].task], error)
                return
            half = rows // 2
            self._limits[self._key(batch[0].sample)] = half
            logger.warning("out of memory with %d pictures in a batch; going on with %d", rows, half)
            for first in range(0, len(batch), half):
                self._step(batch[first : first + half])
            return
        except EngineError as error:
            self._end([running.task for running in batch], error)
            return
        seconds = time.perf_counter() - started
        self._measure("step", seconds)
        self._measure("batch", len(batch))
        each = seconds / len(batch)
        before = self._sample_step_seconds
        self._sample_step_seconds = each if before is None else 0.9 * before + 0.1 * each
        for running in batch:
            running.seconds += each
            task, sample = running.task, running.sample
            task.job.emit(Progress(running.index, sample.step, task.plan.num_steps))
            expected = sample.expected_clean if sample.step in task.preview_steps else None
            if expected is not None:
                image = self._preview(expected[0])
                task.job.emit(Preview(running.index, task.preview_steps[sample.step], image))

    def _forward(self, samples: list[Sample]) -> None:
        if self.config.is_exact:
            self.sampler.step(samples, self._limits.get(self._key(samples[0]), self.config.max_batch))
        else:
            self.sampler.step(samples)

    def _finish_done(self) -> None:
        """Decode what is done."""
        for running in [r for r in self._running if r.sample.is_done]:
            job, started = running.task.job, time.perf_counter()
            try:
                with self._timed("decode"):
                    image = self._with_retry(lambda: self.sampler.finish(running.sample))  # noqa: B023
            except EngineError as error:
                self._end([running.task], error)
                continue
            with self._changed:
                if running in self._running:  # unless a sibling has just failed
                    self._running.remove(running)
            seconds = running.seconds + time.perf_counter() - started
            job.emit(ImageDone(running.index, image, job.seeds[running.index], seconds))
            if job.is_ended:
                self._forget(job)

    # --- endings ----------------------------------------------------------------------------------------

    def _end(self, tasks: list[_Task], error: EngineError) -> None:
        for job in {task.job.id: task.job for task in tasks}.values():
            self._end_job(job, error)

    def _end_job(self, job: Job, error: EngineError) -> None:
        with self._changed:
            self._waiting.remove(lambda item: item[0].job is job)
            self._running = [r for r in self._running if r.task.job is not job]
            self._emit_queue_positions()
        job.emit(JobDone(error))
        self._forget(job)

    def _forget(self, job: Job) -> None:
        with self._changed:
            _, accepted = self._jobs.pop(job.id, (job, time.monotonic()))
            self._changed.notify_all()
        self._measure("job", time.monotonic() - accepted)

    def _emit_queue_positions(self) -> None:
        """Tell waiting jobs how many pictures are ahead of their first, where that has changed."""
        seen: set[str] = set()
        for place, (task, index) in enumerate(self._waiting.in_order()):
            job = task.job
            if index == 0 and job.id not in seen and job.queue_position != place:
                job.queue_position = place
                job.emit(Queued(place))
            seen.add(job.id)

    # --- errors -----------------------------------------------------------------------------------------

    def _with_retry(self, work: Callable[[], object]) -> object:
        """The work's result; an error is tried once more, and then told as an `EngineError`."""
        for is_last in (False, True):
            try:
                return work()
            except Exception as error:  # libraries raise what they like, and the job must end with an answer
                if _is_out_of_memory(error):
                    if self.sampler.encodings.clear() and not is_last:
                        continue  # what was kept for later requests made room
                    # The same again would not fit either; the caller may try with less.
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    raise OutOfMemory(
                        "the picture does not fit into memory; ask for a smaller one"
                    ) from error
                if not is_last:
                    logger.warning("the model failed and is run once more", exc_info=True)
                    continue
                error_id = new_error_id()
                logger.exception("the model failed twice [%s]", error_id)
                raise WorkerFailed(error_id) from error
        raise AssertionError("unreachable")

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._measure(name, time.perf_counter() - started)


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU, PyTorch's allocator has no class of error of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def seconds_until(
    num_images: int,
    left: Sequence[int],
    waiting: Sequence[int],
    sample_step_seconds: float | None,
    max_running: int,
) -> float:
    """About how long until so many pictures have left the queue, at least 1 s.

    Args:
        num_images: places that are needed.
        left: steps that running pictures have before them, the fewest first.
        waiting: steps of waiting pictures, in their order.
        sample_step_seconds: of one step of one picture in its batch; None where none was taken yet.
        max_running: pictures that run at once.
    """
    if sample_step_seconds is None:
        return 1.0
    # All of what runs moves together, so the first places come free when its shortest are done.
    steps = sum([*left, *waiting][:num_images]) or 1
    share = max(1, min(len(left), max_running))
    return max(1.0, steps * sample_step_seconds * share / max(1, min(share, num_images)))
