"""The engine behind HTTP, in the words of the OpenAI Images API, so that its clients work unmodified.

A request is read (`bodies.py`), checked (`fields.py`), drawn (`engine.py`), and answered whole or as a stream
of events. Whoever hangs up has his pictures dropped before the next step.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepgen._version import __version__
from deepgen.data.png import PictureRecord
from deepgen.serve.bodies import content_type, read_form, read_json
from deepgen.serve.chat import chunk, read_chat, reply
from deepgen.serve.errors import ApiError, from_engine, invalid
from deepgen.serve.fetch import Fetcher
from deepgen.serve.fields import Fields, Limits, read_fields
from deepgen.serve.hooks import Hooks
from deepgen.serve.jobs import (
    Drawn,
    DrawRequest,
    Draws,
    Ended,
    EngineError,
    Event,
    Job,
    Placed,
    Preview,
    Progress,
)
from deepgen.serve.keys import ApiKeys
from deepgen.serve.metrics import Metrics
from deepgen.serve.middleware import Around
from deepgen.serve.openapi import document
from deepgen.serve.pictures import read_address, read_mask, read_picture, to_base64, write_picture
from deepgen.serve.provenance import ContentCredentials
from deepgen.serve.shelf import Shelf
from deepgen.serve.tracing import Tracer

PAGE = Path(__file__).parent / "page.html"
VARIATION = "Draw another version of this picture."
_LOOK_S = 0.5  # seconds between two looks whether the client is still there
_PING_S = 10.0  # seconds without an event after which a stream says that it lives

# The page brings everything it needs, and nothing else may run in it or be loaded by it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How the server presents itself and what it allows.

    Attributes:
        model_name: what clients see under `/v1/models`.
        keys: who may ask.
        limits: what one request may ask for.
        origins: web pages of other origins that may send requests.
        metadata: write prompt, seed and settings into PNG files.
        image_hosts: from where pictures may be fetched; see `Fetcher`.
        hooks: what looks at requests and pictures.
        credentials: signs every picture; None leaves them unsigned.
        tracer: gets a span for each request.
    """

    model_name: str = "deepgen-1.0"
    keys: ApiKeys = field(default_factory=ApiKeys)
    limits: Limits = field(default_factory=Limits)
    origins: tuple[str, ...] = ()
    metadata: bool = True
    image_hosts: tuple[str, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    credentials: ContentCredentials | None = None
    tracer: Tracer | None = None


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
        raise ImportError(f"serving needs FastAPI: pip install 'deepgen[serve]' ({error})") from error

    config, metrics = config or ServeConfig(), metrics or Metrics()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)
        if config.tracer is not None:
            await run_in_threadpool(config.tracer.close)

    server = Server(engine, config, metrics)
    app = FastAPI(title="deepgen", version=__version__, openapi_url=None, lifespan=lifespan)
    for path, method, handler in server.routes():
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


class Server:
    """The routes. Each takes a Starlette request and gives a Starlette response."""

    def __init__(self, engine: Draws, config: ServeConfig, metrics: Metrics) -> None:
        self._engine, self._config, self._metrics = engine, config, metrics
        self._fetch = Fetcher(config.image_hosts) if config.image_hosts else None
        self._shelf, self._created = Shelf(), int(time.time())

    def routes(self) -> list[tuple[str, str, Any]]:
        """(path, method, handler)."""
        return [
            ("/", "GET", self.page),
            ("/health", "GET", self.health),
            ("/ready", "GET", self.ready),
            ("/metrics", "GET", self.metrics),
            ("/openapi.json", "GET", self.openapi),
            ("/v1/models", "GET", self.models),
            ("/v1/models/{name:path}", "GET", self.model),
            ("/v1/images/generations", "POST", self.generations),
            ("/v1/images/edits", "POST", self.edits),
            ("/v1/images/variations", "POST", self.variations),
            ("/v1/chat/completions", "POST", self.chat),
            ("/v1/images/{name}/content", "GET", self.content),
        ]

    # --- about the server -------------------------------------------------------------------------------

    async def page(self, request: Any) -> Any:
        """The page for people."""
        from starlette.responses import FileResponse

        return FileResponse(PAGE, media_type="text/html", headers={"content-security-policy": _POLICY})

    async def health(self, request: Any) -> Any:
        """Whether the process can do its work at all."""
        from starlette.responses import JSONResponse

        is_alive = self._engine.status().is_alive
        return JSONResponse({"status": "ok" if is_alive else "failed"}, status_code=200 if is_alive else 503)

    async def ready(self, request: Any) -> Any:
        """Whether new requests are taken, and how much waits."""
        from starlette.responses import JSONResponse

        status = self._engine.status()
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
            self._metrics.show(self._engine.status), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def openapi(self, request: Any) -> Any:
        """The OpenAPI document."""
        from starlette.responses import JSONResponse

        return JSONResponse(document(self._config.limits, self._engine.model.loras))

    async def models(self, request: Any) -> Any:
        """The one model there is, with the defaults a page may want to know."""
        from starlette.responses import JSONResponse

        self._owner(request)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Any) -> Any:
        """The same by name."""
        from starlette.responses import JSONResponse

        self._owner(request)
        if request.path_params["name"] != self._config.model_name:
            raise ApiError(404, f"there is one model here, {self._config.model_name}", code="model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        facts = self._engine.model
        names = ("width", "height", "num_inference_steps", "guidance_scale", "edit_guidance_scale")
        return {
            "id": self._config.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "deepgen",
            "defaults": {name: facts.defaults[name] for name in names if name in facts.defaults},
            "size_unit": facts.size_unit,
            "max_side": facts.max_side,
            "loras": list(facts.loras),
        }

    async def content(self, request: Any) -> Any:
        """A picture that was answered as an address; its name is the secret."""
        from starlette.responses import Response

        found = self._shelf.get(request.path_params["name"])
        if found is None:
            raise ApiError(404, "there is no such picture, or no longer", code="image_not_found")
        return Response(found[0], media_type=found[1])

    # --- pictures ---------------------------------------------------------------------------------------

    async def generations(self, request: Any) -> Any:
        """Pictures from words."""
        owner = self._owner(request)
        values = await read_json(request, self._config.limits)
        fields = read_fields(values, self._config.limits, is_form=False)
        return await self._draw(request, owner, fields, "image_generation")

    async def edits(self, request: Any) -> Any:
        """Pictures from pictures and words."""
        from starlette.concurrency import run_in_threadpool

        owner, limits = self._owner(request), self._config.limits
        if content_type(request) == "application/json":
            values = await read_json(request, limits)
            pictures, mask = await run_in_threadpool(_references, values, self._fetch)
            fields = read_fields(values, limits, is_form=False)
        else:
            form = await read_form(request, limits)
            pictures, mask = form.pictures, form.mask
            fields = read_fields(form.values, limits, is_form=True)
        return await self._draw(request, owner, fields, "image_edit", pictures, mask)

    async def variations(self, request: Any) -> Any:
        """Other versions of a picture."""
        owner, limits = self._owner(request), self._config.limits
        form = await read_form(request, limits)
        if form.mask is not None:
            raise invalid("a variation takes no mask; use /v1/images/edits", "mask", "unknown_parameter")
        fields = read_fields(form.values, limits, is_form=True, prompt=VARIATION)
        return await self._draw(request, owner, fields, "image_edit", form.pictures)

    def _owner(self, request: Any) -> str:
        address = request.client.host if request.client else ""
        owner = self._config.keys.owner(request.headers.get("authorization"), address)
        request.state.owner = owner
        return owner

    async def _draw(
        self,
        request: Any,
        owner: str,
        fields: Fields,
        kind: str,
        pictures: Sequence[bytes] | None = None,
        mask: bytes | None = None,
    ) -> Any:
        """Submit, and answer whole or as a stream."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, StreamingResponse

        job, events = await self._submit(request, owner, fields, pictures, mask)
        answer = _Answer(job, fields, kind, self._config)
        if fields.stream:
            stream = self._stream(answer, events)
            return StreamingResponse(
                stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
            )
        drawn = await self._collect(request, job, events)
        files = await run_in_threadpool(lambda: [answer.file(picture) for picture in drawn])
        data: list[dict[str, Any]] = []
        for picture, content in zip(drawn, files, strict=True):
            entry: dict[str, Any] = {
                "b64_json": None,
                "url": None,
                "revised_prompt": None,
                "seed": picture.seed,
            }
            if fields.response_format == "url":
                name = self._shelf.put(content, f"image/{fields.output_format}")
                entry["url"] = str(request.base_url.replace(path=f"/v1/images/{name}/content"))
            else:
                entry["b64_json"] = to_base64(content)
            data.append(entry)
        return JSONResponse({**answer.common("created"), "data": data, "usage": answer.usage(len(drawn))})

    async def chat(self, request: Any) -> Any:
        """Pictures for clients that draw in chat."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, StreamingResponse

        owner, limits = self._owner(request), self._config.limits
        values = await read_json(request, limits)
        values, pictures = await run_in_threadpool(read_chat, values, self._fetch)
        fields = read_fields(values, limits, is_form=False)
        job, events = await self._submit(request, owner, fields, pictures or None, None)
        answer, created = _Answer(job, fields, "image_generation", self._config), int(time.time())
        chat_id = f"chatcmpl-{job.id.removeprefix('job-')}"
        about = (chat_id, created, self._config.model_name)

        def address(picture: Drawn) -> str:
            return f"data:image/{fields.output_format};base64,{to_base64(answer.file(picture))}"

        async def stream() -> AsyncIterator[str]:
            yield _data(chunk(*about))
            async for event in self._events(answer, events):
                if isinstance(event, str):
                    yield event
                elif isinstance(event, Drawn):
                    try:
                        image = await run_in_threadpool(address, event)
                    except ApiError as refused:  # a hook objects to the picture
                        job.cancel()
                        yield _event("error", refused.body())
                        return
                    yield _data(chunk(*about, images=[image]))
                elif isinstance(event, Ended) and event.error is None:
                    yield _data(chunk(*about, finish="stop"))

        if fields.stream:
            headers = {"x-accel-buffering": "no"}
            return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)
        drawn = await self._collect(request, job, events)
        images = await run_in_threadpool(lambda: [address(picture) for picture in drawn])
        return JSONResponse(reply(*about, images, answer.usage(len(drawn))))

    async def _submit(
        self,
        request: Any,
        owner: str,
        fields: Fields,
        pictures: Sequence[bytes] | None,
        mask: bytes | None,
    ) -> tuple[Job, asyncio.Queue[Event]]:
        """A job, and where its events will come; `ApiError` where it is refused."""
        from starlette.concurrency import run_in_threadpool

        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def pass_on(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def submit() -> Job:
            asked = self._draw_request(owner, fields, pictures, mask)
            self._config.hooks.check_request(asked)
            return self._engine.submit(asked, pass_on)

        try:
            job = await run_in_threadpool(submit)
        except EngineError as error:
            raise from_engine(error) from error
        except ValueError as error:
            first = str(error).partition(" ")[0]
            raise invalid(
                str(error), first if first in ("size", "mask", "prompt", "lora") else None
            ) from error
        request.state.job = job.id
        return job, events

    def _draw_request(
        self, owner: str, fields: Fields, pictures: Sequence[bytes] | None, mask: bytes | None
    ) -> DrawRequest:
        """The engine's request; opens the pictures."""
        limits, images = self._config.limits, ()
        if pictures is not None:
            if not pictures:
                raise invalid(
                    "image is missing; send one file or several", "image", "missing_required_parameter"
                )
            if len(pictures) > limits.max_references:
                raise invalid(f"{len(pictures)} pictures; the limit is {limits.max_references}", "image")
            images = tuple(
                read_picture(content, "image", limits.max_reference_pixels) for content in pictures
            )
        height, width = fields.size or (None, None)
        usual = self._engine.model.defaults["num_inference_steps"]
        return DrawRequest(
            prompt=fields.prompt,
            images=images,
            mask=None if mask is None else read_mask(mask, limits.max_reference_pixels),
            negative_prompt=fields.negative_prompt,
            height=height,
            width=width,
            num_steps=fields.steps(usual, limits.max_steps),
            guidance_scale=fields.guidance_scale,
            num_images=fields.n,
            seed=fields.seed,
            lora=fields.lora,
            num_previews=fields.partial_images if fields.stream else 0,
            key=owner,
            timeout_s=limits.timeout_s,
        )

    async def _collect(self, request: Any, job: Job, events: asyncio.Queue[Event]) -> list[Drawn]:
        """All pictures of a job, in order; a client that leaves cancels it."""
        drawn: dict[int, Drawn] = {}
        looked = time.monotonic()
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), _LOOK_S)
                except asyncio.TimeoutError:
                    event = None
                if isinstance(event, Drawn):
                    drawn[event.index] = event
                if isinstance(event, Ended):
                    if event.error is not None:
                        raise from_engine(event.error) from event.error
                    return [drawn[index] for index in sorted(drawn)]
                if time.monotonic() - looked > _LOOK_S:
                    looked = time.monotonic()
                    if await request.is_disconnected():
                        raise ApiError(499, "the client left", code="cancelled")
        finally:
            job.cancel()

    async def _stream(self, answer: _Answer, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
        """Server-sent events of pictures."""
        from starlette.concurrency import run_in_threadpool

        async for event in self._events(answer, events):
            if isinstance(event, str):
                yield event
                continue
            try:
                told = await run_in_threadpool(answer.events, event)
            except ApiError as refused:  # a hook objects to a picture
                answer.job.cancel()
                yield _event("error", refused.body())
                return
            for name, body in told:
                yield _event(name, {"type": name, **body})

    async def _events(self, answer: _Answer, events: asyncio.Queue[Event]) -> AsyncIterator[Event | str]:
        """Events to be put into words, and between them lines that can be sent as they are.

        Starlette ends this generator when the client leaves; the job is then cancelled.
        """
        try:
            while True:
                try:
                    event = await asyncio.wait_for(events.get(), _PING_S)
                except asyncio.TimeoutError:
                    yield ": still drawing\n\n"
                    continue
                yield event
                if isinstance(event, Ended):
                    if event.error is not None:
                        yield _event("error", from_engine(event.error).body())
                    yield "data: [DONE]\n\n"
                    return
        finally:
            answer.job.cancel()


@dataclass(frozen=True)
class _Answer:
    """Turns what the engine tells into what the client reads."""

    job: Job
    fields: Fields
    kind: str  # "image_generation" or "image_edit"
    config: ServeConfig

    def common(self, created: str) -> dict[str, Any]:
        height, width = self.job.facts.size
        known = {
            created: int(time.time()),
            "size": f"{width}x{height}",
            "quality": {"standard": "auto", "hd": "high"}.get(self.fields.quality, self.fields.quality),
            "background": "opaque",
            "output_format": self.fields.output_format,
        }
        if self.fields.safety_identifier:
            known["safety_identifier"] = self.fields.safety_identifier
        return known

    def usage(self, num_pictures: int) -> dict[str, Any]:
        facts = self.job.facts
        drawn = facts.num_picture_tokens * num_pictures
        read = facts.num_text_tokens + facts.num_reference_tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {
                "text_tokens": facts.num_text_tokens,
                "image_tokens": facts.num_reference_tokens,
            },
            "output_tokens": drawn,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": drawn},
            "total_tokens": read + drawn,
        }

    def file(self, picture: Drawn) -> bytes:
        """The picture as it is sent; `ApiError` where a hook objects to it."""
        self.config.hooks.check_picture(self.job.request, picture.image)
        record = None
        if self.config.metadata:
            request, facts = self.job.request, self.job.facts
            record = PictureRecord(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt or None,
                seed=picture.seed,
                steps=facts.num_steps,
                guidance=facts.guidance_scale,
                width=picture.image.width,
                height=picture.image.height,
                scheduler="euler",
                model=self.config.model_name,
            )
        kind = self.fields.output_format
        content = write_picture(picture.image, kind, self.fields.output_compression, record)
        if self.config.credentials is None:
            return content
        return self.config.credentials.sign(content, kind, is_edit=bool(self.job.request.images))

    def events(self, event: Event) -> list[tuple[str, dict[str, Any]]]:
        """(type, body) of what is sent for an event."""
        if isinstance(event, Preview):
            if self.config.hooks.after:  # nobody has looked at it
                return []
            content = write_picture(event.image, self.fields.output_format)
            body = {"b64_json": to_base64(content), "partial_image_index": event.number}
            return [
                (f"{self.kind}.partial_image", {**self.common("created_at"), **body, "index": event.index})
            ]
        if isinstance(event, Drawn):
            body = {"b64_json": to_base64(self.file(event)), "usage": self.usage(1), "seed": event.seed}
            return [(f"{self.kind}.completed", {**self.common("created_at"), **body, "index": event.index})]
        if not self.fields.include_progress:
            return []
        name = f"{self.kind}.progress"
        if isinstance(event, Placed):
            return [(name, {"waiting": event.ahead})]
        if isinstance(event, Progress):
            return [(name, {"index": event.index, "step": event.step, "num_steps": event.num_steps})]
        return []


def _data(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def _event(name: str, body: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(body)}\n\n"


def _references(values: dict[str, Any], fetch: Fetcher | None) -> tuple[list[bytes], bytes | None]:
    """Takes `images` and `mask` out of a JSON request: (pictures, mask)."""
    given, mask = values.pop("images", None), values.pop("mask", None)
    if given is None:
        given = []
    if not isinstance(given, list):
        raise invalid("images must be a list of objects with image_url", "images", "invalid_type")
    pictures = [_reference(entry, f"images[{index}]", fetch) for index, entry in enumerate(given)]
    return pictures, None if mask is None else _reference(mask, "mask", fetch)


def _reference(entry: Any, param: str, fetch: Fetcher | None) -> bytes:
    if not isinstance(entry, dict) or "image_url" not in entry:
        raise invalid(f"{param} must be an object with image_url; files by id are not kept here", param)
    return read_address(entry["image_url"], f"{param}.image_url", fetch)
