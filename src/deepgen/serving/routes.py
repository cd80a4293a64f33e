"""The routes: what each reads, has drawn and answers. Each takes a Starlette request and gives a response.

A request is read (`bodies.py`), validated (`schema.py`), drawn (`engine.py`), and answered whole or as a
stream of events (`answers.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from deepgen.sampling.presets import NAMES as PRESETS
from deepgen.serving.answers import (
    Answer,
    ChatAnswer,
    ChatImage,
    Health,
    ImageEntry,
    ModelCard,
    ModelList,
    Readiness,
    WorkerCounts,
    data_line,
    event_lines,
    json_response,
    markdown_image,
    stream_response,
)
from deepgen.serving.bodies import content_type, read_form, read_json, read_references
from deepgen.serving.conversation import read_chat
from deepgen.serving.errors import ApiError
from deepgen.serving.images import to_base64
from deepgen.serving.jobs import Event, ImageDone, JobDone
from deepgen.serving.metrics import Metrics
from deepgen.serving.references import ReferenceFiles
from deepgen.serving.request_handler import ImageRequest, RequestHandler
from deepgen.serving.schema import (
    ChatCompletionRequest,
    ImageEditForm,
    ImageEditRequest,
    ImageGenerationRequest,
    ImageVariationForm,
)
from deepgen.worlds import introduce

PAGE_DIR = Path(__file__).parent / "page"

# The page brings everything it needs, and nothing else may run in it or be loaded by it.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_TYPES = {".css": "text/css", ".js": "text/javascript"}


class AboutRoutes:
    """The page, the probes, the metrics and the model: routes that draw nothing."""

    def __init__(self, handler: RequestHandler, metrics: Metrics) -> None:
        self._handler, self._metrics, self._created = handler, metrics, int(time.time())
        found = (path for path in PAGE_DIR.iterdir() if path.suffix in _PAGE_TYPES)
        self._page_files = {path.name: path for path in found}

    async def page(self, request: Any) -> Any:
        """The page for people."""
        from starlette.responses import FileResponse

        path = PAGE_DIR / "index.html"
        return FileResponse(path, media_type="text/html", headers={"content-security-policy": _POLICY})

    async def page_file(self, request: Any) -> Any:
        """A script or style sheet of the page."""
        from starlette.responses import FileResponse

        path = self._page_files.get(request.path_params["name"])
        if path is None:
            raise ApiError(404, "there is nothing at this address", code="bad_route")
        return FileResponse(path, media_type=_PAGE_TYPES[path.suffix])

    async def health(self, request: Any) -> Any:
        """Whether the process can do its work at all."""
        is_alive = self._handler.engine.status().is_alive
        return json_response(Health(status="ok" if is_alive else "failed"), 200 if is_alive else 503)

    async def ready(self, request: Any) -> Any:
        """Whether new requests are taken, and how much waits."""
        status = self._handler.engine.status()
        is_ready = status.is_accepting and status.is_alive
        body = Readiness(
            status="ready" if is_ready else "draining" if status.is_draining else "starting",
            waiting=status.waiting,
            running=status.running,
        )
        if status.workers:
            num_ready = sum(worker.is_ready for worker in status.workers)
            body.workers = WorkerCounts(ready=num_ready, total=len(status.workers))
        return json_response(body, 200 if is_ready else 503)

    async def metrics(self, request: Any) -> Any:
        """Numbers for Prometheus."""
        from starlette.responses import Response

        return Response(
            self._metrics.show(self._handler.engine.status),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def models(self, request: Any) -> Any:
        """The one model there is, with the defaults a page may want to know."""
        self._handler.authenticate(request)
        return json_response(ModelList(object="list", data=[self._model()]))

    async def model(self, request: Any) -> Any:
        """The same by name."""
        self._handler.authenticate(request)
        config, name = self._handler.config, request.path_params["name"]
        if name != config.model_name and name not in config.model_aliases:
            raise ApiError(404, f"there is one model here, {config.model_name}", code="model_not_found")
        return json_response(self._model())

    def _model(self) -> ModelCard:
        info = self._handler.engine.model
        names = ("width", "height", "num_inference_steps", "guidance_scale", "edit_guidance_scale")
        names += ("keep_unchanged",)
        defaults = {name: info.defaults[name] for name in names if name in info.defaults}
        limit = self._handler.config.limits.max_steps
        presets = {name: min(limit, info.usual_steps(name)) for name in PRESETS if info.can_use(name)}
        return ModelCard(
            id=self._handler.config.model_name,
            object="model",
            created=self._created,
            owned_by="deepgen",
            defaults={**defaults, "num_inference_steps": presets[info.preset]},
            size_unit=info.size_unit,
            max_side=info.max_side,
            loras=list(info.loras),
            preset=info.preset,
            presets=presets,
            world=info.world,
            **introduce(info.world),
        )


class ImageRoutes:
    """`/v1/images`."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def generations(self, request: Any) -> Any:
        """Images from a prompt."""
        self._handler.authenticate(request)
        values = await read_json(request, self._handler.config.limits)
        fields = self._handler.read(ImageGenerationRequest, values)
        return await self._draw(request, fields, "image_generation")

    async def edits(self, request: Any) -> Any:
        """Images from images and a prompt."""
        from starlette.concurrency import run_in_threadpool

        self._handler.authenticate(request)
        limits = self._handler.config.limits
        if content_type(request) == "application/json":
            body = self._handler.read(ImageEditRequest, await read_json(request, limits))
            images, mask = await run_in_threadpool(read_references, body, self._handler.fetch(request))
            body = body.model_copy(update={"images": [], "mask": None})  # texts as long as the files
            return await self._draw(request, body, "image_edit", ReferenceFiles.of(images, mask))
        values, files = await read_form(request, limits)
        form = self._handler.read(ImageEditForm, values, is_form=True)
        return await self._draw(request, form, "image_edit", files)

    async def variations(self, request: Any) -> Any:
        """Other versions of an image."""
        self._handler.authenticate(request)
        values, files = await read_form(request, self._handler.config.limits)
        form = self._handler.read(ImageVariationForm, values, is_form=True)
        return await self._draw(request, form, "image_edit", files)

    async def content(self, request: Any) -> Any:
        """An image that was answered as an address; its name is the secret."""
        from starlette.responses import Response

        found = self._handler.store.get(request.path_params["name"])
        if found is None:
            raise ApiError(404, "there is no such picture, or no longer", code="image_not_found")
        return Response(found[0], media_type=found[1])

    async def _draw(
        self,
        request: Any,
        fields: ImageRequest,
        kind: Literal["image_generation", "image_edit"],
        files: ReferenceFiles | None = None,
    ) -> Any:
        """Submit, and answer whole or as a stream."""
        from starlette.concurrency import run_in_threadpool

        job, events = await self._handler.submit(request, fields, files)
        answer = Answer(job, fields, kind, self._handler.config)
        if fields.stream:
            return stream_response(self._stream(answer, events))
        drawn = await self._handler.collect(request, job, events)
        contents = await run_in_threadpool(lambda: [answer.file(image) for image in drawn])
        entries: list[ImageEntry] = []
        for image, content in zip(drawn, contents, strict=True):
            entry = ImageEntry(b64_json=None, url=None, revised_prompt=None, seed=image.seed)
            if fields.answer_form == "url":
                entry.url = self._handler.keep(request, content, fields.output_format)
            else:
                entry.b64_json = to_base64(content)
            entries.append(entry)
        return json_response(answer.images(entries))

    async def _stream(self, answer: Answer, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
        """Server-sent events of images."""
        from starlette.concurrency import run_in_threadpool

        async for event in self._handler.events(answer, events):
            if isinstance(event, str):
                yield event
                continue
            try:
                body = await run_in_threadpool(answer.event, event)
            except ApiError as refused:  # a hook objects to an image
                answer.job.refusal = refused
                answer.job.cancel()
                yield event_lines("error", refused.response())
                return
            if body is not None:
                yield event_lines(body.type, body)


class ChatRoutes:
    """`/v1/chat/completions`, for clients that draw in chat."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def chat(self, request: Any) -> Any:
        """Images in a chat."""
        from starlette.concurrency import run_in_threadpool

        self._handler.authenticate(request)
        limits = self._handler.config.limits
        body = self._handler.read(ChatCompletionRequest, await read_json(request, limits))
        given, images = await run_in_threadpool(read_chat, body, self._handler.fetch(request))
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        shown = body.content_images or self._handler.config.chat_images
        del body  # its pictures are texts as long as their files
        fields = self._handler.read(ImageGenerationRequest, given)
        files = ReferenceFiles.of(images) if images else None
        job, events = await self._handler.submit(request, fields, files)
        answer = Answer(job, fields, "image_generation", self._handler.config)
        chat = ChatAnswer(
            id=f"chatcmpl-{job.id.removeprefix('job-')}",
            created=int(time.time()),
            model=self._handler.config.model_name,
            remarks=answer.remarks,
            has_usage=has_usage,
        )
        image = partial(self._image, request, answer, shown)
        if fields.stream:
            return stream_response(self._stream(chat, answer, events, image))
        drawn = await self._handler.collect(request, job, events)
        images = await run_in_threadpool(lambda: [image(one) for one in drawn])
        return json_response(chat.whole(images, answer.usage(len(drawn))))

    def _image(
        self, request: Any, answer: Answer, shown: Literal["url", "data", "none"], image: ImageDone
    ) -> ChatImage:
        """A picture as its answer holds it; `ApiError` where a hook objects to it."""
        content, kind = answer.file(image), answer.fields.output_format
        address = f"data:image/{kind};base64,{to_base64(content)}"
        if shown == "none":
            return ChatImage(address)
        place = self._handler.keep(request, content, kind) if shown == "url" else address
        return ChatImage(address, markdown_image(answer.fields.prompt, place))

    async def _stream(
        self,
        chat: ChatAnswer,
        answer: Answer,
        events: asyncio.Queue[Event],
        image: Callable[[ImageDone], ChatImage],
    ) -> AsyncIterator[str]:
        """Server-sent events of a chat."""
        from starlette.concurrency import run_in_threadpool

        count = answer.job.request.num_images
        for index in range(count):
            yield data_line(chat.opening(index))
        async for event in self._handler.events(answer, events):
            if isinstance(event, str):
                yield event
            elif isinstance(event, ImageDone):
                try:
                    drawn = await run_in_threadpool(image, event)
                except ApiError as refused:  # a hook objects to the image
                    answer.job.refusal = refused
                    answer.job.cancel()
                    yield event_lines("error", refused.response())
                    return
                yield data_line(chat.image(event.index, drawn))
                yield data_line(chat.ending(event.index))
            elif isinstance(event, JobDone) and event.error is None and chat.has_usage:
                yield data_line(chat.usage(answer.usage(count)))
