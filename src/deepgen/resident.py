"""Commands that start at once: asking the resident process of `deepgen resident` to run one.

Importing PyTorch and the libraries takes seconds in every command that touches a model, and no choice of
imports avoids it: PyTorch alone takes most of two. The resident process has imported them, and makes a copy
of itself (fork) for each command. The copy gets the caller's terminal, folder, environment and signals; it
begins with everything imported and nothing computed, and ends with the command.

Here is the caller's side, which imports nothing beyond Python's own modules; `cli/resident.py` is the other.
What a process has from its start and cannot change afterwards has to be equal on both sides. Where it is not,
the command says so and runs by itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

SWITCH = "DEEPGEN_RESIDENT"  # in the environment: "off" runs commands by themselves
COMMAND = "resident"
# Variables that libraries, the allocator or Python read once, while they are imported.
_READ_AT_START = (
    *("ACCELERATE_", "BITSANDBYTES_", "DIFFUSERS_", "DNNL_", "GOMP_", "HF_", "HUGGINGFACE_", "KMP_", "LANG"),
    *("LC_", "LD_", "MALLOC_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_", "PEFT_", "PYTHON", "PYTORCH_"),
    *("SAFETENSORS_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_", "USE_", "XFORMERS_"),
)
# Of launchers, whose processes find each other by what they were started as.
_OF_LAUNCHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
)
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT) if os.name == "posix" else ()
_LENGTH = struct.Struct("!I")
_STREAMS = 3  # stdin, stdout, stderr; after them comes the caller's folder


def socket_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the resident process of this user, Python and installation listens."""
    installation = f"{sys.prefix}\n{Path(__file__).resolve().parent}"
    name = sha256(installation.encode()).hexdigest()[:12]
    place = environment.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(place) / f"deepgen-{os.getuid()}" / f"{name}.sock"


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's, and nobody else can put a socket there."""
    with suppress(OSError):
        status = folder.lstat()
        return status.st_uid == os.getuid() and status.st_mode & 0o170077 == 0o040000
    return False


def surroundings(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a process has from its start for good, to be compared; the names are for people."""
    import resource

    limits = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    found: dict[str, Any] = {
        name: value for name, value in environment.items() if name.startswith(_READ_AT_START)
    }
    found["the processors it may use (taskset)"] = sorted(os.sched_getaffinity(0))
    found["priority (nice)"] = os.getpriority(os.PRIO_PROCESS, 0)
    found["limits (ulimit)"] = {name: list(resource.getrlimit(getattr(resource, name))) for name in limits}
    return found


def run_there(arguments: Sequence[str]) -> int | None:
    """Let the resident process run a command, and return its exit code.

    Returns:
        None where there is no such process, or it may not be used; why is then said on stderr.
    """
    if not _may_ask(arguments):
        return None
    path = socket_path()
    if not (path.exists() and is_private(path.parent)):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return None  # it has ended, and could not take its socket away
        try:
            return _converse(connection, arguments)
        except (ConnectionError, EOFError):
            raise ConnectionError("the resident process ended while it ran this command") from None


def _may_ask(arguments: Sequence[str]) -> bool:
    if sys.platform != "linux" or os.environ.get(SWITCH) == "off" or list(arguments[:1]) == [COMMAND]:
        return False
    return not any(name in os.environ for name in _OF_LAUNCHERS)


def _converse(connection: socket.socket, arguments: Sequence[str]) -> int | None:
    """Send the command, pass signals on while it runs, and wait for its exit code."""
    folder = os.open(".", os.O_RDONLY)
    try:
        socket.send_fds(connection, [b"d"], [*range(_STREAMS), folder])
    finally:
        os.close(folder)
    umask = os.umask(0)
    os.umask(umask)
    send(
        connection,
        {
            "arguments": list(arguments),
            "environment": dict(os.environ),
            "path": sys.path,
            "surroundings": surroundings(),
            "umask": umask,
        },
    )
    answer = receive(connection)
    if "refused" in answer:
        print(f"deepgen: the resident process is not used: {answer['refused']}", file=sys.stderr)
        return None
    with _Signals(answer["pid"]):
        return receive(connection)["code"]


class _Signals:
    """While it is entered, what is sent to this process goes to the group of another one."""

    def __init__(self, group: int) -> None:
        self._group = group

    def __enter__(self) -> None:
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGTSTP, self._stop)

    def __exit__(self, *_: object) -> None:
        for number in (*_PASSED_ON, signal.SIGTSTP):
            signal.signal(number, signal.SIG_DFL)

    def _pass_on(self, number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._group, number)

    def _stop(self, number: int, frame: object) -> None:
        """Ctrl-Z: the command stops with its caller, and goes on with it."""
        self._pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._pass_on(signal.SIGCONT, frame)


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """A message, after its length."""
    content = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; EOFError where the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    return json.loads(_exactly(connection, length))


def receive_streams(connection: socket.socket) -> list[int]:
    """The descriptors that open a conversation: stdin, stdout, stderr and the folder."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, _STREAMS + 1)
    if len(descriptors) != _STREAMS + 1:
        raise EOFError
    return list(descriptors)


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = connection.recv(count - len(content))
        if not piece:
            raise EOFError
        content += piece
    return content
