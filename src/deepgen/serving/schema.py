"""Request bodies of every route, as pydantic models; those of answers are in `answers.py`.

They are the one source of validation (`bodies.py`) and of the OpenAPI document (`app.py`). JSON and multipart
forms carry the same fields. An unknown field is refused, because a misspelt `guidance_scale` that is ignored
costs more than an error. Bounds that each server sets for itself are marked `UpTo`, and `limited` makes the
models of a server from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from deepgen.data.image_files import Kind
from deepgen.extras import missing_extra
from deepgen.generation import MAX_SEED
from deepgen.sampling.presets import NAMES as PRESETS
from deepgen.sampling.solvers import NAMES as SOLVERS
from deepgen.serving.openai_fields import CHAT_IGNORED, MESSAGE_IGNORED, MODELS_WITH_URL

try:
    from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
except ImportError as error:
    raise missing_extra("serving needs pydantic", "serve", error) from error

MAX_SIDE = 99_999  # pixels, of a field
MAX_GUIDANCE = 100
# How many steps, as a share of the usual number; other names are the usual number.
_QUALITY = {"low": 0.5, "medium": 0.75, "xhigh": 1.5, "max": 2.0}

if TYPE_CHECKING:
    Preset = Solver = str
else:
    Preset, Solver = Literal[PRESETS], Literal[SOLVERS]  # what `sampling` knows

# Text is free of null characters; an empty prompt is one that was given on purpose.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Name = Annotated[Text, Field(max_length=512)]  # of texts that are no prompts
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
# The formats are our own: they stand for what a pattern cannot say of a size and of the bytes of an image. A
# pattern beside the format of an address would say less, and tools that make requests would go by it.
Size = Annotated[
    str, Field(pattern="^(auto|[0-9]{1,5}x[0-9]{1,5})$", json_schema_extra={"format": "picture-size"})
]
_ADDRESS = "data:image/png;base64,... of a whole picture; other addresses where the server fetches them"
Address = Annotated[str, Field(json_schema_extra={"format": "picture-address"})]
MaskAddress = Annotated[str, Field(json_schema_extra={"format": "mask-address"})]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_images: pictures drawn.
        max_references: pictures given to an edit.
        max_pixels: of a drawn picture.
        max_edit_pixels: of an edit that comes back as large as its first picture; with a mask, of that.
        max_reference_pixels: of a given picture, before it is scaled down.
        max_given_pixels: of all given pictures and the mask together, before they are scaled down.
        max_ratio: of the longer side of a given picture to the shorter one.
        max_prompt: characters of a prompt.
        max_steps: solver steps.
        max_body_mib: MiB of a request.
        max_bodies_mib: MiB of all requests together that are being sent or decoded.
        max_held_pixels: of all requests together: decoded pictures and masks, and those to be answered.
        body_timeout_s: seconds a client may take to send its request.
        send_timeout_s: seconds a client may take to read a piece of its answer.
        timeout_s: seconds until the pictures must be done.
    """

    max_images: int = 10
    max_references: int = 16
    max_pixels: int = 2048 * 2048
    max_edit_pixels: int = 12 * 2**20
    max_reference_pixels: int = 64_000_000
    max_given_pixels: int = 512_000_000
    max_ratio: int = 16
    max_prompt: int = 8000
    max_steps: int = 200
    max_body_mib: int = 128
    max_bodies_mib: int = 256
    max_held_pixels: int = 64 * 2**20
    body_timeout_s: float = 60.0
    send_timeout_s: float = 60.0
    timeout_s: float = 600.0

    @property
    def max_seed(self) -> int:
        """The largest first seed: those of a request's images count up from it."""
        return MAX_SEED - self.max_images


@dataclass(frozen=True)
class UpTo:
    """Marks a field whose upper bound is an attribute of `Limits`."""

    limit: str
    constraint: Literal["le", "max_length"] = "le"


Prompt = Annotated[Text, UpTo("max_prompt", "max_length")]


class Body(BaseModel):
    """What all request bodies have in common. Values are not converted: `"2"` is no number in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    ignored: ClassVar[frozenset[str]] = frozenset()  # names that may be given and change nothing

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        return {
            name: value
            for name, value in values.items()
            if (value is not None or name not in known) and name not in cls.ignored
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """The ignored names are part of what may be sent."""
        schema = handler(core_schema)
        found = handler.resolve_ref_schema(schema)
        for name in sorted(cls.ignored):
            found["properties"][name] = {"description": "ignored"}
        return schema


class DrawingFields(Body):
    """Fields of every request that draws, chats included; what is None is left to the model.

    `output_compression` matters to jpeg and webp; for png it changes nothing.
    """

    n: Annotated[int, Field(ge=1), UpTo("max_images")] = 1
    size: Size = "auto"
    height: Side | None = None
    width: Side | None = None
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] = "auto"
    output_format: Kind = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] = 100
    stream: bool = False
    seed: Annotated[int | None, Field(ge=0), UpTo("max_seed")] = None
    negative_prompt: Prompt = ""
    num_inference_steps: Annotated[int | None, Field(ge=1), UpTo("max_steps")] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=MAX_GUIDANCE)] = None
    true_cfg_scale: Annotated[
        float | None, Field(ge=0, le=MAX_GUIDANCE, description="another name of guidance_scale")
    ] = None
    preset: Preset | None = None
    solver: Solver | None = None
    keep_unchanged: bool | None = None
    lora: Annotated[str | None, Field(max_length=128)] = None
    safety_identifier: Name | None = None

    @property
    def sides(self) -> tuple[int | None, int | None]:
        """(height, width), given as `size` or by their names."""
        if self.size == "auto":
            return self.height, self.width
        width, height = map(int, self.size.split("x"))
        return height, width

    @property
    def scale(self) -> float | None:
        """The guidance scale, under either name."""
        return self.true_cfg_scale if self.guidance_scale is None else self.guidance_scale

    def steps(self, usual: int, limit: int) -> int:
        """Solver steps: what was asked, or the quality's share of the usual number, within the limit."""
        if self.num_inference_steps is not None:
            return self.num_inference_steps
        return min(limit, max(1, math.ceil(usual * _QUALITY.get(self.quality, 1.0))))


class ImageFields(DrawingFields):
    """Fields of the image routes.

    `partial_images` and `include_progress` matter to a stream, and `response_format` to an answer that is
    none; where they do not, they change nothing. The last four are known to clients and mean nothing here.
    """

    response_format: Literal["b64_json", "url"] | None = None
    background: Literal["auto", "opaque"] = "auto"
    partial_images: Annotated[int, Field(ge=0, le=3)] = 0
    include_progress: bool = False
    model: Name | None = None
    style: Name | None = None
    moderation: Name | None = None
    user: Name | None = None
    input_fidelity: Name | None = None

    @property
    def answer_form(self) -> Literal["b64_json", "url"]:
        """As asked for; without a word the file itself, or an address under the names that imply one."""
        return self.response_format or ("url" if self.model in MODELS_WITH_URL else "b64_json")


class ImageGenerationRequest(ImageFields):
    """Images from a prompt."""

    prompt: Prompt


class ImageReference(Body):
    """An image of an edit in JSON."""

    model_config = ConfigDict(extra="ignore")
    image_url: Annotated[Address, Field(description=_ADDRESS)]


class MaskReference(Body):
    """The mask of an edit in JSON: as large as the first image, transparent where that may change."""

    model_config = ConfigDict(extra="ignore")
    image_url: Annotated[MaskAddress, Field(description=_ADDRESS)]


class ImageEditRequest(ImageGenerationRequest):
    """Images from images and a prompt, as JSON."""

    images: Annotated[list[ImageReference], Field(min_length=1), UpTo("max_references", "max_length")]
    mask: MaskReference | None = None


class ImageEditForm(ImageGenerationRequest):
    """Images from images and a prompt, as a multipart form."""

    image: Annotated[list[bytes], Field(min_length=1), UpTo("max_references", "max_length")]
    mask: bytes | None = None


class ImageVariationForm(ImageFields):
    """Other versions of an image, as a multipart form."""

    prompt: ClassVar[str] = "Draw another version of this picture."
    image: Annotated[list[bytes], Field(min_length=1), UpTo("max_references", "max_length")]


# --- chat ---------------------------------------------------------------------------------------------------


class TextPart(Body):
    """Text in a message, in the words of either API."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["text", "input_text", "output_text"]
    text: Text


class ImageAddress(Body):
    """Where an image of a message is."""

    model_config = ConfigDict(extra="ignore")
    url: Annotated[Address, Field(description=_ADDRESS)]


class ImagePart(Body):
    """An image in a message."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["image_url"]
    image_url: ImageAddress


class InputImagePart(Body):
    """An image in a message, in the words of the Responses API; `file_id` names none that is kept here."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["input_image"]
    image_url: Annotated[Address | None, Field(description=_ADDRESS)] = None


class FileContent(Body):
    """A file of a message: a `data:` address, or base64 alone."""

    model_config = ConfigDict(extra="ignore")
    file_data: str | None = None
    filename: Name | None = None


class FilePart(Body):
    """A file in a message; a picture is one that can be edited."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["file"]
    file: FileContent


class InputFilePart(FileContent):
    """The same in the words of the Responses API."""

    type: Literal["input_file"]


class SilentPart(Body):
    """What a history may hold and says nothing of a picture."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["refusal", "input_audio"]


Part = Annotated[
    TextPart | ImagePart | InputImagePart | FilePart | InputFilePart | SilentPart,
    Field(discriminator="type"),
]


class ChatMessage(Body):
    """A message; `images` are those of an earlier answer."""

    ignored: ClassVar[frozenset[str]] = MESSAGE_IGNORED
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    images: list[ImagePart] | None = None

    @property
    def parts(self) -> list[tuple[str, Any]]:
        """Texts, images and files in their order, with their places, such as `content[0]`."""
        content = self.content
        if isinstance(content, str):
            content = [TextPart(type="text", text=content)]
        named = (("content", content or []), ("images", self.images or []))
        return [(f"{name}[{index}]", part) for name, parts in named for index, part in enumerate(parts)]

    @property
    def texts(self) -> list[str]:
        """What it says."""
        return [part.text for _, part in self.parts if isinstance(part, TextPart)]


_TEXT_PART = {"type": "object", "properties": {"type": {"enum": ["text", "input_text", "output_text"]}}}
# A message of the user that has text; an array's schema cannot say more about which of its items it is.
_TEXT_OF_THE_USER = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"const": "user"},
        "content": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "contains": _TEXT_PART},
            ]
        },
    },
}


class StreamOptions(Body):
    """Options of a stream; `include_obfuscation` changes nothing, because an answer is no secret text."""

    include_usage: bool | None = False
    include_obfuscation: bool | None = False


class ChatCompletionRequest(DrawingFields):
    """A chat whose last text of the user says what to draw.

    `content_images` says how the answer's text shows a picture: as a Markdown image with an address that
    works for an hour, with a `data:` address, or not at all; None leaves it to the server.
    """

    ignored: ClassVar[frozenset[str]] = CHAT_IGNORED
    messages: Annotated[
        list[ChatMessage], Field(min_length=1, json_schema_extra={"contains": _TEXT_OF_THE_USER})
    ]
    model: Name | None = None
    stream_options: StreamOptions | None = None
    content_images: Literal["url", "data", "none"] | None = None


# --- the models of a server ---------------------------------------------------------------------------------

B = TypeVar("B", bound=Body)


def limited(model: type[B], limits: Limits, loras: Sequence[str] = ()) -> type[B]:
    """The model with a server's own upper bounds, and the names of its LoRAs."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, UpTo):
                bound = Field(**{mark.constraint: getattr(limits, mark.limit)})
                kind: Any = Annotated[(field.annotation, *field.metadata, bound)]
                fields[name] = kind if field.is_required() else (kind, field.default)
    if loras:
        names: Any = Literal[tuple(loras)]
        fields["lora"] = (names | None, None)
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)
