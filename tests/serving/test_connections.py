"""Connections that cost without asking: idle ones, slow ones, too many, and clients that stop reading."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepgen.serving.connections import ConnectionLimits, RareLines, _share, server_config
from serve_process import in_thread, listening

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LARGE = 30_000_000  # bytes: more than the kernel keeps for a client that does not read


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, and answers with as much as the path asks for."""
    if scope["type"] != "http":
        return
    more = scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    size = LARGE if scope["path"] == "/large" else 2
    length = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"x" * size})


@contextmanager
def running(**limits: Any) -> Iterator[int]:
    with in_thread(server_config(app, ConnectionLimits(**limits), lifespan="off"), backlog=64) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def is_closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes it within so many seconds; what it says before is read."""
    connection.settimeout(seconds)
    try:
        while connection.recv(1 << 16):
            """An answer."""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    return True


def ask(connection: socket.socket, request: bytes = GET) -> bytes:
    """The whole answer: headers and body come in pieces."""
    connection.sendall(request)
    answer = b""
    while part := connection.recv(1 << 16):
        answer += part
        head, end, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if end and length and len(body) >= int(length[1]):
            break
    return answer


def test_silent_and_slow_connections_are_closed_and_others_are_not() -> None:
    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n"
    with running(headers_s=0.6, body_s=1.2) as port, ExitStack() as stack:
        silent, slow, upload, early, used = (stack.enter_context(connect(port)) for _ in range(5))
        slow.sendall(b"GET / HTTP/1.1\r\n")
        upload.sendall(post + b"1")
        assert ask(early, post.replace(b"/ ", b"/early ")).startswith(b"HTTP/1.1 200")
        early.sendall(b"1")  # the rest of a request that has been answered is waited for no longer
        assert ask(used).startswith(b"HTTP/1.1 200")
        time.sleep(0.2)
        slow.sendall(b"host: a\r\n")
        assert is_closed(silent, 2)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert is_closed(early, 2)
        assert ask(used).startswith(b"HTTP/1.1 200")  # kept between requests for longer
        used.sendall(b"GET")  # and not for longer once the next one has begun
        assert is_closed(used, 2)
        assert upload.recv(1000).startswith(b"HTTP/1.1 408")


def test_at_the_cap_the_longest_idle_connection_makes_room_and_work_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n"
    with running(max_connections=6) as port, ExitStack() as stack:
        working = stack.enter_context(connect(port))
        working.sendall(post + b"12")
        idle = [stack.enter_context(connect(port)) for _ in range(5)]
        time.sleep(0.2)
        late = stack.enter_context(connect(port))
        assert ask(late).startswith(b"HTTP/1.1 200")
        assert is_closed(idle[0], 2)
        assert not is_closed(idle[1], 0.05)
        working.settimeout(10)
        assert ask(working, b"34").startswith(b"HTTP/1.1 200")
        for connection in (late, *idle[1:], working):
            connection.sendall(post)
        time.sleep(0.2)
        refused = stack.enter_context(connect(port))
        head, _, body = refused.recv(1000).partition(b"\r\n\r\n")
        assert b"503" in head
        assert b"retry-after: 1" in head
        assert json.loads(body)["error"]["code"] == "too_many_connections"
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("deepgen")]
    assert [line.partition(",")[0] for line in lines] == ["deepgen: 6 connections"] * len(lines)


def test_a_client_that_stops_reading_is_given_up_and_a_slow_one_is_not() -> None:
    request = GET.replace(b"/ ", b"/large ", 1)
    with running(taking_s=1.5) as port, connect(port) as stuck, connect(port) as slow:
        stuck.sendall(request)
        slow.sendall(request)
        taken = 0
        for _ in range(8):
            taken += len(slow.recv(1 << 21))
            time.sleep(0.2)
        while taken < LARGE and (part := slow.recv(1 << 21)):
            taken += len(part)
        assert taken > LARGE  # headers and all
        got, stuck_closed = 0, False
        try:
            while part := stuck.recv(1 << 21):
                got += len(part)
            stuck_closed = True
        except ConnectionResetError:
            stuck_closed = True
        assert stuck_closed
        assert got < LARGE


def test_broken_http_is_answered_in_json_whatever_was_answered_before() -> None:
    with running() as port, connect(port) as connection:
        answer = ask(connection, b"nonsense\r\n\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"
    with running() as port, connect(port) as connection:
        head = b"POST /early HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        assert ask(connection, head).startswith(b"HTTP/1.1 200")
        connection.sendall(b"zz\r\n")
        assert is_closed(connection, 5)


def test_connections_and_a_backlog_fit_into_what_files_there_are() -> None:
    for free in (40, 100, 200, 1000, 20_000, 65_000):
        connections, backlog = _share(1024, free)
        assert connections + 4 * backlog <= free
    assert _share(1024, 200) == (100, 25)
    assert _share(1024, 65_000) == (1024, 2048)
    assert _share(10, 0) == (4, 8)  # it tries all the same
    with pytest.raises(ValueError, match="at least 1"):
        ConnectionLimits(max_connections=0)


def test_what_strangers_cause_is_logged_once_a_minute_and_our_own_errors_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rare, now = RareLines(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def logged(message: str, error: Exception | None = None) -> str | None:
        info = None if error is None else (type(error), error, None)
        record = logging.LogRecord("asyncio", logging.ERROR, "", 0, message, (), info)
        return record.getMessage() if rare.filter(record) else None

    full = OSError(24, "Too many open files")
    lines = [logged(f"socket.accept() out of system resource\nfd={n}", full) for n in range(100)]
    assert [line is None for line in lines] == [False] + [True] * 99
    assert logged("another") == "another"
    assert [logged("a bug", RuntimeError()), logged("a bug", RuntimeError())] == ["a bug"] * 2
    now[0] += 61
    said = logged("socket.accept() out of system resource\nfd=1", full)
    assert said is not None
    assert said.endswith("(99 more like it since)")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no ulimit")
def test_four_hundred_idle_sockets_leave_a_server_of_few_files_answering(tmp_path: Path) -> None:
    few = tmp_path / "few.sh"
    few.write_text(f'#!/bin/sh\nulimit -n 256\nexec {sys.executable} "$@"\n')
    few.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(sys, "executable", str(few))
        url, lines = stack.enter_context(listening(["serve", "tiny", "--port", "0"]))
        port = int(url.rpartition(":")[2])
        health = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
        for _ in range(400):
            stack.enter_context(connect(port))
        for _ in range(20):
            started = time.monotonic()
            with connect(port) as connection:
                assert ask(connection, health).startswith(b"HTTP/1.1 200")
            assert time.monotonic() - started < 5
        time.sleep(5)
        noise = [line for line in lines if not line.startswith("{")]
        assert len("".join(noise)) < 10_000
