"""A worker process: loads the model, draws with an `Engine` of its own, and says everything through a pipe.

What crosses the pipe are the small dataclasses below. The worker leaves when the pipe closes, so it never
outlives the server, and it lets signals pass: when to stop is the server's decision.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from deepgen.serving.jobs import (
    EngineError,
    Event,
    GenerationRequest,
    Job,
    JobInfo,
    ModelInfo,
    new_error_id,
)
from deepgen.uploads.memory import give_back

if TYPE_CHECKING:
    from deepgen.pipeline import DeepGenPipeline
    from deepgen.serving.engine import Engine, EngineConfig
    from deepgen.serving.log import LogFormat

logger = logging.getLogger(__name__)

_REPORT_S = 2.0  # seconds between two reports of memory, which also say that the process lives


@dataclass(frozen=True)
class Submit:
    """To the worker: draw this; messages about it carry `number`."""

    number: int
    request: GenerationRequest


@dataclass(frozen=True)
class Cancel:
    """To the worker: stop drawing this."""

    number: int


@dataclass(frozen=True)
class AddAdapter:
    """To the worker: load this LoRA; an `AdapterAnswer` with the number follows."""

    number: int
    name: str
    path: str


@dataclass(frozen=True)
class RemoveAdapter:
    """To the worker: let go of this LoRA."""

    name: str


@dataclass(frozen=True)
class AdapterAnswer:
    """From the worker: the LoRA is loaded, or why it cannot be."""

    number: int
    name: str
    error: str | None = None


@dataclass(frozen=True)
class Ready:
    """From the worker: the model is loaded."""

    model: ModelInfo


@dataclass(frozen=True)
class StartFailed:
    """From the worker, its last word: no model; an expected error is the fault of options or of a file."""

    message: str
    is_expected: bool
    is_of_file: bool = False


@dataclass(frozen=True)
class Accepted:
    """From the worker: it will draw this; events follow."""

    number: int
    info: JobInfo


@dataclass(frozen=True)
class Refused:
    """From the worker: it will not; `is_request` says whether the request's values are the reason."""

    number: int
    message: str
    is_request: bool


@dataclass(frozen=True)
class JobEvent:
    """From the worker: an event of a job."""

    number: int
    event: Event


@dataclass(frozen=True)
class Measurement:
    """From the worker: what `Engine` measures."""

    name: str
    value: float


@dataclass(frozen=True)
class MemoryReport:
    """From the worker, every other second: bytes it holds, in main memory, on the accelerator, and of
    encodings.
    """

    resident: int
    accelerator: int
    encodings: int = 0


def work(
    connection: Connection,
    load: Callable[[], DeepGenPipeline],
    config: EngineConfig,
    device: str | None,
    log: LogFormat = "text",
) -> None:
    """The life of a worker process.

    Args:
        connection: the pipe to the server.
        load: makes the pipeline; must be picklable.
        config: of the engine.
        device: what CUDA_VISIBLE_DEVICES is set to; None leaves it.
        log: the form of its lines on stderr.
    """
    for name in {"SIGINT", "SIGTERM", "SIGHUP"} & {one.name for one in signal.Signals}:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before the first call into CUDA, which reads it
    from deepgen.serving.log import logging_to_stderr

    with logging_to_stderr(log):
        _work(connection, load, config)


def _work(connection: Connection, load: Callable[[], DeepGenPipeline], config: EngineConfig) -> None:
    sending = threading.Lock()

    def send(message: Any) -> None:
        try:
            with sending:
                connection.send(message)
        except OSError:  # the server is gone, and with it all clients
            os._exit(0)

    from deepgen.checkpoints.tensors import CheckpointError
    from deepgen.serving.engine import Engine

    try:
        pipe = load()
        pipe.set_progress_bar_config(disable=True)
        engine = Engine(pipe, config, lambda name, value: send(Measurement(name, value)))
    except (ValueError, OSError, ImportError, MemoryError) as error:
        is_of_file = isinstance(error, CheckpointError)
        send(StartFailed(str(error), is_expected=True, is_of_file=is_of_file))
        return
    except Exception as error:  # whatever it is, it ends the start, and the server tells it
        logger.exception("the model could not be loaded")
        send(StartFailed(f"{type(error).__name__}: {error}", is_expected=False))
        return
    threading.Thread(target=_report, args=(send, engine), daemon=True).start()
    send(Ready(engine.model))
    _listen(connection, engine, send)
    os._exit(0)  # no client waits for what is being drawn


def _listen(connection: Connection, engine: Engine, send: Callable[[Any], None]) -> None:
    """Do what the server asks until it closes the pipe."""
    jobs: WeakValueDictionary[int, Job] = WeakValueDictionary()  # a job that has ended holds its pictures
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            return
        if isinstance(message, Submit):
            job = _take(message, engine, send)
            if job is not None:
                jobs[message.number] = job
        elif isinstance(message, Cancel) and message.number in jobs:
            jobs[message.number].cancel()
        elif isinstance(message, AddAdapter):  # reading a file must not keep requests waiting
            threading.Thread(target=_add_adapter, args=(message, engine, send), daemon=True).start()
        elif isinstance(message, RemoveAdapter):
            with suppress(ValueError):  # it is not there, or leaves already
                engine.remove_adapter(message.name)
        message = job = None  # they hold pictures, and the next one may be long in coming


def _add_adapter(message: AddAdapter, engine: Engine, send: Callable[[Any], None]) -> None:
    """Load a LoRA, and say how it went."""
    error = None
    try:
        engine.add_adapter(message.name, message.path)
    except (ValueError, OSError, MemoryError, EngineError) as refused:
        error = str(refused) or f"LoRA {message.name} does not fit into memory"
    except Exception:  # a fault of ours: the administrator gets an answer all the same
        error_id = new_error_id()
        logger.exception("an adapter could not be loaded [%s]", error_id)
        error = f"loading failed; the server's log tells more under {error_id}"
    send(AdapterAnswer(message.number, message.name, error))


def _take(message: Submit, engine: Engine, send: Callable[[Any], None]) -> Job | None:
    """Submit, and tell the events after the acceptance."""
    early: list[Event] | None = []
    order = threading.Lock()

    def tell(event: Event) -> None:
        with order:
            if early is not None:
                early.append(event)
            else:
                send(JobEvent(message.number, event))

    try:
        job = engine.submit(message.request, tell)
    except (ValueError, EngineError) as error:
        send(Refused(message.number, str(error), isinstance(error, ValueError)))
        return None
    except Exception as error:  # a fault of the planning: the worker's next request may well succeed
        logger.exception("a request could not be planned")
        send(Refused(message.number, type(error).__name__, False))
        return None
    with order:
        send(Accepted(message.number, job.info))
        for event in early:
            send(JobEvent(message.number, event))
        early = None
    return job


def _report(send: Callable[[Any], None], engine: Engine) -> None:
    is_trimmed = False
    while True:
        status = engine.status()
        is_idle = not status.running and not status.waiting
        if is_idle and not is_trimmed:  # after what it has drawn; not between steps, which would slow them
            give_back()
        is_trimmed = is_idle
        send(MemoryReport(*memory(), status.encoding_memory))
        time.sleep(_REPORT_S)


def memory() -> tuple[int, int]:
    """Bytes this process holds: in main memory (0 where that cannot be known) and on the accelerator."""
    import torch

    statm = Path("/proc/self/statm")
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    return resident, torch.cuda.memory_reserved() if torch.cuda.is_available() else 0
