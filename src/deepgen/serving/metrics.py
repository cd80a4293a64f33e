"""Numbers for Prometheus. Each app has a registry of its own, so two apps in one process do not add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deepgen.extras import missing_extra
from deepgen.serving.encoding_cache import KINDS
from deepgen.serving.jobs import EngineStatus, ImageDone

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """What `/metrics` shows; ImportError says what to install."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
            from prometheus_client.process_collector import ProcessCollector
        except ImportError as error:
            raise missing_extra("serving needs prometheus-client", "serve", error) from error
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        where: dict[str, Any] = {"registry": self.registry}
        self._waiting = Gauge("deepgen_waiting_pictures", "Pictures in the queue.", **where)
        self._running = Gauge("deepgen_running_pictures", "Pictures begun and not finished.", **where)
        self._accepting = Gauge("deepgen_accepting", "1 while new requests are taken.", **where)
        self._batch = Histogram("deepgen_batch_pictures", "Pictures in one step.", buckets=_IMAGES, **where)
        self._stages = Histogram(
            "deepgen_stage_seconds",
            "Seconds of a stage: encode, step, decode, and job from acceptance to the end.",
            ["stage"],
            buckets=_SECONDS,
            **where,
        )
        self._requests = Counter(
            "deepgen_requests", "Answers by route and status.", ["route", "status"], **where
        )
        self._latency = Histogram(
            "deepgen_request_seconds", "Seconds of an answer.", ["route"], buckets=_SECONDS, **where
        )
        self._memory = Gauge("deepgen_accelerator_memory_bytes", "Memory held on the accelerator.", **where)
        self._encodings = Counter(
            "deepgen_encodings",
            "Encodings that were needed: conditions of prompts, features and posteriors of references.",
            ["kind", "result"],
            **where,
        )
        for kind in KINDS:  # so that a rate can be computed from the first request on
            for result in ("kept", "computed"):
                self._encodings.labels(kind, result)
        self._encoding_memory = Gauge(
            "deepgen_encoding_memory_bytes", "Memory of kept encodings, of all workers.", **where
        )
        self._workers = Gauge("deepgen_workers_ready", "Worker processes that can draw.", **where)
        self._starts = Gauge("deepgen_worker_starts", "Times a worker was started.", ["worker"], **where)
        self._resident = Gauge("deepgen_worker_memory_bytes", "Main memory of a worker.", ["worker"], **where)

        by_key: dict[str, Any] = {"labelnames": ["key"], **where}
        self._key_requests = Counter("deepgen_key_requests", "Requests that were to draw, by key.", **by_key)
        self._key_pictures = Counter("deepgen_key_pictures", "Pictures drawn, by key.", **by_key)
        self._key_pixels = Counter("deepgen_key_pixels", "Pixels of these pictures, by key.", **by_key)
        self._key_seconds = Counter(
            "deepgen_key_model_seconds", "The model's time for these pictures, by key.", **by_key
        )

    def measure(self, name: str, value: float) -> None:
        """For the engine's `on_measure`."""
        if name == "batch":
            self._batch.observe(value)
        elif name in KINDS:
            self._encodings.labels(name, "kept" if value else "computed").inc()
        else:
            self._stages.labels(name).observe(value)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def used(self, key: str | None, drawn: Sequence[ImageDone]) -> None:
        """Count what a request was given; `key` is the name of its key, None where none is needed."""
        name = key or ""
        self._key_requests.labels(name).inc()
        self._key_pictures.labels(name).inc(len(drawn))
        self._key_pixels.labels(name).inc(sum(one.image.width * one.image.height for one in drawn))
        self._key_seconds.labels(name).inc(sum(one.model_seconds for one in drawn))

    def show(self, status: Callable[[], EngineStatus]) -> bytes:
        """The page, in Prometheus' text format."""
        import torch
        from prometheus_client import generate_latest

        now = status()
        self._waiting.set(now.waiting)
        self._running.set(now.running)
        self._accepting.set(now.is_accepting)
        self._encoding_memory.set(now.encoding_memory)
        self._workers.set(sum(worker.is_ready for worker in now.workers))
        for place, worker in enumerate(now.workers):
            self._starts.labels(str(place)).set(worker.num_starts)
            self._resident.labels(str(place)).set(worker.memory)
        if now.workers:
            self._memory.set(sum(worker.accelerator_memory for worker in now.workers))
        elif torch.cuda.is_available():
            self._memory.set(torch.cuda.memory_reserved())
        return generate_latest(self.registry)
