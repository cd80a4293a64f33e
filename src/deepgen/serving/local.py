"""The server for this program alone: the same application on a free port, behind a key of its own.

Tools that draw for their user (`deepgen mcp`, the Gradio app) thereby speak one language, whether the
model is in their own process or on another machine.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from deepgen.client import Client
from deepgen.extras import missing_extra
from deepgen.http_access import AllowedHosts
from deepgen.serving.app import make_app
from deepgen.serving.config import ApiKeys, ServeConfig
from deepgen.serving.connections import server_config
from deepgen.serving.engine import Engine, EngineConfig

if TYPE_CHECKING:
    from deepgen.pipeline import DeepGenPipeline


@contextmanager
def serve_locally(
    pipe: DeepGenPipeline,
    config: EngineConfig | None = None,
    serve_config: ServeConfig | None = None,
    *,
    model_name: str = "deepgen-1.0",
) -> Iterator[Client]:
    """A client of a server that lives in a thread of this process until the block is left.

    Args:
        pipe: what draws; its progress bars are turned off.
        config: how it is used; default `EngineConfig()`.
        serve_config: of the server, whose keys and names are replaced by those of this program alone.
        model_name: what the model is called, where no `serve_config` says it.

    Raises:
        ImportError: the `serve` extra is missing.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_extra("serving needs uvicorn", "serve", error) from error
    pipe.set_progress_bar_config(disable=True)
    key = secrets.token_urlsafe(32)
    serve_config = replace(
        serve_config or ServeConfig(model_name=model_name),
        keys=ApiKeys({"local": key}),
        origins=(),
        allowed_hosts=AllowedHosts((), "loopback"),
    )
    app = make_app(Engine(pipe, config), serve_config)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app, log_level="error"))
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="deepgen-serve", daemon=True
    )
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server in this process ended before it listened; its log says why")
            time.sleep(0.01)
        yield Client(f"http://127.0.0.1:{listener.getsockname()[1]}", key)
    finally:
        server.should_exit = True
        thread.join(60)
