"""Connections of a server of ours: how many, for how long they may be silent, and what is logged of them.

uvicorn bounds what happens after a request has been read. A connection that never sends one costs a file
descriptor for good, and without descriptors asyncio tries to accept 2,048 times a second and logs each. Here
is what uvicorn has no setting for: a time for the headers of each request, a time in which a client has to
take something of its answer, and a cap, at which the connection that has been idle longest makes room.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_MOST_FILES = 65_536  # as many as are asked of the system
_FOR_FILES = 32  # descriptors that stay free for uploads, logs and pictures that are fetched
_FRESH_S = 0.1  # a connection so young is not idle: its request may have arrived and not been looked at
_LOUDER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """How much of the server its connections may take.

    Attributes:
        max_connections: connections at once; fewer where the system allows fewer files.
        headers_s: seconds until the headers of a request are there, from the moment of connecting and, on a
            connection that is kept, from their first byte.
        body_s: seconds that a body may take; a route may give it less.
        keep_alive_s: seconds that a connection is kept between two requests.
        taking_s: seconds in which a client has to take something of its answer.
    """

    max_connections: int = 1024
    headers_s: float = 15.0
    body_s: float = 300.0
    keep_alive_s: int = 30
    taking_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse a server that takes nobody."""
        if self.max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, got {self.max_connections}")


def server_config(app: Any, limits: ConnectionLimits | None = None, **settings: Any) -> Any:
    """A `uvicorn.Config` of this ASGI application within these limits; `settings` are uvicorn's own."""
    import uvicorn

    limits = limits or ConnectionLimits()
    cap, backlog = _share(limits.max_connections, _free_files())
    config = uvicorn.Config(
        app,
        http=_protocol(limits, cap),
        ws="none",
        backlog=backlog,
        timeout_keep_alive=limits.keep_alive_s,
        access_log=False,
        server_header=False,
        **{"log_level": "warning", **settings},
    )
    for name in ("asyncio", "uvicorn.error", __name__):
        log = logging.getLogger(name)
        if not any(isinstance(one, RareLines) for one in log.filters):
            log.addFilter(RareLines())
    return config


# --- files --------------------------------------------------------------------------------------------------


def _free_files() -> int:
    """File descriptors this process may still open, once it has asked for as many as it may have."""
    try:
        import resource
    except ImportError:  # Windows counts sockets elsewhere
        return _MOST_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError) as error:  # a sandbox may forbid it
            logger.warning("deepgen: the limit of %d open files could not be raised: %s", soft, error)
    limit = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        used = 32
    return max(0, limit - used - _FOR_FILES)


def _share(max_connections: int, free: int) -> tuple[int, int]:
    """(connections, backlog) that fit into free descriptors.

    asyncio accepts a whole backlog before a connection can be looked at, and what is closed goes a few turns
    later: four of them have to fit beside the connections.
    """
    backlog = min(2048, max(8, free // 8))
    return max(4, min(max_connections, free - 4 * backlog)), backlog


# --- the protocol -------------------------------------------------------------------------------------------


# Stands for uvicorn's protocol, which is imported where a server is made.
_UvicornProtocol: Any = object


class LimitedProtocol(_UvicornProtocol):
    """A connection that has to use its time."""

    limits: ConnectionLimits
    cap: int
    _headers_due: asyncio.TimerHandle | None = None
    _body_due: asyncio.TimerHandle | None = None
    _taking_due: asyncio.TimerHandle | None = None
    last_used = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.last_used = self.loop.time()
        self._headers_due = self.loop.call_later(self.limits.headers_s, self._give_up)
        if len(self.connections) > self.cap:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if self.is_idle and self._headers_due is None:
            self._headers_due = self.loop.call_later(self.limits.headers_s, self._give_up)
        super().data_received(data)
        if not self.is_idle:
            self._headers_due = _cancelled(self._headers_due)
        if self.is_idle or not self.cycle.more_body:
            self._body_due = _cancelled(self._body_due)
        elif self._body_due is None:
            self._body_due = self.loop.call_later(self.limits.body_s, self._give_up_body)

    def on_response_complete(self) -> None:
        self.last_used = self.loop.time()
        self._body_due = _cancelled(self._body_due)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_due = _cancelled(self._headers_due)
        self._body_due = _cancelled(self._body_due)
        self._taking_due = _cancelled(self._taking_due)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        self._taking_due = _cancelled(self._taking_due)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """As JSON, like every answer; uvicorn's is text, and fails where an answer has begun."""
        from uvicorn.protocols.http.h11_impl import h11

        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._answer(b"400 Bad Request", "this is no HTTP request", "invalid_http")
        self.transport.close()

    def _give_up(self) -> None:
        """The headers have not come."""
        self._headers_due = None
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size():  # an earlier answer that nobody takes
            self.transport.abort()
            return
        if self.cycle is None and self.conn.trailing_data[0]:
            self._answer(b"408 Request Timeout", "the headers took too long", "request_timeout")
        self.transport.close()

    def _give_up_body(self) -> None:
        """The body has not come, and nobody has given up waiting for it."""
        self._body_due = None
        if self.transport.is_closing() or self.is_idle or not self.cycle.more_body:
            return
        if not self.cycle.response_started:
            self._answer(b"408 Request Timeout", "the request took too long to arrive", "request_timeout")
        self.transport.close()

    def _make_room(self) -> None:
        """Close the connection that has been idle longest, or this one where all are at work."""
        idle = [one for one in self.connections if one.is_idle and not one.transport.is_closing()]
        oldest = min(idle, key=lambda one: one.last_used, default=self)
        if oldest is not self and self.loop.time() - oldest.last_used > _FRESH_S:
            logger.warning("deepgen: %d connections, the most there may be; idle ones are closed", self.cap)
            self.connections.discard(oldest)
            oldest.transport.abort()
            return
        logger.warning("deepgen: %d connections, all at work; others are refused", self.cap)
        self._answer(b"503 Service Unavailable", "too many connections; try again", "too_many_connections")
        self.transport.close()

    def _answer(self, status: bytes, message: str, code: str) -> None:
        kind = "server_error" if status.startswith(b"5") else "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        lines = [b"HTTP/1.1 " + status, b"content-type: application/json", b"connection: close"]
        lines += [
            b"content-length: %d" % len(body),
            *([b"retry-after: 1"] if status.startswith(b"5") else []),
        ]
        self.transport.write(b"\r\n".join([*lines, b"", body]))

    def _watch_taking(self, before: int | None = None) -> None:
        """Give up a client that has taken nothing of what it is sent since the last look."""
        size = self.transport.get_write_buffer_size()
        if before is not None and size >= before:
            self.transport.abort()
            return
        _cancelled(self._taking_due)
        self._taking_due = self.loop.call_later(self.limits.taking_s, self._watch_taking, size)


def _protocol(limits: ConnectionLimits, cap: int) -> Any:
    """uvicorn's protocol of a connection, within these limits."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return type("LimitedH11Protocol", (LimitedProtocol, H11Protocol), {"limits": limits, "cap": cap})


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


# --- the log ------------------------------------------------------------------------------------------------


class RareLines(logging.Filter):
    """Lets a message that strangers can cause through once a minute, with how many were left out since.

    Errors of our own, which come with a traceback, are never left out; those of the system (no descriptors)
    are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[
            str, tuple[float, int]
        ] = {}  # first line -> (when it was let through, left out since)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is let through."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if error is not None and not isinstance(error, OSError):
            return True
        line, now = str(record.msg).partition("\n")[0], time.monotonic()
        when, left_out = self._told.get(line, (-_LOUDER_S, 0))
        if now - when < _LOUDER_S:
            self._told[line] = (when, left_out + 1)
            return False
        if len(self._told) > 1000:
            self._told.clear()
        self._told[line] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like it since)"
        return True
