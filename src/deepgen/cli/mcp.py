"""`deepgen mcp`: a Model Context Protocol server with tools that draw and edit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction, arg

from deepgen.addresses import is_loopback
from deepgen.cli.options import NamedModelOptions, short_name

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
    save_to: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Also write every picture into this folder, and tell the agent its path."""
    read_from: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FOLDER")] = ()
    """Let the agent edit files of this folder; repeat for several."""

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
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port must be between 0 and 65535, got {self.port}")
        folders = Folders(save_to=self.save_to, read_from=self.read_from)
        with ExitStack() as stack:
            server = make_tools(Painter(self._client(stack), folders))
            if self.http:
                _listen(server, self.host, self.port, keys)
            else:
                server.run("stdio")
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


def _listen(server: Any, host: str, port: int, keys: ApiKeys) -> None:
    """Streamable HTTP until a signal; the address is said on stderr."""
    import socket

    import uvicorn

    from deepgen.serving.schema import Limits

    app = server.streamable_http_app(host=host, max_request_body_size=Limits().max_body_mib << 20)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    name = f"[{host}]" if ":" in host else host
    print(f"deepgen: tools on http://{name}:{listener.getsockname()[1]}/mcp", file=sys.stderr, flush=True)
    app = _guarded(_within_budget(app), keys)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(settings).run(sockets=[listener])


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


def _guarded(app: Any, keys: ApiKeys) -> Any:
    """The ASGI application for those who hold a key."""
    from deepgen.serving.errors import ApiError

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            from starlette.responses import JSONResponse

            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            try:
                keys.owner(given, "")
            except ApiError as error:
                refused = JSONResponse(error.body(), status_code=error.status, headers=error.headers())
                await refused(scope, receive, send)
                return
        await app(scope, receive, send)

    return guard
