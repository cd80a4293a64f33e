"""`/v1/responses`: a conversation in which the model draws, as OpenAI's clients do it with a tool.

The model can do nothing else, so it draws whether the request names the tool or not. Where it does not, the
client expects words, and the message of the answer shows the picture as a Markdown image.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deepgen.serving.answers import (
    Answer,
    event_lines,
    json_response,
    markdown_image,
    stream_response,
)
from deepgen.serving.bodies import read_body, read_json
from deepgen.serving.conversation import read_messages
from deepgen.serving.errors import ApiError, from_engine, invalid
from deepgen.serving.images import Fetch, ImageStore, read_address, to_base64, write_image
from deepgen.serving.jobs import Event, ImageDone, JobDone, Preview
from deepgen.serving.openai_fields import ITEMS_IGNORED
from deepgen.serving.references import ReferenceFiles
from deepgen.serving.request_handler import RequestHandler
from deepgen.serving.responses_schema import (
    TOOL,
    CachedTokens,
    ImageCall,
    ImageTool,
    InputItem,
    OutputMessage,
    OutputText,
    ReasoningTokens,
    ResponseBody,
    ResponseEvent,
    ResponseFailure,
    ResponsesRequest,
    ResponseUsage,
)
from deepgen.serving.schema import (
    ChatMessage,
    ImageAddress,
    ImageGenerationRequest,
    ImagePart,
    Limits,
    TextPart,
)

# What the tool and the request say of a picture in the same words.
_TOOL_FIELDS = ("output_compression", "output_format", "partial_images", "quality", "size", "model")
_OWN_FIELDS = {
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "previous_response_id",
    "store",
    "background",
}


class ResponsesRoutes:
    """`/v1/responses`."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler

    async def responses(self, request: Any) -> Any:
        """A picture in a conversation."""
        from starlette.concurrency import run_in_threadpool

        self._handler.authenticate(request)
        values = await read_json(request, self._handler.config.limits)
        body = self._handler.read(ResponsesRequest, values)
        tool = _tool(body, self._handler.config.limits)
        self._handler.check_model(body.model)
        given, images, mask = await run_in_threadpool(self._asked, body, tool, self._handler.fetch(request))
        body = body.model_copy(update={"input": ""})  # its pictures are texts as long as their files
        del values
        fields = self._handler.read(ImageGenerationRequest, given)
        is_edit, files = bool(images), ReferenceFiles.of(images, mask)
        job, events = await self._handler.submit(request, fields, files)
        answer = Answer(job, fields, "image_edit" if is_edit else "image_generation", self._handler.config)
        response = ResponseAnswer(request, self._handler, body, answer, has_tool=tool is not None)
        if fields.stream:
            return stream_response(self._stream(response, answer, events))
        (drawn,) = await self._handler.collect(request, job, events)
        await run_in_threadpool(response.finish, drawn)
        return json_response(response.body("completed"))

    def _asked(
        self, body: ResponsesRequest, tool: ImageTool | None, fetch: Fetch
    ) -> tuple[dict[str, Any], list[bytes], bytes | None]:
        """(fields of a request for images, images to edit, mask)."""
        tool = tool or ImageTool(type=TOOL)
        prompt, images = read_messages(self._messages(body), fetch, "input")
        if tool.action == "generate":
            images = []
        if tool.action == "edit" and not images:
            raise invalid("action edit needs a picture in input, or previous_response_id", "tools")
        mask = None
        if tool.input_image_mask is not None:
            mask = read_address(tool.input_image_mask.image_url, "tools", fetch)
        fields = {name: getattr(body, name) for name in body.model_fields_set - _OWN_FIELDS}
        asked = {name: getattr(tool, name) for name in _TOOL_FIELDS}
        fields |= {name: value for name, value in asked.items() if value is not None}
        if fields.get("n", 1) != 1:
            raise invalid("a response holds one picture; n is for /v1/images and chats", "n")
        return {**fields, "prompt": prompt}, images, mask

    def _messages(self, body: ResponsesRequest) -> list[ChatMessage]:
        """The conversation as a chat; what the model answered in one turn is one message."""
        messages = []
        if body.previous_response_id is not None:
            kept = self._kept(body.previous_response_id)
            if kept is None:
                raise ApiError(
                    400,
                    "previous_response_id names no response that is kept here, or no longer",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            messages.append(_of_image(kept))
        if isinstance(body.input, str):
            return [*messages, ChatMessage(role="user", content=body.input)]
        for index, item in enumerate(body.input):
            message = self._message(item, f"input[{index}]")
            if message is None:
                continue
            if messages and messages[-1].role == message.role == "assistant":
                message = _joined(messages.pop(), message)
            messages.append(message)
        return messages

    def _message(self, item: InputItem, place: str) -> ChatMessage | None:
        """An item as a message; None where it says nothing of a picture."""
        if item.type == "message":
            if item.role is None:
                raise invalid(f"{place} must be an object with a role and content", place)
            return ChatMessage(role=item.role, content=item.content)
        if item.type in ("image_generation_call", "item_reference"):
            if item.result is not None:
                return _of_image(item.result)
            kept = self._kept(item.id or "")
            if kept is None and item.type == "image_generation_call":
                raise invalid(
                    f"{place} is no picture that is kept here, or no longer; send its result", place
                )
            return None if kept is None else _of_image(kept)
        if item.type in ITEMS_IGNORED:
            return None
        raise invalid(f"{place} is of an unknown type; send messages and image_generation_call", place)

    def _kept(self, name: str) -> str | None:
        """The picture of a response or of its call, in base64."""
        found = self._handler.store.get(f"img-{name.partition('_')[2]}")
        return None if found is None else to_base64(found[0])

    async def _stream(
        self, response: ResponseAnswer, answer: Answer, events: asyncio.Queue[Event]
    ) -> AsyncIterator[str]:
        """Server-sent events of a response."""
        from starlette.concurrency import run_in_threadpool

        for event in response.opening():
            yield event
        async for event in self._handler.events(answer, events):
            refused = None
            try:
                if isinstance(event, Preview) and not self._handler.config.hooks.after:
                    yield await run_in_threadpool(response.preview, event)
                elif isinstance(event, ImageDone):
                    await run_in_threadpool(response.finish, event)
            except ApiError as error:  # a hook objects to the image
                answer.job.cancel()
                refused = error
            if isinstance(event, str) and event.startswith(":"):
                yield event
            if isinstance(event, JobDone):
                if event.error is None:
                    for line in response.ending():
                        yield line
                    return
                refused = from_engine(event.error)
            if refused is not None:
                for line in response.failing(refused):
                    yield line
                return


@dataclass
class ResponseAnswer:
    """One response while it comes into being.

    Attributes:
        request: whose address its pictures get.
        handler: keeps the picture.
        asked: the body.
        answer: what the engine tells.
        has_tool: whether the request named the tool; otherwise its client reads words.
    """

    request: Any
    handler: RequestHandler
    asked: ResponsesRequest
    answer: Answer
    has_tool: bool
    name: str = field(default_factory=ImageStore.new_name)
    result: str | None = None  # base64
    text: str = ""
    _sequence: int = 0

    @cached_property
    def created(self) -> int:
        """When it was asked for."""
        return int(time.time())

    @property
    def _token(self) -> str:
        return self.name.removeprefix("img-")

    def finish(self, image: ImageDone) -> None:
        """The picture is there; `ApiError` where a hook objects to it."""
        content, kind = self.answer.file(image), self.answer.fields.output_format
        self.result, shown = to_base64(content), self.handler.config.chat_images
        if self.asked.store:
            self.handler.store.put(content, f"image/{kind}", self.name)
        texts = [self.answer.remarks]
        if not self.has_tool and shown != "none":
            place = f"data:image/{kind};base64,{self.result}"
            if shown == "url":
                place = self.handler.keep(self.request, content, kind, self.name)
            texts.append(markdown_image(self.answer.fields.prompt, place))
        self.text = "\n\n".join(filter(None, texts))

    # --- whole ------------------------------------------------------------------------------------------

    def body(self, status: Any, failure: ResponseFailure | None = None) -> ResponseBody:
        """The response as it is now."""
        output: list[ImageCall | OutputMessage] = []
        if status == "completed":
            output = [self.call("completed"), *([self.message()] if self.text else [])]
        return ResponseBody(
            id=f"resp_{self._token}",
            object="response",
            created_at=self.created,
            status=status,
            model=self.handler.config.model_name,
            output=output,
            tools=self.asked.tools,
            tool_choice="auto" if self.asked.tool_choice is None else self.asked.tool_choice,
            previous_response_id=self.asked.previous_response_id,
            store=self.asked.store,
            usage=self.usage() if status == "completed" else None,
            error=failure,
            incomplete_details=None,
            instructions=self.asked.instructions,
            metadata={},
            parallel_tool_calls=True,
            temperature=1.0,
            top_p=1.0,
        )

    def call(self, status: Any) -> ImageCall:
        """The picture, or its place."""
        info = self.answer.info
        return ImageCall(
            id=f"ig_{self._token}",
            type="image_generation_call",
            status=status,
            result=self.result,
            action="edit" if self.answer.job.request.images else "generate",
            seed=self.answer.job.seeds[0],
            revised_prompt=None,
            **{name: info[name] for name in ("background", "output_format", "quality", "size", "drawn_size")},
        )

    def message(self, status: Any = "completed") -> OutputMessage:
        """What is said beside the picture; nothing yet while it is in progress."""
        content = [_output_text(self.text)] if status == "completed" else []
        return OutputMessage(
            id=f"msg_{self._token}", type="message", status=status, role="assistant", content=content
        )

    def usage(self) -> ResponseUsage:
        """Tokens read and drawn."""
        usage = self.answer.usage(1)
        return ResponseUsage(
            input_tokens=usage.input_tokens,
            input_tokens_details=CachedTokens(cached_tokens=0),
            output_tokens=usage.output_tokens,
            output_tokens_details=ReasoningTokens(reasoning_tokens=0),
            total_tokens=usage.total_tokens,
        )

    # --- as a stream ------------------------------------------------------------------------------------

    def opening(self) -> list[str]:
        """Events before the picture."""
        call = {"output_index": 0, "item_id": f"ig_{self._token}"}
        return [
            self._event("response.created", response=self.body("in_progress")),
            self._event("response.in_progress", response=self.body("in_progress")),
            self._event("response.output_item.added", output_index=0, item=self.call("in_progress")),
            self._event("response.image_generation_call.in_progress", **call),
            self._event("response.image_generation_call.generating", **call),
        ]

    def preview(self, preview: Preview) -> str:
        """A rough look at the picture."""
        info, kind = self.answer.info, self.answer.fields.output_format
        return self._event(
            "response.image_generation_call.partial_image",
            output_index=0,
            item_id=f"ig_{self._token}",
            partial_image_index=preview.number,
            partial_image_b64=to_base64(write_image(preview.image, kind)),
            **{name: info[name] for name in ("background", "output_format", "quality", "size")},
        )

    def ending(self) -> list[str]:
        """Events once the picture is there."""
        lines = [
            self._event(
                "response.image_generation_call.completed", output_index=0, item_id=f"ig_{self._token}"
            ),
            self._event("response.output_item.done", output_index=0, item=self.call("completed")),
        ]
        if self.text:
            lines += self._saying()
        return [*lines, self._event("response.completed", response=self.body("completed"))]

    def _saying(self) -> list[str]:
        message = {"output_index": 1, "item_id": f"msg_{self._token}", "content_index": 0}
        text = "response.output_text"
        return [
            self._event("response.output_item.added", output_index=1, item=self.message("in_progress")),
            self._event("response.content_part.added", **message, part=_output_text("")),
            self._event(f"{text}.delta", **message, delta=self.text, logprobs=[]),
            self._event(f"{text}.done", **message, text=self.text, logprobs=[]),
            self._event("response.content_part.done", **message, part=_output_text(self.text)),
            self._event("response.output_item.done", output_index=1, item=self.message()),
        ]

    def failing(self, error: ApiError) -> list[str]:
        """Events where there will be no picture."""
        code = error.code or "server_error"
        failure = ResponseFailure(code=code, message=error.message)
        return [
            self._event("error", code=code, message=error.message, param=error.param),
            self._event("response.failed", response=self.body("failed", failure)),
        ]

    def _event(self, kind: str, **fields: Any) -> str:
        event = ResponseEvent(type=kind, sequence_number=self._sequence, **fields)
        self._sequence += 1
        return event_lines(kind, event)


def _tool(body: ResponsesRequest, limits: Limits) -> ImageTool | None:
    """The tool that draws, if the request names it; `ApiError` where another one must be called."""
    choice = body.tool_choice
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in (None, "auto", "required", TOOL, "allowed_tools"):
        raise invalid("tool_choice: this model draws and calls no other tool; use auto", "tool_choice")
    for name in ("tools", "tool_choice", "instructions"):
        _check_echo(getattr(body, name), name)
    if body.background:
        raise invalid("background: a response is drawn while its client waits; use stream", "background")
    for index, tool in enumerate(body.tools):
        if tool.get("type") == TOOL:
            try:
                return read_body(ImageTool, tool, limits)
            except ApiError as error:
                place = f"tools[{index}].{error.param}"
                raise ApiError(
                    400, f"tools[{index}]: {error.message}", param=place, code=error.code
                ) from error
    return None


def _check_echo(value: Any, name: str) -> None:
    """`ApiError` unless an answer can repeat what a client sent in this field.

    JSON can spell lone surrogates and numbers beyond a float's range, and nests deeper than is written back.
    """
    from pydantic import TypeAdapter

    try:
        plain = TypeAdapter(Any).dump_python([[[[value]]]])
        json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(f"{name} is nested too deeply or holds what no JSON text can", name) from error


def _of_image(content: str) -> ChatMessage:
    """An answer of the model that is a picture, given in base64."""
    address = ImageAddress(url=f"data:image/png;base64,{content}")
    return ChatMessage(role="assistant", images=[ImagePart(type="image_url", image_url=address)])


def _joined(one: ChatMessage, other: ChatMessage) -> ChatMessage:
    """Two messages of one turn as one."""
    texts = [TextPart(type="text", text=text) for message in (one, other) for text in message.texts]
    images = [*(one.images or []), *(other.images or [])]
    return ChatMessage(role=one.role, content=texts, images=images)


def _output_text(text: str) -> OutputText:
    return OutputText(type="output_text", text=text, annotations=[])
