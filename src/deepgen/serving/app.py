"""The engine behind HTTP, in the words of the OpenAI Images API, so that its clients work unmodified.

Here is which address is answered by which route, and the OpenAPI document, made from the models that the
routes read and answer with.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deepgen._version import __version__
from deepgen.extras import missing_extra
from deepgen.http_access import AccessMiddleware, AccessRules
from deepgen.json_values import json_text
from deepgen.serving.adapter_routes import AdapterRoutes
from deepgen.serving.answers import (
    ChatCompletion,
    ChatCompletionChunk,
    CompletedEvent,
    Health,
    ImagesResponse,
    ModelList,
    PartialImageEvent,
    ProgressEvent,
    Readiness,
    ServerSentEvent,
)
from deepgen.serving.config import ServeConfig
from deepgen.serving.errors import ApiError, ErrorResponse, refusal_body
from deepgen.serving.jobs import EngineProtocol
from deepgen.serving.metrics import Metrics
from deepgen.serving.middleware import RequestMiddleware
from deepgen.serving.references import over_budget
from deepgen.serving.request_handler import RequestHandler
from deepgen.serving.responses import ResponsesRoutes
from deepgen.serving.responses_schema import ResponseBody, ResponseEvent, ResponsesRequest
from deepgen.serving.routes import AboutRoutes, ChatRoutes, ImageRoutes
from deepgen.serving.schema import (
    ChatCompletionRequest,
    ImageEditForm,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageVariationForm,
)
from deepgen.uploads.budget import OverBudget
from deepgen.uploads.middleware import MemoryMiddleware

# Images that were answered as addresses: pages of other sites may show them, for the name is the secret.
_CONTENT = re.compile(r"/v1/images/[^/]+/content")
_JSON, _FORM = "application/json", "multipart/form-data"
# What a route that draws may answer beside images.
_REFUSALS = {
    "400": "a field is wrong",
    "401": "the API key is missing or unknown",
    "403": "a page of another origin asked",
    "404": "the model, or an adapter or picture that is named, is not here",
    "408": "the request took too long to arrive",
    "413": "the request, or a picture of it, is too large",
    "415": "the content type is another",
    "421": "the server does not answer to this name",
    "429": "the queue is full, or other requests hold too many pixels or bytes",
    "500": "drawing failed",
    "503": "the server is shutting down",
    "504": "the pictures were not done in time",
}


@dataclass(frozen=True)
class Route:
    """An address: who answers it, and what the OpenAPI document says of it; without a summary, nothing."""

    path: str
    method: str
    endpoint: Callable[[Any], Any]
    summary: str = ""
    answer: type | None = None
    bodies: Mapping[str, type] = field(default_factory=dict)  # media type -> model


def make_app(
    engine: EngineProtocol, config: ServeConfig | None = None, metrics: Metrics | None = None
) -> Any:
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
    handler = RequestHandler(engine, config)
    routes = _routes(handler, metrics)
    described = Document(routes, handler)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)
        if config.tracer is not None:
            await run_in_threadpool(config.tracer.close)

    async def openapi(request: Any) -> JSONResponse:
        return JSONResponse(described.now())

    app = FastAPI(title="deepgen", version=__version__, openapi_url=None, lifespan=lifespan)
    for route in (*routes, Route("/openapi.json", "GET", openapi)):
        app.add_route(route.path, route.endpoint, methods=[route.method])

    async def refused(request: Any, error: ApiError) -> Any:
        request.state.error = error  # for the line in the log
        return _json(error, error.headers())

    async def unrouted(request: Any, error: Any) -> Any:
        message = {404: "there is nothing at this address", 405: "this address takes another method"}
        known = ApiError(
            error.status_code, message.get(error.status_code, "the request cannot be read"), code="bad_route"
        )
        request.state.error = known
        return _json(known, {**known.headers(), **(error.headers or {})})

    async def too_much(request: Any, error: OverBudget) -> Any:
        return await refused(request, over_budget(error))

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(OverBudget, too_much)
    app.add_exception_handler(HTTPException, unrouted)
    app.add_middleware(MemoryMiddleware, budget=handler.budget, send_timeout_s=config.limits.send_timeout_s)
    rules = AccessRules(hosts=config.allowed_hosts, origins=config.origins, shared=_CONTENT)
    app.add_middleware(AccessMiddleware, rules=rules, body=refusal_body)
    app.add_middleware(RequestMiddleware, metrics=metrics, tracer=config.tracer, model_name=config.model_name)
    return app


def _json(error: ApiError, headers: Mapping[str, str]) -> Any:
    from starlette.responses import Response

    return Response(json_text(error.body()), error.status, headers, "application/json")


def _routes(handler: RequestHandler, metrics: Metrics) -> list[Route]:
    about, images, chat = AboutRoutes(handler, metrics), ImageRoutes(handler), ChatRoutes(handler)
    responses = ResponsesRoutes(handler)
    adapters = AdapterRoutes(handler)
    return [
        Route("/", "GET", about.page),
        Route("/page/{name}", "GET", about.page_file),
        Route("/health", "GET", about.health, "Whether the process works", Health),
        Route("/ready", "GET", about.ready, "Whether new requests are taken", Readiness),
        Route("/metrics", "GET", about.metrics),
        Route("/v1/models", "GET", about.models, "The model", ModelList),
        Route("/v1/models/{name:path}", "GET", about.model),
        Route(
            *("/v1/images/generations", "POST", images.generations, "Images from a prompt", ImagesResponse),
            {_JSON: ImageGenerationRequest},
        ),
        Route(
            *("/v1/images/edits", "POST", images.edits, "Images from images and a prompt", ImagesResponse),
            {_FORM: ImageEditForm, _JSON: ImageEditRequest},
        ),
        Route(
            *("/v1/images/variations", "POST", images.variations, "Other versions of images", ImagesResponse),
            {_FORM: ImageVariationForm},
        ),
        Route(
            *("/v1/chat/completions", "POST", chat.chat, "Images in a chat", ChatCompletion),
            {_JSON: ChatCompletionRequest},
        ),
        Route(
            *("/v1/responses", "POST", responses.responses, "An image in a conversation", ResponseBody),
            {_JSON: ResponsesRequest},
        ),
        Route("/v1/images/{name}/content", "GET", images.content),
        Route("/v1/adapters", "GET", adapters.list),
        Route("/v1/adapters", "POST", adapters.add),
        Route("/v1/adapters/{name}", "DELETE", adapters.remove),
    ]


# --- the OpenAPI document -----------------------------------------------------------------------------------


class Document:
    """The document as long as the models of requests are the same: adapters change them."""

    def __init__(self, routes: Sequence[Route], handler: RequestHandler) -> None:
        self._routes, self._handler = routes, handler
        self._made = handler.models, document(routes, handler.models)

    def now(self) -> dict[str, Any]:
        """OpenAPI 3.1."""
        models = self._handler.models
        if self._made[0] is not models:
            self._made = models, document(self._routes, models)
        return self._made[1]


def document(routes: Sequence[Route], models: Mapping[type, type]) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes that have a summary.

    Args:
        routes: with the models of `schema.py` and `answers.py`.
        models: of each model of a request the one with the server's bounds.
    """
    from pydantic.json_schema import models_json_schema

    shown = [route for route in routes if route.summary]
    events = (
        ServerSentEvent,
        PartialImageEvent,
        CompletedEvent,
        ProgressEvent,
        ChatCompletionChunk,
        ResponseEvent,
    )
    answers = {route.answer for route in shown if route.answer is not None} | {ErrorResponse, *events}
    named = [*models.values(), *sorted(answers, key=lambda model: model.__name__)]
    _, found = models_json_schema(
        [(model, "validation") for model in named], ref_template="#/components/schemas/{model}"
    )
    schemas = found["$defs"]
    bodies = {model: schemas.pop(model.__name__) for model in models}
    for schema in bodies.values():
        if not any("enum" in kind or "const" in kind for kind in schema["properties"]["lora"]["anyOf"]):
            del schema["properties"]["lora"]  # every name would be refused, for there is no LoRA
    return {
        "openapi": "3.1.0",
        "info": {"title": "deepgen", "version": __version__},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
        },
        "security": [{}, {"key": []}],
        "paths": {route.path: {route.method.lower(): _operation(route, bodies)} for route in shown},
    }


def _operation(route: Route, schemas: Mapping[type, dict[str, Any]]) -> dict[str, Any]:
    answer = {_JSON: {"schema": _reference(route.answer)}}
    refused = {_JSON: {"schema": _reference(ErrorResponse)}}
    if not route.bodies:
        answers = {"200": {"description": "as asked", "content": answer}}
        if route.path.startswith("/v1/"):
            answers["401"] = {"description": _REFUSALS["401"], "content": refused}
        else:
            answers["503"] = {"description": "not now", "content": answer}
        return {"summary": route.summary, "responses": answers}
    stream = {"text/event-stream": {"schema": _reference(ServerSentEvent)}}
    drawn = {
        "description": "the images, or their events where stream is true",
        "content": {**answer, **stream},
    }
    content = {
        kind: {"schema": (_of_form if kind == _FORM else _of_json)(schemas[model])}
        for kind, model in route.bodies.items()
    }
    refusals = {status: {"description": text, "content": refused} for status, text in _REFUSALS.items()}
    return {
        "summary": route.summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": drawn, **refusals},
    }


def _reference(model: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _of_json(schema: dict[str, Any]) -> dict[str, Any]:
    """In JSON, null stands for the default of every field that may be left out."""
    properties = {name: dict(one) for name, one in schema["properties"].items()}
    for name, one in properties.items():
        if name not in schema["required"] and "type" in one:
            one["type"] = [one["type"], "null"]
            if "enum" in one:
                one["enum"] = [*one["enum"], None]
    return {**schema, "properties": properties}


def _of_form(schema: dict[str, Any]) -> dict[str, Any]:
    """In a form, nothing is null, and a text that looks like a number is a text all the same."""
    properties: dict[str, dict[str, Any]] = {}
    for name, one in schema["properties"].items():
        given = {key: value for key, value in one.items() if key != "anyOf" and value is not None}
        given |= next((kind for kind in one.get("anyOf", ()) if kind != {"type": "null"}), {})
        if given.get("type") == "string" and "pattern" in given and "format" not in given:
            given["type"] = ["string", "number", "boolean"]
        properties[name] = given
    return {**schema, "properties": properties}
