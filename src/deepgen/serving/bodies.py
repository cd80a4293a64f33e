"""Bodies of requests: read within the limits, and validated by the models of `schema.py`.

A body is read no further than the size limit and no longer than the time limit. What pydantic finds wrong is
said in our own sentences, which name the field, what came and what is expected.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args, get_origin

from deepgen.generation import nearest_name
from deepgen.json_values import read_json_text, unicode_fault, writable
from deepgen.prompt_text import check_prompt
from deepgen.serving.errors import ApiError, invalid
from deepgen.serving.images import Fetch, read_address
from deepgen.serving.references import ReferenceFiles
from deepgen.serving.schema import (
    B,
    ChatMessage,
    DrawingFields,
    ImageEditRequest,
    ImageVariationForm,
    Limits,
)
from deepgen.suggestions import suggestion

# Names under which clients send the images of an edit.
IMAGE_PARTS = ("image", "image[]", "images", "images[]")
_MAX_FIELDS = 64  # of a form, files not counted
_MAX_FIELD_MIB = 1  # of a field that is no file

_JSON_COPIES = 2  # of a body while it is read and its pictures are decoded: as text, and as bytes of files

_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
_TRUTHS = {"true": True, "false": False}
# What a value must be, by the type of pydantic's error.
_TYPES = {
    "string_type": "text",
    "literal_error": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
}


def content_type(request: Any) -> str:
    """The media type without its parameters, in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Any, limits: Limits) -> dict[str, Any]:
    """A JSON object; `ApiError` where there is something else."""
    if content_type(request) != "application/json":
        raise ApiError(415, "send application/json", code="unsupported_media_type")
    body = bytearray()

    async def collect() -> None:
        async for chunk in _limited(request, limits):
            body.extend(chunk)

    await _in_time(collect(), limits)
    try:
        request.state.memory.bodies.add(_JSON_COPIES * len(body))
        values = read_json_text(bytes(body))
    except ValueError as error:
        raise invalid("the body is no valid JSON", code="invalid_json") from error
    if not isinstance(values, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return values


async def read_form(request: Any, limits: Limits) -> tuple[dict[str, Any], ReferenceFiles]:
    """(fields of a multipart form, its files): the fields count the files and do not hold them.

    Large files are on the disk until they are decoded.

    Raises:
        ApiError: the form is damaged, repeats a field or brings too much.
    """
    from python_multipart.exceptions import FormParserError
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    if content_type(request) != "multipart/form-data":
        raise ApiError(415, "send multipart/form-data or application/json", code="unsupported_media_type")
    parser = MultiPartParser(
        request.headers,
        _limited(request, limits),
        max_files=limits.max_references + 2,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_MIB << 20,
    )
    try:
        parts = await _in_time(parser.parse(), limits)
    except (MultiPartException, FormParserError, ValueError, LookupError) as error:
        raise _refused_form(parser, error) from error
    values: dict[str, Any] = {}
    files = ReferenceFiles()
    try:
        for name, part in parts.multi_items():
            shown = shown_text(name)
            if not isinstance(part, UploadFile):
                if name in values or name in IMAGE_PARTS or name == "mask":
                    what = "must be a file" if name in IMAGE_PARTS or name == "mask" else "is given twice"
                    raise invalid(f"{shown} {what}", shown, "invalid_form")
                values[name] = part
            elif name in IMAGE_PARTS:
                values.setdefault("image", []).append(b"")
                files.images.append(part.file)
            elif name == "mask":
                if name in values:
                    raise invalid("mask is given twice", name, "invalid_form")
                values[name], files.mask = b"", part.file
            else:
                raise invalid(f"unexpected file {shown!r}", shown, "unknown_parameter")
    except ApiError:
        await parts.close()
        raise
    return values, files


def _refused_form(parser: Any, error: Exception) -> ApiError:
    """About a form that Starlette's parser gave up: which part exceeded which limit, or what is damaged."""
    name = shown_text(getattr(parser._current_part, "field_name", ""))
    if parser._current_files > parser.max_files:
        message = (
            f"file {name!r} is number {parser._current_files} of the form; the limit is {parser.max_files}"
        )
    elif parser._current_fields > parser.max_fields:
        message = (
            f"field {name!r} is number {parser._current_fields} of the form; the limit is {parser.max_fields}"
        )
    elif str(error).startswith("Part exceeded"):
        message = (
            f"field {name!r} is larger than {_MAX_FIELD_MIB} MiB; send a picture as a file, with a filename"
        )
    else:
        return invalid(f"the multipart body is damaged: {str(error).rstrip('.')}", code="invalid_form")
    return invalid(message, name or None, "invalid_form")


async def _limited(request: Any, limits: Limits) -> AsyncIterator[bytes]:
    """The body in pieces, whatever its header claims."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.max_body_mib << 20:
            raise ApiError(
                413, f"the request is larger than {limits.max_body_mib} MiB", code="request_too_large"
            )
        yield chunk


async def _in_time(reading: Any, limits: Limits) -> Any:
    from starlette.requests import ClientDisconnect

    try:
        return await asyncio.wait_for(reading, limits.body_timeout_s)
    except TimeoutError as error:
        raise ApiError(408, "the request took too long to arrive", code="request_timeout") from error
    except ClientDisconnect as error:
        raise ApiError(499, "the client left before its request was complete", code="cancelled") from error


# --- validation ---------------------------------------------------------------------------------------------


def read_body(model: type[B], given: Mapping[str, Any], limits: Limits, *, is_form: bool = False) -> B:
    """The body as a model; `ApiError` names what is wrong.

    Args:
        model: of `schema.py`, with the server's bounds (`limited`).
        given: names and values; in a form, numbers and truths are text.
        limits: what may be asked.
        is_form: read numbers and truths from text.
    """
    from pydantic import ValidationError

    if not is_form:
        given = with_extra_body(given)
    try:
        body = model.model_validate(plain_values(model, given, is_form=is_form))
    except ValidationError as error:
        raise _refusal(model, error) from error
    if isinstance(body, DrawingFields):
        _check_size(body, limits)
    return body


def with_extra_body(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a nested `extra_body` beside the others.

    It is an argument of the OpenAI clients, which unpack it; programs that speak HTTP by themselves often
    send it as it is.
    """
    extra = given.get("extra_body")
    if extra is None:
        return {name: value for name, value in given.items() if name != "extra_body"}
    if not isinstance(extra, Mapping):
        raise invalid(f"extra_body must be an object, got {_kind(extra)}", "extra_body", "invalid_type")
    merged = {name: value for name, value in given.items() if name != "extra_body"}
    for name, value in extra.items():
        if name in merged and merged[name] != value:
            shown = shown_text(name)
            raise invalid(f"{shown} is given twice, once in extra_body; leave out one of them", shown)
        merged[name] = value
    return merged


def plain_values(model: type[B], given: Mapping[str, Any], *, is_form: bool) -> dict[str, Any]:
    """The values as the types of their fields where that loses nothing; the others as they came."""
    kinds = _kinds(model)
    return {writable(name): _plain(value, kinds.get(name), is_form) for name, value in given.items()}


def _check_size(body: DrawingFields, limits: Limits) -> None:
    """What needs more than one field to be known."""
    height, width = body.sides
    if body.size == "auto":
        if (height or 1) * (width or 1) > limits.max_pixels:
            raise invalid(
                f"{width or 1}x{height or 1} has more than the {limits.max_pixels:,} pixels allowed", "height"
            )
        return
    if body.height is not None or body.width is not None:
        raise invalid("size says height and width; leave out one or the other", "size")
    if not height or not width:
        raise invalid(f"size {body.size} has no pixels", "size")
    if height * width > limits.max_pixels:
        raise invalid(f"size {body.size} has more than the {limits.max_pixels:,} pixels allowed", "size")


@lru_cache(maxsize=64)  # a server's models are made anew when adapters come and go
def _kinds(model: type[B]) -> dict[str, type]:
    """Fields that hold a number or a truth."""
    found = {name: _types(field.annotation) for name, field in model.model_fields.items()}
    return {name: kind for name, types in found.items() for kind in (int, float, bool) if kind in types}


def _types(annotation: Any) -> set[Any]:
    """The plain types of an annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _types(arguments[0])
    if origin is Literal or not arguments:
        return {annotation}
    return set().union(*map(_types, arguments))


def _plain(value: Any, kind: type | None, is_form: bool) -> Any:
    """The value as its type where that loses nothing: text in a form, 2.0 for a whole number."""
    if is_form and isinstance(value, str):
        if kind is bool:
            return _TRUTHS.get(value.lower(), value)
        if kind is int and _WHOLE.fullmatch(value):
            return int(value)
        if kind is float and _NUMBER.fullmatch(value):
            return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and type(value) is int and abs(value) >= 1e300:
        return math.inf if value > 0 else -math.inf  # JSON can spell numbers that a float cannot hold
    return value


def _refusal(model: type[B], error: Any) -> ApiError:
    """What is said about the first problem."""
    problems = error.errors(include_url=False)
    # Every branch of a union has an error; the one that went furthest into the value says most.
    first = problems[0]["loc"]
    depth = 2 if len(first) > 1 and isinstance(first[1], int) else 1  # an item of a list, or the whole field
    alike = [problem for problem in problems if problem["loc"][:depth] == first[:depth]]
    problem = max(alike, key=lambda problem: len(problem["loc"]))
    name = str(problem["loc"][0])
    if name not in model.model_fields:
        return _unknown(model, name)
    if name in ("messages", "input"):
        return _of_message(problem)
    if name in ("images", "mask", "image", "input_image_mask"):
        return _of_reference(problem)
    return _of_value(model, problem)


def _unknown(model: type[B], name: str) -> ApiError:
    shown, known = shown_text(name), sorted(model.model_fields)
    if issubclass(model, ImageVariationForm) and name in ("prompt", "mask"):
        message = f"a variation takes no {name}; use /v1/images/edits"
    else:
        near = nearest_name(name[:64], known)
        if name == "extra_body":  # of a form, whose parts are texts
            near = "; its fields are parts of their own in a form"
        message = f"unknown field {shown!r}{near}; known: {', '.join(known)}"
    return invalid(message, shown, "unknown_parameter")


def _of_value(model: type[B], problem: Any) -> ApiError:
    """About a text, a number, a truth or a choice."""
    name, kind, value = str(problem["loc"][0]), problem["type"], problem["input"]
    if kind == "missing":
        return invalid(_missing(name), name, "missing_required_parameter")
    if kind in _TYPES and (kind != "literal_error" or not isinstance(value, str)):
        place = name + "".join(f"[{part}]" for part in problem["loc"] if isinstance(part, int))
        return invalid(f"{place} must be {_TYPES[kind]}, got {_kind(value)}", place, "invalid_type")
    if kind == "literal_error":
        if name == "background" and value == "transparent":
            return invalid("background: this model draws no transparent pictures; use opaque", name)
        known = _choices(model.model_fields[name].annotation)
        near = suggestion(value[:64], known)
        return invalid(f"unknown {name} {shown_text(value)!r}{near}; known: {', '.join(known)}", name)
    if kind == "string_too_long":
        limit = problem["ctx"]["max_length"]
        message = f"{name} has {len(value)} characters; the limit is {limit}"
        return invalid(message, name, "string_too_long")
    if name == "size":
        return invalid(f"size {shown_text(value)!r} is not WIDTHxHEIGHT, such as 768x512, or auto", name)
    if kind in ("string_pattern_mismatch", "string_unicode"):
        return _of_text(value, name)
    if name == "stream_options":
        message = f"{name} must be an object with include_usage, true or false"
        return invalid(message, name, "unknown_parameter" if kind == "extra_forbidden" else "invalid_type")
    schema = model.model_json_schema()["properties"][name]
    schema = schema.get("anyOf", [schema])[0]
    low, high = _number(schema["minimum"]), _number(schema["maximum"])
    return invalid(f"{name} must be between {low} and {high}, got {_number(value)}", name)


def _of_text(value: str, name: str) -> ApiError:
    """About a text with characters that nothing can draw or write."""
    if "\0" in value:
        return invalid(f"{name} holds a null character", name)
    if (place := unicode_fault(value)) is not None:  # lone surrogates, which JSON can spell
        return invalid(f"{name} is not valid Unicode at character {place}", name)
    raise AssertionError(f"{name}: nothing is wrong with {value!r}")


def _of_reference(problem: Any) -> ApiError:
    """About the images of an edit, or its mask."""
    loc, kind = problem["loc"], problem["type"]
    place = f"{loc[0]}[{loc[1]}]" if len(loc) > 1 and isinstance(loc[1], int) else str(loc[0])
    if kind == "too_long":
        counts = problem["ctx"]
        return invalid(f"{counts['actual_length']} pictures; the limit is {counts['max_length']}", place)
    if loc == ("image",):
        return invalid("image is missing; send one file or several", place, "missing_required_parameter")
    if loc == ("images",) and kind in ("missing", "too_short"):
        message = "images is missing; send a list of objects with image_url"
        return invalid(message, place, "missing_required_parameter")
    if loc == ("images",):
        return invalid("images must be a list of objects with image_url", place, "invalid_type")
    if kind == "missing" or loc[-1] != "image_url":
        return invalid(f"{place} must be an object with image_url; files by id are not kept here", place)
    place = f"{place}.image_url"
    return invalid(f"{place} must be a data: address in text", place, "invalid_type")


def _of_message(problem: Any) -> ApiError:
    """About the messages of a chat, or the input of a response."""
    loc, kind = problem["loc"], problem["type"]
    indices, name = [part for part in loc if isinstance(part, int)], loc[0]
    if not indices and kind in ("string_pattern_mismatch", "string_unicode"):
        return _of_text(problem["input"], name)
    if not indices:
        what = "a list" if name == "messages" else "text or a list"
        return invalid(f"{name} must be {what} that says what to draw", name)
    place = f"{name}[{indices[0]}]"
    if kind == "extra_forbidden":
        unknown = str(loc[-1])
        near = nearest_name(unknown[:64], sorted(ChatMessage.model_fields))
        shown = f"{place}.{shown_text(unknown)}"
        return invalid(f"unknown field {shown!r} in a message{near}", shown, "unknown_parameter")
    field = next((name for name in ("content", "images") if name in loc), None)
    if field is None:
        return invalid(f"{place} must be an object with a role and content", place)
    if kind in ("string_pattern_mismatch", "string_unicode"):
        return _of_text(problem["input"], "".join([f"{place}.{field}", *(f"[{i}]" for i in indices[1:])]))
    if len(indices) == 1:
        message = f"{place}: {field} must be {'text or ' if field == 'content' else ''}a list of parts"
        return invalid(message, f"{place}.{field}", "invalid_type")
    place = f"{place}.{field}[{indices[1]}]"
    if loc[-1] == "url" or (loc[-1] == "image_url" and kind == "string_type"):
        return invalid(f"{place} must be a data: address in text", place, "invalid_type")
    return invalid(f"{place} must be a text, an image_url or another part of a chat", place)


def _missing(name: str) -> str:
    try:
        check_prompt(None, name)
    except ValueError as error:
        return str(error)
    raise AssertionError("a missing prompt is refused")


def _choices(annotation: Any) -> list[str]:
    """Values of a choice, which may be None as well."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in _choices(part)]


def _kind(value: Any) -> str:
    names = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _number(value: float) -> str:
    digits = len(str(abs(value))) if isinstance(value, int) else 0
    return f"a number of {digits} digits" if digits > 30 else str(value) if digits else f"{value:g}"


def shown_text(text: str) -> str:
    """As much of a client's text as a message repeats."""
    return writable(text[:64])


# --- what a body means --------------------------------------------------------------------------------------


def read_references(body: ImageEditRequest, fetch: Fetch | None) -> tuple[list[bytes], bytes | None]:
    """(images, mask) of an edit in JSON; fetching may take a while."""
    images = [
        read_address(reference.image_url, f"images[{index}].image_url", fetch)
        for index, reference in enumerate(body.images)
    ]
    mask = None if body.mask is None else read_address(body.mask.image_url, "mask.image_url", fetch)
    return images, mask
