"""The route for clients that draw in chat; what messages mean is in `chat.py`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from deepgen.serving.answers import Answer, data_line, event_lines
from deepgen.serving.bodies import read_json
from deepgen.serving.chat import chunk, read_chat, reply
from deepgen.serving.desk import Desk
from deepgen.serving.errors import ApiError
from deepgen.serving.fields import read_fields
from deepgen.serving.images import to_base64
from deepgen.serving.jobs import Drawn, Ended


class ChatRoutes:
    """`/v1/chat/completions`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def chat(self, request: Any) -> Any:
        """Pictures for clients that draw in chat."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse, StreamingResponse

        owner, limits = self._desk.owner(request), self._desk.config.limits
        values = await read_json(request, limits)
        values, pictures = await run_in_threadpool(read_chat, values, self._desk.fetch)
        fields = read_fields(values, limits, is_form=False)
        job, events = await self._desk.submit(request, owner, fields, pictures or None, None)
        answer, created = Answer(job, fields, "image_generation", self._desk.config), int(time.time())
        chat_id = f"chatcmpl-{job.id.removeprefix('job-')}"
        about = (chat_id, created, self._desk.config.model_name)

        def address(picture: Drawn) -> str:
            return f"data:image/{fields.output_format};base64,{to_base64(answer.file(picture))}"

        async def stream() -> AsyncIterator[str]:
            yield data_line(chunk(*about, content=answer.remarks))
            async for event in self._desk.events(answer, events):
                if isinstance(event, str):
                    yield event
                elif isinstance(event, Drawn):
                    try:
                        image = await run_in_threadpool(address, event)
                    except ApiError as refused:  # a hook objects to the picture
                        job.cancel()
                        yield event_lines("error", refused.body())
                        return
                    yield data_line(chunk(*about, images=[image]))
                elif isinstance(event, Ended) and event.error is None:
                    yield data_line(chunk(*about, finish="stop"))

        if fields.stream:
            headers = {"x-accel-buffering": "no"}
            return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)
        drawn = await self._desk.collect(request, job, events)
        images = await run_in_threadpool(lambda: [address(picture) for picture in drawn])
        return JSONResponse(reply(*about, images, answer.usage(len(drawn)), answer.remarks))
