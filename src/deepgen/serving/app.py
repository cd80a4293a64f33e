"""The engine behind HTTP, in the words of the OpenAI Images API, so that its clients work unmodified.

Which address is answered by whom; what the answers are is in the files of the routes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deepgen._version import __version__
from deepgen.extras import missing_extra
from deepgen.serving.about_routes import AboutRoutes
from deepgen.serving.chat_routes import ChatRoutes
from deepgen.serving.config import ServeConfig
from deepgen.serving.desk import Desk
from deepgen.serving.errors import ApiError
from deepgen.serving.image_routes import ImageRoutes
from deepgen.serving.jobs import Draws
from deepgen.serving.metrics import Metrics
from deepgen.serving.middleware import Around


def make_app(engine: Draws, config: ServeConfig | None = None, metrics: Metrics | None = None) -> Any:
    """The FastAPI application, for uvicorn or any other ASGI server; ImportError says what to install.

    The engine is drained and closed when the application shuts down.
    """
    try:
        import python_multipart  # noqa: F401 - bodies.py needs it; better known now than at the first upload
        from fastapi import FastAPI
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse
    except ImportError as error:
        raise missing_extra("serving needs FastAPI", "serve", error) from error

    config, metrics = config or ServeConfig(), metrics or Metrics()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)
        if config.tracer is not None:
            await run_in_threadpool(config.tracer.close)

    app = FastAPI(title="deepgen", version=__version__, openapi_url=None, lifespan=lifespan)
    for path, method, handler in _routes(Desk(engine, config), metrics):
        app.add_route(path, handler, methods=[method])

    async def refused(request: Any, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    async def unrouted(request: Any, error: Any) -> JSONResponse:
        message = {404: "there is nothing at this address", 405: "this address takes another method"}
        known = ApiError(
            error.status_code, message.get(error.status_code, "the request cannot be read"), code="bad_route"
        )
        return JSONResponse(
            known.body(), status_code=known.status, headers={**known.headers(), **(error.headers or {})}
        )

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, unrouted)
    app.add_middleware(Around, metrics=metrics, origins=config.origins, tracer=config.tracer)
    return app


def _routes(desk: Desk, metrics: Metrics) -> list[tuple[str, str, Any]]:
    """(path, method, handler)."""
    about, images, chat = AboutRoutes(desk, metrics), ImageRoutes(desk), ChatRoutes(desk)
    return [
        ("/", "GET", about.page),
        ("/health", "GET", about.health),
        ("/ready", "GET", about.ready),
        ("/metrics", "GET", about.metrics),
        ("/openapi.json", "GET", about.openapi),
        ("/v1/models", "GET", about.models),
        ("/v1/models/{name:path}", "GET", about.model),
        ("/v1/images/generations", "POST", images.generations),
        ("/v1/images/edits", "POST", images.edits),
        ("/v1/images/variations", "POST", images.variations),
        ("/v1/chat/completions", "POST", chat.chat),
        ("/v1/images/{name}/content", "GET", images.content),
    ]
