"""A real `deepgen serve` with the model inside the package in its own process, and servers in threads."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from deepgen.uploads.png_bands import _chunk

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


# 74 bytes that claim 1 x 64,000,000 pixels.
CLAIM = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", b"\0\0\0\1\x03\xd0\x90\0\x08\0\0\0\0")
    + _chunk(b"IDAT", b"\x78\x9c" + b"\0" * 15)
    + _chunk(b"IEND", b"")
)


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def listening(
    arguments: list[str], pattern: str = r"serving on (http://\S+)", python: str | Path = sys.executable
) -> Iterator[tuple[str, list[str]]]:
    """Runs `deepgen` with these arguments; (the address it says, its lines on stderr so far)."""
    command = [str(python), "-m", "deepgen", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if match := re.search(pattern, line):
                    break
            else:
                raise AssertionError(f"{command} ended before it listened:\n{''.join(lines)}")
            reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
            reader.start()  # so that its log never blocks it
            yield match[1], lines
            process.terminate()
            process.wait(30)
        finally:
            process.kill()


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address of a server of the small model."""
    with listening(["serve", "tiny", "--port", "0", *arguments]) as (url, _):
        yield url


class Process:
    """A `deepgen` that listens, and the lines it has written."""

    def __init__(self, url: str, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.url, self.process, self.lines = url, process, lines
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)  # keeps its connection

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """Over a connection of its own."""
        path = f"{self.url}/v1/images/generations"
        return httpx.post(path, json=body, timeout=120, trust_env=False, **options)

    def until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < end, "".join(self.lines)
            time.sleep(0.05)

    def draw(self, body: dict[str, Any], **options: Any) -> tuple[threading.Thread, list[httpx.Response]]:
        """Begin to ask in a thread; returns once it is being drawn."""
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(self.post(body, **options)))
        thread.start()
        self.until(lambda: self.http.get("/ready").json()["running"] > 0)
        return thread, answers


@contextmanager
def started(*arguments: str, pattern: str = r"serving on (http://\S+) ", port: int = 0) -> Iterator[Process]:
    """Runs `deepgen` until the block is left; the test ends it, or it is killed."""
    command = [sys.executable, "-m", "deepgen", *arguments, "--port", str(port)]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout is not None
            url = ""
            for line in process.stdout:
                lines.append(line)
                if match := re.search(pattern, line):
                    url = match[1]
                    break
            assert url, "".join(lines)
            reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
            reader.start()
            yield Process(url, process, lines)
            reader.join(30)
        finally:
            process.kill()


@contextmanager
def in_thread(config: uvicorn.Config, backlog: int = 128) -> Iterator[int]:
    """The port of a server of this `uvicorn.Config` in a thread."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
