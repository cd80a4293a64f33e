"""Tracing: a span for each request, in the trace of whoever asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deepgen.serving.metrics import Metrics
from deepgen.serving.middleware import RequestMiddleware, Tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(("status", "is_error"), [(200, False), (503, True)])
def test_a_request_is_a_span_of_its_callers_trace(status: int, is_error: bool) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: dict[str, Any]) -> None:
        pass

    headers = [(b"traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode()), (b"x-request-id", b"req-12345")]
    scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": headers}
    around = RequestMiddleware(app, Metrics(), tracer=Tracer(provider))
    asyncio.run(around(scope, None, send))  # type: ignore[arg-type]

    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.attributes["http.response.status_code"] == status
    assert span.attributes["deepgen.request_id"] == "req-12345"
    assert (span.status.status_code.name == "ERROR") is is_error
