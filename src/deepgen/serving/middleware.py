"""Around every request: an id, one line in the log, a count, a span, and a last net under errors.

Spans (OpenTelemetry) belong to the trace that the client or its proxy began. What the engine does within a
request is in `/metrics`; a batch belongs to many requests and so to no span.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deepgen.extras import missing_extra
from deepgen.json_values import json_text
from deepgen.serving.errors import ApiError, from_engine
from deepgen.serving.jobs import Job
from deepgen.serving.metrics import Metrics

logger = logging.getLogger("deepgen.serving.access")

_LONGEST_REASON = 500  # characters of an error's message in the log

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Tracer:
    """Starts and ends spans; ImportError says what to install.

    Args:
        provider: an OpenTelemetry TracerProvider.
    """

    def __init__(self, provider: Any) -> None:
        try:
            from opentelemetry import propagate, trace  # pyright: ignore[reportMissingImports]  # an extra
        except ImportError as error:
            raise _missing(error) from error
        self._provider, self._trace, self._propagate = provider, trace, propagate
        self._tracer = provider.get_tracer("deepgen.serving")

    @staticmethod
    def from_environment() -> Tracer:
        """Sends spans by OTLP over HTTP to where the OTEL_* variables say, in batches."""
        try:
            from opentelemetry.exporter.otlp.proto.http import trace_exporter  # pyright: ignore  # an extra
            from opentelemetry.sdk import resources, trace  # pyright: ignore  # an extra
            from opentelemetry.sdk.trace import export  # pyright: ignore  # an extra
        except ImportError as error:
            raise _missing(error) from error
        provider = trace.TracerProvider(resource=resources.Resource.create({"service.name": "deepgen"}))
        provider.add_span_processor(export.BatchSpanProcessor(trace_exporter.OTLPSpanExporter()))
        return Tracer(provider)

    def start(self, method: str, headers: Mapping[str, str]) -> Any:
        """A span under the `traceparent` of the request, if it brings one."""
        context = self._propagate.extract(headers)
        return self._tracer.start_span(method, context=context, kind=self._trace.SpanKind.SERVER)

    def end(self, span: Any, line: Mapping[str, Any], route: str) -> None:
        """End it with what the log's line says; a 5xx is an error."""
        span.update_name(f"{line['method']} {route}")
        names = {
            "http.request.method": line["method"],
            "http.route": route,
            "http.response.status_code": line["status"],
            "deepgen.request_id": line["request_id"],
            "deepgen.job": line["job"],
        }
        span.set_attributes({name: value for name, value in names.items() if value is not None})
        if line["status"] >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class RequestMiddleware:
    """ASGI middleware.

    Args:
        app: what it is around.
        metrics: counts answers.
        tracer: gets a span for each request.
        model_name: what the log calls the model.
    """

    def __init__(
        self, app: Any, metrics: Metrics, tracer: Tracer | None = None, model_name: str | None = None
    ) -> None:
        self._app, self._metrics, self._tracer = app, metrics, tracer
        self._model_name = model_name

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
            await self._app(scope, receive, send_on)
        except Exception as error:  # the last net: whatever it is, the client learns an id and nothing else
            if not isinstance(error, ApiError):
                logging.getLogger(__name__).exception("unexpected error [%s]", request_id)
                error = ApiError(500, f"unexpected error; the server's log tells more under {request_id}")
            scope["state"]["error"] = error
            if status:  # the answer has begun and cannot become another one
                raise
            await _answer(error, send_on)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None) or "unknown"
            self._metrics.answered(route, status, seconds)
            job: Job | None = scope["state"].get("job")
            if job is not None:
                self._metrics.used(scope["state"]["key"], job.drawn)
            line = {"request_id": request_id, "model": self._model_name, **_asked(scope, status, seconds)}
            line |= _drawn(job) | _failed(scope["state"].get("error"), job)
            words = f"{line['method']} {line['path']} {status} in {seconds:.3f} s"
            logger.info(words, extra={"fields": line})
            if self._tracer is not None:
                self._tracer.end(span, line, route)


def _asked(scope: dict[str, Any], status: int, seconds: float) -> dict[str, Any]:
    """Who asked what, and how long the answer took."""
    client = scope.get("client")
    return {
        "client": client[0] if client else None,
        "key": scope["state"].get("key"),
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "seconds": round(seconds, 4),
    }


def _drawn(job: Job | None) -> dict[str, Any]:
    """What was asked to be drawn, and how much of it was."""
    if job is None:
        return dict.fromkeys(("job", "pictures", "drawn", "steps", "size", "model_seconds"))
    height, width = job.info.size
    return {
        "job": job.id,
        "pictures": job.request.num_images,
        "drawn": len(job.drawn),
        "steps": job.info.settings.num_inference_steps,
        "size": f"{width}x{height}",
        "model_seconds": round(sum(one.model_seconds for one in job.drawn), 4),
    }


def _failed(error: ApiError | None, job: Job | None) -> dict[str, Any]:
    """The error that was answered, or told at the end of a stream."""
    if error is None and job is not None:
        error = job.refusal or (from_engine(job.error) if job.error is not None else None)
    if error is None:
        return {"error_code": None, "error_message": None}
    return {"error_code": error.code, "error_message": error.message[:_LONGEST_REASON]}


def _request_id(headers: Mapping[str, str]) -> str:
    """The proxy's id where it is a decent one, or a new one."""
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[\w-]{8,64}", given, re.ASCII) else f"req-{secrets.token_hex(12)}"


async def _answer(error: ApiError, send: Send) -> None:
    body = json_text(error.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _missing(error: ImportError) -> ImportError:
    return missing_extra("tracing needs OpenTelemetry", "trace", error)
