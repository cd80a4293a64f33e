"""Around every request: an id, one line in the log, a count, and a last net under errors."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from deepgen.serving.errors import ApiError
from deepgen.serving.metrics import Metrics
from deepgen.serving.tracing import Tracer

logger = logging.getLogger("deepgen.serving.access")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Around:
    """ASGI middleware.

    Args:
        app: what it is around.
        metrics: counts answers.
        origins: web pages of other origins that may send requests; a page of our own always may.
        tracer: gets a span for each request.
    """

    def __init__(
        self, app: Any, metrics: Metrics, origins: tuple[str, ...] = (), tracer: Tracer | None = None
    ) -> None:
        self._app, self._metrics, self._origins, self._tracer = app, metrics, origins, tracer

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0
        span = None if self._tracer is None else self._tracer.start(scope["method"], headers)

        async def send_on(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message.get("headers", [])}
                ours = {"x-request-id": request_id, **_HEADERS}
                message["headers"] = [
                    *message.get("headers", []),
                    *((n.encode(), v.encode()) for n, v in ours.items() if n.encode() not in given),
                ]
            await send(message)

        try:
            self._check_origin(headers)
            await self._app(scope, receive, send_on)
        except Exception as error:  # the last net: whatever it is, the client learns an id and nothing else
            if not isinstance(error, ApiError):
                logging.getLogger(__name__).exception("unexpected error [%s]", request_id)
                error = ApiError(500, f"unexpected error; the server's log tells more under {request_id}")
            if status:  # the answer has begun and cannot become another one
                raise
            await _answer(error, send_on)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None) or "unknown"
            self._metrics.answered(route, status, seconds)
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "seconds": round(seconds, 4),
                "key": scope["state"].get("owner"),
                "job": scope["state"].get("job"),
            }
            logger.info(json.dumps(line))
            if self._tracer is not None:
                self._tracer.end(span, line, route)

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        """A page of another origin must not use a server that trusts its own machine; browsers name it."""
        origin = headers.get("origin")
        if origin is None or origin in self._origins or urlsplit(origin).netloc == headers.get("host"):
            return
        raise ApiError(403, "this origin may not use the server", code="origin_not_allowed")


def _request_id(headers: Mapping[str, str]) -> str:
    """The proxy's id where it is a decent one, or a new one."""
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[\w-]{8,64}", given, re.ASCII) else f"req-{secrets.token_hex(12)}"


async def _answer(error: ApiError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
