"""`deepgen resident`: one process that has everything imported, so that other commands start at once.

For each command a copy of the process is made, and a second one that waits for it and tells its caller the
exit code. `deepgen/resident.py` says what the two sides have to agree on, and is the caller's side.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from deepgen import resident
from deepgen.progress import hide_bars_of_loaded_libraries
from deepgen.resident import is_private, receive, receive_streams, send, socket_path, surroundings

# What commands import that read, draw, train, score or serve a model.
_IMPORTED = (
    *("pipeline", "checkpoints.info", "checkpoints.memory", "checkpoints.verify", "checkpoints.weights"),
    *("checkpoints.lora_files", "data.image_files", "data.images", "data.masks", "data.png", "image_sizes"),
    *("planning.drawing", "sampling.solvers", "evaluation.runner", "training.loop", "training.start"),
)
_COMMANDS = "deepgen.cli.app"  # by name: the table of commands imports this one
_SOURCES = Path(resident.__file__).parent


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Keep a process that makes other commands start at once, until Ctrl-C; for Linux.

    Every `deepgen` command of the same user, Python and installation then runs in a copy of it, in its own
    folder, environment and terminal. DEEPGEN_RESIDENT=off runs a command by itself.
    """

    idle_minutes: float | None = None
    """End by itself after so many minutes without a command; default: never."""

    def run(self) -> int:
        """Exit code 0 when it was idle for long enough; Ctrl-C ends it otherwise."""
        if sys.platform != "linux":
            raise ValueError(
                "a resident process needs Linux: elsewhere a copy of a process with PyTorch fails"
            )
        if self.idle_minutes is not None and not self.idle_minutes > 0:
            raise ValueError(f"--idle-minutes must be above 0, got {self.idle_minutes}")
        path = socket_path()
        with _listening(path) as listener:
            started = time.perf_counter()
            before = surroundings()
            newest = _newest_source()
            _import_everything()
            seconds = f"{time.perf_counter() - started:.1f} s"
            print(
                f"deepgen: resident process {os.getpid()} is ready after {seconds}; other `deepgen` commands "
                "start at once while it runs. Ctrl-C ends it",
                file=sys.stderr,
                flush=True,
            )
            try:
                _serve(listener, before, newest, self.idle_minutes)
            finally:
                path.unlink(missing_ok=True)
        return 0


def _listening(path: Path) -> socket.socket:
    """The socket, which only this user reaches; ValueError where another resident process has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(path.parent):
        raise ValueError(
            f"{path.parent} is not this user's alone, so others could answer there; remove it, or set "
            "XDG_RUNTIME_DIR to a folder of your own"
        )
    listener = socket.socket(socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX) as other, suppress(OSError):
        other.connect(str(path))
        raise ValueError(f"a resident process listens at {path} already; end it first, or use it")
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    listener.listen()
    return listener


def _import_everything() -> None:
    os.environ.pop("TQDM_DISABLE", None)  # tqdm reads it once; each command decides for itself, see `_begin`
    gc.disable()
    for name in _IMPORTED:
        import_module(f"deepgen.{name}")
    gc.freeze()  # copies share this memory as long as nothing writes to it
    gc.enable()


def _newest_source() -> float:
    """When the last file of this package was changed."""
    return max(path.stat().st_mtime for path in _SOURCES.rglob("*.py"))


def _serve(
    listener: socket.socket, before: dict[str, Any], newest: float, idle_minutes: float | None
) -> None:
    """Answer until nobody has asked for long enough."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # copies that have ended are forgotten
    signal.signal(signal.SIGTERM, _end)  # what shells start in the background does not hear Ctrl-C
    listener.settimeout(None if idle_minutes is None else 60 * idle_minutes)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            print("deepgen: the resident process ends, it was idle", file=sys.stderr)
            return
        with connection:
            if os.fork() == 0:
                _as_a_copy(listener, connection, before, newest)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _as_a_copy(
    listener: socket.socket, connection: socket.socket, before: dict[str, Any], newest: float
) -> None:
    """Attend to one caller and end; nothing of what the original does at its end is done here."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        listener.close()
        with suppress(EOFError, ConnectionError):
            _attend(connection, before, newest)
    except BaseException:  # whatever it is, this copy ends; the original serves others
        traceback.print_exc()
    finally:
        os._exit(0)


def _attend(connection: socket.socket, before: dict[str, Any], newest: float) -> None:
    """Of one caller: read the command, start it, pass on its end. A caller who is gone ends the command."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C at the resident's terminal is for commands of others
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[1] != os.getuid():
        return
    streams = receive_streams(connection)
    request = receive(connection)
    if reason := _difference(before, request["surroundings"], newest):
        send(connection, {"refused": reason})
        return
    begun, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.setsid()  # signals go to its group, and no other terminal's Ctrl-C does
        os.close(begin)
        os.close(begun)
        _run(request, streams)
    os.close(begin)
    os.read(begun, 1)  # until the other end is closed
    for descriptor in (begun, *streams):
        os.close(descriptor)
    send(connection, {"pid": pid})
    ended = os.pidfd_open(pid)
    readable, _, _ = select.select([connection, ended], [], [])
    if ended not in readable:  # the caller says nothing more, so it is gone
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    send(connection, {"code": os.waitstatus_to_exitcode(status)})


def _difference(before: dict[str, Any], asked: dict[str, Any], newest: float) -> str:
    """Why a command cannot run in a copy of this process; nothing where it can."""
    if _newest_source() > newest:
        return "deepgen's files were changed since it started; start it anew"
    names = sorted(name for name in {*before, *asked} if before.get(name) != asked.get(name))
    return f"it was started with another {names[0]}; start it anew to change that" if names else ""


def _begin(request: dict[str, Any], streams: list[int]) -> None:
    """Take over what the caller has: terminal, folder, environment, and where its program lies."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    *standard, folder = streams
    os.fchdir(folder)
    for target, descriptor in enumerate(standard):
        os.dup2(descriptor, target)
    for descriptor in streams:
        if descriptor > 2:
            os.close(descriptor)
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.path[:] = request["path"]
    sys.argv[1:] = request["arguments"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())  # pyright: ignore
    import numpy

    numpy.random.seed()  # noqa: NPY002  # the state that libraries share: copies would all begin with the same
    if not sys.stderr.isatty() or os.environ.get("TQDM_DISABLE"):
        hide_bars_of_loaded_libraries()


def _run(request: dict[str, Any], streams: list[int]) -> None:
    """The command, then the end of this process as Python ends one; does not return."""
    code: Any = 1
    try:
        _begin(request, streams)
        code = import_module(_COMMANDS).main(request["arguments"])
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # printed, as Python does at its end
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # waits, as at Python's end
        with suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code or 0)
