"""The OpenAPI document, written from the limits, so that it says what this server does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepgen._version import __version__
from deepgen.generation import MAX_SEED
from deepgen.sampling.presets import NAMES as PRESETS
from deepgen.serving.chat import IMAGE_FIELDS, ROLES
from deepgen.serving.fields import (
    FORMATS,
    IGNORED,
    MAX_GUIDANCE,
    MAX_NAME,
    MAX_PREVIEWS,
    MAX_SIDE,
    QUALITIES,
    RESPONSE_FORMATS,
    SOLVERS,
    Limits,
)

# Text is free of null characters; an empty prompt is one that was given on purpose.
_TEXT = {"type": "string", "pattern": r"^[^\x00]*$"}
_IN_A_FORM = ["string", "number", "boolean"]  # a text that looks like a number is a text all the same
# The formats are our own: what a pattern cannot say of a size and of a picture's bytes.
_SIZE = {"type": "string", "format": "picture-size", "pattern": "^(auto|[0-9]{1,5}x[0-9]{1,5})$"}
# A pattern beside the format of a picture would say less than the format, and tools that make requests of the
# document would go by it.
_ADDRESS = {"type": "string", "format": "picture-address"}
_MASK = {"type": "string", "format": "mask-address"}
_ADDRESS_IS = "data:image/png;base64,... of a whole picture; other addresses where the server fetches them"


def document(limits: Limits, loras: Sequence[str] = ()) -> dict[str, Any]:
    """OpenAPI 3.1 of the routes that draw and those that tell about the server."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "deepgen", "version": __version__},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error(), "Images": _images(), "Event": _one_event()},
        },
        "security": [{}, {"key": []}],
        "paths": {
            **_drawing_paths(limits, loras),
            "/v1/models": {"get": _tells("The model")},
            "/health": {"get": _tells("Whether the process works")},
            "/ready": {"get": _tells("Whether new requests are taken", busy=True)},
        },
    }


def _drawing_paths(limits: Limits, loras: Sequence[str]) -> dict[str, Any]:
    """The routes that draw."""
    draw, draw_form = _properties(limits, loras, True), _properties(limits, loras, False)
    prompt = {**_TEXT, "maxLength": limits.max_prompt}
    edit_form, edit_json = _edits(limits, draw, draw_form)
    generation = {"application/json": {"schema": _object({"prompt": prompt, **draw}, ["prompt"])}}
    edit = {"multipart/form-data": {"schema": edit_form}, "application/json": {"schema": edit_json}}
    variation = _object({**_files(limits), **draw_form}, ["image"])
    chat = {"application/json": {"schema": _chat(draw)}}
    return {
        "/v1/images/generations": {"post": _draws("Pictures from words", generation)},
        "/v1/images/edits": {"post": _draws("Pictures from pictures and words", edit)},
        "/v1/images/variations": {
            "post": _draws("Other versions of a picture", {"multipart/form-data": {"schema": variation}})
        },
        "/v1/chat/completions": {"post": _draws("Pictures in a chat", chat, "object")},
    }


def _files(limits: Limits) -> dict[str, Any]:
    """The pictures of a form."""
    item = {"type": "string", "format": "binary"}
    return {"image": {"type": "array", "items": item, "minItems": 1, "maxItems": limits.max_references}}


def _edits(
    limits: Limits, draw: dict[str, Any], draw_form: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An edit as a form, and as JSON."""
    prompt = {**_TEXT, "maxLength": limits.max_prompt}
    reference, mask_reference = (
        {
            "type": "object",
            "description": text,
            "required": ["image_url"],
            "properties": {"image_url": address},
        }
        for address, text in (
            (_ADDRESS, _ADDRESS_IS),
            (_MASK, f"{_ADDRESS_IS}; as large as the first picture, transparent where it may change"),
        )
    )
    mask = {"mask": {"type": "string", "format": "binary"}}
    edit_form = _object(
        {"prompt": {**prompt, "type": _IN_A_FORM}, **_files(limits), **mask, **draw_form}, ["prompt", "image"]
    )
    edit_json = _object(
        {
            "prompt": prompt,
            "images": {
                "type": "array",
                "items": reference,
                "minItems": 1,
                "maxItems": limits.max_references,
            },
            "mask": {"anyOf": [mask_reference, {"type": "null"}]},
            **draw,
        },
        ["prompt", "images"],
    )
    return edit_form, edit_json


def _properties(limits: Limits, loras: Sequence[str], is_json: bool) -> dict[str, Any]:
    """Fields of every request that draws; in JSON, null stands for the default; in a form all is text."""
    fields: dict[str, dict[str, Any]] = {
        "n": {"type": "integer", "minimum": 1, "maximum": limits.max_images},
        "size": {**_SIZE},
        "quality": {"type": "string", "enum": list(QUALITIES)},
        "output_format": {"type": "string", "enum": list(FORMATS)},
        "output_compression": {"type": "integer", "minimum": 0, "maximum": 100},
        "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS)},
        "background": {"type": "string", "enum": ["auto", "opaque"]},
        "stream": {"type": "boolean"},
        "partial_images": {"type": "integer", "minimum": 0, "maximum": MAX_PREVIEWS},
        "include_progress": {"type": "boolean"},
        "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED - limits.max_images},
        "negative_prompt": {**_TEXT, "maxLength": limits.max_prompt},
        "num_inference_steps": {"type": "integer", "minimum": 1, "maximum": limits.max_steps},
        "height": {"type": "integer", "minimum": 1, "maximum": MAX_SIDE},
        "width": {"type": "integer", "minimum": 1, "maximum": MAX_SIDE},
        "preset": {"type": "string", "enum": list(PRESETS)},
        "solver": {"type": "string", "enum": list(SOLVERS)},
        "guidance_scale": {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE},
        "true_cfg_scale": {"type": "number", "minimum": 0, "maximum": MAX_GUIDANCE},
    }
    if loras:
        fields["lora"] = {"type": "string", "enum": list(loras)}
    for name in IGNORED:
        fields[name] = {**_TEXT, "maxLength": MAX_NAME}
    for name in () if is_json else ("negative_prompt", *IGNORED):
        fields[name]["type"] = _IN_A_FORM
    for schema in fields.values() if is_json else ():
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return fields


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _chat(draw: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "object", "required": ["type", "text"]}
    text["properties"] = {"type": {"const": "text"}, "text": _TEXT}
    image = {"type": "object", "required": ["type", "image_url"]}
    address = {"type": "object", "required": ["url"], "properties": {"url": _ADDRESS}}
    image["properties"] = {"type": {"const": "image_url"}, "image_url": address}
    parts = {"type": "array", "items": {"anyOf": [text, image]}, "minItems": 1}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": list(ROLES)},
            "content": {"anyOf": [_TEXT, parts]},
        },
    }
    properties = {name: draw[name] for name in IMAGE_FIELDS if name in draw}
    words = {"type": "object", "required": ["type", "text"]}
    words["properties"] = {"type": {"const": "text"}, "text": _TEXT}
    says = {"anyOf": [_TEXT, {"type": "array", "contains": words}]}
    asks = {"type": "object", "required": ["role", "content"]}
    asks["properties"] = {"role": {"const": "user"}, "content": says}
    messages = {"type": "array", "items": message, "minItems": 1, "contains": asks}
    return {"type": "object", "required": ["messages"], "properties": {**properties, "messages": messages}}


def _draws(summary: str, content: dict[str, Any], answer: str = "Images") -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Images"} if answer == "Images" else {"type": answer}
    answers = {
        "200": {
            "description": "the pictures, or their events where stream is true",
            "content": {
                "application/json": {"schema": schema},
                "text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}},
            },
        }
    }
    statuses = {
        "400": "a field is wrong",
        "401": "the API key is missing or unknown",
        "403": "a page of another origin asked",
        "408": "the request took too long to arrive",
        "413": "the request is too large",
        "415": "the content type is another",
        "429": "the queue is full",
        "500": "drawing failed",
        "503": "the server is shutting down",
        "504": "the pictures were not done in time",
    }
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {**answers, **{status: _refusal(text) for status, text in statuses.items()}},
    }


def _tells(summary: str, busy: bool = False) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    answers: dict[str, Any] = {"200": {"description": "as asked", "content": content}}
    answers["503"] = {"description": "not now", "content": content}
    if not busy:
        answers["401"] = _refusal("the API key is missing or unknown")
    return {"summary": summary, "responses": answers}


def _refusal(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _one_event() -> dict[str, Any]:
    text = {"type": "string"}
    about = "one event of the stream; data is JSON, but for the [DONE] at the end"
    return {"type": "object", "description": about, "properties": {"event": text, "data": text}}


def _error() -> dict[str, Any]:
    text, maybe = {"type": "string"}, {"type": ["string", "null"]}
    error = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {"message": text, "type": text, "param": maybe, "code": maybe},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _images() -> dict[str, Any]:
    maybe = {"type": ["string", "null"]}
    entry = {
        "type": "object",
        "properties": {"b64_json": maybe, "url": maybe, "revised_prompt": maybe, "seed": {"type": "integer"}},
    }
    return {
        "type": "object",
        "required": ["created", "data"],
        "properties": {
            "created": {"type": "integer"},
            "data": {"type": "array", "items": entry},
            "size": {"type": "string"},
            "drawn_size": {"type": "string"},
            "quality": {"type": "string"},
            "background": {"type": "string"},
            "output_format": {"type": "string"},
            "usage": {"type": "object"},
            "warnings": {"type": "array", "items": {"type": "string"}},
        },
    }
