"""Around every request: the bytes of its body are counted as they come, and what it holds is given back at
its end, whatever the end is.

Answers go out in pieces, each within a time limit, so that a client that stops reading does not keep a
picture in memory for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from deepgen.uploads.budget import Lease, OverBudget, ServerBudget

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PIECE = 1 << 18  # bytes of an answer handed over at once


class ClientStalled(OSError):
    """The client does not read its answer."""


class RequestMemory:
    """What one request holds: bytes of its body, and pixels."""

    def __init__(self, budget: ServerBudget) -> None:
        self.bodies: Lease = budget.bodies.lease()
        self.pixels: Lease = budget.pixels.lease()

    def end(self) -> None:
        """Give everything back."""
        self.bodies.end()
        self.pixels.end()


class MemoryMiddleware:
    """ASGI middleware. Routes find the request's `RequestMemory` as `state.memory`.

    `OverBudget` is raised where the body is received, before a byte of it is read where its header says
    enough; the application turns it into an answer.

    Args:
        app: what it is around.
        budget: of the server.
        send_timeout_s: seconds a client may take to read a piece of its answer.
    """

    def __init__(self, app: Any, budget: ServerBudget, send_timeout_s: float = 60.0) -> None:
        self._app, self._budget, self._send_timeout_s = app, budget, send_timeout_s

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        memory = RequestMemory(self._budget)
        scope.setdefault("state", {})["memory"] = memory
        expected, is_stalled = _content_length(scope), False

        async def receive_counted() -> dict[str, Any]:
            if expected > memory.bodies.held:  # raises where the rest will not fit, and holds nothing for it
                rest = expected - memory.bodies.held
                memory.bodies.add(rest)
                memory.bodies.give_back(rest)
            message = await receive()
            if message["type"] == "http.request":
                memory.bodies.add(len(message.get("body", b"")))
            return message

        async def send_in_time(message: dict[str, Any]) -> None:
            nonlocal is_stalled
            for piece in _pieces(message):
                try:
                    await asyncio.wait_for(send(piece), self._send_timeout_s)
                except TimeoutError as error:
                    is_stalled = True
                    raise ClientStalled("the client does not read its answer") from error

        try:
            await self._app(scope, receive_counted, send_in_time)
        except Exception:  # what an application makes of a client that stalls has various types
            if not is_stalled:
                raise
            logger.warning("a client read nothing for %g s; its answer is dropped", self._send_timeout_s)
        finally:
            memory.end()


def _content_length(scope: dict[str, Any]) -> int:
    """What the header claims of the body, bytes; 0 where it says nothing that could be."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            with suppress(ValueError):
                return max(0, int(value[:20]))
    return 0


def _pieces(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message as several smaller ones."""
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= _PIECE:
        return [message]
    view, more = memoryview(body), message.get("more_body", False)
    starts = range(0, len(body), _PIECE)
    return [
        {**message, "body": view[start : start + _PIECE], "more_body": more or start != starts[-1]}
        for start in starts
    ]


def refusal(error: OverBudget) -> tuple[int, dict[str, str]]:
    """(status, headers) of the answer to a request that would hold too much."""
    if error.never_fits:
        return 413, {"x-should-retry": "false"}
    return 429, {"retry-after": str(max(1, round(error.retry_after)))}
