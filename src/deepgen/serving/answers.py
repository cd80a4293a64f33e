"""Answers: their bodies as pydantic models, and what the engine tells put into them.

The OpenAPI document (`app.py`) is made from the same models.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepgen.data.resize import enlarged_from
from deepgen.json_values import json_text
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
    """A chat's answer, or a piece of a streamed one; the last piece is empty.

    `content` has what is said of the picture and, unless the request wants none, the picture as a Markdown
    image.
    """

    role: Literal["assistant"] = "assistant"
    content: str = ""
    images: list[AnswerImage] = []


class ChatChoice(ResponseModel):
    """One of the `n` choices of an answer; each is one picture."""

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
    """The choice a piece belongs to; its last piece says why it ends."""

    index: int
    delta: AnswerMessage
    finish_reason: str | None
    logprobs: None


class ChatCompletionChunk(ResponseModel):
    """A piece of a streamed answer; where `usage` was asked for, the last piece has it and no choice."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None


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
        return ImagesResponse(**self.info, created=int(time.time()), data=entries, usage=usage)

    @property
    def info(self) -> dict[str, Any]:
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
        """What the client should know beside its pictures: prompts that were cut, what of a prompt is not of
        a small model's world, a size that is none of the model's, and what was done to given pictures.
        """
        return [*self._cuts, *self.job.info.world_warnings, *self._fitted, *self.job.request.remarks]

    @property
    def _fitted(self) -> list[str]:
        """What was done where the model does not draw the size that was asked for."""
        final, drawn = self.job.request.final_size, self.job.info.drawn_size
        if final is None:
            return []
        height, width = final
        done = enlarged_from(drawn, final) or f"drawn at {drawn[1]}x{drawn[0]}, brought to {width}x{height}"
        return [f"the model does not draw {width}x{height}: {done}"]

    @property
    def _cuts(self) -> list[str]:
        return [str(cut) for cut in self.job.info.prompt_cuts]

    @property
    def remarks(self) -> str:
        """Everything that is said beside the pictures, a line each."""
        notice = [] if self._fitted else [self.notice]  # which would say the same
        return "\n".join(filter(None, [*notice, *self.warnings]))

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

    def event(self, event: Event) -> PartialImageEvent | CompletedEvent | ProgressEvent | None:
        """What is sent for an event in a stream, if anything; `ApiError` where a hook objects."""
        now, kind = int(time.time()), self.kind
        if isinstance(event, Preview):
            if self.config.hooks.after:  # they have not checked it
                return None
            return PartialImageEvent(
                type=f"{kind}.partial_image",
                created_at=now,
                **self.info,
                b64_json=to_base64(write_image(event.image, self.fields.output_format)),
                partial_image_index=event.number,
                index=event.index,
            )
        if isinstance(event, ImageDone):
            return CompletedEvent(
                type=f"{kind}.completed",
                created_at=now,
                **self.info,
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
class ChatImage:
    """A picture of a chat's answer: its `data:` address, and the text that shows it, if any."""

    address: str
    markdown: str = ""


@dataclass(frozen=True)
class ChatAnswer:
    """A chat's answer: a choice for each picture.

    The picture is an `image_url` part under `images`, the form that routers and front ends expect, and a
    Markdown image in `content` for the many clients that read nothing else.
    """

    id: str
    created: int
    model: str
    remarks: str = ""
    has_usage: bool = False  # whether a stream tells it

    def whole(self, images: Sequence[ChatImage], usage: TokenUsage) -> ChatCompletion:
        """All images, and what is said about them."""
        messages = [
            AnswerMessage(role="assistant", content=self._text(image), images=_parts(image))
            for image in images
        ]
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=[
                ChatChoice(index=index, message=message, finish_reason="stop", logprobs=None)
                for index, message in enumerate(messages)
            ],
            usage=_chat_usage(usage),
        )

    def opening(self, index: int) -> ChatCompletionChunk:
        """The first piece of a choice: what is said about its picture, which is still being drawn."""
        return self._chunk(index, AnswerMessage(role="assistant", content=self.remarks))

    def image(self, index: int, image: ChatImage) -> ChatCompletionChunk:
        """The picture of a choice."""
        text = f"\n\n{image.markdown}" if self.remarks and image.markdown else image.markdown
        return self._chunk(index, AnswerMessage(role="assistant", content=text, images=_parts(image)))

    def ending(self, index: int) -> ChatCompletionChunk:
        """The last piece of a choice."""
        return self._chunk(index, AnswerMessage(), "stop")

    def usage(self, usage: TokenUsage) -> ChatCompletionChunk:
        """The piece after the last choice, where the request wants it."""
        return self._piece([], _chat_usage(usage))

    def _text(self, image: ChatImage) -> str:
        return "\n\n".join(filter(None, [self.remarks, image.markdown]))

    def _chunk(
        self, index: int, delta: AnswerMessage, finish_reason: str | None = None
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=finish_reason, logprobs=None)
        return self._piece([choice], None)

    def _piece(self, choices: list[ChunkChoice], usage: ChatUsage | None) -> ChatCompletionChunk:
        told = {"usage": usage} if self.has_usage else {}
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **told,
        )


def _chat_usage(usage: TokenUsage) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
    )


def _parts(image: ChatImage) -> list[AnswerImage]:
    return [AnswerImage(type="image_url", index=0, image_url=ImageAddress(url=image.address))]


def markdown_image(prompt: str, address: str) -> str:
    """A Markdown image whose text is the prompt, without what would end it early."""
    words = re.sub(r"[\[\]\\`<>*_!\s]+", " ", prompt).strip()[:80]
    return f"![{words or 'picture'}]({address})"


# --- from bodies to what is sent ----------------------------------------------------------------------------


def json_response(body: ResponseModel, status: int = 200) -> Any:
    """A Starlette response."""
    from starlette.responses import Response

    return Response(json_text(body.values()), status, media_type="application/json")


def stream_response(lines: Any) -> Any:
    """A Starlette response of server-sent events."""
    from starlette.responses import StreamingResponse

    return StreamingResponse(lines, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def data_line(body: ResponseModel) -> str:
    """A server-sent event without a name."""
    return f"data: {json_text(body.values()).decode()}\n\n"


def event_lines(name: str, body: ResponseModel) -> str:
    """A server-sent event with its name."""
    return f"event: {name}\n{data_line(body)}"
