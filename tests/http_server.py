"""The application in a thread with a port of its own, for tests that speak HTTP."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from deepgen.serving.app import make_app
from deepgen.serving.config import ServeConfig
from deepgen.serving.engine import Engine
from deepgen.serving.metrics import Metrics


@contextmanager
def http_server(engine: Engine, config: ServeConfig | None = None) -> Iterator[httpx.Client]:
    """A client of the application, whose `base_url` is its address; engine and server end with the block."""
    app = make_app(engine, config or ServeConfig(), Metrics())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
