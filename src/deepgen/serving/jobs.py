"""Requests to the engine, the events of a job while it draws, and its errors.

A request becomes a job. A job speaks in events, in this order for each picture: `Queued` while it waits,
`Progress` and `Preview` while it is drawn, `ImageDone` when it is done; one `JobDone` closes the job.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from deepgen.generation import NAMES as SETTINGS
from deepgen.generation import GenerationSettings, ResolvedSettings
from deepgen.prompt_text import PromptCut

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """Pictures to draw, or one to edit; None leaves a choice to the model's defaults.

    Attributes:
        prompt: what to draw, or how to change the pictures.
        images: references of an edit, RGB, in the order the prompt speaks of them.
        mask: greyscale, as large as the first reference: above 127 may change, the rest is kept exactly.
        negative_prompt: what to steer away from.
        height: pixels, a multiple of the model's unit; for an edit the first reference's where None.
        width: as `height`.
        final_size: (height, width) the picture is brought to, where that is none the model draws.
        num_inference_steps: solver steps, at least 1.
        guidance_scale: 1 or less draws without a negative branch.
        num_images: pictures, at least 1.
        seed: picture k is drawn with seed + k; random where None.
        preset: solver and spacing of the steps, see `sampling/presets.py`; `ModelInfo.preset` where None.
        solver: name of a solver, see `sampling/solvers.py`; the preset's, or euler, where None.
        keep_unchanged: of an edit, whether what it left as it was comes back pixel for pixel; the model's own
            where None.
        lora: the name of an adapter to draw with; see `ModelInfo.loras`.
        num_previews: how many previews each picture gets while it is drawn, 0 or more.
        source_size: (height, width) an edit is brought back to where it asks for no size; None is that of
            the first reference, which may have been scaled down to what the model reads.
        remarks: what was done to the given pictures, for the answer.
        key: whose request it is; keys take turns.
        timeout_s: seconds from now after which the request is given up.
    """

    prompt: str
    images: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    final_size: tuple[int, int] | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_images: int = 1
    seed: int | None = None
    preset: str | None = None
    solver: str | None = None
    keep_unchanged: bool | None = None
    lora: str | None = None
    num_previews: int = 0
    source_size: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    key: str = ""
    timeout_s: float | None = None

    @property
    def settings(self) -> GenerationSettings:
        """How each picture is drawn, as asked."""
        return GenerationSettings(**{name: getattr(self, name) for name in SETTINGS})


@dataclass(frozen=True)
class Queued:
    """The job waits; so many pictures will be begun before its first."""

    ahead: int


@dataclass(frozen=True)
class Progress:
    """Picture `index` has taken `step` of `num_steps` calls of the model; step 0 means it has been begun."""

    index: int
    step: int
    num_steps: int


@dataclass(frozen=True)
class Preview:
    """A rough look at picture `index`: its `number`-th preview, from 0, smaller than the picture."""

    index: int
    number: int
    image: Image.Image


@dataclass(frozen=True)
class ImageDone:
    """Picture `index` is done; drawn alone with this seed it is the same picture.

    `model_seconds` is its share of the model's time: pictures of one forward share that equally.
    """

    index: int
    image: Image.Image
    seed: int
    model_seconds: float = 0.0


@dataclass(frozen=True)
class JobDone:
    """Nothing follows. `error` is None where every picture was drawn."""

    error: EngineError | None


Event = Queued | Progress | Preview | ImageDone | JobDone


class EngineError(Exception):
    """A request the engine did not fulfil; `code` is a word for programs."""

    code = "engine_error"


class QueueFull(EngineError):
    """Too much waits already; trying again makes sense after `retry_after` seconds."""

    code = "queue_full"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.retry_after)


class NoWorker(EngineError):
    """Every worker is starting anew; trying again makes sense in a moment."""

    code = "no_worker"


class Draining(EngineError):
    """The engine finishes what it has and takes nothing new."""

    code = "shutting_down"


class DeadlineExceeded(EngineError):
    """The request's time was up before its pictures were done."""

    code = "deadline_exceeded"


class Cancelled(EngineError):
    """Whoever asked is gone."""

    code = "cancelled"


class WorkerFailed(EngineError):
    """The model raised an error or took its process with it, twice; the log tells more under `error_id`."""

    code = "worker_failed"

    def __init__(self, error_id: str) -> None:
        super().__init__(f"drawing failed; the server's log tells more under {error_id}")
        self.error_id = error_id

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error_id,)


class OutOfMemory(EngineError):
    """One picture alone does not fit."""

    code = "out_of_memory"


def new_error_id() -> str:
    """What connects an answer with a line of the log."""
    return f"err-{secrets.token_hex(6)}"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server tells about its model.

    Attributes:
        defaults: the model's own height, width, num_inference_steps, guidance_scale and, where it has one,
            edit_guidance_scale.
        size_unit: sides are multiples of this, pixels.
        max_side: the longest side, pixels.
        loras: names of adapters a request may ask for.
        preset: of requests that name none.
        world: what a small model draws, see `deepgen.worlds`.
    """

    defaults: dict[str, Any]
    size_unit: int
    max_side: int
    loras: tuple[str, ...] = ()
    preset: str = "exact"
    world: str | None = None

    def resolve(self, settings: GenerationSettings, is_edit: bool = False) -> ResolvedSettings:
        """Settings of a request with the model's own, and the server's preset, in place of None."""
        return settings.resolve({**self.defaults, "preset": self.preset}, is_edit)

    def can_use(self, preset: str) -> bool:
        """Whether the model can be drawn with a preset: some are for distilled models, others are not."""
        try:
            self.resolve(GenerationSettings(preset=preset))
        except ValueError:
            return False
        return True

    def usual_steps(self, preset: str | None = None) -> int:
        """Solver steps of a request that asks for this preset, or for none, and not for their number."""
        return self.resolve(GenerationSettings(preset=preset)).num_inference_steps


@dataclass(frozen=True)
class WorkerStatus:
    """A worker process: what it holds in memory, bytes, and how often it was started.

    `encoding_memory` is what kept encodings take of one or the other.
    """

    is_ready: bool
    memory: int = 0
    accelerator_memory: int = 0
    num_starts: int = 1
    encoding_memory: int = 0


@dataclass(frozen=True)
class EngineStatus:
    """Counts of pictures now, whether new requests are taken, and the worker processes, if there are any."""

    waiting: int
    running: int
    is_accepting: bool
    is_alive: bool
    is_draining: bool = False
    workers: tuple[WorkerStatus, ...] = ()
    encoding_memory: int = 0


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """What was decided when a request was accepted.

    Attributes:
        size: (height, width) of the pictures, pixels.
        drawn_size: (height, width) the model draws; an edit is brought from it to the size of its source.
        settings: of each, with nothing left to the model.
        num_steps: calls of the model for each picture.
        num_text_tokens: of the prompt, without its template.
        num_reference_tokens: what the VLM reads of all references.
        num_image_tokens: what the DiT draws for one picture.
        prompt_cuts: what was left out of prompts that were too long.
        world_warnings: what a small model's world cannot follow of the prompt.
    """

    size: tuple[int, int]
    drawn_size: tuple[int, int]
    settings: ResolvedSettings
    num_steps: int
    num_text_tokens: int
    num_reference_tokens: int
    num_image_tokens: int
    prompt_cuts: tuple[PromptCut, ...] = ()
    world_warnings: tuple[str, ...] = ()


class Job:
    """A request on its way. Events are read with `events()`, or go to `on_event` in the engine's thread."""

    def __init__(
        self,
        request: GenerationRequest,
        seeds: list[int],
        info: JobInfo,
        on_event: Callable[[Event], None] | None,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        self.id = f"job-{secrets.token_hex(8)}"
        self.request, self.seeds, self.info = request, seeds, info
        self.deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        self.queue_position: int | None = None
        self._on_cancel = on_cancel
        self._on_event, self._events = on_event, queue.SimpleQueue[Event]()
        self._drawn: dict[int, ImageDone] = {}
        self._error: EngineError | None = None
        self.refusal: Any = None  # the server's error where it does not send what was drawn
        self._cancelled, self._ended = threading.Event(), threading.Event()
        self._emitting = threading.RLock()  # pictures of one job may come from several workers

    def cancel(self) -> None:
        """Nobody waits any more; its pictures are dropped before the next step. Safe from any thread."""
        self._cancelled.set()
        if self._on_cancel is not None and not self.is_ended:
            self._on_cancel()

    @property
    def is_ended(self) -> bool:
        """Whether `JobDone` has been told."""
        return self._ended.is_set()

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """Everything told, to `JobDone`; TimeoutError after `timeout` seconds without a word."""
        while True:
            try:
                event = self._events.get(timeout=timeout)
            except queue.Empty as error:
                raise TimeoutError(f"{self.id}: nothing was heard for {timeout} s") from error
            yield event
            if isinstance(event, JobDone):
                return

    def result(self, timeout: float | None = None) -> list[ImageDone]:
        """All pictures, in order; raises the job's `EngineError`, or TimeoutError after `timeout` seconds."""
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.id} is not done after {timeout} s")
        if self._error is not None:
            raise self._error
        return [self._drawn[index] for index in range(self.request.num_images)]

    @property
    def drawn(self) -> list[ImageDone]:
        """What is done so far."""
        return list(self._drawn.values())

    @property
    def error(self) -> EngineError | None:
        """Why it ended without all of its pictures, if so."""
        return self._error

    # --- for the engine ---------------------------------------------------------------------------------

    def due_error(self, now: float) -> EngineError | None:
        """Why the job should not go on, if so, at this `time.monotonic()`."""
        if self._cancelled.is_set():
            return Cancelled("the request was cancelled")
        if self.deadline is not None and now > self.deadline:
            return DeadlineExceeded(f"not done within the request's {self.request.timeout_s:g} s")
        return None

    @property
    def missing(self) -> list[int]:
        """Pictures that are not drawn yet."""
        return [index for index in range(self.request.num_images) if index not in self._drawn]

    def emit(self, event: Event) -> None:
        """Pass an event on; after the last picture, or an error, the job ends."""
        with self._emitting:
            self._emit(event)

    def _emit(self, event: Event) -> None:
        if self.is_ended:
            return
        if isinstance(event, ImageDone):
            self._drawn[event.index] = event
        if isinstance(event, JobDone):
            self._error = event.error
        if self._on_event is None:
            self._events.put(event)
        else:
            try:
                self._on_event(event)
            except Exception:  # a listener's fault must not cost the others their pictures
                logger.exception("%s: the listener failed, so the job is cancelled", self.id)
                self.cancel()
        if isinstance(event, JobDone):
            self._ended.set()
        elif len(self._drawn) == self.request.num_images:
            self._emit(JobDone(None))


class EngineProtocol(Protocol):
    """What the server asks of an engine, in this process (`Engine`) or in others (`Pool`)."""

    @property
    def model(self) -> ModelInfo:
        """Facts about the model."""
        ...

    def submit(self, request: GenerationRequest, on_event: Callable[[Event], None] | None = None) -> Job:
        """Accept a request, or say why not; see `Engine.submit`."""
        ...

    def status(self) -> EngineStatus:
        """How busy it is."""
        ...

    def add_adapter(self, name: str, path: str) -> None:
        """Take another LoRA; see `Engine.add_adapter`."""
        ...

    def remove_adapter(self, name: str) -> int:
        """Let nothing new ask for a LoRA; how many requests still use it."""
        ...

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing new and finish what was accepted; whether that was done in `timeout` seconds."""
        ...

    def close(self) -> None:
        """Stop; what is not done ends with `Draining`."""
        ...
