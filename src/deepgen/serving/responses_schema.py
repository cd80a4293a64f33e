"""Bodies of `/v1/responses`: the route by which OpenAI's clients draw in a conversation, with a tool.

A request becomes a chat (`conversation.py`) and fields of an image (`schema.py`); an answer holds the picture
as a call of the tool `image_generation`, which the model made, and what is said about it as a message.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from deepgen.data.image_files import Kind
from deepgen.serving.errors import ResponseModel
from deepgen.serving.openai_fields import RESPONSES_IGNORED
from deepgen.serving.schema import Body, DrawingFields, MaskReference, Name, Part, Text

try:
    from pydantic import ConfigDict, Field
except ImportError as error:
    from deepgen.extras import missing_extra

    raise missing_extra("serving needs pydantic", "serve", error) from error

TOOL = "image_generation"
PartialImages = Annotated[int, Field(ge=0, le=3)]


class InputItem(Body):
    """An item of a conversation: a message, a picture that was drawn, or what the two do not need.

    Attributes:
        type: `message`, `image_generation_call`, `item_reference` or another of OpenAI's.
        role: of a message.
        content: of a message.
        id: of a picture that this server still keeps.
        result: of a picture, its file in base64.
    """

    model_config = ConfigDict(extra="ignore")
    type: Name = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | list[Part] | None = None
    id: Name | None = None
    result: str | None = None


class ImageTool(Body):
    """The tool, with how it is to draw. `action` decides whether earlier pictures are edited."""

    ignored: ClassVar[frozenset[str]] = frozenset({"input_fidelity", "moderation"})
    type: Literal["image_generation"]
    action: Literal["auto", "generate", "edit"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    input_image_mask: MaskReference | None = None
    model: Name | None = None
    output_compression: int | None = None
    output_format: Kind | None = None
    partial_images: PartialImages | None = None
    quality: Name | None = None
    size: Name | None = None


class ResponsesRequest(DrawingFields):
    """A conversation whose last text of the user says what to draw.

    Fields of the tool stand in `tools`, or, as those of our own, beside `input`.
    """

    ignored: ClassVar[frozenset[str]] = RESPONSES_IGNORED
    input: Text | Annotated[list[InputItem], Field(min_length=1)]
    model: Name | None = None
    instructions: Any = None
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None
    previous_response_id: Name | None = None
    store: bool = True
    background: bool = Field(False, json_schema_extra={"const": False})
    partial_images: PartialImages = 0


# --- answers ------------------------------------------------------------------------------------------------


class ImageCall(ResponseModel):
    """The picture, or the place where it will be: a call of the tool; `result` is its file in base64."""

    id: str
    type: Literal["image_generation_call"] = "image_generation_call"
    status: Literal["in_progress", "generating", "completed", "failed"]
    result: str | None = None
    action: Literal["generate", "edit"]
    background: str
    output_format: str
    quality: str
    size: str
    drawn_size: str
    seed: int
    revised_prompt: str | None = None


class OutputText(ResponseModel):
    """A text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]


class OutputMessage(ResponseModel):
    """What is said beside the picture; it shows the picture where the request named no tool."""

    id: str
    type: Literal["message"]
    status: Literal["in_progress", "completed"]
    role: Literal["assistant"]
    content: list[OutputText]


class ResponseFailure(ResponseModel):
    """Why a stream ended without a picture."""

    code: str
    message: str


class CachedTokens(ResponseModel):
    """Tokens that were read before; none are."""

    cached_tokens: int


class ReasoningTokens(ResponseModel):
    """Tokens of a reasoning; there is none."""

    reasoning_tokens: int


class ResponseUsage(ResponseModel):
    """Tokens read and drawn, in the words of this route."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseBody(ResponseModel):
    """The answer."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "failed"]
    model: str
    output: list[ImageCall | OutputMessage]
    tools: list[dict[str, Any]]
    tool_choice: Any
    previous_response_id: str | None
    store: bool
    usage: ResponseUsage | None
    error: ResponseFailure | None
    incomplete_details: None
    instructions: Any
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    temperature: float
    top_p: float


class ResponseEvent(ResponseModel):
    """An event of a stream; which of the other fields there are depends on `type`."""

    type: str
    sequence_number: int
    response: ResponseBody | None = None
    output_index: int = 0
    item_id: str = ""
    item: ImageCall | OutputMessage | None = None
    content_index: int = 0
    part: OutputText | None = None
    delta: str = ""
    text: str = ""
    logprobs: list[Any] = []
    partial_image_index: int = 0
    partial_image_b64: str = ""
    background: str = ""
    output_format: str = ""
    quality: str = ""
    size: str = ""
    code: str | None = None
    message: str = ""
    param: str | None = None
