"""A server that ends without losing a request: the port stays open until what was begun is answered.

From the first signal on (SIGTERM, Ctrl-C) new work is refused with a 503 that says when to come back, every
answer closes its connection, so that clients which keep connections come to another server, and probes are
answered. The port closes when nothing is under way any more. `serve`, `rewards serve` and `mcp --http` all
end this way, with exit code 0.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepgen.extras import missing_extra
from deepgen.serving.connections import ConnectionLimits, server_config

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
REASON = "the server is shutting down and takes nothing new"
_PROBES = ("GET", "HEAD", "OPTIONS")  # no work; a stream of events by GET may stay open for ever
_ANSWERS_S = 10  # for answers that are being sent when the port closes
_BODY_S = 30.0  # for the rest of a body whose request is refused


class DrainGate:
    """ASGI middleware, the outermost: counts the requests under way, and turns new ones away while draining.

    Args:
        app: what it is around.
        refusal: the JSON of a 503; None where the application refuses by itself.
    """

    def __init__(self, app: Any, refusal: bytes | None = None) -> None:
        self._app, self._refusal = app, refusal
        self.is_draining, self.num_requests = False, 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_on(message: dict[str, Any]) -> None:
            if self.is_draining and message["type"] == "http.response.start":
                others = [(n, v) for n, v in message.get("headers", []) if n.lower() != b"connection"]
                message = {**message, "headers": [*others, (b"connection", b"close")]}
            await send(message)

        if scope["method"] in _PROBES:
            await self._app(scope, receive, send_on)
            return
        is_new = self.is_draining
        self.num_requests += 1
        try:
            if is_new and self._refusal is not None:
                await self._refuse(receive, send_on)
            else:
                await self._app(scope, receive, send_on)
        finally:
            self.num_requests -= 1

    async def _refuse(self, receive: Any, send: Any) -> None:
        """503, after the body: a connection that is closed on unread bytes may swallow the answer."""
        assert self._refusal is not None

        async def discard() -> None:
            while (await receive()).get("more_body"):
                pass

        try:
            await asyncio.wait_for(discard(), _BODY_S)
        except TimeoutError:
            logger.info("a request that is refused takes long to arrive, and is not read to its end")
        headers = {"content-type": "application/json", "content-length": str(len(self._refusal))}
        headers["retry-after"] = str(RETRY_AFTER_S)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 503, "headers": raw})
        await send({"type": "http.response.body", "body": self._refusal})


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a server ends.

    Attributes:
        refusal: see `DrainGate`.
        drain: seconds that requests under way are given after the signal.
        notice: seconds that the port stays open in any case, for balancers that ask from time to time.
        on_drain: called at the signal, in the main thread, and must be quick.
        on_give_up: called in a thread when time is up, to end what is still under way with an error.
    """

    refusal: bytes | None = None
    drain: float = 600.0
    notice: float = 0.0
    on_drain: Callable[[], object] = lambda: None
    on_give_up: Callable[[], object] = lambda: None


class Drain:
    """The way from the first signal to the end."""

    def __init__(self, gate: DrainGate, ending: Ending) -> None:
        self._gate, self._ending = gate, ending
        self._begun: float | None = None  # time.monotonic() of the first signal
        self._has_told = False

    def begin(self) -> bool:
        """Take nothing new; False where that was said before. For a handler of signals."""
        if self._begun is not None:
            return False
        self._begun = time.monotonic()
        self._gate.is_draining = True
        self._ending.on_drain()
        return True

    async def is_done(self) -> bool:
        """Whether to close the port; gives up what is under way where time is up."""
        if self._begun is None:
            return False
        waited, under_way = time.monotonic() - self._begun, self._gate.num_requests
        if not self._has_told:
            self._has_told = True
            logger.info("shutting down: %d requests are finished first, new ones are refused", under_way)
        if under_way and waited > self._ending.drain:
            limit = self._ending.drain
            logger.warning("%d requests were not finished in %g s and are given up", under_way, limit)
            await asyncio.to_thread(self._ending.on_give_up)
            return True
        return not under_way and waited >= self._ending.notice


def run(
    app: Any,
    ending: Ending,
    *,
    on_listen: Callable[[str, int], object],
    on_hangup: Callable[[], object] | None = None,
    sockets: list[Any] | None = None,
    limits: ConnectionLimits | None = None,
    **settings: Any,
) -> None:
    """Serve until a signal, and end in order; the second signal does not wait.

    Args:
        app: an ASGI application.
        ending: how to end.
        on_listen: called with (host, port) of every address, once it is listened on.
        on_hangup: called in a thread on SIGHUP; None leaves that signal as it was.
        sockets: to listen on, instead of `host` and `port` of the settings.
        limits: how much of the server connections may take.
        settings: further ones of `uvicorn.Config`.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra("serving needs uvicorn", "serve", error) from error
    gate = DrainGate(app, ending.refusal)
    drain = Drain(gate, ending)

    class Server(uvicorn.Server):
        """uvicorn's own handler closes the port at once, and ends the process with the signal's code."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            if not drain.begin():
                self.force_exit = self.should_exit = True

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if on_hangup is not None and hasattr(signal, "SIGHUP"):
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, loop.run_in_executor, None, on_hangup)
            for listener in (one for server in self.servers for one in server.sockets):
                on_listen(*listener.getsockname()[:2])

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or await drain.is_done()

        async def shutdown(self, sockets: Any = None) -> None:
            await super().shutdown(sockets)
            logger.info("stopped")

    settings = {"log_config": None, "timeout_graceful_shutdown": _ANSWERS_S, **settings}
    Server(server_config(gate, limits, **settings)).run(sockets)


def say(text: str) -> Callable[[str, int], None]:
    """For `on_listen`: prints `text` with the address in place of `{url}` on stderr."""

    def listening(host: str, port: int) -> None:
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(text.format(url=url), file=sys.stderr, flush=True)

    return listening
