"""What a conversation asks for: the prompt, and the pictures that are to be edited.

The last text of the user says what to draw. Images that come with it or after it are edited; where there are
none, those of the last answer are, so that "now make it blue" means what it says. A part that holds neither
text nor picture is refused where it stands beside that text, and passed over in what was said before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from deepgen.serving.errors import ApiError, invalid
from deepgen.serving.images import Fetch, ImageStore, read_address
from deepgen.serving.schema import (
    ChatCompletionRequest,
    ChatMessage,
    FileContent,
    FilePart,
    ImagePart,
    InputImagePart,
    TextPart,
)

# Of a chat, what is said about its answer and not about the pictures.
_OF_THE_ANSWER = {"messages", "stream_options", "content_images"}
_MARKDOWN_IMAGE = re.compile(r"!\[[^\]\n]{0,400}\]\((data:image/[^)\s]+|https?://[^)\s]{1,500})\)")


def read_chat(body: ChatCompletionRequest, fetch: Fetch | None) -> tuple[dict[str, Any], list[bytes]]:
    """(fields of a request for images, images to edit) of a chat; fetching may take a while."""
    prompt, images = read_messages(body.messages, fetch)
    fields = {name: getattr(body, name) for name in body.model_fields_set - _OF_THE_ANSWER}
    return {**fields, "prompt": prompt}, images


def read_messages(
    messages: Sequence[ChatMessage], fetch: Fetch | None, name: str = "messages"
) -> tuple[str, list[bytes]]:
    """(prompt, images to edit); `name` is the field they came in, for errors."""
    said = [
        (index, "\n".join(filter(None, message.texts)))
        for index, message in enumerate(messages)
        if message.role == "user" and message.texts
    ]
    if not said:
        raise invalid("no message of the user says what to draw", name)
    # Where every text is empty, an empty prompt was given.
    last, prompt = next(((index, text) for index, text in reversed(said) if text.strip()), said[-1])
    given = [
        one
        for index in range(last, len(messages))
        if messages[index].role == "user"
        for one in _addresses(messages[index], f"{name}[{index}]")
    ]
    if not given:
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        given = _answered(messages[answers[-1]], f"{name}[{answers[-1]}]") if answers else []
    return prompt, [read_address(url, param, fetch) for url, param in given]


def _addresses(message: ChatMessage, place: str) -> list[tuple[str, str]]:
    """(address, name of the field) of the images of a message that is to be drawn."""
    found = []
    for part_place, part in message.parts:
        param = f"{place}.{part_place}"
        if isinstance(part, TextPart):
            continue
        address = _address(part)
        if address is None:
            raise _unreadable(part, param)
        found.append((address, param))
    return found


def _answered(message: ChatMessage, place: str) -> list[tuple[str, str]]:
    """The same of an earlier answer: its image parts, or what its text shows of this server's pictures."""
    parts = [(_address(part), f"{place}.{part_place}") for part_place, part in message.parts]
    found = [(address, param) for address, param in parts if address is not None]
    if found:
        return found
    shown = [match[1] for text in message.texts for match in _MARKDOWN_IMAGE.finditer(text)]
    return [
        (address, f"{place}.content")
        for address in shown
        if address.startswith("data:") or ImageStore.name_in(address)
    ]


def _address(part: Any) -> str | None:
    """Where the picture of a part is; None where it has none."""
    if isinstance(part, ImagePart):
        return part.image_url.url
    if isinstance(part, InputImagePart):
        return part.image_url
    content = part.file if isinstance(part, FilePart) else part
    if not isinstance(content, FileContent) or not content.file_data:
        return None
    if not content.file_data.startswith("data:"):  # base64 alone; what it is shows in its bytes
        return f"data:application/octet-stream;base64,{content.file_data}"
    return content.file_data if content.file_data.startswith("data:image/") else None


def _unreadable(part: Any, param: str) -> ApiError:
    if isinstance(part, InputImagePart | FilePart | FileContent):
        message = f"{param} must hold a picture as data:image/...;base64,...; files by id are not kept here"
    else:
        message = f"{param}: a part of type {part.type} cannot be read; send texts and pictures"
    return invalid(message, param)
