"""Chat messages as requests for pictures, and pictures as a chat's answer.

The last words of the user say what to draw. Pictures that come with them or after them are edited; where
there are none, those of the last answer are, so that "now make it blue" means what it says. Answers carry
pictures under `images`, as `image_url` parts, the form in which routers and front ends expect them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepgen.serving.errors import invalid
from deepgen.serving.fields import check_text
from deepgen.serving.images import read_address

# What a chat may say of its pictures; the many other fields of chat requests mean nothing here.
IMAGE_FIELDS = (
    *("n", "size", "quality", "seed", "negative_prompt", "lora", "num_inference_steps", "guidance_scale"),
    *(
        "true_cfg_scale",
        "height",
        "width",
        "preset",
        "solver",
        "output_format",
        "output_compression",
        "stream",
        "safety_identifier",
    ),
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def read_chat(
    values: dict[str, Any], fetch: Callable[[str, str], bytes] | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Fields of a request for pictures, and the pictures to edit; `ApiError` 400 names what is wrong."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list that says what to draw", "messages")
    parts = [_read_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    texts = [(index, text) for index, (role, text, _) in enumerate(parts) if role == "user"]
    said = [(index, text) for index, text in texts if text is not None]
    if not said:
        raise invalid("no message of the user says what to draw", "messages")
    # The last words; where every text is empty, an empty prompt was given.
    last, prompt = next(((index, text) for index, text in reversed(said) if text.strip()), said[-1])
    addresses = [place for role, _, images in parts[last:] if role == "user" for place in images]
    if not addresses:
        answers = (images for role, _, images in reversed(parts) if role == "assistant")
        addresses = next(answers, [])
    fields = {name: values[name] for name in IMAGE_FIELDS if name in values}
    return {**fields, "prompt": prompt}, [read_address(url, param, fetch) for url, param in addresses]


def _read_message(message: Any, param: str) -> tuple[str, str | None, list[tuple[Any, str]]]:
    """(role, text or None where there is none, addresses of pictures with the names of their fields)."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise invalid(f"{param} must be an object with a role and content", param)
    content = message.get("content")
    if content is None or isinstance(content, str):
        content = [] if content is None else [{"type": "text", "text": content}]
    more = message.get("images") or []
    if not isinstance(content, list) or not isinstance(more, list):
        raise invalid(f"{param}: content must be text or a list of parts", f"{param}.content", "invalid_type")
    texts: list[str] = []
    addresses: list[tuple[Any, str]] = []
    for index, part in enumerate([*content, *more]):
        place = f"{param}.content[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(check_text(part["text"], place))
        elif kind == "image_url" and isinstance(part.get("image_url"), dict):
            addresses.append((part["image_url"].get("url"), place))
        else:
            raise invalid(f"{place} must be a text or an image_url", place)
    return message["role"], "\n".join(text for text in texts if text) if texts else None, addresses


def reply(
    chat_id: str, created: int, model: str, images: list[str], usage: dict[str, Any], content: str = ""
) -> dict[str, Any]:
    """A whole answer with pictures, `data:` addresses, and what is said about them."""
    message = {"role": "assistant", "content": content, "images": _parts(images)}
    return {
        "id": chat_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": _usage(usage),
    }


def chunk(
    chat_id: str,
    created: int,
    model: str,
    images: list[str] | None = None,
    finish: str | None = None,
    content: str = "",
) -> dict[str, Any]:
    """A piece of a streamed answer: its opening with what is said, pictures, or its end."""
    delta: dict[str, Any] = {} if finish else {"role": "assistant", "content": content}
    if images:
        delta["images"] = _parts(images)
    return {
        "id": chat_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}],
    }


def _parts(images: list[str]) -> list[dict[str, Any]]:
    return [{"type": "image_url", "index": i, "image_url": {"url": url}} for i, url in enumerate(images)]


def _usage(usage: dict[str, Any]) -> dict[str, int]:
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }
