"""The routes that draw nothing: the page, whether the server works, its numbers, its model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from deepgen.sampling.presets import NAMES as PRESETS
from deepgen.serving.desk import Desk
from deepgen.serving.errors import ApiError
from deepgen.serving.metrics import Metrics
from deepgen.serving.openapi import document

PAGE = Path(__file__).parent / "page.html"

# The page brings everything it needs, and nothing else may run in it or be loaded by it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class AboutRoutes:
    """The page, the probes, and what there is to know. Each takes a Starlette request."""

    def __init__(self, desk: Desk, metrics: Metrics) -> None:
        self._desk, self._metrics, self._created = desk, metrics, int(time.time())

    async def page(self, request: Any) -> Any:
        """The page for people."""
        from starlette.responses import FileResponse

        return FileResponse(PAGE, media_type="text/html", headers={"content-security-policy": _POLICY})

    async def health(self, request: Any) -> Any:
        """Whether the process can do its work at all."""
        from starlette.responses import JSONResponse

        is_alive = self._desk.engine.status().is_alive
        return JSONResponse({"status": "ok" if is_alive else "failed"}, status_code=200 if is_alive else 503)

    async def ready(self, request: Any) -> Any:
        """Whether new requests are taken, and how much waits."""
        from starlette.responses import JSONResponse

        status = self._desk.engine.status()
        is_ready = status.is_accepting and status.is_alive
        body: dict[str, Any] = {
            "status": "ready" if is_ready else "draining" if status.is_draining else "starting",
            "waiting": status.waiting,
            "running": status.running,
        }
        if status.workers:
            ready = sum(worker.is_ready for worker in status.workers)
            body["workers"] = {"ready": ready, "total": len(status.workers)}
        return JSONResponse(body, status_code=200 if is_ready else 503)

    async def metrics(self, request: Any) -> Any:
        """Numbers for Prometheus."""
        from starlette.responses import Response

        return Response(
            self._metrics.show(self._desk.engine.status),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def openapi(self, request: Any) -> Any:
        """The OpenAPI document."""
        from starlette.responses import JSONResponse

        return JSONResponse(document(self._desk.config.limits, self._desk.engine.model.loras))

    async def models(self, request: Any) -> Any:
        """The one model there is, with the defaults a page may want to know."""
        from starlette.responses import JSONResponse

        self._desk.owner(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Any) -> Any:
        """The same by name."""
        from starlette.responses import JSONResponse

        self._desk.owner(request)
        known = self._desk.config.model_name
        if request.path_params["name"] != known:
            raise ApiError(404, f"there is one model here, {known}", code="model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        facts = self._desk.engine.model
        names = ("width", "height", "num_inference_steps", "guidance_scale", "edit_guidance_scale")
        defaults = {name: facts.defaults[name] for name in names if name in facts.defaults}
        limit = self._desk.config.limits.max_steps
        presets = {name: min(limit, facts.usual_steps(name)) for name in PRESETS}
        return {
            "id": self._desk.config.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "deepgen",
            "defaults": {**defaults, "num_inference_steps": presets[facts.preset]},
            "size_unit": facts.size_unit,
            "max_side": facts.max_side,
            "loras": list(facts.loras),
            "preset": facts.preset,
            "presets": presets,
        }
