"""Answers: their bodies as pydantic models, and what the engine tells put into them.

The OpenAPI document (`app.py`) is made from the same models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepgen.data.resize import enlarged_from
from deepgen.serving.config import ServeConfig
from deepgen.serving.errors import ResponseModel
from deepgen.serving.images import to_base64, write_image
from deepgen.serving.jobs import Event, ImageDone, Job, Preview, Progress, Queued
from deepgen.serving.schema import ImageAddress, ImageFields


class TokenDetails(ResponseModel):
    """Tokens by what they stand for."""

    text_tokens: int
    image_tokens: int


class TokenUsage(ResponseModel):
    """Tokens read and drawn."""

    input_tokens: int
    input_tokens_details: TokenDetails
    output_tokens: int
    output_tokens_details: TokenDetails
    total_tokens: int


class ImageEntry(ResponseModel):
    """An image of an answer: its file in base64, or where it is kept for a while."""

    b64_json: str | None
    url: str | None
    revised_prompt: str | None
    seed: int


class ImageInfo(ResponseModel):
    """What every answer with images says of them; `drawn_size` is what the model drew."""

    model: str
    size: str
    drawn_size: str
    quality: str
    background: str
    output_format: str
    safety_identifier: str = ""
    warnings: list[str] = []


class ImagesResponse(ImageInfo):
    """The answer of the image routes."""

    created: int
    data: list[ImageEntry]
    usage: TokenUsage


class PartialImageEvent(ImageInfo):
    """A preview in a stream."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    created_at: int
    b64_json: str
    partial_image_index: int
    index: int


class CompletedEvent(ImageInfo):
    """An image in a stream."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    created_at: int
    b64_json: str
    usage: TokenUsage
    seed: int
    index: int


class ProgressEvent(ResponseModel):
    """Where a request is: how many images are ahead of it, or which step an image has taken."""

    type: Literal["image_generation.progress", "image_edit.progress"]
    waiting: int = 0
    index: int = 0
    step: int = 0
    num_steps: int = 0


class ServerSentEvent(ResponseModel):
    """One event of a stream; data is one of the event models in JSON, but for the [DONE] at the end."""

    event: str = ""
    data: str = ""


class AnswerImage(ResponseModel):
    """An image of a chat's answer, as a `data:` address."""

    type: Literal["image_url"]
    index: int
    image_url: ImageAddress


class AnswerMessage(ResponseModel):
    """A chat's answer, or a piece of a streamed one; the last piece is empty."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    images: list[AnswerImage] = []


class ChatChoice(ResponseModel):
    """The one choice of an answer."""

    index: int
    message: AnswerMessage
    finish_reason: str
    logprobs: None


class ChatUsage(ResponseModel):
    """Tokens, in the words of chat."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(ResponseModel):
    """A whole answer of a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ChunkChoice(ResponseModel):
    """The one choice of a piece; the last one says why the answer ends."""

    index: int
    delta: AnswerMessage
    finish_reason: str | None
    logprobs: None


class ChatCompletionChunk(ResponseModel):
    """A piece of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]


class ModelCard(ResponseModel):
    """The model, with what a page may want to know; steps of each preset are those that a request gets.

    `description`, `vocabulary` and the examples say what it can draw, see `deepgen.worlds.introduce`.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    defaults: dict[str, int | float]  # a width is 96 and not 96.0
    size_unit: int
    max_side: int
    loras: list[str]
    preset: str
    presets: dict[str, int]
    world: str | None
    description: str
    vocabulary: dict[str, list[str]]
    example_prompts: list[str]
    example_edits: list[str]


class ModelList(ResponseModel):
    """The one model there is."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(ResponseModel):
    """Whether the process works."""

    status: Literal["ok", "failed"]


class WorkerCounts(ResponseModel):
    """Worker processes."""

    ready: int
    total: int


class Readiness(ResponseModel):
    """Whether new requests are taken, and how many images wait and are drawn."""

    status: Literal["ready", "draining", "starting"]
    waiting: int
    running: int
    workers: WorkerCounts | None = None


# --- from the engine's events to bodies ---------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Turns what the engine tells about a job into what the client reads."""

    job: Job
    fields: ImageFields
    kind: Literal["image_generation", "image_edit"]
    config: ServeConfig

    def images(self, entries: list[ImageEntry]) -> ImagesResponse:
        """The whole answer of an image route."""
        usage = self.usage(len(entries))
        return ImagesResponse(**self._info, created=int(time.time()), data=entries, usage=usage)

    @property
    def _info(self) -> dict[str, Any]:
        """Fields of `ImageInfo`."""
        height, width = self.job.info.size
        drawn_height, drawn_width = self.job.info.drawn_size
        known = {
            "model": self.config.model_name,
            "size": f"{width}x{height}",
            "drawn_size": f"{drawn_width}x{drawn_height}",
            "quality": {"standard": "auto", "hd": "high"}.get(self.fields.quality, self.fields.quality),
            "background": "opaque",
            "output_format": self.fields.output_format,
        }
        if self.fields.safety_identifier:
            known["safety_identifier"] = self.fields.safety_identifier
        if self.warnings:
            known["warnings"] = self.warnings
        return known

    @property
    def notice(self) -> str:
        """What is said of pictures that were drawn smaller than they are; nothing of others."""
        return enlarged_from(self.job.info.drawn_size, self.job.info.size)

    @property
    def warnings(self) -> list[str]:
        """What the client should know beside its pictures: prompts that were cut, and what of a prompt is
        not of a small model's world.
        """
        return [*self._cuts, *self.job.info.world_warnings]

    @property
    def _cuts(self) -> list[str]:
        return [str(cut) for cut in self.job.info.prompt_cuts]

    @property
    def remarks(self) -> str:
        """Everything that is said beside the pictures, a line each."""
        return "\n".join(filter(None, [self.notice, *self.warnings]))

    def usage(self, num_images: int) -> TokenUsage:
        """Tokens read and drawn."""
        info = self.job.info
        drawn = info.num_image_tokens * num_images
        read = info.num_text_tokens + info.num_reference_tokens
        return TokenUsage(
            input_tokens=read,
            input_tokens_details=TokenDetails(
                text_tokens=info.num_text_tokens, image_tokens=info.num_reference_tokens
            ),
            output_tokens=drawn,
            output_tokens_details=TokenDetails(text_tokens=0, image_tokens=drawn),
            total_tokens=read + drawn,
        )

    def file(self, image: ImageDone) -> bytes:
        """The picture as it is sent; `ApiError` where a hook objects to it."""
        self.config.hooks.check_image(self.job.request, image.image)
        record = None
        if self.config.metadata:
            info = self.job.info
            record = info.settings.record(
                prompt=self.job.request.prompt,
                seed=image.seed,
                model=self.config.model_name,
                size=(image.image.height, image.image.width),
                drawn_size=info.drawn_size,
                prompt_cuts=self._cuts,
            )
        kind = self.fields.output_format
        content = write_image(image.image, kind, self.fields.output_compression, record)
        if self.config.credentials is None:
            return content
        return self.config.credentials.sign(content, kind, is_edit=bool(self.job.request.images))

    def address(self, image: ImageDone) -> str:
        """The picture as a `data:` address; `ApiError` where a hook objects to it."""
        return f"data:image/{self.fields.output_format};base64,{to_base64(self.file(image))}"

    def event(self, event: Event) -> PartialImageEvent | CompletedEvent | ProgressEvent | None:
        """What is sent for an event in a stream, if anything; `ApiError` where a hook objects."""
        now, kind = int(time.time()), self.kind
        if isinstance(event, Preview):
            if self.config.hooks.after:  # they have not checked it
                return None
            return PartialImageEvent(
                type=f"{kind}.partial_image",
                created_at=now,
                **self._info,
                b64_json=to_base64(write_image(event.image, self.fields.output_format)),
                partial_image_index=event.number,
                index=event.index,
            )
        if isinstance(event, ImageDone):
            return CompletedEvent(
                type=f"{kind}.completed",
                created_at=now,
                **self._info,
                b64_json=to_base64(self.file(event)),
                usage=self.usage(1),
                seed=event.seed,
                index=event.index,
            )
        if not self.fields.include_progress:
            return None
        name = f"{kind}.progress"
        if isinstance(event, Queued):
            return ProgressEvent(type=name, waiting=event.ahead)
        if isinstance(event, Progress):
            return ProgressEvent(type=name, index=event.index, step=event.step, num_steps=event.num_steps)
        return None


@dataclass(frozen=True)
class ChatAnswer:
    """A chat's answer: images as `image_url` parts under `images`, the form that routers and front ends
    expect.
    """

    id: str
    created: int
    model: str

    def whole(self, addresses: Sequence[str], usage: TokenUsage, content: str) -> ChatCompletion:
        """All images, and what is said about them."""
        message = AnswerMessage(role="assistant", content=content, images=_parts(addresses))
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=[ChatChoice(index=0, message=message, finish_reason="stop", logprobs=None)],
            usage=ChatUsage(
                prompt_tokens=usage.input_tokens,
                completion_tokens=usage.output_tokens,
                total_tokens=usage.total_tokens,
            ),
        )

    def chunk(
        self, addresses: Sequence[str] = (), content: str = "", is_last: bool = False
    ) -> ChatCompletionChunk:
        """A piece of a stream: its opening with what is said, images, or its end."""
        delta = AnswerMessage() if is_last else AnswerMessage(role="assistant", content=content)
        if addresses:
            delta.images = _parts(addresses)
        choice = ChunkChoice(index=0, delta=delta, finish_reason="stop" if is_last else None, logprobs=None)
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=[choice],
        )


def _parts(addresses: Sequence[str]) -> list[AnswerImage]:
    return [
        AnswerImage(type="image_url", index=index, image_url=ImageAddress(url=address))
        for index, address in enumerate(addresses)
    ]


# --- from bodies to what is sent ----------------------------------------------------------------------------


def json_response(body: ResponseModel, status: int = 200) -> Any:
    """A Starlette response."""
    from starlette.responses import JSONResponse

    return JSONResponse(body.values(), status_code=status)


def stream_response(lines: Any) -> Any:
    """A Starlette response of server-sent events."""
    from starlette.responses import StreamingResponse

    return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def data_line(body: ResponseModel) -> str:
    """A server-sent event without a name."""
    return f"data: {json.dumps(body.values())}\n\n"


def event_lines(name: str, body: ResponseModel) -> str:
    """A server-sent event with its name."""
    return f"event: {name}\n{data_line(body)}"
