"""The routes under `/v1/images`.

A request is read (`bodies.py`), checked (`fields.py`), drawn (`engine.py`), and answered whole or as a stream
of events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from deepgen.serving.answers import Answer, event_lines
from deepgen.serving.bodies import content_type, read_form, read_json
from deepgen.serving.desk import Desk
from deepgen.serving.errors import ApiError, invalid
from deepgen.serving.fetch import Fetcher
from deepgen.serving.fields import Fields, read_fields
from deepgen.serving.images import read_address, to_base64
from deepgen.serving.jobs import Event
from deepgen.serving.shelf import Shelf

VARIATION = "Draw another version of this picture."


class ImageRoutes:
    """`/v1/images`. Each route takes a Starlette request and gives a Starlette response."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._shelf = desk, Shelf()

    async def generations(self, request: Any) -> Any:
        """Pictures from words."""
        owner = self._desk.owner(request)
        values = await read_json(request, self._desk.config.limits)
        fields = read_fields(values, self._desk.config.limits, is_form=False)
        return await self._draw(request, owner, fields, "image_generation")

    async def edits(self, request: Any) -> Any:
        """Pictures from pictures and words."""
        from starlette.concurrency import run_in_threadpool

        owner, limits = self._desk.owner(request), self._desk.config.limits
        if content_type(request) == "application/json":
            values = await read_json(request, limits)
            images, mask = await run_in_threadpool(_references, values, self._desk.fetch)
            fields = read_fields(values, limits, is_form=False)
        else:
            form = await read_form(request, limits)
            images, mask = form.images, form.mask
            fields = read_fields(form.values, limits, is_form=True)
        return await self._draw(request, owner, fields, "image_edit", images, mask)

    async def variations(self, request: Any) -> Any:
        """Other versions of a picture."""
        owner, limits = self._desk.owner(request), self._desk.config.limits
        form = await read_form(request, limits)
        if form.mask is not None:
            raise invalid("a variation takes no mask; use /v1/images/edits", "mask", "unknown_parameter")
        fields = read_fields(form.values, limits, is_form=True, prompt=VARIATION)
        return await self._draw(request, owner, fields, "image_edit", form.images)

    async def content(self, request: Any) -> Any:
        """A picture that was answered as an address; its name is the secret."""
        from starlette.responses import Response

        found = self._shelf.get(request.path_params["name"])
        if found is None:
            raise ApiError(404, "there is no such picture, or no longer", code="image_not_found")
        return Response(found[0], media_type=found[1])

    async def _draw(
        self,
        request: Any,
        owner: str,
        fields: Fields,
        kind: str,
        images: Sequence[bytes] | None = None,
        mask: bytes | None = None,
    ) -> Any:
        """Submit, and answer whole or as a stream."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, StreamingResponse

        job, events = await self._desk.submit(request, owner, fields, images, mask)
        answer = Answer(job, fields, kind, self._desk.config)
        if fields.stream:
            stream = self._stream(answer, events)
            return StreamingResponse(
                stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
            )
        drawn = await self._desk.collect(request, job, events)
        files = await run_in_threadpool(lambda: [answer.file(image) for image in drawn])
        data: list[dict[str, Any]] = []
        for image, content in zip(drawn, files, strict=True):
            entry: dict[str, Any] = {
                "b64_json": None,
                "url": None,
                "revised_prompt": None,
                "seed": image.seed,
            }
            if fields.response_format == "url":
                name = self._shelf.put(content, f"image/{fields.output_format}")
                entry["url"] = str(request.base_url.replace(path=f"/v1/images/{name}/content"))
            else:
                entry["b64_json"] = to_base64(content)
            data.append(entry)
        return JSONResponse({**answer.common("created"), "data": data, "usage": answer.usage(len(drawn))})

    async def _stream(self, answer: Answer, events: asyncio.Queue[Event]) -> AsyncIterator[str]:
        """Server-sent events of pictures."""
        from starlette.concurrency import run_in_threadpool

        async for event in self._desk.events(answer, events):
            if isinstance(event, str):
                yield event
                continue
            try:
                told = await run_in_threadpool(answer.events, event)
            except ApiError as refused:  # a hook objects to a picture
                answer.job.cancel()
                yield event_lines("error", refused.body())
                return
            for name, body in told:
                yield event_lines(name, {"type": name, **body})


def _references(values: dict[str, Any], fetch: Fetcher | None) -> tuple[list[bytes], bytes | None]:
    """Takes `images` and `mask` out of a JSON request: (pictures, mask)."""
    given, mask = values.pop("images", None), values.pop("mask", None)
    if given is None:
        given = []
    if not isinstance(given, list):
        raise invalid("images must be a list of objects with image_url", "images", "invalid_type")
    images = [_reference(entry, f"images[{index}]", fetch) for index, entry in enumerate(given)]
    return images, None if mask is None else _reference(mask, "mask", fetch)


def _reference(entry: Any, param: str, fetch: Fetcher | None) -> bytes:
    if not isinstance(entry, dict) or "image_url" not in entry:
        raise invalid(f"{param} must be an object with image_url; files by id are not kept here", param)
    return read_address(entry["image_url"], f"{param}.image_url", fetch)
