"""OpenTelemetry: one span for each request, within the trace its client or proxy began.

What the engine does within a request is in `/metrics`; a batch belongs to many requests and so to no span.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepgen.extras import missing_extra


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


def _missing(error: ImportError) -> ImportError:
    return missing_extra("tracing needs OpenTelemetry", "trace", error)
