"""`deepgen mcp`: a Model Context Protocol server with tools that draw and edit."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction, arg

from deepgen.addresses import is_loopback
from deepgen.cli.options import NamedModelOptions, short_name
from deepgen.http_access import AccessRules, AllowedHosts

if TYPE_CHECKING:
    from deepgen.client import Client
    from deepgen.serving.config import ApiKeys


@dataclass(frozen=True, kw_only=True)
class Mcp(NamedModelOptions):
    """Offer generate_image and edit_image to agents, over stdio or HTTP."""

    url: str | None = None
    """Ask this running `deepgen serve` instead of loading a model; its key is read from $DEEPGEN_API_KEY."""
    http: bool = False
    """Listen for agents at http://HOST:PORT/mcp (streamable HTTP) instead of stdin and stdout."""
    host: str = "127.0.0.1"
    """The address to listen on with --http; one that other machines can reach needs keys."""
    port: int = 8001
    """The port to listen on with --http; 0 takes a free one."""
    api_key_file: Annotated[Path | None, arg(metavar="FILE")] = None
    """Who may ask with --http: one NAME:KEY a line. Without it everybody who reaches the port may."""
    allowed_hosts: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """A name the server answers to with --http, beside this machine's own; see `deepgen serve --help`."""
    origin: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="URL")] = ()
    """A web page's origin whose requests are taken with --http; repeat for several."""
    save_to: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Also write every picture into this folder, and tell the agent its path."""
    read_from: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FOLDER")] = ()
    """Let the agent edit files of this folder; repeat for several."""
    drain: float = 600.0
    """Seconds that calls under way are given once the server is told to stop (SIGTERM, Ctrl-C)."""

    def run(self) -> int:
        """Exit code 0 once the agent has disconnected, or the server was stopped."""
        from deepgen.serving.config import ApiKeys
        from deepgen.serving.mcp_tools import Folders, Painter, check_installed, make_tools

        self.check_model()
        check_installed()  # before a model is loaded for nothing
        if not self.http and self.api_key_file is not None:
            raise ValueError(
                "--api-key-file is for --http; over stdin only the program that started this asks"
            )
        keys = ApiKeys() if self.api_key_file is None else ApiKeys.read(self.api_key_file)
        if self.http and keys.is_open and not is_loopback(self.host):
            raise ValueError(f"--host {self.host} can be reached from other machines; give --api-key-file")
        hosts = AllowedHosts.of_server(self.host, self.allowed_hosts, not keys.is_open)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be between 0 and 65535, got {self.port}")
        if not self.drain >= 0:
            raise ValueError(f"--drain must be 0 or more seconds, got {self.drain}")
        folders = Folders(save_to=self.save_to, read_from=self.read_from)
        with ExitStack() as stack:
            server = make_tools(Painter(self._client(stack), folders))
            if self.http:
                rules = AccessRules(hosts=hosts, origins=self.origin)
                _listen(server, self.host, self.port, keys, rules, self.drain)
            else:
                _speak(server, self.drain)
        return 0

    def _client(self, stack: ExitStack) -> Callable[[], Client]:
        """The client of the running server, or of one that is started while the agent says hello."""
        if self.url is not None:
            from deepgen.client import Client

            client = Client(self.url, os.environ.get("DEEPGEN_API_KEY"))
            return lambda: client

        def start() -> Client:
            from deepgen.cli.loading import load_pipeline
            from deepgen.serving.local import serve_locally

            client = stack.enter_context(
                serve_locally(load_pipeline(self), model_name=short_name(self.model))
            )
            print("deepgen: the model is ready", file=sys.stderr, flush=True)
            return client

        loader = stack.enter_context(ThreadPoolExecutor(1, "deepgen-load"))
        return loader.submit(start).result


def _speak(server: Any, drain: float) -> None:
    """Over stdin and stdout until the agent leaves, or until a signal and the answers to its calls."""

    def end() -> None:
        server.calls.drain(drain)
        sys.stdout.flush()
        os._exit(0)  # the thread that reads stdin cannot be woken

    def on_signal(sig: int, frame: Any) -> None:
        threading.Thread(target=end, daemon=True).start()

    for sig in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sig, on_signal)
    server.run("stdio")


def _listen(server: Any, host: str, port: int, keys: ApiKeys, rules: AccessRules, drain: float) -> None:
    """Streamable HTTP until a signal; the address is said on stderr."""
    import socket

    from mcp.server.transport_security import (  # pyright: ignore[reportMissingImports]  # an extra
        TransportSecuritySettings,
    )

    from deepgen.serving.draining import REASON, Ending, run, say
    from deepgen.serving.errors import ApiError
    from deepgen.serving.guard import guarded
    from deepgen.serving.schema import Limits

    app = server.streamable_http_app(
        host=host,
        max_request_body_size=Limits().max_body_mib << 20,
        # our own list, which can be configured, stands around it
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    refused = ApiError(503, REASON, code="shutting_down")
    run(
        guarded(_within_budget(app), keys, rules),
        Ending(refusal=json.dumps(refused.body()).encode(), drain=drain),
        on_listen=say("deepgen: tools on {url}/mcp"),
        on_hangup=None if keys.is_open else keys.reread,
        sockets=[listener],
    )


def _within_budget(app: Any) -> Any:
    """The ASGI application with a limit to what all requests together hold of bodies."""
    from deepgen.serving.references import over_budget
    from deepgen.serving.schema import Limits
    from deepgen.uploads.budget import OverBudget, ServerBudget
    from deepgen.uploads.middleware import MemoryMiddleware

    limits = Limits()
    budget = ServerBudget.of(limits.max_bodies_mib << 20, limits.max_held_pixels)

    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        over: OverBudget | None = None

        async def noted() -> Any:
            nonlocal over
            try:
                return await receive()
            except OverBudget as error:  # the SDK would make a 500 of it
                over = error
                return {"type": "http.disconnect"}

        async def sent(message: Any) -> None:
            if over is None:
                await send(message)

        await app(scope, noted, sent)
        if over is not None:
            error = over_budget(over)
            refused = JSONResponse(error.body(), status_code=error.status, headers=error.headers())
            await refused(scope, receive, send)

    return MemoryMiddleware(refusing, budget)
